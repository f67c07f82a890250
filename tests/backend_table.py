"""The document ``docs/backends.md``: what every backend says of calls that differ from a usual one in one thing.

``python tests/backend_table.py`` writes it; ``tests/test_backend_table.py`` sees that it is up to date. Nothing runs and no GPU is
needed: the answers are those of ``why_not``, on calls of tensors without memory; what the CUDA library would be asked is asked of
the same functions in the emulator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import torch
from pytest import MonkeyPatch

from pgconv import backends, groups
from pgconv.backends.cuda import backend as cuda
from pgconv.backends.cuda import group_conv2d as cuda_images
from pgconv.backends.cuda import point_conv as cuda_points
from pgconv.kernel_nets.packing import NetSpec
from pgconv.ops._define import FAMILIES
from pgconv.spec import ConvGeometry, Facts, FeatureSpec

PAGE = Path(__file__).resolve().parent.parent / "docs" / "backends.md"
CAPABILITY = 90
HEAD = """# Backends

What each backend runs, generated from what it answers to a call (`why_not`) by `python tests/backend_table.py`. Every row is the
usual call of its table but for one thing. A cell has the evaluation orders that run, and a dash where there are none; numbers refer
to the reasons below the table. A backend that does not run a call is passed over and the next one takes it, unless it was asked for
by name: then the reason is the error's text. The order of preference is {names}; `pgconv.show_config()` says
what is missing on a machine.

Groups of your own, and kernel nets without a packed form, have their features computed by PyTorch for every backend. All gradients
are there wherever a value is. `cuda` is asked as on compute capability 9.0. On GPUs float32 convolutions of images are shown with
TF32 allowed, as PyTorch has it by default (`torch.backends.cudnn.allow_tf32`), but for one row.
"""


def meta(*shape: int, dtype: str = "float32") -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


def image(
    dtype="float32", head=None, batch=16, channels=64, outputs=64, samples=8, hidden=8, kernel=3, size=32, sets=1, stride=1,
    dilation=1, support="disc", tf32=True,
) -> Facts:  # fmt: skip
    """Facts of an image convolution."""
    geometry = ConvGeometry.make("table", kernel, stride, "same", dilation, support)
    f, weight = (
        meta(batch, channels, samples, size, size, dtype=dtype),
        meta(outputs, channels, hidden, dtype=head or dtype),
    )
    phi = meta(sets, samples, samples, len(geometry.taps()), hidden, dtype=dtype)
    return replace(FAMILIES["group_conv2d"].facts(f, phi, weight, geometry), tf32=tf32)


def features(dtype="float32", net="sin:{}:32:3", group="SE(2)", chart="product", n=64) -> Facts:
    """Facts of the features of all pairs."""
    spec = spec_of(net, group, chart)
    v = meta(1, n, groups.get(group).element_dim, dtype=dtype)
    params = meta(NetSpec.parse(spec.net).num_params, dtype=dtype)
    return FAMILIES["relative_features"].facts(v, v, params, spec)


def points(
    dtype="float32", elements="float32", net="sin:{}:32:3", group="SE(2)", chart="product", batch=2, inputs=4096, outputs=4096,
    lists=False, depthwise=False,
) -> Facts:  # fmt: skip
    """Facts of a point convolution."""
    spec = spec_of(net, group, chart)
    dim, own = groups.get(group).element_dim, NetSpec.parse(spec.net)
    v, u = meta(batch, inputs, dim, dtype=elements), meta(batch, outputs, dim, dtype=elements)
    weight = meta(*((32,) if depthwise else (32, 32)), own.hidden, dtype=dtype)
    index = torch.empty(batch, outputs, 25, dtype=torch.int64, device="meta") if lists else None
    operands = meta(batch, inputs, 32, dtype=dtype), v, u, meta(own.num_params, dtype=elements), weight, None
    return FAMILIES["point_conv"].facts(*operands, index, None, None, spec, depthwise)


def spec_of(net: str, group: str, chart: str) -> FeatureSpec:
    """With the net for the group's coordinates."""
    return FeatureSpec(group, chart, "all", "convolution", net.format(groups.get(group).coord_dim_of(chart)))


