"""What layers on points do with neighbourhoods and subsampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pgconv._shapes import describe
from pgconv.groups import Group
from pgconv.groups.base import FixedSequence
from pgconv.neighbors import Ball, Nearest, Neighborhood, Within, farthest_points
from pgconv.sampling import Samples


def check_neighborhood(value: object) -> Neighborhood | None:
    """None or something to call."""
    if value is not None and (isinstance(value, type) or not callable(value)):
        raise ValueError(
            "PointGroupConv: neighborhood must be one of pgconv.neighbors.Nearest(...), Within(...), Ball(...), a function (v, u, "
            f"group, mask=, generator=) -> neighbors, or None, received {describe(value)}"
        )
    return value


def repeated_draws(neighborhood: Neighborhood) -> torch.Generator | FixedSequence:
    """What a neighbourhood draws with in evaluation, always the same; a function of the user's expects a generator."""
    return FixedSequence() if isinstance(neighborhood, (Ball, Nearest, Within)) else torch.Generator().manual_seed(0)


def check_downsample(value: object) -> float:
    """A share in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError(
            f"PointGroupConv: downsample must be a share of the elements, in (0, 1], received {describe(value)}"
        )
    return value


def farthest_samples(
    samples: Samples, group: Group, share: float, stabilizer_weight: float, generator: torch.Generator | None
) -> Samples:
    """That share of the samples, rounded up, with their weights; they begin with the first one when there is no generator."""
    elements, weights = samples
    # A share such as 0.1 of 30 elements is 3 of them, whatever the rounding of the product.
    count = max(1, math.ceil(share * elements.shape[1] * (1 - 1e-12)))
    options = {"stabilizer_weight": stabilizer_weight, "mask": weights != 0, "generator": generator}
    kept = farthest_points(elements, group, count, **options)
    return Samples(_take(elements, kept), _take(weights[..., None], kept)[..., 0])


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``[S, K, e]`` of ``x [S|1, N, e]`` with these numbers ``[S, K]``."""
    sets, width = index.shape[0], x.shape[-1]
    return x.expand(sets, -1, -1).gather(1, index[..., None].expand(-1, -1, width))
