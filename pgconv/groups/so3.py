"""Rotations in space, stored as unit quaternions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pgconv.groups import numerics, platonic
from pgconv.groups.base import cast, turn_grid, uniforms
from pgconv.groups.linear import LinearGroup


def multiply(p: Tensor, q: Tensor) -> Tensor:
    """Hamilton product of quaternions (w, x, y, z): ``[..., 4]`` twice, broadcast."""
    pw, px, py, pz = p.unbind(-1)
    qw, qx, qy, qz = q.unbind(-1)
    return torch.stack(
        [
            pw * qw - px * qx - py * qy - pz * qz,
            pw * qx + px * qw + py * qz - pz * qy,
            pw * qy - px * qz + py * qw + pz * qx,
            pw * qz + px * qy - py * qx + pz * qw,
        ],
        dim=-1,
    )


def conjugate(q: Tensor) -> Tensor:
    """``(w, -x, -y, -z)``, the inverse of a unit quaternion, ``[..., 4]``."""
    return torch.cat([q[..., :1], -q[..., 1:]], dim=-1)


def canonical(q: Tensor) -> Tensor:
    """The one of q and -q with w > 0; for |w| <= 5e-6 the one whose first vector component of size > 5e-6 is positive.

    Rotations by pi up to rounding thus get one fixed sign. The sign is a constant for differentiation.
    """
    tol = numerics.QUATERNION_TOL
    w, x, y, z = q.detach().unbind(-1)
    by_vector = torch.where(x.abs() > tol, x, torch.where(y.abs() > tol, y, torch.where(z.abs() > tol, z, 1.0)))
    negative = torch.where(w.abs() > tol, w, by_vector) < 0
    return q * torch.where(negative, -1.0, 1.0).to(q.dtype).unsqueeze(-1)


def rotation_entries(q: Tensor) -> list[Tensor]:
    """The nine entries, row by row and ``[...]`` each, of the rotation matrix of a unit quaternion (not normalised)."""
    w, x, y, z = q.unbind(-1)
    return [
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
        2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
        2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
    ]  # fmt: skip


def rotation_vector(q: Tensor) -> Tensor:
    """``log(q) = 2 atan2(|q_v|, w) / |q_v| q_v`` of the canonical sign, ``[..., 4] -> [..., 3]``, smooth at q_v = 0."""
    q = canonical(q)
    w, vector = q[..., 0], q[..., 1:]
    square = (vector * vector).sum(-1)
    small = square < 1e-4
    # For a quaternion of zeros (padding) w is replaced too, so that its logarithm is 0 and not 0/0.
    w_series = torch.where(small & (w != 0), w, 1.0)
    ratio = torch.where(small, square, 0.0) / (w_series * w_series)
    series = 2.0 / w_series * numerics.horner([1.0, -1 / 3, 1 / 5, -1 / 7, 1 / 9], ratio)
    length = torch.sqrt(torch.where(small, 1.0, square))
    factor = torch.where(small, series, 2.0 * torch.atan2(length, w) / length)
    return factor.unsqueeze(-1) * vector


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Vector product of ``[..., 3]`` tensors, broadcast."""
    ax, ay, az = a.unbind(-1)
    bx, by, bz = b.unbind(-1)
    return torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], dim=-1)


