"""Elements in the form in which kernels compute the coordinates of pairs from them; other groups' coordinates by PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pgconv import groups
from pgconv.backends.reference.features import pair_coordinates
from pgconv.groups import Orbits
from pgconv.groups.linear import Trivial
from pgconv.groups.planar import Planar
from pgconv.spec import FeatureSpec


class Law(NamedTuple):
    """How coordinates of a pair come from fields of its two elements: a translation, and behind it a linear map of the plane.

    Fields are, as far as they are there: the translation, the angle with its cosine and sine, the mirror, the log scale ``s`` with
    ``e^-s``. What kernels are compiled for, so only numbers.
    """

    space: int
    """Coordinates of the translation."""
    rotation: int = 0
    mirror: int = 0
    scale: int = 0
    embedded: int = 0
    """Whether cosine and sine stand for the angle."""
    own: int = 1
    """Whether the linear map has coordinates, too."""


GIVEN = Law(-1)
"""Coordinates are read."""


@lru_cache(maxsize=256)
def law_of(group: str, chart: str, part: str) -> Law:
    """The law under which a kernel computes coordinates. Logarithms of rotations in space and of moved planes, the release's chart,
    orbits, and groups of one's own are given."""
    found = groups.get(group)
    h, space = getattr(found, "stabilizer", None), 0 if part == "stabilizer" else found.translation_dim
    flags = [int(getattr(h, name, False)) for name in ("rotation", "mirror", "scale")]
    if isinstance(found, Orbits) or chart == "release" or not isinstance(h, (Planar, Trivial)):
        return GIVEN
    if not (space or any(flags)) or (chart == "lie" and (flags[0] or flags[2])):
        return GIVEN
    return Law(space, *flags, embedded=int(chart == "embed"), own=int(part != "translation"))


def coordinates(v: Tensor, u: Tensor, spec: FeatureSpec) -> Tensor:
    """``[S,Nu,Nv,D]`` of all pairs."""
    return pair_coordinates(v[:, None], u[:, :, None], spec)


@dataclass(frozen=True)
class Pairs:
    """Operands of a kernel: fields ``[S | 1, FIELDS, N]`` of the inputs and of the outputs, or under the law GIVEN coordinates
    ``[S, Nu, Nv, D]`` in the place of the former."""

    law: Law
    v: Tensor
    u: Tensor

    @staticmethod
    def of(v: Tensor, u: Tensor, spec: FeatureSpec) -> Pairs:
        """Those of elements ``v [S|1,Nv,e]``, ``u [S|1,Nu,e]``."""
        law = law_of(spec.group, spec.chart, spec.part)
        if law == GIVEN:
            return Pairs(law, coordinates(v, u, spec).contiguous(), u)
        return Pairs(law, _fields(v, law), _fields(u, law))

    def constants(self) -> dict[str, Law | int]:
        """What kernels are compiled for."""
        return dict(LAW=tuple(self.law), FIELDS=0 if self.law == GIVEN else self.v.shape[1])

    def sets(self) -> tuple[int, int]:
        """Numbers from one set of elements to the next; 0 where all images share one."""
        return tuple(0 if x.shape[0] == 1 else x[0].numel() for x in (self.v, self.u))


def _fields(x: Tensor, law: Law) -> Tensor:
    numbers = list(x.unbind(-1))
    scale = [numbers.pop()] if law.scale else []
    mirror = [numbers.pop()] if law.mirror else []
    angle = [numbers.pop()] if law.rotation else []
    # Functions once for each element, not for each pair.
    angle += [f(angle[0]) for f in (torch.cos, torch.sin) if law.rotation]
    scale += [torch.exp(-scale[0])] if law.scale else []
    fields = numbers[: law.space] + angle + mirror + scale
    return torch.stack(fields, 1) if fields else x.new_empty(x.shape[0], 0, x.shape[1])
