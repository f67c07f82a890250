"""Results computed a piece at a time; what a piece's gradients need is computed again, and never kept for all pieces.

What outlives a piece is allocated once and written in place: small tensors that stay between the large ones of the pieces would
keep the allocator from using their memory again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pgconv._autocast import as_now
from pgconv.backends.reference.vjp import independent
from pgconv.ops import transforms

Evaluate = Callable[[Sequence[Any]], Iterable[tuple[slice, Tensor]]]
"""From the operands, None among them, to the places of the pieces on axis 1 and their values, one after the other."""


def in_pieces(evaluate: Evaluate, operands: Sequence[Tensor | None], size: int) -> Tensor:
    """All pieces side by side on axis 1, which has this size.

    ``evaluate`` must be differentiable and use the operands it is given alone.
    """
    return _Recomputed.apply(evaluate, size, *operands)


def can_be_recomputed() -> bool:
    """Not in compiled code, which makes its own choice of what to keep, nor under function transforms."""
    return not torch.compiler.is_compiling() and not transforms.are_active()


class _Recomputed(torch.autograd.Function):
    """Each piece has a graph of its own, which is gone before the next."""

    @staticmethod
    def forward(ctx: Any, evaluate: Evaluate, size: int, *operands: Tensor | None) -> Tensor:
        ctx.evaluate = evaluate
        ctx.save_for_backward(*operands)
        ctx.autocast = as_now(next(x for x in operands if x is not None))
        out = None
        for rows, value in evaluate(operands):
            if out is None:
                out = value.new_empty(value.shape[0], size, *value.shape[2:])
            out[:, rows] = value
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        further = torch.is_grad_enabled()
        needs = ctx.needs_input_grad[2:]
        with torch.enable_grad(), ctx.autocast:
            views = [independent(x, need) for x, need in zip(ctx.saved_tensors, needs)]
            asked = [x for x, need in zip(views, needs) if need]
            total = [torch.zeros_like(x, memory_format=torch.contiguous_format, requires_grad=False) for x in asked]
            for rows, value in ctx.evaluate(views):
                found = torch.autograd.grad(value, asked, grad[:, rows], create_graph=further, allow_unused=True)
                total = [t if x is None else t + x if further else t.add_(x) for t, x in zip(total, found)]
        results = iter(total)
        return None, None, *[next(results) if need else None for need in needs]
