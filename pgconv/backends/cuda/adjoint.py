"""The gradient of the image convolution's signal as convolutions of its output's gradient, all of stride 1.

Pixel ``q`` of the signal is read by the outputs ``p`` with ``stride p - padding + tap = q``: those ``p = (q + padding - tap) /
stride`` that are whole. Along an axis, pixels ``first, first + stride, ...`` meet the same taps, and their outputs lie side by
side: one convolution for every ``first`` below the stride, with these taps, from behind. At stride 1 that is one with all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from pgconv.backends.cuda.conv_operands import Walk
from pgconv.backends.cuda.layout import OCTET, feature_octets, whole_octets
from pgconv.spec import ConvGeometry

MARGIN = 2.0
"""By how many times fewer products they have to have than the vendor's convolution at other strides than 1, since two products
chained run at half of its rate: measured at stride 1 alone."""


class Adjoint(NamedTuple):
    """A convolution whose results are every so many of the signal's pixels."""

    rows: slice
    columns: slice
    which: tuple[int, ...]
    """Its taps, as they are numbered in the convolution whose adjoint it is,"""
    walk: Walk
    """and where they lie in this one."""

    def features(self, phi: Tensor) -> Tensor:
        """Its own of ``[S,Nu,Nv,T,H]``, with the samples in each other's place."""
        own = phi.transpose(1, 2)
        return own if len(self.which) == phi.shape[3] else own[:, :, :, self.which]

    @property
    def pixels(self) -> int:
        height, width = self.walk.geometry[-2:]
        return height * width


@lru_cache(maxsize=256)
def adjoints(geometry: ConvGeometry, height: int, width: int) -> tuple[Adjoint, ...]:
    """All with any taps at all. The signal's other pixels are read by no output."""
    (sy, sx), size, r = geometry.stride, (height, width), geometry.radius
    taps = [[d * (x + r) for d, x in zip(geometry.dilation, tap)] for tap in geometry.taps()]
    found = []
    for first in ((y, x) for y in range(min(sy, height)) for x in range(min(sx, width))):
        # Of every tap, on either axis, the output that the first pixel reads by it, times the stride.
        outputs = [[q + pad - t for q, pad, t in zip(first, geometry.padding, tap)] for tap in taps]
        which = [k for k, (y, x) in enumerate(outputs) if y % sy == 0 and x % sx == 0]
        if not which:
            continue
        places = [(outputs[k][0] // sy, outputs[k][1] // sx) for k in which]
        y0, x0 = (min(place[axis] for place in places) for axis in (0, 1))
        count = tuple(-(-(n - q) // s) for n, q, s in zip(size, first, (sy, sx)))
        moved = tuple(x for place in places for x in (place[0] - y0, place[1] - x0))
        lies = slice(first[0], None, sy), slice(first[1], None, sx)
        found.append(Adjoint(*lies, tuple(which), Walk(moved, (1, 1, -y0, -x0, *count))))
    return tuple(found)


def pays(n: Mapping[str, int], geometry: ConvGeometry) -> bool:
    """Whether they take less than the vendor's gradient, for a call of these sizes: that in groups takes several times as long."""
    if geometry.stride == (1, 1) or n["S"] > 1:
        return True
    rows = whole_octets(n["Nv"]) * OCTET * n["O"] * feature_octets(n["Hb"]) * OCTET
    octets = whole_octets(n["Nu"])
    chains = sum(
        rows * part.pixels * (len(part.which) * octets * OCTET + n["C"]) for part in adjoints(geometry, n["H"], n["W"])
    )
    dense = n["Nu"] * n["Nv"] * n["C"] * n["O"] * geometry.kernel_size**2 * n["Ho"] * n["Wo"]
    return MARGIN * chains <= dense
