"""R^d x| H for any linear group H."""

from __future__ import annotations

import torch
from torch import Tensor

from pgconv.groups.base import Group, cast, uniforms
from pgconv.groups.linear import LinearGroup
from pgconv.groups.numerics import norm


class SemidirectProduct(Group):
    """Translations of R^d with a linear group H: elements ``(t, h)`` stored as ``[..., d + H.element_dim]``.

    ::

        (t_1, h_1) (t_2, h_2)      = (t_1 + h_1 t_2,       h_1 h_2)
        (t, h)^-1                  = (-h^-1 t,             h^-1)
        (t_1, h_1)^-1 (t_2, h_2)   = (h_1^-1 (t_2 - t_1),  h_1^-1 h_2)
        (t, h) . x                 = t + h x

    Coordinates are those of the translation followed by those of h: in the chart "product" and "embed" t itself, in
    "lie" ``V^-1 t`` with ``V = int_0^1 exp(tau log h) dtau``, which makes them the logarithm of the whole element (the
    part "translation" alone is the plain t); in "release" (row, column) = (-t_y, t_x).

    Raises `ValueError` when ``translation_dim`` is not the dimension H acts on.

    >>> from pgconv.groups.planar import Planar
    >>> SE2 = SemidirectProduct(2, Planar(rotation=True), name="SE(2)")
    >>> g = SE2.product(torch.tensor([1.0, 0.0, torch.pi / 2]), torch.tensor([1.0, 0.0, torch.pi / 2]))
    >>> g                                       # a quarter turn about the origin, then a step right: twice
    tensor([1.0000, 1.0000, 3.1416])
    >>> SE2.coordinates(g).round(decimals=5)
    tensor([1., 1., 1.])
    """

    def __init__(self, translation_dim: int, linear_group: LinearGroup, name: str | None = None) -> None:
        if translation_dim != linear_group.spatial_dim:
            raise ValueError(
                f"translation_dim is {translation_dim}, but {linear_group.name} acts on R^{linear_group.spatial_dim}"
            )
        self._linear = linear_group
        self.name = name or f"R^{translation_dim} x| {linear_group.name}"
        self.translation_dim = self.spatial_dim = translation_dim
        self.element_dim = translation_dim + linear_group.element_dim
        self.coord_dim = translation_dim + linear_group.coord_dim
        self.charts = linear_group.charts

    @property
    def stabilizer(self) -> LinearGroup:
        return self._linear

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return self.embed_stabilizer(self._linear.identity(dtype, device))

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        (t_a, h_a), (t_b, h_b) = self.split(a), self.split(b)
        return torch.cat([t_a + self._linear.act(h_a, t_b), self._linear.product(h_a, h_b)], dim=-1)

    def inverse(self, a: Tensor) -> Tensor:
        t, h = self.split(a)
        return torch.cat([-self._linear.act_inverse(h, t), self._linear.inverse(h)], dim=-1)

    def relative(self, v: Tensor, u: Tensor) -> Tensor:
        (t_v, h_v), (t_u, h_u) = self.split(v), self.split(u)
        return torch.cat([self._linear.act_inverse(h_v, t_u - t_v), self._linear.relative(h_v, h_u)], dim=-1)

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        t, h = self.split(g)
        return t + self._linear.act(h, x)

    def act_inverse(self, g: Tensor, x: Tensor) -> Tensor:
        t, h = self.split(g)
        return self._linear.act_inverse(h, x - t)

    def matrix(self, g: Tensor) -> Tensor:
        return self._linear.matrix(self.split(g)[1])

    def exp(self, xi: Tensor) -> Tensor:
        """``[..., d + H.algebra_dim] -> [..., element_dim]``: (V(xi_h) xi_t, exp(xi_h))."""
        rho, xi_h = xi[..., : self.translation_dim], xi[..., self.translation_dim :]
        return torch.cat([self._linear.jacobian(xi_h, rho), self._linear.exp(xi_h)], dim=-1)

    def log(self, g: Tensor) -> Tensor:
        """``[..., element_dim] -> [..., d + H.algebra_dim]``: (V(log h)^-1 t, log h)."""
        t, h = self.split(g)
        xi_h = self._linear.log(h)
        return torch.cat([self._linear.jacobian_solve(xi_h, t), xi_h], dim=-1)

    def coord_dim_of(self, chart: str, part: str = "all") -> int:
        self.check_chart(chart, part)
        translation = 0 if part == "stabilizer" else self.translation_dim
        stabilizer = 0 if part == "translation" else self._linear.coord_dim_of(chart)
        return translation + stabilizer

    def coordinates(self, g: Tensor, chart: str = "product", part: str = "all") -> Tensor:
        self.check_chart(chart, part)
        t, h = self.split(g)
        if part == "stabilizer":
            return self._linear.coordinates(h, chart)
        if chart == "release":
            t = torch.stack([-t[..., 1], t[..., 0]], dim=-1)
        elif chart == "lie" and part == "all":
            t = self._linear.jacobian_solve(self._linear.log(h), t)
        if part == "translation":
            return t
        return torch.cat([t, self._linear.coordinates(h, chart)], dim=-1)

    def distance(self, a: Tensor, b: Tensor, stabilizer_weight: float = 1.0) -> Tensor:
        """``|t| + stabilizer_weight |log h|`` of ``(t, h) = a^-1 b``, ``[...]``; a scale in a measures t in its own units."""
        t, h = self.split(self.relative(a, b))
        return norm(t) + stabilizer_weight * self._linear.log_norm(h)

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``n`` elements ``[n, element_dim]``: t uniform in [-1, 1]^d, h from the Haar measure of the stabiliser."""
        u = uniforms(n, self.translation_dim + self._linear.uniform_dim, generator)
        t, h = 2.0 * u[:, : self.translation_dim] - 1.0, self._linear.from_uniform(u[:, self.translation_dim :])
        return cast(torch.cat([t, h], dim=-1), dtype, device)

    def grid(self, n: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The stabiliser's regular grid of n elements with zero translation, ``[n, element_dim]``."""
        return self.embed_stabilizer(self._linear.grid(n, dtype, device))

    def lift(self, x: Tensor) -> Tensor:
        """The translation to x; the reference point is the origin."""
        h = self._linear.identity(x.dtype, x.device)
        return torch.cat([x, h.expand(*x.shape[:-1], -1)], dim=-1)

    def isotropy(self, n: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return self.grid(n, dtype, device)

    def sample_isotropy(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return self.embed_stabilizer(self._linear.sample(n, generator, dtype, device))

    def invalid(self, g: Tensor) -> str | None:
        return super().invalid(g) or self._linear.invalid(g[..., self.translation_dim :])
