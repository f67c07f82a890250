"""The only place where operators are registered: schema, dispatch to a backend, fake kernel, derivatives, autocast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pgconv._layout import empty_as
from pgconv.ops import _direct, transforms
from pgconv.ops._family import Family

LIB = torch.library.Library("pgconv", "DEF")

FAMILIES: dict[str, Family] = {}
"""Every operation by name; tests loop over it."""


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
    forward, direct, count = family.forward_op, _direct.Direct(family), len(family.tensors)

    def call(*args: Any) -> torch.Tensor:
        # A compiler traces operators alone, which have no derivative in forward mode.
        if not torch.compiler.is_compiling():
            if _direct.is_equivalent(args[:count]):
                return direct.run(*args)
            if transforms.are_active():
                return transforms.run(family, *family.autocast(args))
        elif transforms.in_forward_mode():
            return transforms.plain(family, *family.autocast(args))
        return forward(*args)

    return call


def _register_forward(family: Family) -> None:
    def fake(*args: Any) -> torch.Tensor:
        tensors, (*statics, _) = family.split(args)
        return family.fake(*tensors, *family.decode(*statics))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        tensors, ctx.statics = family.split(inputs)
        ctx.save_for_backward(*tensors)

    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        grads = family.gradients(family.backward_op, grad, ctx.saved_tensors, ctx.statics, ctx.needs_input_grad)
        return (*grads, *[None] * len(ctx.statics))

    _implement(family.name, family.run, fake)
    for device in ("cpu", "cuda"):
        _register_autocast(family, device)
    torch.library.register_autograd(f"pgconv::{family.name}", backward, setup_context=setup_context, lib=LIB)


def _register_backward(family: Family) -> None:
    def forward(*args: Any) -> Any:
        return _pack(family.run_backward(*args))

    def fake(grad: torch.Tensor, *args: Any) -> Any:
        tensors, (*_, needs) = family.split(args)
        return _pack(
            [
                grad.new_empty(0) if not n else empty_as(t, *t.shape) if family.keeps_layout else t.new_empty(t.shape)
                for t, n in zip(tensors, needs)
            ]
        )

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors, ctx.statics = family.split(inputs[1:])
        ctx.save_for_backward(inputs[0], *tensors)

    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[Any, ...]:
        grads = family.second_gradients(cotangents, ctx.saved_tensors, ctx.statics)
        return (*grads, *[None] * len(ctx.statics))

    _implement(f"{family.name}_backward", forward, fake)
    torch.library.register_autograd(f"pgconv::{family.name}_backward", backward, setup_context=setup_context, lib=LIB)


def _pack(tensors: Sequence[torch.Tensor]) -> Any:
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def _implement(name: str, forward: Callable[..., Any], fake: Callable[..., Any]) -> None:
    def kernel(*args: Any) -> Any:
        # Below autograd tangents would be lost without a word.
        if transforms.have_tangents(x for x in args if isinstance(x, torch.Tensor)):
            raise NotImplementedError(
                f"torch.ops.pgconv.{name} has no derivative of dual numbers (torch.autograd.forward_ad); call the function "
                f"pgconv.ops.{name.removesuffix('_backward')}, or use torch.func.jvp"
            )
        return forward(*args)

    LIB.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"pgconv::{name}", fake, lib=LIB)


def _register_autocast(family: Family, device: str) -> None:
    def call(*args: Any) -> torch.Tensor:
        cast = family.autocast(args)
        with torch.autocast(device, enabled=False):
            return family.forward_op(*cast)

    LIB.impl(family.name, call, f"Autocast{device.upper()}")
