"""Euclidean spaces in which elements are at most as far apart as in the group."""

from __future__ import annotations

import torch
from torch import Tensor

from pgconv.groups import SO3, Group, Orbits, Planar, SemidirectProduct, Trivial, numerics
from pgconv.groups.so3 import rotation_entries
from pgconv.neighbors._arguments import Metric


def embedding(metric: Metric, g: Tensor) -> Tensor | None:
    """``E(g) [..., n]`` with ``|E(a) - E(b)| <= d(a, b)``, or None for a group that has none here.

    Parts of the distance add, and a sum of sizes is at least the root of the sum of their squares, so parts may be embedded one
    beside the other:

    - a translation by itself: ``|h^-1 (t_b - t_a)| = |t_b - t_a|`` unless h scales (then None);
    - an angle as a point of the circle, whose chord ``2 sin(a / 2)`` is at most a;
    - a mirror as its sign (``|1 - m_a m_b| = |m_a - m_b|`` for signs) and a log scale by itself;
    - a rotation by a as its matrix over root 2: ``|R_a - R_b|_F = 2 root 2 sin(a / 2)``, the same for q and -q;
    - orbit coordinates by themselves.

    Mirrors and quaternions whose size is 1 only within the 1e-3 that `Group.invalid` allows can fall short of the bound by 0.4 %.
    """
    parts = _parts(metric.group, g, metric.stabilizer_weight)
    return None if parts is None else torch.cat(parts, -1)


def _parts(group: Group, g: Tensor, weight: float) -> list[Tensor] | None:
    # Exactly these classes: a subclass may have a distance of its own.
    if type(group) is Orbits:
        element, labels = group.divide(g)
        parts = _parts(group.base, element, weight)
        return None if parts is None else [*parts, labels]
    if type(group) is SemidirectProduct:
        linear = group.stabilizer
        scales = isinstance(linear, Planar) and linear.scale
        t, h = group.split(g)
        parts = None if scales else _parts(linear, h, weight)
        return None if parts is None else [t, *parts]
    if type(group) is Trivial:
        return []
    if type(group) is SO3:
        unit = g / numerics.norm(g)[..., None]
        return [torch.stack(rotation_entries(unit), -1) * (weight * 0.5**0.5)]
    if type(group) is Planar:
        angle, mirror, log_scale = group.unpack(g)
        parts = [] if angle is None else [torch.cos(angle), torch.sin(angle)]
        parts += [] if mirror is None else [torch.sign(mirror)]
        parts += [] if log_scale is None else [log_scale]
        return [weight * torch.stack(parts, -1)] if parts else []
    return None
