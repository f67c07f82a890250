"""Regular grids, fixed or moved as a whole by one random rotation."""

from __future__ import annotations

import torch

from pgconv.sampling.base import TWO_PI, Sampler, from_release, planar
from pgconv.sampling.types import Samples


class FixedGrid(Sampler):
    """The regular grid of the stabiliser, the same in training and evaluation: SO(2): ``a_i = 2 pi i / n``.

    elements [1, n, e], weights ones. O(2): n/2 rotations with m = +1, then the same with m = -1; SO(3): n = 12, 24 or
    60 rotations of a platonic solid; n = 1: the identity. Exactly equivariant to the subgroup the grid forms.
    Raises ``ValueError`` for an n the group has no regular grid of.

    Source: Cohen & Welling 2016; Romero & Lohit 2022 ("deterministic" sampling).

    >>> from pgconv import groups
    >>> FixedGrid(groups.get("SE(2)"), 4)().elements[0, :, 2]
    tensor([0.0000, 1.5708, 3.1416, 4.7124])
    """

    def __init__(self, group, n: int, compat: str | None = None, dtype=torch.float32):
        super().__init__(group, n, compat=compat, dtype=dtype)
        self._add_table("_grid", self._stabilizer_grid)

    def forward(self, batch_size: int = 1, generator: torch.Generator | None = None) -> Samples:
        return self._samples(self._grid.unsqueeze(0))


class JitteredGrid(Sampler):
    """A regular grid moved as a whole: ``a_i = 2 pi (i + eps) / n`` with one ``eps ~ U[0, 1)`` per set.

    elements [S, n, e], weights ones; S = batch_size with ``per_example`` in training, else 1. Each angle is uniform in
    its stratum, so the mean over the samples is an unbiased estimate of the Haar integral, exact for low frequencies.
    O(2): the n/2 jittered rotations with m = +1, then the same with m = -1; scales stay log s = 0; SO(3) and groups of
    your own: the grid times one Haar-random element from the left; mirror and trivial stabilisers have nothing to
    jitter and equal ``FixedGrid``. In eval mode eps = 0 (no rotation). ``compat="release"`` gives the release's
    clockwise order. Raises ``ValueError`` for an n without a regular grid, and for an odd n on O(2).

    Source: Romero & Lohit 2022 ("random" sampling).

    >>> from pgconv import groups
    >>> sampler = JitteredGrid(groups.get("SE(2)"), 4)
    >>> a = sampler(generator=torch.Generator().manual_seed(0)).elements[0, :, 2]
    >>> a, a.diff()
    (tensor([1.5238, 3.0946, 4.6653, 6.2361]), tensor([1.5708, 1.5708, 1.5708]))
    """

    def __init__(self, group, n: int, per_example: bool = False, compat: str | None = None, dtype=torch.float32):
        super().__init__(group, n, per_example, compat, dtype)
        self._add_table("_grid", self._stabilizer_grid)
        if self.kind == "rotation+mirror" and n % 2:
            raise ValueError(f"JitteredGrid: n must be even for {group.name} (rotations come in pairs), got {n}")

    def forward(self, batch_size: int = 1, generator: torch.Generator | None = None) -> Samples:
        if not self.training or self.kind in ("trivial", "mirror"):
            return self._samples(self._grid.unsqueeze(0))
        sets = self._num_sets(batch_size)
        if self.kind == "other":
            return self._samples(self.group.stabilizer.product(self._haar(sets, 1, generator), self._grid))
        halves = 2 if self.kind == "rotation+mirror" else 1
        turns = self.n // halves
        angle = TWO_PI * (self._index(turns) + self._uniform(sets, 1, generator=generator)) / turns
        mirror = torch.ones_like(angle)
        if halves == 2:
            angle, mirror = angle.repeat(1, 2), torch.cat([mirror, -mirror], dim=1)
        if self.compat == "release":
            angle = from_release(angle, mirror)
        return self._samples(planar(self.group, angle, mirror))
