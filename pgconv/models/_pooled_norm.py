"""Batch norm and max pooling of large maps, some channels at a time: the normed map is never there as a whole.

Values and gradients are to the bit those of the two modules one after the other; channels have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pgconv.nn import GroupBatchNorm2d, GroupMaxPool2d
from pgconv.nn.pooling import largest_of_windows, scattered_to_windows
from pgconv.ops.transforms import in_forward_mode

PART = 2 << 20
"""Bytes of the channels that are taken at a time."""


def suits(norm: nn.Module, x: Tensor, samples: Any, pool: Any) -> bool:
    """Whether these two modules are computed here."""
    return (
        type(norm) is GroupBatchNorm2d
        and isinstance(pool, GroupMaxPool2d)
        and pool.takes_windows
        and samples is None
        and (norm.training or norm.running_mean is None)
        and x.is_contiguous()
        and x.numel() > 0
        and not in_forward_mode()
    )


def pooled_norm(norm: GroupBatchNorm2d, x: Tensor, pool: GroupMaxPool2d) -> Tensor:
    """``pool(norm(x))``; the running statistics count."""
    running = (norm.running_mean, norm.running_var) if norm.training and norm.running_mean is not None else (None, None)
    rate = 0.0
    if running[0] is not None:
        norm.num_batches_tracked.add_(1)
        rate = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    return _PooledNorm.apply(x, norm.weight, norm.bias, *running, rate, norm.eps, pool.kernel_size)[0]


@torch.no_grad()
def values_again(norm: GroupBatchNorm2d, x: Tensor, pool: GroupMaxPool2d) -> Tensor:
    """The same values, and nothing is counted."""
    size = pool.kernel_size
    out = x.new_empty(*x.shape[:3], x.shape[3] // size, x.shape[4] // size)
    for part in _parts(x):
        out[:, part] = pool(_normed(x, part, norm.weight, norm.bias, None, None, 0.0, norm.eps)[0])
    return out


class _PooledNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, weight, bias, running_mean, running_var, rate: float, eps: float, k: int):
        out = x.new_empty(*x.shape[:3], x.shape[3] // k, x.shape[4] // k)
        which = torch.empty_like(out, dtype=torch.uint8)
        statistics = []
        for part in _parts(x):
            y, *moments = _normed(x, part, weight, bias, running_mean, running_var, rate, eps)
            out[:, part], which[:, part] = largest_of_windows(y, k)
            statistics.append(moments)
        mean, deviation = (torch.cat(own) for own in zip(*statistics))
        ctx.eps, ctx.k = eps, k
        ctx.save_for_backward(x, weight, mean, deviation, which)
        ctx.mark_non_differentiable(which)
        return out, which

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor):
        x, weight, mean, deviation, which = ctx.saved_tensors
        needs = [bool(need) for need in ctx.needs_input_grad[:3]]
        dx = torch.empty_like(x) if needs[0] else None
        others: list[tuple[Tensor | None, Tensor | None]] = []
        for part in _parts(x):
            spread = scattered_to_windows(grad[:, part], which[:, part], ctx.k, x.shape[-2:])
            own, *rest = torch.ops.aten.native_batch_norm_backward(
                spread,
                x[:, part].contiguous(),
                None if weight is None else weight[part],
                None,
                None,
                mean[part],
                deviation[part],
                True,
                ctx.eps,
                needs,
            )
            if dx is not None:
                dx[:, part] = own
            others.append(tuple(rest))
        dweight, dbias = (torch.cat(own) if need else None for own, need in zip(zip(*others), needs[1:]))
        return dx, dweight, dbias, None, None, None, None, None


def _parts(x: Tensor) -> Iterator[slice]:
    """Of the channels."""
    channels = x.shape[1]
    step = max(1, channels * PART // max(1, x.nbytes))
    for first in range(0, channels, step):
        yield slice(first, min(first + step, channels))


def _normed(x: Tensor, part: slice, weight, bias, running_mean, running_var, rate: float, eps: float):
    """The channels of a part, their means and one over their deviations."""
    own = [None if p is None else p[part] for p in (weight, bias, running_mean, running_var)]
    return torch.native_batch_norm(x[:, part].contiguous(), *own, True, rate, eps)
