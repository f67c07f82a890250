"""Groups by name."""

from __future__ import annotations

from pgconv.groups.base import Group
from pgconv.groups.linear import Trivial
from pgconv.groups.orbits import Orbits
from pgconv.groups.planar import Planar
from pgconv.groups.semidirect import SemidirectProduct
from pgconv.groups.so3 import SO3

_registry: dict[str, Group] = {}


def register(group: Group) -> Group:
    """Make ``group`` available to `get` under ``group.name``, and return it.

    Raises `ValueError` when it is not a `Group` or when another group already has the name.
    """
    if not isinstance(group, Group):
        raise ValueError(f"group: expected an instance of pgconv.groups.Group, got {type(group).__name__}")
    if _registry.setdefault(group.name, group) != group:
        raise ValueError(f"group: the name {group.name!r} belongs to {_registry[group.name]!r}; choose another name")
    return group


def names() -> tuple[str, ...]:
    """All names `get` knows.

    >>> names()[:4]
    ('T(1)', 'T(2)', 'T(3)', 'M(2)')
    """
    return tuple(_registry)


def get(group: str | Group) -> Group:
    """The group of that name; a `Group` is returned as it is. Raises `ValueError` for anything else.

    ``"SO(2)/1"`` is SO(2) with one orbit coordinate behind every element, see `Orbits`.

    >>> get("SE(3)").element_dim, get("SE(3)").coord_dim, get("SE(3)").coord_dim_of("embed")
    (7, 6, 12)
    """
    if isinstance(group, Group):
        return group
    if isinstance(group, str) and group not in _registry and "/" in group:
        base, _, labels = group.rpartition("/")
        if labels.isdecimal():
            return Orbits(get(base), int(labels))
    if not isinstance(group, str) or group not in _registry:
        raise ValueError(
            f"group: {group!r} is not a group; choose from {', '.join(_registry)}, "
            "or pass an instance of a subclass of pgconv.groups.Group"
        )
    return _registry[group]


def _register_standard_groups() -> None:
    so2, o2, so3 = Planar(rotation=True), Planar(rotation=True, mirror=True), SO3()
    scale_rotation = Planar(rotation=True, scale=True)
    for group in (
        SemidirectProduct(1, Trivial(1), name="T(1)"),
        SemidirectProduct(2, Planar(), name="T(2)"),
        SemidirectProduct(3, Trivial(3), name="T(3)"),
        SemidirectProduct(2, Planar(mirror=True), name="M(2)"),
        so2,
        o2,
        SemidirectProduct(2, so2, name="SE(2)"),
        SemidirectProduct(2, o2, name="E(2)"),
        so3,
        SemidirectProduct(3, so3, name="SE(3)"),
        scale_rotation,
        SemidirectProduct(2, scale_rotation, name="Sim(2)"),
    ):
        register(group)


_register_standard_groups()

_STANDARD = frozenset(_registry.values())


def is_builtin(group: Group) -> bool:
    """Whether native kernels know the group's law by its name (a user's own group goes through precomputed offsets)."""
    return (group.base if isinstance(group, Orbits) else group) in _STANDARD
