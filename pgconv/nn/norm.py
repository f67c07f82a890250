"""Normalisation of functions on the group ``[B, C, N, H, W]``; statistics count every sample by its weight."""

from __future__ import annotations

from typing import Any

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
        mean, var, total = _weighted_moments("GroupBatchNorm2d", x, samples, (0, 2, 3, 4))
        if count:
            self._update_running(mean.detach().flatten(), var.detach().flatten(), total.detach())
        return _normed(self, x, mean, var)

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

    def forward(self, x: Tensor, samples: Samples | None = None) -> Tensor:
        """Normalise ``x``, weighting statistics by the gates of ``samples``."""
        _check_maps("GroupInstanceNorm2d", x, self.num_features)
        if samples is None:
            if x.shape[0] == 0:
                return _scaled(self, x, x.dtype)  # PyTorch's own has no answer with parameters.
            return in_memory_order(lambda x: F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps), x)
        mean, var, _ = _weighted_moments("GroupInstanceNorm2d", x, samples, (2, 3, 4))
        return _normed(self, x, mean, var)

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
        mean, var, _ = _weighted_moments("GroupLayerNorm2d", x, samples, (1, 2, 3, 4))
        return _normed(self, x, mean, var)


def _check_sizes(layer: str, num_features: object, eps: object) -> None:
    check_positive_int(layer, "num_features", num_features)
    if not isinstance(eps, (int, float)) or not 0 <= eps < float("inf"):
        raise ValueError(f"{layer}: eps must be a number >= 0, received {describe(eps)}")


def _check_maps(layer: str, x: Tensor, channels: int) -> None:
    check_shape(layer, "x", x, "B C N H W", {"C": channels})
    check_floating(layer, "x", x)


def _weighted_moments(layer: str, x: Tensor, samples: Samples, dims: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted mean and (biased) variance, kept as broadcastable axes, and the total weight, in at least float32.

    Of no samples the mean is 0 and the variance 1, which leave what is normalised with them as it is.
    """
    weights = sample_weights(layer, samples, x)[:, None, :, None, None]
    count = weights.expand_as(x).sum(dims, keepdim=True)
    nothing = count == 0
    divisor = count.masked_fill(nothing, torch.inf)
    mean = (x * weights).sum(dims, keepdim=True) / divisor
    var = ((x - mean).square() * weights).sum(dims, keepdim=True) / divisor
    return mean, var.masked_fill(nothing, 1.0), count.flatten()[0] if count.numel() else count


def _normed(norm: Any, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return _scaled(norm, (x - mean) * torch.rsqrt(var + norm.eps), x.dtype)


def _scaled(norm: Any, y: Tensor, dtype: torch.dtype) -> Tensor:
    if norm.weight is not None:
        y = y * _per_channel(norm.weight) + _per_channel(norm.bias)
    return y.to(dtype)


def _per_channel(parameter: Tensor) -> Tensor:
    return parameter.reshape(1, -1, 1, 1, 1)
