"""Which elements lie near which: neighbours in group distance and farthest-point subsampling, for convolutions on points.

``d(v, u) = |t| + stabilizer_weight |log h|`` with ``(t, h) = v^-1 u`` (``Group.distance``). It depends on ``v^-1 u`` only, so
moving all elements by one group element changes no result. Results are what ``functional.point_conv(neighbors=)`` takes.
"""

from pgconv.neighbors.farthest import farthest_points
from pgconv.neighbors.neighborhoods import Ball, Nearest, Neighborhood, Within
from pgconv.neighbors.search import ball, nearest, within

__all__ = [
    "Ball",
    "Nearest",
    "Neighborhood",
    "Within",
    "ball",
    "farthest_points",
    "nearest",
    "within",
]
