"""Calls of the raw operators with something wrong in them: each raises, and reads nothing that is not its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fuzz_draws import Draw
from torch import Tensor

from pgconv.backends.cpp import library

HUGE = (1 << 52, 1 << 62, (1 << 63) - 1)
"""Products of them with anything overflow. Smaller ones might be memory a machine has."""
TEXTS = (
    *(
        "",
        ":",
        "|",
        "/",
        "SE(2)/",
        "SE(2)/0",
        "SE(2)/5",
        "SE(2)/99999999999999999999",
        "direct ",
        "x" * 100000,
        "\0",
        "é",
    ),
    *(
        "sin",
        "sin:3:8",
        "sin:3:8:1",
        "sin:3:0:3",
        "sin:-3:8:3",
        "sin:3:8:3:3",
        "sin:3:99999999999999999999:3",
        "sin:3:8:65536",
    ),
    *("sin:3x:8:3", "cos:3:8:3", "sin:4:8:3"),
)
OPTIONAL = ("bias", "rowptr", "index", "first")
NET, HIDDEN, PARAMS = "sin:3:8:3", 8, 8 * 4 + 8 * 9 + 1


class Accepted(AssertionError):
    """A call that cannot be right was run."""


def _zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def _conv(draw: Draw) -> dict[str, object]:
    b, c, nv, o, nu, h = (draw.choice((1, 2, 3, 5)) for _ in range(6))
    height, width = draw.choice((3, 4, 9, 17)), draw.choice((3, 5, 8, 33))
    taps = torch.tensor([(i, j) for i in range(3) for j in range(3)])
    f = _zeros(b, c, nv, height, width, dtype=draw.choice((torch.float32, torch.bfloat16)))
    phi = _zeros(draw.choice((1, b)), nu, nv, 9, h)
    order = draw.choice(("aggregate", "direct", "spectral", "spectral-aggregate", "mix"))
    return {"f": f, "phi": phi, "weight": _zeros(o, c, h), "taps": taps, "geometry": [1, 1, 1, 1, 1, 1], "order": order}


def _conv_backward(draw: Draw) -> dict[str, object]:
    call = _conv(draw)
    f, o = call["f"], call["weight"].shape[0]
    grad = _zeros(f.shape[0], o, call["phi"].shape[1], *f.shape[-2:], dtype=f.dtype)
    return {"grad": grad, **call, "needs": draw.randrange(8)}


SPEC = {"group": "SE(2)", "chart": "product", "part": "all", "form": "convolution", "net": NET}


def _features(draw: Draw) -> dict[str, object]:
    s, nv, nu = (draw.choice((1, 2, 3, 70)) for _ in range(3))
    v, u = _zeros(draw.choice((1, s)), nv, 3), _zeros(draw.choice((1, s)), nu, 3)
    return {"v": v, "u": u, "params": _zeros(PARAMS), **SPEC}


def _features_backward(draw: Draw) -> dict[str, object]:
    call = _features(draw)
    sets = max(call["v"].shape[0], call["u"].shape[0])
    return {"grad": _zeros(sets, call["u"].shape[1], call["v"].shape[1], HIDDEN), **call}


def _net(draw: Draw) -> dict[str, object]:
    return {"coords": _zeros(draw.choice((1, 5, 70)), 3), "params": _zeros(PARAMS), "net": NET}


def _net_backward(draw: Draw) -> dict[str, object]:
    call = _net(draw)
    return {"grad": _zeros(call["coords"].shape[0], HIDDEN), **call}


def _points(draw: Draw) -> dict[str, object]:
    b, nv, nu, c, o = (draw.choice((1, 2, 3, 7)) for _ in range(5))
    depthwise = draw.chance(0.3)
    head = (c,) if depthwise else (o, c)
    rowptr = index = first = None
    if draw.chance(0.8):  # rows of one example or of all, two inputs each
        rows = nu * draw.choice((1, b))
        count = min(2, nv)
        rowptr = torch.arange(rows + 1) * count
        if draw.chance(0.5):
            index = torch.full((rows * count,), nv - 1)
        else:
            first = torch.full((rows,), nv - count)
    v, u = _zeros(draw.choice((1, b)), nv, 3), _zeros(draw.choice((1, b)), nu, 3)
    return {
        "f": _zeros(b, nv, c), "v": v, "u": u, "params": _zeros(PARAMS), "weight": _zeros(*head, HIDDEN),
        "bias": _zeros(*head) if draw.chance(0.5) else None,
        "rowptr": rowptr, "index": index, "first": first, "depthwise": depthwise, **SPEC,
    }  # fmt: skip


def _points_backward(draw: Draw) -> dict[str, object]:
    call = _points(draw)
    out = call["f"].shape[2] if call["depthwise"] else call["weight"].shape[0]
    return {"grad": _zeros(call["f"].shape[0], call["u"].shape[1], out), **call, "needs": draw.randrange(8)}


CALLS = {
    "group_conv2d": _conv, "group_conv2d_backward": _conv_backward, "relative_features": _features,
    "relative_features_backward": _features_backward, "kernel_net": _net, "kernel_net_backward": _net_backward,
    "point_conv": _points, "point_conv_backward": _points_backward,
}  # fmt: skip


def break_tensor(draw: Draw, x: Tensor) -> tuple[str, Tensor, bool]:
    """How, another tensor, and whether no operator may take it."""
    axis = draw.randrange(x.dim())
    way = draw.choice(("rank", "rank", "dtype", "size", "size", "empty", "stride", "device", "sparse", "huge"))
    if way == "rank":
        lower = draw.chance(0.5)
        return way, x.flatten(0, 1) if lower and x.dim() > 1 else x[None] if draw.chance(0.5) else x[..., None], True
    if way == "dtype":
        others = [torch.float16, torch.int32, torch.bool, torch.complex64, torch.float8_e5m2]
        return way, x.to(draw.choice(others)), True
    if way == "size":
        size = draw.choice((x.shape[axis] + 1, max(0, x.shape[axis] - 1), 64))
        return way, x.new_zeros([size if k == axis else n for k, n in enumerate(x.shape)]), False
    if way == "empty":
        return way, x.new_zeros([0] * x.dim()), False
    if way == "stride":
        wide = x.repeat_interleave(2, -1)[..., ::2]
        return way, wide, not wide.is_contiguous()
    if way == "device":
        return way, x.to("meta"), True
    if way == "sparse":
        return way, x.to_sparse(), True
    # No memory, and one side without end.
    shape = [draw.choice(HUGE) if k == axis else n for k, n in enumerate(x.shape)]
    shape[axis - 1] = 0
    try:
        return way, x.new_empty(shape), False
    except RuntimeError:  # PyTorch has no number for the strides
        return "unchanged", x, False


def _break_lists(draw: Draw, call: dict[str, object], name: str, inputs: int) -> tuple[str, bool]:
    """An entry of a list's tensor out of range."""
    x = call[name] = call[name].clone()
    if not x.numel():
        return "empty", False
    place = draw.randrange(x.numel())
    value = draw.choice((-1, -(1 << 63), 1 << 30, *HUGE, inputs, inputs))
    x[place] = value
    # As the end of a row the number of inputs may be right.
    return f"[{place}]={value}", not (name == "rowptr" and value == inputs)


