"""Operators under ``torch.func`` (``grad``, ``vjp``, ``jvp``, ``vmap``, ...) and of dual numbers, which do not take registered
derivatives.

The same operators run below; derivatives of derivatives, and forward mode, are those of the plain PyTorch form. ``vmap`` is one
call over a larger batch wherever the vectorised axis can be one more of examples; where it cannot (heads or net parameters that
differ, gradients of heads that are to stay apart), it is one call after the other.

Of dual numbers outside ``torch.func`` (``torch.autograd.forward_ad``) it is the plain PyTorch form that runs: rules of derivatives
would have to take those of their own form in forward mode, and PyTorch nests no level of it in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._functorch import eager_transforms
from torch.autograd import forward_ad

from pgconv._autocast import without_autocast

EXAMPLES = "examples"
"""An axis 0 that has the size of the batch."""
SETS = "sets"
"""An axis 0 of size 1, shared by the batch, or that of the batch."""
Axes = tuple[str | None, ...]
"""What axis 0 of every tensor of a call is; None where it is something else."""
_Operands = Sequence[Tensor | None]


class Operation(Protocol):
    """What is asked of a family of operators (see ``_family``)."""

    tensors: tuple[str, ...]
    differentiable: int
    axes: Callable[..., Axes]
    decode: Callable[..., tuple[Any, ...]]
    composite: Callable[..., Tensor]
    split: Callable[[Sequence[Any]], tuple[_Operands, tuple[Any, ...]]]
    gradients: Callable[..., tuple[Tensor | None, ...]]
    laid_out: Callable[[Tensor, Tensor], Tensor]

    @property
    def forward_op(self) -> Callable[..., Tensor]: ...

    @property
    def backward_op(self) -> Callable[..., Any]: ...


def are_active() -> bool:
    """Whether a call is part of a function that is transformed, or may be one of dual numbers. Compiled code does without: the
    compiler traces operators alone."""
    return not torch.compiler.is_compiling() and (torch._C._are_functorch_transforms_active() or in_forward_mode())


def in_forward_mode() -> bool:
    """Whether tensors may be dual numbers, those of ``torch.func.jvp`` among them."""
    return forward_ad._current_level >= 0


# A compiler enters the levels of what it traces, and guards them by itself; what it reads meanwhile does not outlive the trace.
in_forward_mode._dynamo_marked_constant = True  # type: ignore[attr-defined]


def have_tangents(tensors: Iterable[Tensor | None]) -> bool:
    """Whether one is a dual number, other than those of ``torch.func``."""
    return _among_dual_numbers() and any(
        x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors
    )


def _among_dual_numbers() -> bool:
    return not torch.compiler.is_compiling() and in_forward_mode() and eager_transforms.JVP_NESTING == 0


def run(op: Operation, *args: Any) -> Tensor:
    """The forward operator with its derivatives and batching rule."""
    if not _among_dual_numbers():
        return _Forward.apply(op, *args)
    # Transforms wrap tensors: tangents of what is inside are not to be seen.
    if not torch._C._are_functorch_transforms_active() and not have_tangents(op.split(args)[0]):
        return op.forward_op(*args)
    return plain(op, *args)


def plain(op: Operation, *args: Any) -> Tensor:
    """What the forward operator returns, in plain PyTorch, also of dual numbers."""
    tensors, statics = op.split(args)
    function, primals = _plain(op, tensors, statics)
    return op.laid_out(tensors[0], function(*primals))


def plain_gradients(op: Operation, grad: Tensor, *call: Any) -> tuple[Tensor, ...]:
    """The same of the backward operator."""
    *args, needs = call
    tensors, statics = op.split(args)
    function, primals = _plain_gradients(op, needs, (grad, *tensors), statics)
    found = iter(function(*primals))
    return tuple(next(found) if need else grad.new_empty(0) for need in needs)


class _Forward(torch.autograd.Function):
    """``(op, *tensors, *statics)``."""

    @staticmethod
    def forward(op: Operation, *args: Any) -> Tensor:
        return op.forward_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.op, *args = inputs
        tensors, ctx.statics = ctx.op.split(args)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        op = ctx.op

        def backward(grad: Tensor, *call: Any) -> tuple[Tensor, ...]:
            *args, needs = call
            return _Backward.apply(op, tuple(needs), grad, *args)

        grads = op.gradients(backward, grad, ctx.saved_tensors, ctx.statics, ctx.needs_input_grad[1:])
        return (None, *grads, *[None] * len(ctx.statics))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> Tensor:
        function, primals = _plain(ctx.op, ctx.saved_tensors, ctx.statics)
        return _jvp(function, primals, tangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], op: Operation, *args: Any) -> tuple[Tensor, int]:
        size, (tensors, statics) = info.batch_size, op.split(args)
        dims = in_dims[1 : len(tensors) + 1]
        folding = _Folding.of(op, size, tensors, dims)
        if folding is not None:
            return folding.unfolded(run(op, *folding.folded(tensors, dims), *statics)), 0
        return _one_by_one(size, tensors, dims, lambda own: (run(op, *own, *statics),))[0], 0


class _Backward(torch.autograd.Function):
    """``(op, needs, grad, *tensors, *statics)``: a gradient for each differentiable tensor, empty where it is not needed."""

    @staticmethod
    def forward(op: Operation, needs: Sequence[bool], grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
        found = op.backward_op(grad, *args, list(needs))
        return (found,) if isinstance(found, Tensor) else tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.op, ctx.needs, grad, *args = inputs
        tensors, ctx.statics = ctx.op.split(args)
        ctx.save_for_backward(grad, *tensors)
        ctx.save_for_forward(grad, *tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        function, primals = _plain_gradients(ctx.op, ctx.needs, ctx.saved_tensors, ctx.statics)
        present = [x for x in primals if x is not None]
        _, pull = torch.func.vjp(lambda *x: function(*_filled(primals, x)), *present)
        found = iter(pull(tuple(c for c, need in zip(cotangents, ctx.needs) if need)))
        grads = [None if x is None else next(found) for x in primals]
        return (None, None, *grads, *[None] * (len(ctx.op.tensors) + 1 - len(grads) + len(ctx.statics)))

    @staticmethod
    def jvp(ctx: Any, _op: None, _needs: Any, *tangents: Any) -> tuple[Tensor, ...]:
        function, primals = _plain_gradients(ctx.op, ctx.needs, ctx.saved_tensors, ctx.statics)
        found = iter(_jvp(function, primals, tangents))
        return tuple(next(found) if need else ctx.saved_tensors[0].new_empty(0) for need in ctx.needs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], op: Operation, needs: Sequence[bool], grad: Tensor, *args: Any):
        size, (tensors, statics) = info.batch_size, op.split(args)
        operands, dims = (grad, *tensors), in_dims[2 : len(tensors) + 3]

        def alone(needs: Sequence[bool]) -> list[Tensor]:
            return _one_by_one(size, operands, dims, lambda own: _Backward.apply(op, needs, *own, *statics))

        folding = _Folding.of(op, size, tensors, dims[1:], needs)
        if folding is None:
            return tuple(alone(needs)), (0,) * len(needs)
        together = tuple(need and apart for need, apart in zip(needs, folding.apart))
        rest = tuple(need and not apart for need, apart in zip(needs, folding.apart))
        grads = [grad.new_empty(size, 0)] * len(needs)
        if any(together):
            whole = folding.examples(grad, dims[0])
            found = _Backward.apply(op, together, whole, *folding.folded(tensors, dims[1:]), *statics)
            grads = [
                folding.gradient(i, x) if need else g for i, (x, g, need) in enumerate(zip(found, grads, together))
            ]
        if any(rest):
            grads = [x if need else g for x, g, need in zip(alone(rest), grads, rest)]
        return tuple(grads), (0,) * len(needs)


@dataclass(frozen=True)
class _Folding:
    """The vectorised axis and that of examples as one, the vectorised one first.

    Attributes:
        size, batch: of the two
        sets: size of axis 0 of every operand that can have it, else 0
        apart: whether each of them is not shared by the vectorised axis, so that it has a gradient for each
    """

    size: int
    batch: int
    sets: Sequence[int]
    apart: Sequence[bool]

    @classmethod
    def of(
        cls, op: Operation, size: int, tensors: _Operands, dims: Sequence[Any], needs: Sequence[bool] = ()
    ) -> _Folding | None:
        """None where a tensor without such an axis is vectorised. ``needs``: gradients that are asked for."""
        if size == 0:
            return None
        single = [_single(x, d) for x, d in zip(tensors, dims)]
        axes = op.axes(*single)
        if not any(axes) or any(axis is None and d is not None for axis, d in zip(axes, dims)):
            return None
        sets = [0 if axis is None or x is None else x.shape[0] for x, axis in zip(single, axes)]
        batch = sets[axes.index(EXAMPLES)] if EXAMPLES in axes else max(sets)
        asked = [*needs, *[False] * (len(tensors) - len(needs))]
        together = [
            axis == SETS and d is None and n == 1 and not need for axis, d, n, need in zip(axes, dims, sets, asked)
        ]
        return cls(size, batch, sets, [axis is not None and not t for axis, t in zip(axes, together)])

    def folded(self, tensors: _Operands, dims: Sequence[Any]) -> list[Tensor | None]:
        """The operands of the one call."""
        return [self.examples(x, d) if x is not None and apart else x for x, d, apart in zip(tensors, dims, self.apart)]

    def examples(self, x: Tensor, dim: int | None) -> Tensor:
        """[size * batch, ...]."""
        x = x.unsqueeze(0) if dim is None else x.movedim(dim, 0)
        return x.expand(self.size, self.batch, *x.shape[2:]).flatten(0, 1)

    def unfolded(self, x: Tensor) -> Tensor:
        """[size, batch, ...]."""
        return x.unflatten(0, (self.size, self.batch))

    def gradient(self, number: int, x: Tensor) -> Tensor:
        """Of an operand, for each of the vectorised axis."""
        x = self.unfolded(x)
        return x if self.sets[number] == self.batch else x.sum(1, keepdim=True)


def _one_by_one(
    size: int, tensors: _Operands, dims: Sequence[Any], call: Callable[[list[Tensor | None]], Sequence[Tensor]]
) -> list[Tensor]:
    """The results of all calls, stacked."""
    if size == 0:
        blank = [x if d is None or x is None else x.new_zeros(x.movedim(d, 0).shape[1:]) for x, d in zip(tensors, dims)]
        return [x.new_empty(0, *x.shape) for x in call(blank)]
    found = [call([_single(x, d, i) for x, d in zip(tensors, dims)]) for i in range(size)]
    return [torch.stack(results) for results in zip(*found)]


def _single(x: Tensor | None, dim: int | None, number: int = 0) -> Tensor | None:
    return x if x is None or dim is None else x.select(dim, number)


def _plain(op: Operation, tensors: _Operands, statics: Sequence[Any]) -> tuple[Callable[..., Tensor], _Operands]:
    """The plain PyTorch form as a function of the differentiable tensors, and these."""
    count, decoded = op.differentiable, op.decode(*statics[:-1])

    def function(*differentiable: Tensor | None) -> Tensor:
        with without_autocast(tensors[0].device):
            return op.composite(*differentiable, *tensors[count:], *decoded)

    return function, tensors[:count]


def _plain_gradients(op: Operation, needs: Sequence[bool], saved: _Operands, statics: Sequence[Any]):
    """The needed gradients as a function of the gradient of the result and the differentiable tensors, and these."""
    grad, *tensors = saved
    function, primals = _plain(op, tensors, statics)

    def gradients(grad: Tensor, *differentiable: Tensor | None) -> tuple[Tensor, ...]:
        wanted = [x for x, need in zip(differentiable, needs) if need]

        def of_wanted(*x: Tensor) -> Tensor:
            own = iter(x)
            return function(*(next(own) if need else d for d, need in zip(differentiable, needs)))

        return torch.func.vjp(of_wanted, *wanted)[1](grad)

    return gradients, (grad, *primals)


def _filled(places: _Operands, present: Sequence[Tensor]) -> list[Tensor | None]:
    values = iter(present)
    return [None if x is None else next(values) for x in places]


def _jvp(function: Callable[..., Any], primals: _Operands, tangents: Sequence[Any]) -> Any:
    """In the direction of those tangents that there are; none of them may be expanded."""
    moving = [(x.contiguous(), t.contiguous()) for x, t in zip(primals, tangents) if x is not None and t is not None]

    def of_moving(*values: Tensor) -> Any:
        own = iter(values)
        return function(*(next(own) if x is not None and t is not None else x for x, t in zip(primals, tangents)))

    return torch.func.jvp(of_moving, tuple(x for x, _ in moving), tuple(t for _, t in moving))[1]
