"""Calls of an operation around PyTorch's dispatcher, where nobody but autograd would see the operator.

An operator written in Python costs tens of microseconds a call: the dispatcher turns its arguments into those of its schema and
back, three times where a graph is recorded. The same values and the same derivatives come from here in a fraction of that. Whatever
looks at operators (compilers, tracers, modes, transformations, profilers, tensors of other kinds) gets the operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pgconv import _observers
from pgconv._autocast import autocasts
from pgconv.ops._family import Family

_KINDS = frozenset((torch.Tensor, torch.nn.Parameter))
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def is_equivalent(tensors: Sequence[torch.Tensor | None]) -> bool:
    """Whether a call does the same here as through the operator. Not to be asked in compiled code."""
    return not _observers.are_there() and all(
        x is None or (type(x) in _KINDS and (x.is_cpu or x.is_cuda) and not _is_wrapped(x)) for x in tensors
    )


class Direct:
    """Calls of one family."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._record = _applied(_Recorded, family.name)
        self._record_backward = _applied(_RecordedBackward, f"{family.name}_backward")

    def run(self, *args: Any) -> torch.Tensor:
        """What the forward operator returns, with its derivatives."""
        if autocasts(args[0]):
            args = tuple(self.family.autocast(args))
        if torch._C.is_grad_enabled() and torch._C._any_requires_grad(*args):
            tensors, statics = self.family.split(args)
            return self._record(self, statics, *tensors)
        return self.family.run(*args)

    def run_backward(self, grad: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
        """What the backward operator returns, with its derivatives."""
        tensors, statics = self.family.split(args)
        if torch.compiler.is_compiling() or not is_equivalent((grad, *tensors)):
            return self.family.backward_op(grad, *args)
        if torch._C.is_grad_enabled() and torch._C._any_requires_grad(grad, *tensors):
            return self._record_backward(self, statics, grad, *tensors)
        return self.family.run_backward(grad, *args)


class _Recorded(torch.autograd.Function):
    """``(direct, statics, *tensors)`` of the forward operator."""

    # With the context as an argument: the other style looks the signature up in every call.
    @staticmethod
    def forward(ctx: Any, direct: Direct, statics: tuple[Any, ...], *tensors: torch.Tensor | None) -> torch.Tensor:
        ctx.direct, ctx.statics = direct, statics
        ctx.save_for_backward(*tensors)
        return direct.family.run(*tensors, *statics)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        run = ctx.direct.run_backward
        grads = ctx.direct.family.gradients(run, grad, ctx.saved_tensors, ctx.statics, ctx.needs_input_grad[2:])
        return None, None, *grads


class _RecordedBackward(torch.autograd.Function):
    """``(direct, statics, grad, *tensors)`` of the backward operator."""

    @staticmethod
    def forward(
        ctx: Any, direct: Direct, statics: tuple[Any, ...], grad: torch.Tensor, *tensors: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        ctx.direct, ctx.statics = direct, statics
        ctx.save_for_backward(grad, *tensors)
        return direct.family.run_backward(grad, *tensors, *statics)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[Any, ...]:
        grads = ctx.direct.family.second_gradients(cotangents, ctx.saved_tensors, ctx.statics)
        return None, None, *grads


def _applied(function: type[torch.autograd.Function], name: str) -> Callable[..., Any]:
    """``apply`` of a function of that name, which is what graphs call it, without what ``apply`` does beside: look for wrapped
    tensors, of which there are none here."""
    return super(torch.autograd.Function, type(name, (function,), {})).apply
