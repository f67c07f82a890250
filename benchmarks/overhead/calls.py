"""Every operator and layer on operands of a few numbers, and a few calls of PyTorch's to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

import pgconv
from pgconv import backends, nn
from pgconv.kernel_nets.packing import NetSpec
from pgconv.ops import dispatch
from pgconv.ops._define import FAMILIES
from pgconv.sampling import Samples
from pgconv.spec import ConvGeometry, FeatureSpec, Plan

PARTS = ("kernel", "planning", "operator", "autograd")
AUTO = "auto:auto"
_NET = "sin:3:4:3"

Tensors = list["torch.Tensor | None"]


@dataclass(frozen=True)
class Call:
    """Something to call again and again.

    Attributes:
        name: of the operator, the layer or the function
        kind: ``"op"``, ``"layer"`` or ``"pytorch"``
        directions: what is called, by name
        plan: that is taken
        parts: of an operator's call
    """

    name: str
    kind: str
    directions: dict[str, Callable[[], object]]
    plan: str = ""
    parts: dict[str, Callable[[], object]] = field(default_factory=dict)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def operands() -> dict[str, tuple[Tensors, list[Any]]]:
    """Tensors and other arguments of every operator."""
    geometry = ConvGeometry.make("overhead", 3, 1, "same", 1, "disc")
    spec = str(FeatureSpec("SE(2)", "product", "all", "convolution", _NET))
    params = draw(NetSpec.parse(_NET).num_params)
    v, u = draw(1, 4, 3), draw(1, 3, 3)
    taps = len(geometry.taps())
    return {
        "relative_features": ([v, u, params], [spec]),
        "kernel_net": ([draw(4, 3), params], [_NET]),
        "group_conv2d": ([draw(1, 2, 2, 4, 4), draw(1, 2, 2, taps, 4), draw(2, 2, 4)], [str(geometry)]),
        "point_conv": ([draw(1, 4, 2), v, u, params, draw(2, 2, 4), None, None, None, None], [spec, False]),
    }


def layers() -> dict[str, Callable[[], tuple[torch.nn.Module, tuple[Any, ...]]]]:
    """Every layer and what it is given."""
    image, maps, points = draw(1, 2, 4, 4), draw(1, 2, 2, 4, 4), draw(1, 4, 2)
    of_maps = pgconv.sampling.get("fixed", pgconv.groups.get("SE(2)"), 2)(1)
    of_points = Samples(draw(1, 4, 3), torch.ones(1, 4))
    sizes = {"group": "SE(2)", "num_samples": 2, "hidden": 4}
    return {
        "LiftingConv2d": lambda: (nn.LiftingConv2d(2, 2, 3, **sizes), (image,)),
        "GroupConv2d": lambda: (nn.GroupConv2d(2, 2, 3, **sizes), (maps, of_maps)),
        "PointwiseGroupConv2d": lambda: (nn.PointwiseGroupConv2d(2, 2, **sizes), (maps, of_maps)),
        "SeparableGroupConv2d": lambda: (nn.SeparableGroupConv2d(2, 2, 3, **sizes), (maps, of_maps)),
        "PointLift": lambda: (nn.PointLift("SE(2)", 2), (points, draw(1, 4, 2))),
        "PointGroupConv": lambda: (nn.PointGroupConv(2, 2, group="SE(2)", hidden=4), (draw(1, 4, 2), of_points)),
        "GroupBatchNorm2d": lambda: (nn.GroupBatchNorm2d(2), (maps, of_maps)),
        "GroupInstanceNorm2d": lambda: (nn.GroupInstanceNorm2d(2), (maps, of_maps)),
        "GroupLayerNorm2d": lambda: (nn.GroupLayerNorm2d(2), (maps, of_maps)),
        "GroupMaxPool2d": lambda: (nn.GroupMaxPool2d(2), (maps,)),
        "GlobalGroupPool": lambda: (nn.GlobalGroupPool("mean"), (maps, of_maps)),
    }


def operation(name: str) -> Call:
    """An operator with all its gradients, and its parts one by one."""
    tensors, statics = operands()[name]
    family, public = FAMILIES[name], getattr(pgconv.ops, name)
    leaves = [
        x if x is None or i >= family.differentiable else x.clone().requires_grad_() for i, x in enumerate(tensors)
    ]
    asked = [x for x in leaves if x is not None and x.requires_grad]
    decoded = family.decode(*statics)
    plan = dispatch.resolve(family.facts(*tensors, *decoded), Plan.parse(AUTO))
    function = backends.load(plan.backend).function(name)

    def recorded() -> torch.Tensor:
        return public(*leaves, *statics, AUTO)

    def planning() -> Plan:
        decoded = family.decode(*statics)
        return dispatch.resolve(family.facts(*tensors, *decoded), Plan.parse(AUTO))

    directions = _directions(lambda: public(*tensors, *statics, AUTO), recorded, asked)
    parts = {"kernel": lambda: function(plan.order, *tensors, *decoded), "planning": planning}
    parts["operator"] = directions["forward"]
    return Call(name, "op", directions, str(plan), parts)


def layer(name: str) -> Call:
    """A layer in training, with the gradients of its parameters and of what comes in."""
    torch.manual_seed(0)
    module, (first, *others) = layers()[name]()
    leaf = first.clone().requires_grad_()

    def call(x: torch.Tensor) -> torch.Tensor:
        out = module(x, *others)
        return out if isinstance(out, torch.Tensor) else out[0]

    asked = [x for x in (leaf, *module.parameters())]
    return Call(name, "layer", _directions(lambda: call(first), lambda: call(leaf), asked))


_LIB = torch.library.Library("pgconv_benchmarks", "DEF")
_LIB.define("nothing(Tensor x, Tensor y, Tensor z, str words, str plan) -> Tensor")
_LIB.impl("nothing", lambda x, y, z, words, plan: torch.empty_like(x), "CompositeExplicitAutograd")
torch.library.register_autograd(
    "pgconv_benchmarks::nothing",
    lambda ctx, grad: (grad, *ctx.saved_tensors[1:], None, None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:3]),
    lib=_LIB,
)


def _plain() -> dict[str, tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]]:
    """Calls of PyTorch's with about as many numbers."""
    operator = torch.ops.pgconv_benchmarks.nothing.default
    three = draw(1, 2, 2), draw(2, 2), draw(2, 4)
    return {
        "nothing": (lambda x, y, z: operator(x, y, z, "words", AUTO), three),
        "linear": (F.linear, (draw(4, 3), draw(4, 3), draw(4))),
        "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), (draw(1, 4, 4, 4), draw(4, 4, 3, 3), draw(4))),
        "attention": (F.scaled_dot_product_attention, tuple(draw(1, 1, 4, 4) for _ in range(3))),
    }


def plain(name: str) -> Call:
    """One of PyTorch's."""
    function, tensors = _plain()[name]
    leaves = [x.clone().requires_grad_() for x in tensors]
    return Call(name, "pytorch", _directions(lambda: function(*tensors), lambda: function(*leaves), leaves))


def _directions(
    forward: Callable[[], torch.Tensor], recorded: Callable[[], torch.Tensor], asked: list[torch.Tensor]
) -> dict[str, Callable[[], object]]:
    """Without a graph, with one, and with its gradients."""

    def without() -> object:
        with torch.no_grad():
            return forward()

    out = recorded()
    directions: dict[str, Callable[[], object]] = {"forward": without, "recorded": recorded}
    if out.requires_grad:
        grad = draw(*out.shape)
        directions["forward+backward"] = lambda: torch.autograd.grad(recorded(), asked, grad, allow_unused=True)
    return directions


def table() -> dict[str, Callable[[], Call]]:
    """Everything by name: operators, layers, PyTorch's."""
    return {
        **{name: lambda name=name: operation(name) for name in operands()},
        **{name: lambda name=name: layer(name) for name in layers()},
        **{name: lambda name=name: plain(name) for name in _plain()},
    }
