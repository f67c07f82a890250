"""Group elements that carry the coordinates of an orbit: for groups that do not act transitively."""

from __future__ import annotations

import torch
from torch import Tensor

from pgconv.groups.base import Group, cast, uniforms
from pgconv.groups.numerics import norm

MAX_ORBIT = 4


class Orbits(Group):
    """Elements of a group, each followed by ``orbit_dim`` numbers that the group leaves alone: ``[..., e + q]``.

    Where a group does not take every point of space to every other one, such as rotations about the origin, a point is an
    element and the orbit it lies on, such as the radius. The kernel then reads ``coordinates(v^-1 u)`` followed by the orbit
    coordinates of v and of u, so ``coord_dim = D + 2 q``::

        (g, p) (h, q)             = (g h, q)
        (g, p)^-1                 = (g^-1, p)
        relative((g, p), (h, q))  = (g^-1 h, p, q)        [..., e + 2 q]

    A left action: moving both arguments of `relative` by one element changes nothing, and the layers are equivariant.

    Args:
        group: the group
        orbit_dim: q, from 1 to 4

    The name is that of the group with q behind a slash, and `pgconv.groups.get` knows it: ``"SO(2)/1"``.

    Raises:
        ValueError: for a number of orbit coordinates out of range

    Source: Finzi et al. (2020), section 4.3, kernel ``k(log(v^-1 u), q_u, q_v)``.

    Example:
        >>> from pgconv import groups
        >>> G = groups.get("SO(2)/1")                       # an angle and a radius
        >>> v, u = torch.tensor([0.5, 2.0]), torch.tensor([1.5, 3.0])
        >>> G.relative(v, u), G.coord_dim
        (tensor([1., 2., 3.]), 3)
    """

    def __init__(self, group: Group, orbit_dim: int) -> None:
        if not isinstance(orbit_dim, int) or not 1 <= orbit_dim <= MAX_ORBIT:
            raise ValueError(f"orbit_dim must be an integer from 1 to {MAX_ORBIT}, received {orbit_dim!r}")
        if isinstance(group, Orbits):
            raise ValueError(
                f"group must be a group without orbit coordinates, received {group.name}; use {group.base.name}"
            )
        self.base = group
        self.labels = orbit_dim
        self.name = f"{group.name}/{orbit_dim}"
        self.element_dim = group.element_dim + orbit_dim
        self.coord_dim = group.coord_dim + 2 * orbit_dim
        self.spatial_dim, self.translation_dim = group.spatial_dim, group.translation_dim
        self.charts = group.charts

    @property
    def stabilizer(self) -> Group:
        return self if self.base.stabilizer is self.base else self.base.stabilizer

    def divide(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Elements of the group ``[..., e]`` and what follows them."""
        return g[..., : self.base.element_dim], g[..., self.base.element_dim :]

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        e = self.base.identity(dtype, device)
        return torch.cat([e, e.new_zeros(self.labels)])

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        (g, _), (h, q) = self.divide(a), self.divide(b)
        return _join(self.base.product(g, h), q)

    def inverse(self, a: Tensor) -> Tensor:
        g, p = self.divide(a)
        return _join(self.base.inverse(g), p)

    def relative(self, v: Tensor, u: Tensor) -> Tensor:
        """``(v^-1 u, labels of v, labels of u)``, ``[..., e + 2 q]``: what `coordinates` and the kernel read."""
        (g, p), (h, q) = self.divide(v), self.divide(u)
        return _join(self.base.relative(g, h), p, q)

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        return self.base.act(self.divide(g)[0], x)

    def act_inverse(self, g: Tensor, x: Tensor) -> Tensor:
        return self.base.act_inverse(self.divide(g)[0], x)

    def matrix(self, g: Tensor) -> Tensor:
        return self.base.matrix(self.divide(g)[0])

    def coord_dim_of(self, chart: str, part: str = "all") -> int:
        self._check_part(part)
        return self.base.coord_dim_of(chart, part) + 2 * self.labels

    def coordinates(self, g: Tensor, chart: str = "product", part: str = "all") -> Tensor:
        """Of relative elements ``[..., e + 2 q]``: the group's coordinates, then the labels as they are."""
        self._check_part(part)
        g, labels = self.divide(g)
        return _join(self.base.coordinates(g, chart, part), labels)

    def distance(self, a: Tensor, b: Tensor, stabilizer_weight: float = 1.0) -> Tensor:
        """That of the group plus the distance between the orbits, ``|p - q|``."""
        (g, p), (h, q) = self.divide(a), self.divide(b)
        return self.base.distance(g, h, stabilizer_weight) + norm(p - q)

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Random elements with labels uniform in [0, 1), ``[n, e + q]``."""
        elements = self.base.sample(n, generator, dtype, device)
        return _join(elements, cast(uniforms(n, self.labels, generator), elements.dtype, elements.device))

    def grid(self, n: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        g = self.base.grid(n, dtype, device)
        return _join(g, g.new_zeros(n, self.labels))

    def invalid(self, g: Tensor) -> str | None:
        return super().invalid(g) or self.base.invalid(self.divide(g)[0])

    def lift(self, x: Tensor) -> Tensor:
        return self.base.lift(x)

    def _check_part(self, part: str) -> None:
        if part != "all":
            raise ValueError(f"part: orbit coordinates go with the part 'all' only, received {part!r} for {self.name}")


def _join(*parts: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(*(x.shape[:-1] for x in parts))
    return torch.cat([x.expand(*shape, -1) for x in parts], -1)
