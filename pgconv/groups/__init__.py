"""Groups: elements as tensors, the group law, actions, coordinates for the kernel net, sampling and grids.

>>> from pgconv import groups
>>> groups.names()
('T(1)', 'T(2)', 'T(3)', 'M(2)', 'SO(2)', 'O(2)', 'SE(2)', 'E(2)', 'SO(3)', 'SE(3)', 'R+xSO(2)', 'Sim(2)')
>>> groups.get("E(2)").grid(4)[:, 2:]
tensor([[ 0.0000,  1.0000],
        [ 3.1416,  1.0000],
        [ 0.0000, -1.0000],
        [ 3.1416, -1.0000]])
"""

from pgconv.groups.base import Group
from pgconv.groups.linear import LinearGroup, Trivial
from pgconv.groups.orbits import Orbits
from pgconv.groups.planar import Planar
from pgconv.groups.registry import get, is_builtin, names, register
from pgconv.groups.semidirect import SemidirectProduct
from pgconv.groups.so3 import SO3

__all__ = [
    "SO3",
    "Group",
    "LinearGroup",
    "Orbits",
    "Planar",
    "SemidirectProduct",
    "Trivial",
    "get",
    "is_builtin",
    "names",
    "register",
]
