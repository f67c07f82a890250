"""Linear groups of the plane: any choice of rotation, mirror and scale."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pgconv.groups import numerics
from pgconv.groups.base import cast, turn_grid, uniforms
from pgconv.groups.linear import LinearGroup

_NAMES = {
    (False, False, False): "{e} on R^2",
    (False, True, False): "{e,m} on R^2",
    (True, False, False): "SO(2)",
    (True, True, False): "O(2)",
    (True, False, True): "R+xSO(2)",
    (False, False, True): "R+ on R^2",
    (True, True, True): "R+xO(2)",
    (False, True, True): "R+x{e,m} on R^2",
}


def _map(function: Callable[..., Tensor], *components: Tensor | None) -> Tensor | None:
    """The function of components the group has, None for those it has not."""
    present = [c for c in components if c is not None]
    return function(*present) if present else None


def _reflect(mirror: Tensor | None, angle: Tensor) -> Tensor:
    """``m a``, or a in a group without mirror."""
    return angle if mirror is None else mirror * angle


class Planar(LinearGroup):
    """Linear maps ``h = e^s R(a) diag(1, m)`` of the plane, with those of a, m, s that the flags select.

    An element holds, in this order and as far as selected, the angle a (counter-clockwise, x right, y up), the mirror
    m = +-1 (m = -1 flips y, before the rotation) and the log scale s. With ``h_i = (a_i, m_i, s_i)``::

        h_1 h_2    = (a_1 + m_1 a_2,   m_1 m_2,  s_1 + s_2)
        h^-1       = (-m a,            m,        -s)
        h_1^-1 h_2 = (m_1 (a_2 - a_1), m_1 m_2,  s_2 - s_1)

    with angles wrapped to (-pi + 1e-5, pi + 1e-5] and derivative 1 through the wrapping. The mirror is a number in
    these polynomials, so gradients with respect to it exist and are theirs.

    Charts: "product" (a / pi, m, s); "embed" (cos a, sin a, m, s); "lie" (a, m, s); without scale also "release"
    (``mod(a_r, 2 pi) / pi - 1, m`` with the clockwise angle ``a_r = -m a - pi (1 - m) / 2``: it jumps at a = 0).
    The algebra vector is (a, m, s): the mirror is carried along as a label.

    >>> O2 = Planar(rotation=True, mirror=True)
    >>> O2.product(torch.tensor([0.5, -1.0]), torch.tensor([0.25, 1.0]))
    tensor([ 0.2500, -1.0000])
    >>> O2.grid(4)[:, 1]
    tensor([ 1.,  1., -1., -1.])
    """

    spatial_dim = 2

    def __init__(self, rotation: bool = False, mirror: bool = False, scale: bool = False) -> None:
        self.rotation, self.mirror, self.scale = bool(rotation), bool(mirror), bool(scale)
        self.name = _NAMES[self.rotation, self.mirror, self.scale]
        self.element_dim = self.coord_dim = self.algebra_dim = self.uniform_dim = (
            self.rotation + self.mirror + self.scale
        )
        self.charts = ("product", "embed", "lie") if scale else ("product", "embed", "lie", "release")

    def unpack(self, h: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Angle, mirror and log scale, ``[...]`` each, None where the group has none."""
        self.check_element(h)
        angle = h[..., 0] if self.rotation else None
        mirror = h[..., int(self.rotation)] if self.mirror else None
        log_scale = h[..., self.element_dim - 1] if self.scale else None
        return angle, mirror, log_scale

    def _pack(self, like: Tensor, *components: Tensor | None) -> Tensor:
        present = [c for c in components if c is not None]
        return torch.stack(present, dim=-1) if present else like[..., :0]

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        # Made on the device: no host waits for it.
        dtype, values = (
            dtype or torch.get_default_dtype(),
            ((self.rotation, 0.0), (self.mirror, 1.0), (self.scale, 0.0)),
        )
        return torch.cat([torch.full((int(there),), value, dtype=dtype, device=device) for there, value in values])

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        angle_a, mirror_a, scale_a = self.unpack(a)
        angle_b, mirror_b, scale_b = self.unpack(b)
        return self._pack(
            a + b,
            _map(lambda x, y: numerics.wrap(x + _reflect(mirror_a, y)), angle_a, angle_b),
            _map(torch.mul, mirror_a, mirror_b),
            _map(torch.add, scale_a, scale_b),
        )

    def inverse(self, a: Tensor) -> Tensor:
        angle, mirror, scale = self.unpack(a)
        return self._pack(a, _map(lambda x: numerics.wrap(-_reflect(mirror, x)), angle), mirror, _map(torch.neg, scale))

    def relative(self, v: Tensor, u: Tensor) -> Tensor:
        angle_v, mirror_v, scale_v = self.unpack(v)
        angle_u, mirror_u, scale_u = self.unpack(u)
        return self._pack(
            v + u,
            _map(lambda x, y: numerics.wrap(_reflect(mirror_v, y - x)), angle_v, angle_u),
            _map(torch.mul, mirror_v, mirror_u),
            _map(torch.sub, scale_u, scale_v),
        )

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        angle, mirror, log_scale = self.unpack(g)
        x, y = self._components(g, x)
        if mirror is not None:
            y = mirror * y
        if angle is not None:
            cos, sin = torch.cos(angle), torch.sin(angle)
            x, y = cos * x - sin * y, sin * x + cos * y
        if log_scale is not None:
            factor = torch.exp(log_scale)
            x, y = factor * x, factor * y
        return torch.stack([x, y], dim=-1)

    def act_inverse(self, g: Tensor, x: Tensor) -> Tensor:
        angle, mirror, log_scale = self.unpack(g)
        x, y = self._components(g, x)
        if log_scale is not None:
            factor = torch.exp(-log_scale)
            x, y = factor * x, factor * y
        if angle is not None:
            cos, sin = torch.cos(angle), torch.sin(angle)
            x, y = cos * x + sin * y, cos * y - sin * x
        if mirror is not None:
            y = mirror * y
        return torch.stack([x, y], dim=-1)

    def _components(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = torch.broadcast_shapes(g.shape[:-1], x.shape[:-1])
        return x[..., 0].expand(shape), x[..., 1].expand(shape)

    def exp(self, xi: Tensor) -> Tensor:
        angle, mirror, log_scale = self.unpack(xi)
        return self._pack(xi, _map(numerics.wrap, angle), mirror, log_scale)

    def log(self, g: Tensor) -> Tensor:
        return self.exp(g)

    def jacobian(self, xi: Tensor, t: Tensor) -> Tensor:
        return self._complex_times(numerics.mean_exponential, xi, t)

    def jacobian_solve(self, xi: Tensor, t: Tensor) -> Tensor:
        return self._complex_times(numerics.inverse_mean_exponential, xi, t)

    def _complex_times(
        self, function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], xi: Tensor, t: Tensor
    ) -> Tensor:
        """``function(s + i a) (t_x + i t_y)``: a rotation with scale is multiplication by a complex number."""
        angle, _, log_scale = self.unpack(xi)
        if angle is None and log_scale is None:
            return t
        zero = torch.zeros_like(xi[..., 0])
        re, im = function(zero if log_scale is None else log_scale, zero if angle is None else angle)
        x, y = t[..., 0], t[..., 1]
        return torch.stack([re * x - im * y, re * y + im * x], dim=-1)

    def coord_dim_of(self, chart: str, part: str = "all") -> int:
        self.check_chart(chart, part)
        if part == "translation":
            return 0
        return self.element_dim + (self.rotation and chart == "embed")

    def coordinates(self, g: Tensor, chart: str = "product", part: str = "all") -> Tensor:
        self.check_chart(chart, part)
        angle, mirror, log_scale = self.unpack(g)
        if part == "translation":
            return g[..., :0]
        if angle is None:
            return g
        if chart == "embed":
            return self._pack(g, torch.cos(angle), torch.sin(angle), mirror, log_scale)
        if chart == "release":
            return self._pack(g, self._release_angle(angle, mirror), mirror)
        angle = numerics.wrap(angle)
        return self._pack(g, angle / math.pi if chart == "product" else angle, mirror, log_scale)

    @staticmethod
    def _release_angle(angle: Tensor, mirror: Tensor | None) -> Tensor:
        clockwise = -_reflect(mirror, angle)
        if mirror is not None:
            clockwise = clockwise - (0.5 * math.pi) * (1.0 - mirror)
        return torch.remainder(clockwise, 2 * math.pi) / math.pi - 1.0

    def log_norm(self, h: Tensor) -> Tensor:
        """``|a| + |1 - m| + |s|`` with the angle wrapped, ``[...]``."""
        angle, mirror, log_scale = self.unpack(h)
        total = h[..., :0].sum(-1)
        if angle is not None:
            total = total + numerics.wrap(angle).abs()
        if mirror is not None:
            total = total + (1.0 - mirror).abs()
        if log_scale is not None:
            total = total + log_scale.abs()
        return total

    def from_uniform(self, u: Tensor) -> Tensor:
        """Angles uniform in (-pi, pi], mirror +-1 with equal chance, log scale uniform in [-log 2, log 2)."""
        angle, mirror, log_scale = self.unpack(u)
        return self._pack(
            u,
            _map(lambda x: math.pi * (1.0 - 2.0 * x), angle),
            _map(lambda x: 1.0 - 2.0 * (x >= 0.5).to(x.dtype), mirror),
            _map(lambda x: math.log(2.0) * (2.0 * x - 1.0), log_scale),
        )

    def grid(self, n: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """Regular grid ``[n, element_dim]``: angles ``2 pi i / k`` (not wrapped), log scale 0.

        Without mirror k = n, without rotation n is 1 or 2; with both, n = 1 or even: k = n / 2 rotations with m = +1,
        then the same with m = -1. Raises `ValueError` for any other n.
        """
        whole = isinstance(n, int)
        halves = 2 if self.mirror and whole and n > 1 else 1
        turns = n // halves if whole else 0
        if not whole or n < 1 or turns * halves != n or (turns > 1 and not self.rotation):
            allowed = (
                ("1 and even numbers" if self.rotation else "1 and 2")
                if self.mirror
                else ("1, 2, 3, ..." if self.rotation else "1 only")
            )
            raise ValueError(f"grid: no regular grid of {self.name} has n = {n!r} elements; choose n from: {allowed}")
        angle = turn_grid(turns).repeat(halves) if self.rotation else None
        mirror = torch.tensor([1.0, -1.0], dtype=torch.float64)[:halves].repeat_interleave(turns)
        scale = torch.zeros(n, dtype=torch.float64) if self.scale else None
        empty = torch.zeros(n, 0, dtype=torch.float64)
        return cast(self._pack(empty, angle, mirror if self.mirror else None, scale), dtype, device)

    @property
    def orbit_dim(self) -> int:
        """1 for the radius, where there is no scale to change it."""
        return int(self.rotation and not self.scale)

    def lift(self, x: Tensor) -> Tensor:
        """``(angle, 1, log |x|)``, or ``(angle, 1)`` with the orbit coordinate ``|x|``.

        Reference points lie on the positive x axis, at (1, 0) where there is a scale. The origin gets angle 0; with scale no
        element reaches it, and the log scale is -inf.
        """
        if not self.rotation:
            raise self._missing("lift")
        radius, at_origin = numerics.norm(x), (x == 0).all(-1)
        angle = torch.atan2(x[..., 1], torch.where(at_origin, torch.ones_like(radius), x[..., 0]))
        mirror = torch.ones_like(radius) if self.mirror else None
        if self.scale:
            return self._pack(x, angle, mirror, torch.log(radius))
        return torch.cat([self._pack(x, angle, mirror), radius[..., None]], dim=-1)

    def isotropy(self, n: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The identity, and the mirror, which leaves the x axis where it is."""
        if not self.rotation:
            raise self._missing("isotropy")
        if n not in ((1, 2) if self.mirror else (1,)):
            allowed = "1 or 2" if self.mirror else "1"
            raise ValueError(f"isotropy: n must be {allowed} for {self.name}, received {n!r}")
        h = self.identity(dtype, device).repeat(n, 1)
        if n == 2:
            h[1, 1] = -1.0
        return h

    def sample_isotropy(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        h = self.isotropy(1, dtype, device).repeat(n, 1)
        if self.mirror:
            h[:, 1] = cast(1.0 - 2.0 * (uniforms(n, 1, generator)[:, 0] >= 0.5).to(h.dtype), h.dtype, device)
        return h

    def invalid(self, g: Tensor) -> str | None:
        reason = super().invalid(g)
        if reason is not None:
            return reason
        _, mirror, log_scale = self.unpack(g)
        if mirror is not None and bool(((mirror.abs() - 1.0).abs() > 1e-3).any()):
            return f"the mirror component of an element of {self.name} must be +1 or -1"
        if log_scale is not None and bool(torch.isinf(torch.exp(log_scale.abs())).any()):
            return f"the log scale of an element of {self.name} is so large that its scale is infinite or zero"
        return None
