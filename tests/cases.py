"""Calls the tests run, as tables: what varies is a field, and the id says which.

``build(case)`` makes the float64 tensors of a case from its seed; a ``Call`` can be run on any backend, order and dtype.
"""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from oracles import LAYOUT
from own_groups import Heisenberg, Shear
from torch import Tensor, nn

import pgconv
from pgconv import groups, kernel_nets
from pgconv.groups import SemidirectProduct

OWN_GROUPS = {"Heisenberg": Heisenberg(), "Shear(2)": SemidirectProduct(2, Shear(), name="Shear(2)")}


@dataclass(frozen=True)
class Case:
    """One call. ``sets`` says of v and of u whether they are shared ("1") or per example ("B"); ``options`` go to the function."""

    id: str
    op: str = "group_conv2d"
    group: str = "SE(2)"
    chart: str = "product"
    form: str = "convolution"
    batch: int = 2
    channels: int = 2
    out: int = 3
    nv: int = 3
    nu: int = 2
    size: tuple[int, int] = (4, 5)
    sets: str = "11"
    net: str = "siren"
    hidden: int = 4
    layers: int = 3
    bias: bool = True
    weights: str | None = None
    gate: str | None = None
    mask: bool = False
    neighbors: str | None = None
    elements: str = "random"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Call:
    """``pgconv.functional.<op>`` with its arguments; ``tensors`` are those with gradients."""

    op: str
    net: nn.Module
    tensors: dict[str, Tensor]
    options: dict[str, Any]

    def __call__(self, **more: Any) -> Tensor:
        options = self.options | more
        options["group"] = OWN_GROUPS.get(options["group"], options["group"])
        return getattr(pgconv.functional, self.op)(net=self.net, **self.tensors, **options)

    def to(self, dtype: torch.dtype, grad: bool = False) -> Call:
        """A copy in another dtype, its tensors and parameters leaves."""
        net = copy.deepcopy(self.net).to(dtype).requires_grad_(grad)
        tensors = {name: x.detach().to(dtype, copy=True).requires_grad_(grad) for name, x in self.tensors.items()}
        return replace(self, net=net, tensors=tensors)

    def leaves(self) -> dict[str, Tensor]:
        """Everything with a gradient, by name."""
        return self.tensors | {f"net.{name}": p for name, p in self.net.named_parameters()}


def build(case: Case) -> Call:
    """The call of a case in float64, the same numbers on every run."""
    rng = np.random.default_rng(zlib.crc32(case.id.encode()))
    b, image = case.batch, case.op != "point_conv"
    lifting = "lifting" in case.op
    depthwise = case.op.startswith("depthwise") or case.options.get("depthwise", False)
    options = {"group": case.group, "chart": case.chart} | case.options
    if not lifting:
        options["form"] = case.form
    nv = case.nu if case.op.startswith("depthwise") else case.nv
    spatial = case.size if image else ()
    middle = () if case.op == "lifting_conv2d" else (nv,)
    shape = (b, case.channels, *middle, *spatial) if image else (b, nv, case.channels)
    tensors = {"f": _normal(rng, *shape)}
    sets = [b if s == "B" else 1 for s in case.sets]
    if not lifting:
        tensors["v"] = elements(case.group, (sets[0], nv), rng, case.elements)
    tensors["u"] = elements(case.group, (sets[1], case.nu), rng, case.elements)
    head = (case.channels,) if depthwise else (case.out, case.channels)
    tensors["weight"] = _normal(rng, *head, case.hidden) / case.hidden**0.5
    if case.bias:
        tensors["weight_bias"] = _normal(rng, *head) / 2
    if case.weights:
        tensors["sample_weight"] = torch.from_numpy(rng.uniform(0.2, 1.5, (b if case.weights == "each" else 1, nv)))
        if case.weights == "zero":
            tensors["sample_weight"] *= 0
    if case.gate:
        tensors["out_gate"] = torch.from_numpy(rng.uniform(0.2, 1.5, (b if case.gate == "each" else 1, case.nu)))
    if case.mask:
        mask = rng.uniform(size=(b, nv)) < 0.6
        options["mask"] = torch.from_numpy(mask)
    if case.neighbors == "ragged":
        options["offsets"] = _offsets(nv), _offsets(case.nu)
    elif case.neighbors:
        options["neighbors"] = _neighbors(case.neighbors, b, case.nu, nv, rng)
    part = "translation" if lifting else "stabilizer" if case.op == "pointwise_group_conv" else "all"
    return Call(case.op, _net(case, part, rng), tensors, options)


