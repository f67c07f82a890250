"""The single identity element, for a layer that ignores the group axis."""

from __future__ import annotations

import torch

from pgconv.sampling.base import Sampler
from pgconv.sampling.types import Samples


class IdentitySampler(Sampler):
    """One sample, the identity: elements [1, 1, e], weights ones.

    ``compat="release"``: on E(2) and O(2) the mirror is 0, as in the method's release. That is no element of the group
    (its matrix is singular); it exists only to look at nets trained that way.

    >>> from pgconv import groups
    >>> IdentitySampler(groups.get("E(2)"))().elements
    tensor([[[0., 0., 0., 1.]]])
    """

    def __init__(self, group, compat: str | None = None, dtype=torch.float32):
        super().__init__(group, 1, compat=compat, dtype=dtype)
        self._add_table("_grid", self._identity)

    def _identity(self) -> torch.Tensor:
        h = self.group.stabilizer.identity(dtype=torch.float64)
        return torch.zeros_like(h) if self.compat and self.kind == "rotation+mirror" else h

    def forward(self, batch_size: int = 1, generator: torch.Generator | None = None) -> Samples:
        return self._samples(self._grid.expand(1, 1, -1))
