"""The finite rotation groups of the platonic solids, as unit quaternions."""

from __future__ import annotations

import math
from functools import cache

Quaternion = tuple[float, float, float, float]

_GOLDEN = (1 + math.sqrt(5)) / 2
_THIRD_TURN = (0.5, 0.5, 0.5, 0.5)  # 120 degrees about (1,1,1), an axis of all three solids
_GENERATORS: dict[int, tuple[Quaternion, Quaternion]] = {
    12: (_THIRD_TURN, (0.0, 1.0, 0.0, 0.0)),
    24: (_THIRD_TURN, (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)),
    60: (_THIRD_TURN, (0.5 * _GOLDEN, 0.5, 0.5 / _GOLDEN, 0.0)),
}
ORDERS = tuple(_GENERATORS)
# Every component that occurs in the three groups: products are snapped to these, so errors do not add up.
_LEVELS = (0.0, 0.5 / _GOLDEN, 0.5, math.sqrt(0.5), 0.5 * _GOLDEN, 1.0)


def _multiply(p: Quaternion, q: Quaternion) -> Quaternion:
    pw, px, py, pz = p
    qw, qx, qy, qz = q
    return (
        pw * qw - px * qx - py * qy - pz * qz,
        pw * qx + px * qw + py * qz - pz * qy,
        pw * qy - px * qz + py * qw + pz * qx,
        pw * qz + px * qy - py * qx + pz * qw,
    )


def _snap(q: Quaternion) -> Quaternion:
    """Nearest exact components, the first non-zero one made positive (q and -q are one rotation)."""
    exact = [math.copysign(min(_LEVELS, key=lambda level: abs(abs(c) - level)), c) for c in q]
    sign = next(math.copysign(1.0, c) for c in exact if c != 0.0)
    w, x, y, z = (sign * c if c != 0.0 else 0.0 for c in exact)
    return w, x, y, z


@cache
def rotations(order: int) -> tuple[Quaternion, ...]:
    """The rotations of the tetrahedron (12), cube and octahedron (24) or dodecahedron and icosahedron (60).

    Closure of two generators; the identity comes first and the order is fixed.

    >>> len(rotations(60)), rotations(12)[0]
    (60, (1.0, 0.0, 0.0, 0.0))
    """
    identity: Quaternion = (1.0, 0.0, 0.0, 0.0)
    found: dict[Quaternion, None] = {identity: None}
    queue = [identity]
    while queue:
        element = queue.pop(0)
        for generator in _GENERATORS[order]:
            image = _snap(_multiply(element, generator))
            if image not in found:
                found[image] = None
                queue.append(image)
    return tuple(found)