def elements(group: str, shape: tuple[int, ...], rng: np.random.Generator, kind: str = "random") -> Tensor:
    """Group elements [*shape, e]; ``kind`` "grid" takes quarter turns and mirrors at the origin, where coordinates jump."""
    group, _, labels = group.partition("/")
    d, rest = LAYOUT[group]
    parts = [rng.uniform(-1, 1, (*shape, d)) * (kind == "random")]
    index = np.broadcast_to(np.arange(shape[-1]), shape)[..., None]
    for code in rest:
        if code == "q":
            q = rng.normal(size=(*shape, 4))
            parts.append(q / np.linalg.norm(q, axis=-1, keepdims=True))
        elif code == "m":
            parts.append(rng.choice([-1.0, 1.0], (*shape, 1)) if kind == "random" else 1.0 - 2 * (index // 4 % 2))
        elif code == "a":
            parts.append(rng.uniform(-3, 3, (*shape, 1)) if kind == "random" else index % 4 * (np.pi / 2))
        else:
            parts.append(rng.uniform(-0.7, 0.7, (*shape, 3 if code == "h" else 1)))
    if labels:
        parts.append(rng.uniform(0, 1, (*shape, int(labels))))
    return torch.from_numpy(np.concatenate(parts, -1))


def _normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape))


def _net(case: Case, part: str, rng: np.random.Generator) -> nn.Module:
    group = OWN_GROUPS.get(case.group) or groups.get(case.group)
    dim = group.coord_dim_of(case.chart, part)
    if case.net == "siren":
        net = kernel_nets.SIREN(dim, case.hidden, case.layers, omega0=3.0, learn_omega0=True)
    elif case.net in kernel_nets.names():
        net = kernel_nets.get(case.net, dim, hidden=case.hidden, layers=case.layers)
    else:
        net = kernel_nets.MLP(dim, case.hidden, case.layers, activation=case.net)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name == "omega0":
                continue
            p.copy_(
                torch.from_numpy(rng.uniform(-1, 1, p.shape)) * (1 if p.dim() < 2 else (2 / max(p.shape[1], 1)) ** 0.5)
            )
    return net.double()


def _offsets(size: int) -> Tensor:
    """Five examples of unequal length; the second has no points, the last all that remain."""
    return torch.tensor([0, 2, 2, 5, 6, size]).clamp(max=size)


def _neighbors(kind: str, batch: int, nu: int, nv: int, rng: np.random.Generator) -> Tensor | tuple[Tensor, Tensor]:
    """Lists of different lengths with repeated inputs; some, the first among them, are empty."""
    rows = batch if kind in ("padded-each", "csr-each") else 1
    lists = [rng.integers(0, nv, rng.integers(1, nv + 2) if i % 5 else 0) for i in range(rows * nu)]
    if kind.startswith("csr"):
        rowptr = np.concatenate([[0], np.cumsum([len(x) for x in lists])])
        return torch.from_numpy(rowptr), torch.from_numpy(np.concatenate(lists).astype(np.int64))
    width = max(map(len, lists), default=0)
    table = np.full((rows * nu, width), -1)
    for row, x in zip(table, lists):
        row[: len(x)] = x
    return torch.from_numpy(rng.permuted(table, axis=1).reshape(rows, nu, width))


def image_case(id: str, **fields: Any) -> Case:
    """A case from fields of ``Case`` and options of the function, told apart by name."""
    known = set(Case.__dataclass_fields__)
    return Case(
        id,
        **{k: x for k, x in fields.items() if k in known},
        options={k: x for k, x in fields.items() if k not in known},
    )


