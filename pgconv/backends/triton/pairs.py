"""Elements in the form in which kernels compute the coordinates of pairs from them; other groups' coordinates by PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pgconv.backends.reference.features import pair_coordinates
from pgconv.spec import FeatureSpec

TRANSLATIONS = ("T(1)", "T(2)", "T(3)")
MOTIONS = {"product": "motions", "embed": "embedded motions"}


def law_of(spec: FeatureSpec) -> str:
    """The name of the law under which a kernel computes coordinates, "given" where it reads them."""
    if spec.group in TRANSLATIONS and spec.part != "stabilizer" and spec.chart != "release":
        return "translations"
    if spec.group == "SE(2)" and spec.part == "all":
        return MOTIONS.get(spec.chart, "given")
    return "given"


def coordinates(v: Tensor, u: Tensor, spec: FeatureSpec) -> Tensor:
    """``[S,Nu,Nv,D]`` of all pairs."""
    return pair_coordinates(v[:, None], u[:, :, None], spec)


@dataclass(frozen=True)
class Pairs:
    """Operands of a kernel: fields ``[S | 1, FIELDS, N]`` of the inputs and of the outputs, or under the law "given" coordinates
    ``[S, Nu, Nv, D]`` in the place of the former."""

    law: str
    v: Tensor
    u: Tensor

    @staticmethod
    def of(v: Tensor, u: Tensor, spec: FeatureSpec) -> Pairs:
        """Those of elements ``v [S|1,Nv,e]``, ``u [S|1,Nu,e]``."""
        law = law_of(spec)
        if law == "given":
            return Pairs(law, coordinates(v, u, spec).contiguous(), u)
        return Pairs(law, _fields(v, law), _fields(u, law))

    def constants(self) -> dict[str, str | int]:
        """What kernels are compiled for."""
        return dict(LAW=self.law, FIELDS=0 if self.law == "given" else self.v.shape[1])

    def sets(self) -> tuple[int, int]:
        """Numbers from one set of elements to the next; 0 where all images share one."""
        return tuple(0 if x.shape[0] == 1 else x[0].numel() for x in (self.v, self.u))


def _fields(x: Tensor, law: str) -> Tensor:
    numbers = x.unbind(-1)
    if law != "translations":  # an angle's cosine and sine once for each element, not for each pair
        numbers = (*numbers, torch.cos(numbers[2]), torch.sin(numbers[2]))
    return torch.stack(numbers, 1)
