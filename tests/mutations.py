"""Valid calls of every public function and layer, and systematic ways to spoil one argument at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pgconv import functional, groups, kernel_nets, neighbors
from pgconv.nn import (
    GlobalGroupPool,
    GroupBatchNorm2d,
    GroupConv2d,
    GroupInstanceNorm2d,
    GroupLayerNorm2d,
    GroupMaxPool2d,
    LiftingConv2d,
    PointGroupConv,
    PointLift,
    PointwiseGroupConv2d,
    SeparableGroupConv2d,
)
from pgconv.sampling import Samples

B, C, O, H, NV, NU, SIZE = 2, 3, 4, 5, 4, 6, 7  # noqa: E741


@dataclass(frozen=True)
class Target:
    """A valid call, and for each tensor which axes are bound to another argument.

    ``bound[name]`` maps an axis to the names that a message about its size may give: a disagreement between two arguments
    belongs to either. Axes that are not listed are free.
    """

    id: str
    call: Callable[..., Any]
    arguments: dict[str, Any]
    bound: dict[str, dict[int, tuple[str, ...]]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.call.parameters()) if isinstance(self.call, torch.nn.Module) else []

    def run(self, **changes: Any) -> Any:
        return self.call(**(self.arguments | changes))


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def elements(name: str, n: int) -> Tensor:
    return groups.get(name).sample(n, generator=torch.Generator().manual_seed(n))[None]


def planar(name: str, n: int) -> Tensor:
    group = groups.get(name)
    return group.embed_stabilizer(group.split(elements(name, n))[1])


def samples(n: int = NV, name: str = "SE(2)") -> Samples:
    return Samples(planar(name, n), torch.ones(1, n))


def net(coord_dim: int) -> torch.nn.Module:
    return kernel_nets.MLP(coord_dim, hidden=H)


IMAGE, MAPS = {"f": randn(B, C, SIZE, SIZE)}, {"f": randn(B, C, NV, SIZE, SIZE)}
HEAD = {"weight": randn(O, C, H), "weight_bias": randn(O, C), "group": "SE(2)"}
GATES = {"sample_weight": torch.ones(1, NV), "out_gate": torch.ones(1, NU)}
HEAD_BOUND = {
    "weight": {0: ("weight", "weight_bias"), 1: ("weight",), 2: ("weight",)},
    "weight_bias": {0: ("weight_bias",), 1: ("weight_bias",)},
}
PAIR_BOUND = {
    "v": {0: ("v",), 1: ("v",), 2: ("v",)},
    "u": {0: ("u",), 1: ("u", "out_gate"), 2: ("u",)},
    "sample_weight": {0: ("sample_weight",), 1: ("sample_weight",)},
    "out_gate": {0: ("out_gate",), 1: ("out_gate",)},
}
MAPS_BOUND = {"f": {1: ("weight",), 2: ("v",)}}

SETS = {
    "v": elements("SE(2)", NV),
    "u": elements("SE(2)", NU),
    "group": "SE(2)",
    "mask": torch.ones(B, NV, dtype=torch.bool),
}
SETS_BOUND = {"v": {1: ("mask",), 2: ("v",)}, "u": {2: ("u",)}, "mask": {1: ("mask",)}}

CONVOLUTIONS = (
    Target(
        "group_conv2d",
        functional.group_conv2d,
        {**MAPS, "v": planar("SE(2)", NV), "u": planar("SE(2)", NU), "net": net(3), **HEAD, **GATES, "kernel_size": 5},
        HEAD_BOUND | PAIR_BOUND | MAPS_BOUND,
        ("weight_bias", "sample_weight", "out_gate"),
    ),
    Target(
        "pointwise_group_conv",
        functional.pointwise_group_conv,
        {**MAPS, "v": planar("SE(2)", NV), "u": planar("SE(2)", NU), "net": net(1), **HEAD, **GATES},
        HEAD_BOUND | PAIR_BOUND | MAPS_BOUND,
        ("weight_bias", "sample_weight", "out_gate"),
    ),
    Target(
        "lifting_conv2d",
        functional.lifting_conv2d,
        {**IMAGE, "u": planar("SE(2)", NU), "net": net(2), **HEAD, "out_gate": torch.ones(1, NU), "kernel_size": 5},
        HEAD_BOUND | {"f": {1: ("weight",)}, "u": PAIR_BOUND["u"], "out_gate": PAIR_BOUND["out_gate"]},
        ("weight_bias", "out_gate"),
    ),
    Target(
        "depthwise_lifting_conv2d",
        functional.depthwise_lifting_conv2d,
        {
            **MAPS,
            "u": planar("SE(2)", NV),
            "net": net(2),
            "weight": randn(C, H),
            "weight_bias": randn(C),
            "group": "SE(2)",
            "kernel_size": 5,
        },
        {
            "f": {1: ("weight",), 2: ("u",)},
            "u": {0: ("u",), 1: ("u",), 2: ("u",)},
            "weight": {0: ("weight",), 1: ("weight",)},
            "weight_bias": {0: ("weight_bias",)},
        },
        ("weight_bias",),
    ),
    Target(
        "point_conv",
        functional.point_conv,
        {
            "f": randn(B, NV, C),
            "v": elements("SE(2)", NV),
            "u": elements("SE(2)", NU),
            "net": net(3),
            **HEAD,
            **GATES,
            "mask": torch.ones(B, NV, dtype=torch.bool),
            "neighbors": torch.zeros(1, NU, 2, dtype=torch.long),
        },
        HEAD_BOUND
        | PAIR_BOUND
        | {
            "f": {0: ("mask",), 1: ("v",), 2: ("weight",)},
            "mask": {0: ("mask",), 1: ("mask",)},
            "neighbors": {0: ("neighbors",), 1: ("neighbors",)},
            "u": {0: ("u",), 1: ("out_gate", "neighbors"), 2: ("u",)},
        },
        ("weight_bias", "sample_weight", "out_gate", "mask", "neighbors"),
    ),
)

SEARCHES = (
    *(
        Target(function.__name__, function, {**SETS, **arguments}, SETS_BOUND, ("mask",))
        for function, arguments in (
            (neighbors.within, {"radius": 1.0}),
            (neighbors.nearest, {"count": 2}),
            (neighbors.ball, {"radius": 1.0, "count": 2}),
        )
    ),
    Target(
        "farthest_points",
        neighbors.farthest_points,
        {"x": elements("SE(2)", NV), "group": "SE(2)", "count": 2, "mask": torch.ones(B, NV, dtype=torch.bool)},
        {"x": {1: ("mask",), 2: ("x",)}, "mask": {1: ("mask",)}},
        ("mask",),
    ),
)

FUNCTIONS = (*CONVOLUTIONS, *SEARCHES)


CONV_OPTIONS = {"in_channels": C, "out_channels": O, "group": "SE(2)"}
PLANAR_OPTIONS = {**CONV_OPTIONS, "kernel_size": 5, "num_samples": NV}
CONSTRUCTORS = {
    "LiftingConv2d": (LiftingConv2d, PLANAR_OPTIONS),
    "GroupConv2d": (GroupConv2d, {**PLANAR_OPTIONS, "partial": True}),
    "PointwiseGroupConv2d": (PointwiseGroupConv2d, {**CONV_OPTIONS, "num_samples": NV, "partial": True}),
    "SeparableGroupConv2d": (SeparableGroupConv2d, {**PLANAR_OPTIONS, "partial": True}),
    "PointGroupConv": (PointGroupConv, CONV_OPTIONS),
}


def layer(make: Callable[[], torch.nn.Module], optional: tuple[str, ...] = (), **arguments: Any) -> Target:
    module = make()
    name, first = type(module).__name__, next(iter(arguments))
    bound = {first: {}}
    if not isinstance(module, (GroupMaxPool2d, GlobalGroupPool, PointLift)):
        channel_axis = 2 if isinstance(module, PointGroupConv) else 1
        bound[first][channel_axis] = (first,)
    return Target(name, module, arguments, bound, optional)


LAYERS = (
    layer(lambda: LiftingConv2d(C, O, 5, num_samples=NV), x=randn(B, C, SIZE, SIZE)),
    layer(lambda: GroupConv2d(C, O, 5), x=MAPS["f"], samples=samples()),
    layer(lambda: PointwiseGroupConv2d(C, O), x=MAPS["f"], samples=samples()),
    layer(lambda: SeparableGroupConv2d(C, O, 5), x=MAPS["f"], samples=samples()),
    layer(lambda: PointGroupConv(C, O, "SE(2)"), f=randn(B, NV, C), samples=samples()),
    layer(
        lambda: PointLift("SE(2)", 2),
        ("mask",),
        x=randn(B, NV, 2),
        f=randn(B, NV, C),
        mask=torch.ones(B, NV, dtype=torch.bool),
    ),
    layer(lambda: GroupBatchNorm2d(C), x=MAPS["f"], samples=samples()),
    layer(lambda: GroupInstanceNorm2d(C), x=MAPS["f"], samples=samples()),
    layer(lambda: GroupLayerNorm2d(C), x=MAPS["f"], samples=samples()),
    layer(lambda: GroupMaxPool2d(2), x=MAPS["f"]),
    layer(lambda: GlobalGroupPool(), x=MAPS["f"], samples=samples()),
)


def spoiled(target: Target) -> Iterator[tuple[str, str, Any, tuple[str, ...]]]:
    """(id, argument, spoiled value, names the message may give) for every tensor argument in every way."""
    for name, value in target.arguments.items():
        if not isinstance(value, Tensor):
            continue
        names = (name,)
        yield f"{name}-list", name, value.tolist(), names
        if name not in target.optional:
            yield f"{name}-None", name, None, names
        yield f"{name}-rank-less", name, value[0], names
        yield f"{name}-rank-more", name, value[None], names
        if len(target.arguments) > 1 or target.parameters:
            yield f"{name}-on-meta", name, value.to("meta"), tuple(target.arguments)
        for axis, allowed in target.bound.get(name, {}).items():
            longer = torch.cat([value] * 4, axis).narrow(axis, 0, value.shape[axis] + 2)
            yield f"{name}-axis{axis}-longer", name, longer, allowed
        if name in ("f", "v", "u", "weight", "x"):
            yield f"{name}-integer", name, value.long(), names
            yield f"{name}-complex", name, value.to(torch.complex64), names
        if name in ("v", "u"):
            yield f"{name}-half", name, value.half(), names
            yield f"{name}-no-samples", name, value[:, :0], names
            yield f"{name}-infinite", name, torch.full_like(value, torch.inf), names
        if name in ("f", "weight", "weight_bias") and "net" in target.arguments:
            yield f"{name}-other-dtype", name, value.double(), ("f", "weight", "weight_bias")
        if name in ("mask", "neighbors"):
            yield f"{name}-float", name, value.float(), names