def point_case(id: str, **fields: Any) -> Case:
    """The same for ``point_conv``."""
    return image_case(id, **({"op": "point_conv", "nv": 5, "nu": 4} | fields))


IMAGE_CASES = (
    image_case("k1", kernel_size=1),
    image_case("ones", kernel_size=1, batch=1, channels=1, out=1, nv=1, nu=1, size=(1, 1), hidden=1),
    image_case("ones-k3", kernel_size=3, batch=1, channels=1, out=1, nv=1, nu=1, size=(1, 1), layers=2),
    image_case("k3", kernel_size=3),
    image_case("k5-form-correlation", kernel_size=5, form="correlation"),
    image_case("k7-wider-than-image", kernel_size=7, size=(3, 4)),
    image_case("primes", kernel_size=3, batch=3, channels=5, out=7, nv=2, nu=3, size=(5, 3), hidden=5),
    image_case("no-bias", kernel_size=3, bias=False),
    image_case("stride-2", kernel_size=3, size=(5, 6), stride=2),
    image_case("stride-3-2-dilation-1-2", kernel_size=3, size=(7, 6), stride=(3, 2), dilation=(1, 2)),
    image_case("dilation-2-valid", kernel_size=3, size=(6, 5), dilation=2, padding="valid"),
    image_case("padding-0", kernel_size=3, size=(4, 6), padding=0),
    image_case("padding-0-2", kernel_size=3, padding=(0, 2)),
    image_case("padding-3-beyond-kernel", kernel_size=3, size=(2, 3), padding=3),
    image_case("square", kernel_size=3, support="square"),
    image_case("square-k5-stride-2", kernel_size=5, support="square", stride=2, size=(5, 4)),
    image_case("sum", kernel_size=3, reduction="sum"),
    image_case("sets-v-each", kernel_size=3, sets="B1"),
    image_case("sets-u-each", kernel_size=3, sets="1B"),
    image_case("sets-both-each", kernel_size=3, sets="BB"),
    image_case("sets-both-each-stride-2", kernel_size=3, sets="BB", stride=2, size=(5, 5)),
    image_case("weights", kernel_size=3, weights="shared"),
    image_case("weights-each-shared-elements", kernel_size=3, weights="each"),
    image_case("weights-each-sum", kernel_size=3, weights="each", reduction="sum"),
    image_case("weights-shared-elements-each", kernel_size=3, weights="shared", sets="BB"),
    image_case("weights-zero", kernel_size=3, weights="zero"),
    image_case("gate", kernel_size=3, gate="shared"),
    image_case("gate-each-shared-elements", kernel_size=3, gate="each"),
    image_case("gate-each-elements-each", kernel_size=3, gate="each", sets="1B"),
    image_case("gate-and-weights-each", kernel_size=3, gate="each", weights="each", sets="B1", form="correlation"),
    image_case("grid-quarter-turns", kernel_size=3, nv=4, nu=4, elements="grid"),
    image_case(
        "grid-E2", kernel_size=3, group="E(2)", nv=8, nu=8, batch=1, channels=1, elements="grid", form="correlation"
    ),
    image_case("grid-release", kernel_size=3, nv=4, nu=4, elements="grid", chart="release", form="correlation"),
    image_case("net-4-layers", kernel_size=3, layers=4),
    *(image_case(f"net-{name}", kernel_size=3, net=name) for name in ("silu", "relu", "gelu", "tanh")),
    *(image_case(f"net-{name}", kernel_size=3, net=name) for name in ("fourier", "gabor", "magnet")),
    image_case("own-group", kernel_size=3, group="Shear(2)"),
    image_case("own-group-correlation-each", kernel_size=3, group="Shear(2)", form="correlation", sets="B1"),
    image_case("lifting", op="lifting_conv2d", kernel_size=3),
    image_case("lifting-ones", op="lifting_conv2d", kernel_size=1, batch=1, channels=1, out=1, nu=1, size=(1, 1)),
    image_case("lifting-each-gate", op="lifting_conv2d", kernel_size=5, sets="1B", gate="each", size=(6, 5), stride=2),
    image_case("lifting-own-group", op="lifting_conv2d", kernel_size=3, group="Shear(2)"),
    image_case(
        "lifting-magnet", op="lifting_conv2d", kernel_size=3, net="magnet", dilation=2, padding="valid", size=(6, 5)
    ),
    image_case("pointwise", op="pointwise_group_conv"),
    image_case(
        "pointwise-stride-2-each", op="pointwise_group_conv", stride=2, sets="BB", weights="each", gate="shared"
    ),
    image_case("pointwise-own-group", op="pointwise_group_conv", group="Shear(2)", reduction="sum"),
    image_case("depthwise-lifting", op="depthwise_lifting_conv2d", kernel_size=3),
    image_case("depthwise-lifting-each-stride", op="depthwise_lifting_conv2d", kernel_size=5, sets="1B", stride=(2, 1)),
    image_case(
        "depthwise-lifting-square-no-bias", op="depthwise_lifting_conv2d", kernel_size=3, support="square", bias=False
    ),
)

