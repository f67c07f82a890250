"""Neighbourhoods as values that a layer keeps: each finds the neighbours of every output when called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pgconv._shapes import check_positive_int
from pgconv.functional import Neighbors
from pgconv.groups import Group
from pgconv.neighbors import search
from pgconv.neighbors._arguments import check_number

Neighborhood = Callable[..., Neighbors]


class _Search:
    """Checks the numbers of a neighbourhood, and passes those that all have to its search."""

    stabilizer_weight: float

    def __post_init__(self) -> None:
        for number in fields(self):  # type: ignore[arg-type]
            check = check_positive_int if number.name == "count" else check_number
            check(type(self).__name__, number.name, getattr(self, number.name))

    def __call__(
        self,
        v: Tensor,
        u: Tensor,
        group: str | Group,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Neighbors:
        """Neighbours of every output."""
        return self._find(v, u, group, generator, mask=mask, stabilizer_weight=self.stabilizer_weight)

    def _find(
        self, v: Tensor, u: Tensor, group: str | Group, generator: torch.Generator | None, **options
    ) -> Neighbors:
        raise NotImplementedError


@dataclass(frozen=True)
class Nearest(_Search):
    """The ``count`` nearest inputs in ``d(v, u) = |t| + stabilizer_weight |log h|``, ``(t, h) = v^-1 u``; see `nearest`.

    Called as ``(v [S|1, Nv, e], u [S|1, Nu, e], group, mask [S|1, Nv] = None, generator=None)``, it returns what
    ``functional.point_conv(neighbors=)`` takes. Raises `ValueError` for arguments out of range. Source: Finzi et al. (2020).

    >>> x = torch.tensor([[[0.0], [1.0], [3.0]]])
    >>> Nearest(1), Nearest(1)(x, x, "T(1)").flatten()
    (Nearest(count=1, stabilizer_weight=1.0), tensor([0, 1, 2]))
    """

    count: int
    stabilizer_weight: float = 1.0

    def _find(
        self, v: Tensor, u: Tensor, group: str | Group, generator: torch.Generator | None, **options
    ) -> Neighbors:
        return search.nearest(v, u, group, self.count, **options)


@dataclass(frozen=True)
class Within(_Search):
    """All inputs within ``radius``; see `within` and, for the call, `Nearest`.

    >>> x = torch.tensor([[[0.0], [1.0], [3.0]]])
    >>> Within(1.0), Within(1.0)(x, x, "T(1)")[0]
    (Within(radius=1.0, stabilizer_weight=1.0), tensor([0, 2, 4, 5]))
    """

    radius: float
    stabilizer_weight: float = 1.0

    def _find(
        self, v: Tensor, u: Tensor, group: str | Group, generator: torch.Generator | None, **options
    ) -> Neighbors:
        return search.within(v, u, group, self.radius, **options)


@dataclass(frozen=True)
class Ball(_Search):
    """At most ``count`` inputs within ``radius``, drawn with the generator; see `ball` and, for the call, `Nearest`.

    >>> x = torch.tensor([[[0.0], [1.0], [3.0]]])
    >>> Ball(1.0, 2), Ball(1.0, 2)(x, x, "T(1)").shape
    (Ball(radius=1.0, count=2, stabilizer_weight=1.0), torch.Size([1, 3, 2]))
    """

    radius: float
    count: int
    stabilizer_weight: float = 1.0

    def _find(
        self, v: Tensor, u: Tensor, group: str | Group, generator: torch.Generator | None, **options
    ) -> Neighbors:
        return search.ball(v, u, group, self.radius, self.count, generator=generator, **options)
