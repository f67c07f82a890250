"""Samplers: modules that choose the group elements at which a layer is evaluated.

Every sampler is called as ``sampler(batch_size=1, generator=None) -> Samples(elements [S, N, e], weights [S, N])``; one whose
``sees_input`` is true also takes the maps ``x`` the layer convolves, and their ``samples``.
"""

from __future__ import annotations

import torch
from torch import nn

from pgconv.sampling.base import Sampler, check_stabilizer, kind_of
from pgconv.sampling.encoded import EncodedGates
from pgconv.sampling.grid import FixedGrid, JitteredGrid
from pgconv.sampling.identity import IdentitySampler
from pgconv.sampling.partial import LearnedInterval, LearnedProduct, LearnedSubset
from pgconv.sampling.types import Samples
from pgconv.sampling.uniform import HaarUniform

_NAMES = ("fixed", "jittered", "haar", "learned", "subset", "identity")


def names() -> list[str]:
    """Names accepted by ``get``."""
    return list(_NAMES)


def get(
    name: str, group, n: int, per_example: bool = False, compat: str | None = None, dtype: torch.dtype = torch.float32
) -> Sampler:
    """Build a sampler by name.

    "fixed" (``FixedGrid``), "jittered" (``JitteredGrid``), "haar" (``HaarUniform``), "identity" (n = 1), "subset"
    (``LearnedSubset``), and "learned": ``LearnedInterval`` where the stabiliser is the plane rotations,
    ``LearnedProduct`` for O(2) and E(2), ``LearnedSubset`` for other groups with a grid. ``per_example`` changes
    nothing for samplers without randomness. ``EncodedGates`` has no name here: it needs to know the channels of the
    maps it reads. Raises ``ValueError`` for an unknown name and for what the sampler cannot
    do.

    >>> from pgconv import groups
    >>> get("learned", groups.get("E(2)"), 8)
    LearnedProduct(E(2), n=8)
    """
    if name not in _NAMES:
        raise ValueError(f"sampling: unknown sampler {name!r}; choose one of {', '.join(_NAMES)}")
    if name == "identity":
        if n != 1:
            raise ValueError(f"sampling: 'identity' has one element but n is {n}; pass n=1, or use 'fixed' for a grid")
        return IdentitySampler(group, compat=compat, dtype=dtype)
    if name == "fixed":
        return FixedGrid(group, n, compat=compat, dtype=dtype)
    if name == "jittered":
        return JitteredGrid(group, n, per_example, compat, dtype)
    if name == "haar":
        if compat is not None:
            raise ValueError(f"sampling: 'haar' has no compat mode, got compat={compat!r}; use 'jittered' or 'learned'")
        return HaarUniform(group, n, per_example, dtype=dtype)
    return _learned(name, group)(group, n, per_example, compat, dtype)


def _learned(name: str, group) -> type[Sampler]:
    kind = None
    if hasattr(group, "stabilizer"):  # else the sampler itself says what is wrong
        check_stabilizer(f"sampling: {name!r}", group)
        kind = kind_of(group)
    if name == "learned" and kind == "rotation":
        return LearnedInterval
    if name == "learned" and kind == "rotation+mirror":
        return LearnedProduct
    return LearnedSubset


def anneal(model: nn.Module, fraction: float) -> None:
    """Tell every sampler in ``model`` the share of training that is over, in [0, 1]: gates become sharper.

    >>> from pgconv import groups
    >>> sampler = LearnedSubset(groups.get("SE(2)"), 4)
    >>> anneal(nn.Sequential(sampler), 0.5)
    >>> round(sampler.temperature.item(), 5)
    0.25005
    """
    for module in model.modules():
        if isinstance(module, Sampler):
            module.anneal(fraction)


__all__ = [
    "EncodedGates",
    "FixedGrid",
    "HaarUniform",
    "IdentitySampler",
    "JitteredGrid",
    "LearnedInterval",
    "LearnedProduct",
    "LearnedSubset",
    "Sampler",
    "Samples",
    "anneal",
    "get",
    "names",
]