def _break_taps(draw: Draw, call: dict[str, object]) -> tuple[str, bool]:
    taps = call["taps"] = call["taps"].clone()
    value = draw.choice((-1, -(1 << 63), 1000, *HUGE))
    place = draw.randrange(taps.numel())
    taps.view(-1)[place] = value
    return f"[{place}]={value}", True


def _break_geometry(draw: Draw, call: dict[str, object]) -> tuple[str, bool]:
    numbers = list(call["geometry"])
    if draw.chance(0.2):
        numbers = numbers[: draw.randrange(6)] if draw.chance(0.5) else [*numbers, 1]
        call["geometry"] = numbers
        return str(numbers), True
    for _ in range(draw.randrange(1, 4)):
        numbers[draw.randrange(6)] = draw.choice((0, -1, -(1 << 63), 2, 5, *HUGE))
    call["geometry"] = numbers
    return str(numbers), min(numbers) < 0 or 0 in numbers[:2] + numbers[4:]


def _break(draw: Draw, call: dict[str, object], name: str) -> tuple[str, bool]:
    """An argument; says which and how, and whether the call must then be refused."""
    x, how, certain = call[name], "unchanged", False
    if name not in (*OPTIONAL, "depthwise") and draw.chance(0.1):
        call[name] = None
        return f"{name} None", True
    if name in OPTIONAL[1:] and draw.chance(0.8):
        how, certain = _break_lists(draw, call, name, call["v"].shape[1])
    elif name == "taps" and draw.chance(0.6):
        how, certain = _break_taps(draw, call)
    elif isinstance(x, Tensor):
        how, call[name], certain = break_tensor(draw, x)
    elif name == "geometry":
        how, certain = _break_geometry(draw, call)
    elif isinstance(x, str):
        call[name] = draw.choice(TEXTS)
        how, certain = repr(call[name])[:40], True
    elif name == "depthwise":
        call[name] = not x
        how, certain = str(not x), True
    elif name == "needs":
        call[name] = draw.choice((-1, 8, *HUGE))
        how = str(call[name])
    return f"{name} {how}", certain


def broken(draw: Draw) -> tuple[str, Callable[[], None]]:
    """A call with one or two arguments broken."""
    op = draw.choice(list(CALLS))
    arguments = CALLS[op](draw)
    given = [name for name, x in arguments.items() if x is not None]
    # Numbers that say where memory is read, more often.
    given += 4 * [name for name in given if name in ("taps", "geometry", *OPTIONAL[1:])]
    # Lists before the elements that say how long they may be.
    names = sorted(
        {draw.choice(given) for _ in range(draw.choice((1, 1, 2)))}, key=lambda name: (name not in OPTIONAL, name)
    )
    changes = [_break(draw, arguments, name) for name in names]
    # Two changes may make up for each other.
    certain = len(changes) == 1 and changes[0][1]
    shapes = ",".join(f"{name}{list(x.shape)}" for name, x in arguments.items() if isinstance(x, Tensor))

    def run() -> None:
        try:
            getattr(library.ops(), op)(*arguments.values())
        except Exception:  # of any kind: the process lives, and Python knows
            return
        if certain:
            raise Accepted(f"{op} took {changes}")

    return f"{op} {'; '.join(how for how, _ in changes)} {shapes}", run
