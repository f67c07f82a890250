"""Relative elements as whoever writes a convolution for one group would compute them: what belongs to an element once, what belongs
to a pair without a sine or a root.

``prepare`` turns elements ``[..., e]`` into fields ``[..., F]``; ``offsets`` turns broadcast fields of u and v into the coordinates
of ``v^-1 u``. Coordinates are those of the chart in ``CHARTS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Law:
    """One group."""

    prepare: Callable[[torch.Tensor], torch.Tensor]
    offsets: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


CHARTS = {"T(3)": "product", "SE(2)": "embed", "SE(3)": "embed"}
"""The default chart where it is continuous. The angle of the others jumps at half a turn, where float32 and float64 may take
different sides, and among millions of random pairs some do: such a case could not be held to the float64 reference."""


def _turn(elements: torch.Tensor) -> torch.Tensor:
    """x, y, cos, sin."""
    angle = elements[..., 2:]
    return torch.cat([elements[..., :2], angle.cos(), angle.sin()], -1)


def _turn_offsets(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    (ux, uy, uc, us), (vx, vy, vc, vs) = u.unbind(-1), v.unbind(-1)
    x, y = ux - vx, uy - vy
    return torch.stack([vc * x + vs * y, vc * y - vs * x, uc * vc + us * vs, us * vc - uc * vs], -1)


def _matrix(w: torch.Tensor, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> list[torch.Tensor]:
    """Entries, row by row, of the rotation matrix of a unit quaternion."""
    x2, y2, z2 = x + x, y + y, z + z
    xx, yy, zz, xy, xz, yz = x * x2, y * y2, z * z2, x * y2, x * z2, y * z2
    wx, wy, wz = w * x2, w * y2, w * z2
    return [1 - yy - zz, xy - wz, xz + wy, xy + wz, 1 - xx - zz, yz - wx, xz - wy, yz + wx, 1 - xx - yy]


def _rotation(elements: torch.Tensor) -> torch.Tensor:
    """Position, quaternion, matrix."""
    return torch.cat([elements, torch.stack(_matrix(*elements[..., 3:].unbind(-1)), -1)], -1)


def _rotation_offsets(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    ux, uy, uz, a, b, c, d = u[..., :7].unbind(-1)
    vx, vy, vz, p, q, r, s, *m = v.unbind(-1)
    x, y, z = ux - vx, uy - vy, uz - vz
    moved = [m[i] * x + m[i + 3] * y + m[i + 6] * z for i in (0, 1, 2)]
    relative = (
        p * a + q * b + r * c + s * d,
        p * b - q * a - r * d + s * c,
        p * c + q * d - r * a - s * b,
        p * d - q * c + r * b - s * a,
    )
    return torch.stack([*moved, *_matrix(*relative)], -1)


LAWS = {
    "T(3)": Law(lambda elements: elements, lambda u, v: u - v),
    "SE(2)": Law(_turn, _turn_offsets),
    "SE(3)": Law(_rotation, _rotation_offsets),
}