POINT_CASES = (
    point_case("dense"),
    point_case("dense-ones", batch=1, channels=1, out=1, nv=1, nu=1, hidden=1, layers=2),
    point_case("dense-primes", batch=3, channels=5, out=7, nv=11, nu=3, hidden=5, form="correlation"),
    point_case("dense-no-bias-sum", bias=False, reduction="sum"),
    point_case("dense-v-each", sets="B1"),
    point_case("dense-u-each", sets="1B"),
    point_case("dense-both-each", sets="BB"),
    point_case("dense-weights-gate", weights="shared", gate="shared"),
    point_case("dense-weights-gate-each", weights="each", gate="each"),
    point_case("dense-weights-zero", weights="zero"),
    point_case("dense-mask", mask=True),
    point_case("dense-mask-weights-sum", mask=True, weights="each", reduction="sum", sets="BB"),
    point_case("dense-depthwise", depthwise=True),
    point_case("dense-depthwise-no-bias-mask", depthwise=True, bias=False, mask=True, weights="shared"),
    point_case("dense-grid", nv=4, elements="grid"),
    *(
        point_case(f"dense-net-{name}", net=name)
        for name in ("silu", "relu", "gelu", "tanh", "fourier", "gabor", "magnet")
    ),
    point_case("dense-own-group", group="Heisenberg"),
    point_case("dense-orbits-gabor", group="SO(3)/2", net="gabor", sets="BB"),
    *(
        point_case(f"{kind}{name}", neighbors=kind, **fields)
        for kind in ("padded", "padded-each", "csr", "csr-each")
        for name, fields in {
            "": {},
            "-sum-no-bias": {"reduction": "sum", "bias": False},
            "-weights-mask-each": {"weights": "each", "mask": True, "sets": "BB"},
            "-v-each-gate": {"sets": "B1", "gate": "each", "form": "correlation"},
            "-depthwise": {"depthwise": True, "weights": "shared"},
            "-one-example": {"batch": 1},
            "-weights-zero": {"weights": "zero"},
            "-own-group-magnet": {"group": "Heisenberg", "net": "magnet"},
        }.items()
    ),
    *(
        point_case(f"ragged{name}", neighbors="ragged", batch=1, nv=9, nu=7, **fields)
        for name, fields in {
            "": {},
            "-sum-no-bias": {"reduction": "sum", "bias": False},
            "-weights-mask": {"weights": "each", "mask": True, "group": "SE(3)"},
            "-gate-correlation": {"gate": "each", "form": "correlation"},
            "-depthwise": {"depthwise": True, "weights": "shared"},
            "-weights-zero": {"weights": "zero"},
            "-own-group-magnet": {"group": "Heisenberg", "net": "magnet"},
        }.items()
    ),
)

