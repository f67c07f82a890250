"""Bernoulli gates with a relaxed, straight-through gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pgconv.sampling.base import Sampler

TAU_START, TAU_END = 0.5, 1e-4


def straight_through(z: Tensor, y: Tensor) -> Tensor:
    """The value of z with the gradient of y. ``y - y.detach()`` is formed first: it is exactly 0, so z stays exact."""
    return z + (y - y.detach())


class GatedSampler(Sampler):
    """A sampler some of whose elements are kept at random, each with its own learned probability.

    ``y = sigmoid((logit + log U - log(1 - U)) / tau)`` with U ~ U(0, 1), ``z = 1[y > 1/2]``: z is Bernoulli with
    probability sigmoid(logit) for every temperature tau, and the gradient is that of y. The temperature falls linearly
    with the share of training that is over, ``tau = 0.5 - fraction (0.5 - 1e-4)``; forward never moves it, ``anneal``
    does. In eval mode z = 1[logit > 0].

    Source: Maddison et al. 2017; Romero & Lohit 2022.
    """

    def __init__(self, group, n: int, per_example: bool, compat: str | None, dtype: torch.dtype):
        super().__init__(group, n, per_example, compat, dtype)
        # The release counts two steps per forward for E(2) with a fixed grid; a subclass sets 2 to repeat that.
        self.anneal_speed = 1
        self._add_table("anneal_fraction", lambda: torch.zeros((), dtype=torch.float64), persistent=True)

    def anneal(self, fraction: float) -> None:
        """Set the share of training that is over; clamped to [0, 1]. Raises ``ValueError`` if it is not a number."""
        try:
            share = float(fraction)
        except (TypeError, ValueError):
            share = math.nan
        if math.isnan(share):
            raise ValueError(f"anneal: fraction must be a number in [0, 1], got {fraction!r}; pass step / total_steps")
        with torch.no_grad():
            self.anneal_fraction.fill_(min(max(share, 0.0), 1.0))

    @property
    def temperature(self) -> Tensor:
        """tau, a float64 scalar; in [1e-4, 0.5] unless the release's double counting is asked for."""
        return TAU_START - self.anneal_speed * self.anneal_fraction * (TAU_START - TAU_END)

    def _gates(self, logits: Tensor, sets: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Hard gates z and their relaxation y, [sets, k] in float64, for logits [k] or [sets, k]."""
        if not self.training:
            z = (torch.atleast_2d(logits) > 0).to(torch.float64)
            return z, z
        u = self._uniform(sets, logits.shape[-1], generator=generator)
        y = torch.sigmoid((logits + torch.log(u) - torch.log1p(-u)) / self.temperature)
        return (y > 0.5).to(torch.float64), y


class SubsetSampler(GatedSampler):
    """A gated sampler of a subset of a grid, of which the identity always is a part.

    Raises ``ValueError`` for fewer than two elements, and a group whose grid has no identity.
    """

    def __init__(self, group, n: int, per_example: bool, compat: str | None, dtype: torch.dtype):
        super().__init__(group, n, per_example, compat, dtype)
        owner = type(self).__name__
        if n < 2:
            raise ValueError(f"{owner}: n must be >= 2 (the identity is always kept), got {n}")
        h = group.stabilizer
        with torch.device("cpu"):
            near = h.distance(h.identity(dtype=torch.float64), h.grid(n, dtype=torch.float64)) < 1e-6
        if not near.any():
            raise ValueError(f"{owner}: the regular grid of {group.name} does not contain the identity")
        self._identity_at = int(near.nonzero()[0])

    def _with_identity(self, gates: Tensor) -> Tensor:
        """Insert the identity's 1 into the last axis."""
        at = self._identity_at
        return torch.cat([gates[..., :at], gates.new_ones(*gates.shape[:-1], 1), gates[..., at:]], dim=-1)