DTYPES = ("float64", "float32", "bfloat16", "float16")
NETS = {
    "activation silu": {"net": "silu:{}:32:3"},
    "activation gelu": {"net": "gelu:{}:32:3"},
    "64 features": {"net": "sin:{}:64:3"},
    "128 features": {"net": "sin:{}:128:3"},
    "5 layers": {"net": "sin:{}:32:5"},
    "7 layers": {"net": "sin:{}:32:7"},
}
GROUPS = {name: {"group": name} for name in ("T(2)", "T(3)", "M(2)", "E(2)", "SE(3)", "Sim(2)", "SO(3)")}
CHARTS = {f"chart {chart}": {"chart": chart} for chart in ("embed", "lie", "release")}
TABLES = {
    "Image convolutions": (
        "`group_conv2d`, and `lifting_conv2d` and `pointwise_group_conv` with it. Usual: float32, batch 16, 64 channels and "
        "outputs, 8 samples, a window of 3 x 3, 8 features, 32 x 32 pixels.",
        image,
        {dtype: {"dtype": dtype} for dtype in DTYPES}
        | {
            "float32 without TF32": {"tf32": False},
            "head in another type": {"head": "float64"},
            "samples of every example": {"sets": 16},
            "lifting, one sample": {"samples": 1},
            "bfloat16, 7 x 7, 32 features": {"dtype": "bfloat16", "kernel": 7, "hidden": 32},
            "bfloat16, 11 x 11 in full": {"dtype": "bfloat16", "kernel": 11, "support": "square"},
            "bfloat16, 15 x 15": {"dtype": "bfloat16", "kernel": 15},
            "bfloat16, 33 x 33": {"dtype": "bfloat16", "kernel": 33, "size": 64},
            "bfloat16, 64 features": {"dtype": "bfloat16", "hidden": 64},
            "bfloat16, 96 features": {"dtype": "bfloat16", "hidden": 96},
            "bfloat16, stride 2": {"dtype": "bfloat16", "stride": 2},
            "bfloat16, dilation 3": {"dtype": "bfloat16", "dilation": 3},
            "bfloat16, 256 outputs": {"dtype": "bfloat16", "outputs": 256},
            "bfloat16, 16 samples": {"dtype": "bfloat16", "samples": 16},
        },
    ),
    "Point convolutions": (
        "`point_conv`. Usual: signal, head and elements in float32, SE(2), a SIREN of 3 layers (with the head) and 32 features, "
        "all pairs of 4096 points, 32 channels and outputs.",
        points,
        {
            "float64": {"dtype": "float64", "elements": "float64"},
            "float32": {},
            "bfloat16": {"dtype": "bfloat16"},
            "float16": {"dtype": "float16"},
            "elements in bfloat16, too": {"dtype": "bfloat16", "elements": "bfloat16"},
            "float16, 65536 points": {"dtype": "float16", "inputs": 1 << 16},
            "bfloat16, 65536 points": {"dtype": "bfloat16", "inputs": 1 << 16},
            "depthwise": {"depthwise": True},
            "neighbour lists": {"lists": True},
            "bfloat16, neighbour lists": {"dtype": "bfloat16", "lists": True},
        }
        | NETS
        | GROUPS
        | CHARTS,
    ),
    "Kernel-net features": (
        "`relative_features` and `kernel_net`, which image convolutions begin with. Usual: float32, SE(2), a SIREN of 3 layers "
        "(with the head) and 32 features.",
        features,
        {dtype: {"dtype": dtype} for dtype in DTYPES} | NETS | GROUPS | CHARTS,
    ),
}


@contextmanager
def native_answers(module) -> Iterator[None]:
    """Questions to the CUDA library go to the emulator's module."""
    native = SimpleNamespace(
        cuda_capability=lambda device: CAPABILITY,
        cuda_why_not_moments=module.why_not_moments,
        cuda_why_not_chain=module.why_not_chain,
        cuda_why_not_net=module.why_not_net,
    )
    with MonkeyPatch.context() as patch:
        for user in (cuda, cuda_images, cuda_points):
            patch.setattr(user, "ops", lambda: native)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        cuda_images._refusal_on.cache_clear()
        yield
    cuda_images._refusal_on.cache_clear()


def cell(name: str, facts: Facts, reasons: list[str]) -> str:
    """Orders of a backend that run a call, and numbers of the reasons why others do not."""
    backend = backends.load(name)
    own = replace(facts, device=backend.devices[-1], tf32=facts.tf32 and backend.devices[-1] == "cuda")
    found = {order: backend.why_not(own, order) for order in backend.orders(facts.op)}
    running = [order for order, why in found.items() if why is None]
    for why in found.values():
        if why is not None and why not in reasons:
            reasons.append(why)
    numbers = sorted({1 + reasons.index(why) for why in found.values() if why is not None})
    text = (
        "-"
        if not running
        else "all"
        if len(running) == len(found) > 1
        else "yes"
        if len(found) == 1
        else ", ".join(running)
    )
    return text + (f" [{', '.join(map(str, numbers))}]" if numbers else "")


def table(title: str) -> str:
    """A section of the page."""
    about, make, rows = TABLES[title]
    names = backends.NAMES
    reasons: list[str] = []
    lines = [f"| call | {' | '.join(f'`{name}`' for name in names)} |", "|---" * (1 + len(names)) + "|"]
    answers = ((label, [cell(name, make(**changes), reasons) for name in names]) for label, changes in rows.items())
    # Rows one below the other that say the same are one.
    for cells, same in groupby(answers, key=lambda row: row[1]):
        lines.append(f"| {'; '.join(label for label, _ in same)} | {' | '.join(cells)} |")
    orders = {name: backends.load(name).orders(make().op) for name in names}
    if max(map(len, orders.values())) > 1:
        about += " Orders: " + "; ".join(f"`{name}` {', '.join(own)}" for name, own in orders.items()) + "."
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([f"## {title}", "", about, "", *lines, "", *notes])


def page(module) -> str:
    """The whole text; ``module`` is the emulator's."""
    with native_answers(module):
        head = HEAD.format(names=", ".join(f"`{name}`" for name in backends.NAMES))
        return "\n\n".join([head.strip(), *map(table, TABLES)]) + "\n"


if __name__ == "__main__":
    from pgconv._lib import _emulated

    PAGE.write_text(page(_emulated), encoding="utf-8")