# Sizes just around vector widths and tiles (8, 16, 32, 64), too slow for nested loops: backends against the reference.
LARGE_CASES = (
    image_case("tiles-k3-C17-O16-H32", kernel_size=3, channels=17, out=16, nv=4, nu=5, size=(17, 31), hidden=32),
    image_case(
        "tiles-k5-C15-O33-H33", kernel_size=5, channels=15, out=33, nv=2, nu=9, size=(16, 16), hidden=33, sets="BB"
    ),
    image_case(
        "tiles-k7-C32-O8-H8", kernel_size=7, channels=32, out=8, nv=8, nu=3, size=(15, 9), hidden=8, weights="each"
    ),
    image_case(
        "tiles-k5-one-to-many", kernel_size=5, channels=1, out=65, nv=1, nu=17, size=(8, 33), hidden=31, stride=2
    ),
    image_case("tiles-k3-many-to-one", kernel_size=3, channels=65, out=1, nv=7, nu=1, size=(9, 8), hidden=16, batch=5),
    image_case("tiles-lifting", op="lifting_conv2d", kernel_size=7, channels=3, out=32, nu=8, size=(28, 28), hidden=32),
    image_case("tiles-pointwise", op="pointwise_group_conv", channels=31, out=17, nv=8, nu=8, size=(13, 16), hidden=16),
    point_case("tiles-dense", group="SE(3)", channels=17, out=16, nv=67, nu=33, hidden=32),
    point_case(
        "tiles-dense-H33-silu", group="E(2)", channels=32, out=31, nv=129, nu=7, hidden=33, net="silu", sets="BB"
    ),
    point_case("tiles-dense-one-channel", group="T(3)", channels=1, out=1, nv=257, nu=65, hidden=16, layers=4),
    point_case("tiles-dense-depthwise", group="SO(3)", channels=33, nv=64, nu=64, hidden=8, depthwise=True, mask=True),
    point_case(
        "tiles-padded", group="SE(3)", channels=9, out=8, nv=40, nu=31, hidden=16, neighbors="padded-each", sets="B1"
    ),
    point_case(
        "tiles-csr", group="Sim(2)", channels=8, out=9, nv=40, nu=31, hidden=17, neighbors="csr", weights="each"
    ),
    point_case(
        "tiles-orbits", group="SO(2)/1", channels=9, out=7, nv=130, nu=33, hidden=16, sets="B1", form="correlation"
    ),
    point_case(
        "tiles-ragged", channels=16, out=5, batch=1, nv=200, nu=131, hidden=16, neighbors="ragged", weights="each"
    ),
    point_case("tiles-csr-each", channels=16, out=16, nv=33, nu=65, hidden=32, neighbors="csr-each", sets="BB"),
)

IMAGE_GROUPS = tuple(n for n in groups.names() if groups.get(n).translation_dim == 2)
LABELLED = ("SO(2)/1", "O(2)/1", "SO(3)/1", "SE(3)/4")
FORMS = ("convolution", "correlation")

# Every group with every chart it has and both forms, for every operation that reads them.
GROUP_CASES = (
    *(
        point_case(f"points-{n}-{chart}-{form}", group=n, chart=chart, form=form, batch=1, nu=3)
        for n in (*groups.names(), *LABELLED)
        for chart in groups.get(n).charts
        for form in FORMS
    ),
    *(
        image_case(f"{op}-{n}-{chart}-{form}", op=op, group=n, chart=chart, form=form, batch=1, **kernel)
        for n in IMAGE_GROUPS
        for chart in groups.get(n).charts
        for op, kernel in (("group_conv2d", {"kernel_size": 3}), ("pointwise_group_conv", {}))
        for form in FORMS
    ),
    *(
        image_case(f"{op}-{n}-{chart}", op=op, group=n, chart=chart, kernel_size=3, batch=1)
        for n in IMAGE_GROUPS
        for chart in groups.get(n).charts
        for op in ("lifting_conv2d", "depthwise_lifting_conv2d")
    ),
)


def params(*tables: tuple[Case, ...]) -> list[Any]:
    """For ``pytest.mark.parametrize("case", ...)``: the cases with their ids."""
    import pytest

    return [pytest.param(case, id=case.id) for table in tables for case in table]
