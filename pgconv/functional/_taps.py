"""Where the taps of a window on an image stand, and elements moved there."""

from __future__ import annotations

import torch
from torch import Tensor

from pgconv.spec import ConvGeometry


def _radius(geometry: ConvGeometry) -> int:
    # A 1 x 1 kernel has no extent: its only offset is 0 whatever it is divided by.
    return max(geometry.radius, 1)


def scaled(elements: Tensor, geometry: ConvGeometry) -> Tensor:
    """Elements with their translation in units of the kernel radius."""
    return torch.cat([elements[..., :2] / _radius(geometry), elements[..., 2:]], -1)


def places(geometry: ConvGeometry, device: torch.device) -> Tensor:
    """Of all taps in the row-major window ``[T]``. Counted on the device: for numbers brought to it the host would wait, and no
    CUDA graph could hold them."""
    k, r = geometry.kernel_size, geometry.radius
    rows: dict[int, list[int]] = {}
    for row, col in geometry.taps():
        rows.setdefault(row, []).append((row + r) * k + col + r)
    # The support has no gaps in a row.
    return torch.cat([torch.arange(row[0], row[-1] + 1, device=device) for row in rows.values()])


def at_taps(elements: Tensor, geometry: ConvGeometry) -> Tensor:
    """``[S, N * T, e]``: every element moved to every tap, x = dcol, y = -drow in units of the kernel radius."""
    place, k, r = places(geometry, elements.device), geometry.kernel_size, geometry.radius
    row = torch.div(place, k, rounding_mode="floor") - r
    taps = torch.stack([place % k - r, -row], -1).to(elements.dtype)
    s, n, e = elements.shape
    moved = (elements[:, :, None, :2] + taps) / _radius(geometry)
    rest = elements[:, :, None, 2:].expand(s, n, taps.shape[0], e - 2)
    return torch.cat([moved, rest], -1).reshape(s, n * taps.shape[0], e)