class SO3(LinearGroup):
    """Rotations of R^3 as unit quaternions (w, x, y, z), q and -q being the same rotation.

    Product: Hamilton; inverse: conjugate; matrix: quadratic in q, and its transpose acts for the inverse. Nothing is
    normalised, so keep elements unit. `relative` returns the sign of `canonical`.

    Charts: "product" log(q) / pi (3 numbers, in the ball of radius 1); "embed" the nine matrix entries row by row;
    "lie" log(q), the rotation vector in radians. Algebra vectors are rotation vectors.

    >>> quarter = SO3().exp(torch.tensor([0.0, 0.0, torch.pi / 2]))
    >>> SO3().act(quarter, torch.tensor([1.0, 0.0, 0.0])).round(decimals=6) + 0.0
    tensor([0., 1., 0.])
    >>> SO3().coordinates(quarter)
    tensor([0.0000, 0.0000, 0.5000])
    """

    name = "SO(3)"
    element_dim, coord_dim, spatial_dim, algebra_dim, uniform_dim = 4, 3, 3, 3, 3
    charts = ("product", "embed", "lie")

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        # Made on the device: no host waits for it.
        dtype = dtype or torch.get_default_dtype()
        return torch.cat([torch.ones(1, dtype=dtype, device=device), torch.zeros(3, dtype=dtype, device=device)])

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        self.check_element(a)
        self.check_element(b)
        return multiply(a, b)

    def inverse(self, a: Tensor) -> Tensor:
        self.check_element(a)
        return conjugate(a)

    def relative(self, v: Tensor, u: Tensor) -> Tensor:
        return canonical(self.product(self.inverse(v), u))

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        self.check_element(g)
        m, (x0, x1, x2) = rotation_entries(g), x.unbind(-1)
        return torch.stack([m[i] * x0 + m[i + 1] * x1 + m[i + 2] * x2 for i in (0, 3, 6)], dim=-1)

    def act_inverse(self, g: Tensor, x: Tensor) -> Tensor:
        self.check_element(g)
        m, (x0, x1, x2) = rotation_entries(g), x.unbind(-1)
        return torch.stack([m[i] * x0 + m[i + 3] * x1 + m[i + 6] * x2 for i in (0, 1, 2)], dim=-1)

    def exp(self, xi: Tensor) -> Tensor:
        cos, factor = numerics.half_angle_factors((xi * xi).sum(-1))
        return torch.cat([cos.unsqueeze(-1), factor.unsqueeze(-1) * xi], dim=-1)

    def log(self, g: Tensor) -> Tensor:
        self.check_element(g)
        return rotation_vector(g)

    def jacobian(self, xi: Tensor, t: Tensor) -> Tensor:
        first, second = numerics.rotation_factors((xi * xi).sum(-1))
        once = cross(xi, t)
        return t + first.unsqueeze(-1) * once + second.unsqueeze(-1) * cross(xi, once)

    def jacobian_solve(self, xi: Tensor, t: Tensor) -> Tensor:
        factor = numerics.inverse_rotation_factor((xi * xi).sum(-1))
        once = cross(xi, t)
        return t - 0.5 * once + factor.unsqueeze(-1) * cross(xi, once)

    def coord_dim_of(self, chart: str, part: str = "all") -> int:
        self.check_chart(chart, part)
        return 0 if part == "translation" else (9 if chart == "embed" else 3)

    def coordinates(self, g: Tensor, chart: str = "product", part: str = "all") -> Tensor:
        self.check_chart(chart, part)
        self.check_element(g)
        if part == "translation":
            return g[..., :0]
        if chart == "embed":
            return torch.stack(rotation_entries(g), dim=-1)
        vector = rotation_vector(g)
        return vector / math.pi if chart == "product" else vector

    def log_norm(self, h: Tensor) -> Tensor:
        """The rotation angle in [0, pi], ``[...]``."""
        return 2.0 * torch.atan2(numerics.norm(h[..., 1:]), h[..., 0].abs())

    def from_uniform(self, u: Tensor) -> Tensor:
        """Uniform unit quaternions (Shoemake 1992: two uniform phases, squared radii u and 1 - u), canonical sign."""
        inner, outer = torch.sqrt(u[..., 0]), torch.sqrt(1.0 - u[..., 0])
        a, b = 2 * math.pi * u[..., 1], 2 * math.pi * u[..., 2]
        parts = [outer * torch.cos(a), outer * torch.sin(a), inner * torch.cos(b), inner * torch.sin(b)]
        return canonical(torch.stack(parts, dim=-1))

    def grid(self, n: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The identity (n = 1) or the rotations of a platonic solid (n = 12, 24, 60), ``[n, 4]``, identity first."""
        if n == 1:
            return self.identity(dtype, device).unsqueeze(0)
        if n not in platonic.ORDERS:
            orders = ", ".join(str(order) for order in platonic.ORDERS)
            raise ValueError(f"grid: no regular grid of SO(3) has n = {n} elements; choose n from: 1, {orders}")
        return cast(torch.tensor(platonic.rotations(n), dtype=torch.float64), dtype, device)

    orbit_dim = 1

    def lift(self, x: Tensor) -> Tensor:
        """The shortest rotation of the z axis to x, and the radius ``|x|``; the reference points lie on the positive z axis."""
        radius = numerics.norm(x)
        safe = torch.where(radius == 0, torch.ones_like(radius), radius)
        a, b, z = (x / safe[..., None]).unbind(-1)
        z = torch.where(radius == 0, torch.ones_like(z), z)
        # Of what is nearer to the axis nothing can be divided by the distance.
        pole, one = torch.maximum(a.abs(), b.abs()) < torch.finfo(x.dtype).tiny, torch.ones_like(z)
        # Not the root of a sum of squares, which are 0 long before a and b are.
        rho = torch.hypot(torch.where(pole, one, a), b)
        # Half angles from the side on which they are not small: cos = w, sin = s about the axis (-b, a, 0).
        upper = z >= 0
        w = torch.sqrt(torch.where(upper, 0.5 * (1.0 + z), one))
        s = torch.sqrt(torch.where(upper, one, 0.5 * (1.0 - z)))
        turned = ~upper & pole  # by pi about the x axis
        parts = [
            torch.where(upper, w, torch.where(pole, 0.0, 0.5 * rho / s)),
            torch.where(turned, one, -torch.where(upper, 0.5 / w * b, s * (b / rho))),
            torch.where(upper, 0.5 / w * a, s * (a / rho)),
            torch.zeros_like(z),
            radius,
        ]
        return torch.stack(parts, dim=-1)

    def isotropy(self, n: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """n equal turns about the z axis."""
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"isotropy: n must be an integer >= 1, received {n!r}")
        return cast(self._about_z(turn_grid(n)), dtype, device)

    def sample_isotropy(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return cast(self._about_z(2 * math.pi * uniforms(n, 1, generator)[:, 0]), dtype, device)

    @staticmethod
    def _about_z(angle: Tensor) -> Tensor:
        zero = torch.zeros_like(angle)
        return torch.stack([torch.cos(0.5 * angle), zero, zero, torch.sin(0.5 * angle)], dim=-1)

    def invalid(self, g: Tensor) -> str | None:
        reason = super().invalid(g)
        if reason is None and bool(((numerics.norm(g) - 1.0).abs() > 1e-3).any()):
            return f"the quaternion of an element of {self.name} must have norm 1 (within 1e-3); divide it by its norm"
        return reason
