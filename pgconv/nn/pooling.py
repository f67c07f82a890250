"""Pooling of functions on the group."""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgconv._shapes import check_choice, check_floating, check_positive_int, check_same_device, check_shape, describe
from pgconv.nn._conv import check_samples
from pgconv.ops.transforms import in_forward_mode
from pgconv.sampling import Samples

_MAX_SIDE = 15
"""Of windows whose places are numbered by a byte."""


class GroupMaxPool2d(nn.Module):
    """Max pooling over space, separately for every channel and sample; the group axis is kept.

    Shapes: ``x [B, C, N, H, W]`` -> ``[B, C, N, Ho, Wo]``

    Example:
        >>> import torch, pgconv
        >>> pgconv.nn.GroupMaxPool2d(2)(torch.randn(2, 3, 4, 8, 8)).shape
        torch.Size([2, 3, 4, 4, 4])
    """

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        self.kernel_size = check_positive_int("GroupMaxPool2d", "kernel_size", kernel_size)
        self.stride = kernel_size if stride is None else check_positive_int("GroupMaxPool2d", "stride", stride)
        self.padding = check_positive_int("GroupMaxPool2d", "padding", padding, 0)
        if padding > kernel_size // 2:
            raise ValueError(
                f"GroupMaxPool2d: padding must be at most half of kernel_size={kernel_size} (else a window may be all padding), "
                f"received {padding}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``x``."""
        check_shape("GroupMaxPool2d", "x", x, "B C N H W", {})
        check_floating("GroupMaxPool2d", "x", x)
        if min(x.shape[-2:]) + 2 * self.padding < self.kernel_size:
            raise ValueError(
                f"GroupMaxPool2d: x must be at least kernel_size={self.kernel_size} high and wide with its padding, "
                f"received {describe(x)}"
            )
        if self.takes_windows and not in_forward_mode():
            if torch.is_grad_enabled() and x.requires_grad:
                return _WindowMax.apply(x, self.kernel_size)[0]
            rows = reduce(torch.maximum, _rows(x, self.kernel_size))
            return reduce(torch.maximum, _columns(rows, self.kernel_size))
        pooled = F.max_pool2d(x.flatten(1, 2), self.kernel_size, self.stride, self.padding)
        return pooled.unflatten(1, x.shape[1:3])

    @property
    def takes_windows(self) -> bool:
        """Whether windows lie side by side."""
        return self.stride == self.kernel_size and self.padding == 0 and 1 < self.kernel_size <= _MAX_SIDE

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _WindowMax(torch.autograd.Function):
    """The maximum over ``k x k`` windows side by side, and its place, the first of equal ones.

    For the backward pass PyTorch's own keeps the whole input and 8 bytes for each window; this keeps 1 byte.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return largest_of_windows(x, k)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.k = inputs
        ctx.size = x.shape[-2:]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor):
        return scattered_to_windows(grad, *ctx.saved_tensors, ctx.k, ctx.size), None


def largest_of_windows(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The largest of every window and its number there, of equal ones the first in the order of reading."""
    best, column = _largest(_columns(x, k))
    best, row = _largest(_rows(best, k))
    which, *others = _rows(column, k)
    for number, other in enumerate(others, 1):
        which = torch.where(row == number, other, which)
    return best, row * k + which


def scattered_to_windows(grad: Tensor, which: Tensor, k: int, size: torch.Size) -> Tensor:
    """Values of windows at those places, zero elsewhere."""
    height, width = size
    rows, columns = (torch.arange(0, side - side % k, k, device=grad.device) for side in size)
    first = rows[:, None] * width + columns
    place = which + first + (which // k).long() * (width - k)
    found = grad.new_zeros(*grad.shape[:-2], height * width)
    return found.scatter(-1, place.flatten(-2), grad.flatten(-2)).unflatten(-1, size)


def _rows(x: Tensor, k: int) -> list[Tensor]:
    """The first rows of all windows, the second ones, ..."""
    end = x.shape[-2] // k * k
    return [x[..., start:end:k, :] for start in range(k)]


def _columns(x: Tensor, k: int) -> list[Tensor]:
    return [rows.mT for rows in _rows(x.mT, k)]


def _largest(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The largest at each place, and the number of the first one that is."""
    best, *others = values
    which = torch.zeros_like(best, dtype=torch.uint8)
    for number, value in enumerate(others, 1):
        which = torch.maximum(which, (value > best).to(torch.uint8) * number)
        best = torch.maximum(best, value)
    return best, which


class GlobalGroupPool(nn.Module):
    """Pool over samples and space: what is left is invariant where the layers before were equivariant.

    ``"mean"``: ``y[b,c] = sum_u w_u mean_p x[b,c,u,p] / sum_u w_u``; ``"max"``: the maximum over samples of nonzero
    weight and over space. Weights are the gates in ``samples`` (all one when it is None); where all are zero, so is y.

    Shapes: ``x [B, C, N, H, W]``, ``Samples [S, N]`` -> ``[B, C]``

    Example:
        >>> import torch, pgconv
        >>> lift = pgconv.nn.LiftingConv2d(1, 4, kernel_size=3, group="SE(2)", num_samples=4)
        >>> pgconv.nn.GlobalGroupPool("max")(*lift(torch.randn(2, 1, 9, 9))).shape
        torch.Size([2, 4])
    """

    def __init__(self, mode: str = "mean") -> None:
        super().__init__()
        check_choice("GlobalGroupPool", "mode", mode, ("mean", "max"))
        self.mode = mode

    def forward(self, x: Tensor, samples: Samples | None = None) -> Tensor:
        """Pool ``x`` with the gates of ``samples``."""
        axes: dict = {}
        check_shape("GlobalGroupPool", "x", x, "B C N H W", axes)
        check_floating("GlobalGroupPool", "x", x)
        if 0 in x.shape[2:]:
            raise ValueError(f"GlobalGroupPool: x must have at least one sample and one pixel, received {describe(x)}")
        if samples is None:
            return x.mean((2, 3, 4)) if self.mode == "mean" else x.amax((2, 3, 4))
        weights = sample_weights("GlobalGroupPool", samples, x)
        if self.mode == "mean":
            total = weights.sum(-1, keepdim=True)
            divisor = total.masked_fill(total == 0, torch.inf)
            return ((x.mean((3, 4), dtype=weights.dtype) * weights[:, None]).sum(2) / divisor).to(x.dtype)
        there = weights != 0
        best = x.amax((3, 4)).masked_fill(~there[:, None], -torch.inf).amax(2)
        return best.masked_fill(~there.any(-1, keepdim=True), 0.0)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"


def sample_weights(layer: str, samples: Samples, x: Tensor) -> Tensor:
    """Weights ``[S, N]`` of the samples under maps ``x [B, C, N, H, W]``, in the dtype of x, but at least in float32."""
    weights = check_samples(layer, "samples", samples).weights
    check_shape(layer, "samples.weights", weights, "S N", {"S": (1, x.shape[0]), "N": x.shape[2]})
    check_same_device(layer, **{"samples.weights": weights, "x": x})
    return weights.to(torch.promote_types(x.dtype, torch.float32))
