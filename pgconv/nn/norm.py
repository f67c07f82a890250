"""Normalisation of functions on the group ``[B, C, N, H, W]``; statistics count every sample by its weight."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgconv._layout import in_memory_order
from pgconv._shapes import check_floating, check_positive_int, check_shape, describe
from pgconv.nn.pooling import sample_weights
from pgconv.sampling import Samples


class GroupBatchNorm2d(nn.BatchNorm3d):
    """Batch normalisation over (B, N, H, W) per channel: equivariant, since it treats all samples alike.

    ``y = gamma (x - mean) / sqrt(var + eps) + beta`` with ``mean = sum w_u x / sum w_u``; samples that a learned
    subset has switched off (weight 0) do not enter the statistics. Without ``samples`` it is ``torch.nn.BatchNorm3d``.

    Shapes: ``x [B, C, N, H, W]`` -> the same

    Example:
        >>> import torch, pgconv
        >>> pgconv.nn.GroupBatchNorm2d(3)(torch.randn(2, 3, 4, 5, 5)).shape
        torch.Size([2, 3, 4, 5, 5])
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True, **options
    ) -> None:
        _check_sizes("GroupBatchNorm2d", num_features, eps)
        super().__init__(num_features, eps, momentum, affine, **options)

    def forward(self, x: Tensor, samples: Samples | None = None) -> Tensor:
        """Normalise ``x``, weighting statistics by the gates of ``samples``."""
        return self.normalised(x, samples, self.training, count=self.training)

    def normalised(self, x: Tensor, samples: Samples | None, training: bool, count: bool) -> Tensor:
        """The same, as in training or not; whether the running statistics ``count`` this batch."""
        _check_maps("GroupBatchNorm2d", x, self.num_features)
        use_batch = training or self.running_mean is None
        count = count and self.running_mean is not None
        if samples is None or not use_batch:
            return in_memory_order(lambda x: self._plain(x, use_batch, count), x)
        y, moments = _normed("GroupBatchNorm2d", self, x, samples, (0, 2, 3, 4))
        if count:
            self._update_running(*(moment.detach().flatten() for moment in moments))
        return y

    def _plain(self, x: Tensor, use_batch: bool, count: bool) -> Tensor:
        if count:
            return super().forward(x)
        mean, var = (None, None) if use_batch else (self.running_mean, self.running_var)
        return F.batch_norm(x, mean, var, self.weight, self.bias, use_batch, 0.0, self.eps)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        rate = self.momentum if self.momentum is not None else 1.0 / self.num_batches_tracked
        unbiased = var * (count / (count - 1).clamp(min=1))
        for running, batch in ((self.running_mean, mean), (self.running_var, unbiased)):
            # Of no samples nothing is learnt.
            batch = torch.where(count == 0, running, batch)
            running.copy_(torch.lerp(running.to(batch.dtype), batch, rate))


class GroupInstanceNorm2d(nn.Module):
    """Instance normalisation over (N, H, W) per example and channel, without parameters unless ``affine``.

    Shapes: ``x [B, C, N, H, W]`` -> the same

    Example:
        >>> import torch, pgconv
        >>> y = pgconv.nn.GroupInstanceNorm2d(3)(torch.randn(2, 3, 4, 5, 5))
        >>> bool((y.mean((2, 3, 4)).abs() < 1e-5).all())
        True
    """

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False) -> None:
        super().__init__()
        _check_sizes("GroupInstanceNorm2d", num_features, eps)
        self.num_features, self.eps = num_features, eps
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def reset_parameters(self) -> None:
        """Scales of 1 and shifts of 0."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, samples: Samples | None = None) -> Tensor:
        """Normalise ``x``, weighting statistics by the gates of ``samples``."""
        _check_maps("GroupInstanceNorm2d", x, self.num_features)
        if samples is None:
            if x.shape[0] == 0:
                return _scaled(self, x, 1.0, x.dtype)  # PyTorch's own has no answer with parameters.
            return in_memory_order(lambda x: F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps), x)
        return _normed("GroupInstanceNorm2d", self, x, samples, (2, 3, 4))[0]

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, affine={self.weight is not None}"


class GroupLayerNorm2d(nn.GroupNorm):
    """Normalisation over (C, N, H, W) per example with an affine map per channel.

    Shapes: ``x [B, C, N, H, W]`` -> the same

    Example:
        >>> import torch, pgconv
        >>> pgconv.nn.GroupLayerNorm2d(3)(torch.randn(2, 3, 4, 5, 5)).shape
        torch.Size([2, 3, 4, 5, 5])
    """

    def __init__(self, num_features: int, eps: float = 1e-12) -> None:
        _check_sizes("GroupLayerNorm2d", num_features, eps)
        super().__init__(1, num_features, eps=eps)

    def forward(self, x: Tensor, samples: Samples | None = None) -> Tensor:
        """Normalise ``x``, weighting statistics by the gates of ``samples``."""
        _check_maps("GroupLayerNorm2d", x, self.num_channels)
        if samples is None:
            return in_memory_order(super().forward, x)
        return _normed("GroupLayerNorm2d", self, x, samples, (1, 2, 3, 4))[0]


def _check_sizes(layer: str, num_features: object, eps: object) -> None:
    check_positive_int(layer, "num_features", num_features)
    if not isinstance(eps, (int, float)) or not 0 <= eps < float("inf"):
        raise ValueError(f"{layer}: eps must be a number >= 0, received {describe(eps)}")


def _check_maps(layer: str, x: Tensor, channels: int) -> None:
    check_shape(layer, "x", x, "B C N H W", {"C": channels})
    check_floating(layer, "x", x)


class Moments(NamedTuple):
    """Weighted mean and (biased) variance, and the total weight, kept as broadcastable axes."""

    mean: Tensor
    var: Tensor
    count: Tensor


def _normed(layer: str, norm: Any, x: Tensor, samples: Samples, dims: tuple[int, ...]) -> tuple[Tensor, Moments]:
    """``x`` with weighted mean 0 and variance 1 over these axes, scaled; and what they were, in at least float32.

    Of no samples the mean is 0 and the variance 1. Sums over pixels come before the weights: for the gradients one map is kept.
    """
    weights = sample_weights(layer, samples, x)[:, None, :, None, None]

    def weighted(maps: Tensor) -> Tensor:
        return (maps.sum((3, 4), keepdim=True, dtype=weights.dtype) * weights).sum(dims, keepdim=True)

    count = (weights * (x.shape[3] * x.shape[4])).expand(*x.shape[:3], 1, 1).sum(dims, keepdim=True)
    nothing = count == 0
    divisor = count.masked_fill(nothing, torch.inf)
    mean = weighted(x) / divisor
    centred = x - mean
    var = (weighted(centred * centred) / divisor).masked_fill(nothing, 1.0)
    y = _scaled(norm, centred, torch.rsqrt(var + norm.eps), x.dtype)
    return y, Moments(mean, var, count)


def _scaled(norm: Any, centred: Tensor, scale: Tensor | float, dtype: torch.dtype) -> Tensor:
    if norm.weight is None:
        return (centred * scale).to(dtype)
    return (centred * (scale * _per_channel(norm.weight)) + _per_channel(norm.bias)).to(dtype)


def _per_channel(parameter: Tensor) -> Tensor:
    return parameter.reshape(1, -1, 1, 1, 1)
