"""Pooling of functions on the group."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgconv._shapes import check_choice, check_shape
from pgconv.nn._conv import check_samples
from pgconv.sampling import Samples


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
        self.kernel_size, self.stride, self.padding = kernel_size, stride or kernel_size, padding

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``x``."""
        check_shape("GroupMaxPool2d", "x", x, "B C N H W", {})
        pooled = F.max_pool2d(x.flatten(1, 2), self.kernel_size, self.stride, self.padding)
        return pooled.unflatten(1, x.shape[1:3])

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


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
    return weights.to(x.dtype)
