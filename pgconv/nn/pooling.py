"""Pooling of functions on the group."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgconv._shapes import check_choice, check_floating, check_positive_int, check_same_device, check_shape, describe
from pgconv.nn._conv import check_samples
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
        if (
            torch.is_grad_enabled()
            and x.requires_grad
            and self.stride == self.kernel_size
            and self.padding == 0
            and 1 < self.kernel_size <= _MAX_SIDE
        ):
            return _WindowMax.apply(x, self.kernel_size)[0]
        pooled = F.max_pool2d(x.flatten(1, 2), self.kernel_size, self.stride, self.padding)
        return pooled.unflatten(1, x.shape[1:3])

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _WindowMax(torch.autograd.Function):
    """The maximum over ``k x k`` windows side by side, and its place, the first of equal ones.

    For the backward pass PyTorch's own keeps the whole input and 8 bytes for each window; this keeps 1 byte.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        best, *others = (x[place] for place in _places(x.shape, k))
        which = torch.zeros_like(best, dtype=torch.uint8)
        for number, value in enumerate(others, 1):
            which.masked_fill_(value > best, number)
            best = torch.maximum(best, value)
        return best, which

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.k = inputs
        ctx.size = x.shape[-2:]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor):
        (which,) = ctx.saved_tensors
        found = grad.new_zeros(*grad.shape[:-2], *ctx.size)
        for number, place in enumerate(_places(found.shape, ctx.k)):
            found[place] = torch.where(which == number, grad, 0.0)
        return found, None


def _places(shape: torch.Size, k: int) -> list[tuple]:
    """For each place of a window, the slices that take it from all windows."""
    height, width = (size - size % k for size in shape[-2:])
    return [(..., slice(row, height, k), slice(column, width, k)) for row in range(k) for column in range(k)]


class GlobalGroupPool(nn.Module):
    """Pool over samples and space: what is left is invariant where the layers before were equivariant.

    ``"mean"``: ``y[b,c] = sum_u w_u mean_p x[b,c,u,p] / sum_u w_u``; ``"max"``: the maximum over samples of nonzero
    weight and over space. Weights are the gates in ``samples`` (all one when it is None).

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
            return (x.mean((3, 4)) * weights[:, None]).sum(2) / weights.sum(-1, keepdim=True)
        best = x.amax((3, 4))
        return best.masked_fill((weights == 0)[:, None], -torch.inf).amax(2)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"


def sample_weights(layer: str, samples: Samples, x: Tensor) -> Tensor:
    """Weights ``[S, N]`` of the samples under maps ``x [B, C, N, H, W]``, in the dtype of x."""
    weights = check_samples(layer, "samples", samples).weights
    check_shape(layer, "samples.weights", weights, "S N", {"S": (1, x.shape[0]), "N": x.shape[2]})
    check_same_device(layer, **{"samples.weights": weights, "x": x})
    return weights.to(x.dtype)
