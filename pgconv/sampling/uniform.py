"""Independent Haar-uniform samples: plain Monte Carlo."""

from __future__ import annotations

import torch

from pgconv.sampling.base import Sampler
from pgconv.sampling.types import Samples

# Seed of the evaluation set; a constant, so that two modules with the same group and n predict with the same set.
_EVAL_SEED = 2110_10211


class HaarUniform(Sampler):
    """``h_i ~ Haar(H)``, independent: the mean over the samples is unbiased with variance ``Var / n``.

    elements [S, n, e], weights ones; S = batch_size with ``per_example`` in training, else 1. Scales are uniform in
    log s over [-log 2, log 2]. In eval mode the set is one draw from a fixed seed, made at construction and kept in a
    buffer (not in the state dict), so predictions repeat across calls, processes and modules.

    Source: Finzi et al. 2020.

    >>> from pgconv import groups
    >>> sampler = HaarUniform(groups.get("SE(3)"), 5, per_example=True)
    >>> sampler(batch_size=2).elements.shape, sampler.eval()(batch_size=2).elements.shape
    (torch.Size([2, 5, 7]), torch.Size([1, 5, 7]))
    """

    def __init__(self, group, n: int, per_example: bool = False, dtype=torch.float32):
        super().__init__(group, n, per_example, dtype=dtype)
        seeded = torch.Generator("cpu").manual_seed(_EVAL_SEED)
        self._add_table("_fixed", lambda: self._haar(1, n, seeded, device="cpu"))

    def forward(self, batch_size: int = 1, generator: torch.Generator | None = None) -> Samples:
        if not self.training:
            return self._samples(self._fixed)
        return self._samples(self._haar(self._num_sets(batch_size), self.n, generator))
