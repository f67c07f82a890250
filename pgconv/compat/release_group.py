"""The release's motions of the plane in its own conventions, to the same rounding as its own code.

``pgconv.groups`` has the same groups with other angles; the kernel's jump at relative angle 0 makes the last bit of one count.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pgconv.groups import Group

_TURN = 2 * math.pi


class ReleaseMotions(Group):
    """Translations with a clockwise angle a, and a mirror m if there is one: elements ``(x, y, a[, m])``.

    On (row, col) = (-y, x) the stabiliser acts as ``diag(1, m) R(a)``, ``R(a) = [[cos a, sin a], [-sin a, cos a]]``;
    ``(a_1, m_1) (a_2, m_2) = (a_2 + m_2 a_1, m_1 m_2)`` and ``(a, m)^-1 = (-m a, m)``, angles in [0, 2 pi). The one chart is
    "release": ``(row, col, a / pi - 1[, m])``.

    >>> G = ReleaseMotions(mirror=False)
    >>> G.coordinates(G.relative(torch.tensor([0.0, 0, 1]), torch.tensor([0.0, 0, 1])), "release")
    tensor([ 0.,  0., -1.])
    """

    charts = ("release",)
    spatial_dim = translation_dim = 2

    def __init__(self, mirror: bool) -> None:
        self.mirror = mirror
        self.name = "the release's E2" if mirror else "the release's SE2"
        self.element_dim = self.coord_dim = 4 if mirror else 3

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        zeros = torch.zeros(3, dtype=dtype, device=device)
        return torch.cat([zeros, torch.ones_like(zeros[:1])]) if self.mirror else zeros

    def from_release(self, samples: Tensor) -> Tensor:
        """The release's samples ``[S, N]`` or ``[S, N, 2]`` as elements with zero translation ``[S, N, 3 or 4]``."""
        h = samples if self.mirror else samples[..., None]
        return torch.cat([h.new_zeros(*h.shape[:-1], 2), h], -1)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        row, col = self._turned(a, -b[..., 1], b[..., 0])
        (angle_a, mirror_a), (angle_b, mirror_b) = self._stabilizer(a), self._stabilizer(b)
        angle = torch.remainder(angle_b + mirror_b * angle_a, _TURN)
        return self._pack(a[..., 0] + col, a[..., 1] - row, angle, mirror_a * mirror_b)

    def inverse(self, a: Tensor) -> Tensor:
        angle, mirror = self._stabilizer(a)
        inverse = self._pack(0 * angle, 0 * angle, torch.remainder(-mirror * angle, _TURN), mirror)
        row, col = self._turned(inverse, a[..., 1], -a[..., 0])
        return torch.cat([torch.stack([col, -row], -1), inverse[..., 2:]], -1)

    def relative(self, v: Tensor, u: Tensor) -> Tensor:
        # Without the remainder in between: of equal elements the angle is 0 to the bit, and -1 its coordinate.
        (angle_v, mirror_v), (angle_u, mirror_u) = self._stabilizer(v), self._stabilizer(u)
        back = -mirror_v * angle_v
        row, col = v[..., 1] - u[..., 1], u[..., 0] - v[..., 0]
        cos, sin = torch.cos(back), torch.sin(back)
        row, col = cos * row + sin * col, mirror_v * (cos * col - sin * row)
        return self._pack(col, -row, torch.remainder(angle_u + mirror_u * back, _TURN), mirror_v * mirror_u)

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        row, col = self._turned(g, -x[..., 1], x[..., 0])
        return torch.stack([g[..., 0] + col, g[..., 1] - row], -1)

    def coord_dim_of(self, chart: str, part: str = "all") -> int:
        self.check_chart(chart, part)
        return {"all": self.element_dim, "translation": 2, "stabilizer": self.element_dim - 2}[part]

    def coordinates(self, g: Tensor, chart: str = "release", part: str = "all") -> Tensor:
        self.check_chart(chart, part)
        place = torch.stack([-g[..., 1], g[..., 0]], -1)
        turn = torch.cat([torch.remainder(g[..., 2:3], _TURN) / math.pi - 1, g[..., 3:]], -1)
        if part == "all":
            return torch.cat([place, turn], -1)
        return place if part == "translation" else turn

    def _stabilizer(self, g: Tensor) -> tuple[Tensor, Tensor]:
        return g[..., 2], g[..., 3] if self.mirror else torch.ones_like(g[..., 2])

    def _turned(self, g: Tensor, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
        angle, mirror = self._stabilizer(g)
        cos, sin = torch.cos(angle), torch.sin(angle)
        return cos * row + sin * col, mirror * (cos * col - sin * row)

    def _pack(self, x: Tensor, y: Tensor, angle: Tensor, mirror: Tensor) -> Tensor:
        parts = (x, y, angle, mirror) if self.mirror else (x, y, angle)
        return torch.stack(torch.broadcast_tensors(*parts), -1)
