"""The only place where operators are registered: schema, dispatch to a backend, fake kernel, derivatives, autocast.

An operation is a *family*: ``name(tensors, statics, plan) -> Tensor`` and ``name_backward(grad, tensors, statics, plan,
needs) -> Tensor, ...`` with one gradient for each differentiable tensor (an empty tensor where not needed). The
derivative of the backward operator is composed from a differentiable plain PyTorch form, so derivatives of any order
exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pgconv._autocast import dtype_of
from pgconv._layout import empty_as, laid_out_as
from pgconv.backends.reference.vjp import independent
from pgconv.ops import dispatch, transforms
from pgconv.spec import Facts, Plan

LIB = torch.library.Library("pgconv", "DEF")

FAMILIES: dict[str, Family] = {}
"""Every operation by name; tests loop over it."""


_Operands = Sequence[torch.Tensor | None]


def _whole(operands: _Operands, *decoded: Any) -> Iterable[tuple[Any, _Operands]]:
    return ((..., operands),)


@dataclass(frozen=True)
class Family:
    """Declaration of one operation.

    Attributes:
        name: name of the forward operator in namespace ``pgconv``
        tensors: tensor arguments in order; a trailing ``?`` marks an optional one
        differentiable: how many of them, counted from the front, have gradients
        statics: schema of the other arguments, e.g. ``"str spec, bool depthwise"``
        decode: turns the static arguments into what backends take
        facts: description of a call for the planner, from tensors and decoded statics
        fake: shape of the output, from tensors and decoded statics
        axes: what axis 0 of each tensor is (see ``transforms``), from the tensors
        composite: differentiable plain PyTorch form of the forward, from tensors and decoded statics
        cast: names of the tensors that autocast casts to the autocast dtype
        keeps_layout: whether tensors are maps that come out in the layout that they, or the first one, came in (see
            ``pgconv.group_last``); others come out contiguous
        pieces: parts of a call for ``composite`` whose results make up the whole, to be taken one after the other: where they
            lie in the result, and their tensors, from tensors and decoded statics
    """

    name: str
    tensors: tuple[str, ...]
    differentiable: int
    statics: str
    decode: Callable[..., tuple[Any, ...]]
    facts: Callable[..., Facts]
    fake: Callable[..., torch.Tensor]
    axes: Callable[..., transforms.Axes]
    composite: Callable[..., torch.Tensor]
    cast: tuple[str, ...] = ()
    keeps_layout: bool = False
    pieces: Callable[..., Iterable[tuple[Any, _Operands]]] = _whole

    @property
    def forward_op(self) -> torch._ops.OpOverload:
        return getattr(torch.ops.pgconv, self.name).default

    @property
    def backward_op(self) -> torch._ops.OpOverload:
        return getattr(torch.ops.pgconv, f"{self.name}_backward").default

    def laid_out(self, like: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """A result in the layout that the fake kernels promise: compiled code addresses memory by that promise."""
        return laid_out_as(like, x) if self.keeps_layout else x.contiguous()

    def autocast(self, args: Sequence[Any]) -> list[Any]:
        """The arguments of the forward operator as autocast, where it is on, casts them."""
        cast = list(args)
        for i, name in enumerate(self.tensors):
            if name.rstrip("?") in self.cast and cast[i] is not None and cast[i].is_floating_point():
                cast[i] = cast[i].to(dtype_of(cast[i]))
        return cast

    def split(self, args: Sequence[Any]) -> tuple[tuple[torch.Tensor | None, ...], tuple[Any, ...]]:
        """Tensors, and everything after them."""
        return tuple(args[: len(self.tensors)]), tuple(args[len(self.tensors) :])


def define_op(family: Family) -> Callable[..., torch.Tensor]:
    """Register a family; returns the function of that name, which calls the forward operator."""
    arguments = ", ".join(f"Tensor? {n[:-1]}" if n.endswith("?") else f"Tensor {n}" for n in family.tensors)
    if family.statics:
        arguments += f", {family.statics}"
    returns = ", ".join(["Tensor"] * family.differentiable)
    tag = torch.Tag.pt2_compliant_tag
    LIB.define(f"{family.name}({arguments}, str plan) -> Tensor", tags=tag)
    LIB.define(f"{family.name}_backward(Tensor grad, {arguments}, str plan, bool[] needs) -> ({returns})", tags=tag)
    _register_forward(family)
    _register_backward(family)
    FAMILIES[family.name] = family
    forward = family.forward_op

    def call(*args: Any) -> torch.Tensor:
        return transforms.run(family, *family.autocast(args)) if transforms.are_active() else forward(*args)

    return call


def _register_forward(family: Family) -> None:
    def forward(*args: Any) -> torch.Tensor:
        tensors, (*statics, plan) = family.split(args)
        decoded = family.decode(*statics)
        out = dispatch.run(family.name, family.facts(*tensors, *decoded), Plan.parse(plan), (*tensors, *decoded))
        return family.laid_out(tensors[0], out)

    def fake(*args: Any) -> torch.Tensor:
        tensors, (*statics, _) = family.split(args)
        return family.fake(*tensors, *family.decode(*statics))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        tensors, ctx.statics = family.split(inputs)
        ctx.save_for_backward(*tensors)

    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        needs = [bool(n) for n in ctx.needs_input_grad[: family.differentiable]]
        grads = family.backward_op(grad, *ctx.saved_tensors, *ctx.statics, needs)
        grads = (grads,) if isinstance(grads, torch.Tensor) else grads
        kept = [g if need else None for g, need in zip(grads, needs)]
        return (*kept, *[None] * (len(family.tensors) - len(kept) + len(ctx.statics)))

    _implement(family, family.name, forward, fake)
    for device in ("cpu", "cuda"):
        _register_autocast(family, device)
    torch.library.register_autograd(f"pgconv::{family.name}", backward, setup_context=setup_context, lib=LIB)


def _register_backward(family: Family) -> None:
    count = family.differentiable

    def forward(grad: torch.Tensor, *args: Any) -> Any:
        tensors, (*statics, plan, needs) = family.split(args)
        decoded = family.decode(*statics)
        facts = family.facts(*tensors, *decoded)
        grads = dispatch.run_backward(family.name, facts, Plan.parse(plan), needs, grad, (*tensors, *decoded))
        found = zip(tensors, grads, needs)
        return _pack([family.laid_out(t, g) if n and g is not None else grad.new_empty(0) for t, g, n in found])

    def fake(grad: torch.Tensor, *args: Any) -> Any:
        tensors, (*_, needs) = family.split(args)
        return _pack(
            [
                grad.new_empty(0) if not n else empty_as(t, *t.shape) if family.keeps_layout else t.new_empty(t.shape)
                for t, n in zip(tensors[:count], needs)
            ]
        )

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors, (*ctx.statics, ctx.plan, ctx.needs) = family.split(inputs[1:])
        ctx.save_for_backward(inputs[0], *tensors)

    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[Any, ...]:
        grad, *tensors = ctx.saved_tensors
        decoded = family.decode(*ctx.statics)
        further = torch.is_grad_enabled()
        with torch.enable_grad():
            grad = independent(grad)
            differentiable = [independent(t) for t in tensors[:count]]
            chosen = [(t, c) for t, c, n in zip(differentiable, cotangents, ctx.needs) if n and t is not None]
            sources = [grad, *[t for t in differentiable if t is not None]]
            total: list[torch.Tensor | None] = [None] * len(sources)
            for place, operands in family.pieces([*differentiable, *tensors[count:]], *decoded):
                out = family.composite(*operands, *decoded)
                first = torch.autograd.grad(
                    out,
                    [t for t, _ in chosen],
                    grad[place],
                    create_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                second = torch.autograd.grad(
                    first, sources, [c for _, c in chosen], create_graph=further, allow_unused=True
                )
                total = [x if t is None else t if x is None else t + x for t, x in zip(total, second)]
        results = iter(total)
        grads = [next(results), *[None if t is None else next(results) for t in differentiable]]
        return (*grads, *[None] * (len(tensors) - count + len(ctx.statics) + 2))

    _implement(family, f"{family.name}_backward", forward, fake)
    torch.library.register_autograd(f"pgconv::{family.name}_backward", backward, setup_context=setup_context, lib=LIB)


def _pack(tensors: list[torch.Tensor]) -> Any:
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def _implement(family: Family, name: str, forward: Callable[..., Any], fake: Callable[..., Any]) -> None:
    LIB.impl(name, forward, "CompositeExplicitAutograd")
    torch.library.register_fake(f"pgconv::{name}", fake, lib=LIB)


def _register_autocast(family: Family, device: str) -> None:
    def call(*args: Any) -> torch.Tensor:
        cast = family.autocast(args)
        with torch.autocast(device, enabled=False):
            return family.forward_op(*cast)

    LIB.impl(family.name, call, f"Autocast{device.upper()}")
