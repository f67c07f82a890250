"""Where the taps of a window on an image stand, and elements moved there."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from pgconv import _observers
from pgconv.spec import ConvGeometry


def _radius(geometry: ConvGeometry) -> int:
    # A 1 x 1 kernel has no extent: its only offset is 0 whatever it is divided by.
    return max(geometry.radius, 1)


def scaled(elements: Tensor, geometry: ConvGeometry) -> Tensor:
    """Elements with their translation in units of the kernel radius."""
    radius = _radius(geometry)
    return elements if radius == 1 else torch.cat([elements[..., :2] / radius, elements[..., 2:]], -1)


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
    taps, radius = _offsets(geometry, elements), _radius(geometry)
    s, n, e = elements.shape
    moved = elements[:, :, None, :2] + taps
    if radius > 1:
        moved = moved / radius
    rest = elements[:, :, None, 2:].expand(s, n, taps.shape[0], e - 2)
    return torch.cat([moved, rest], -1).reshape(s, n * taps.shape[0], e)


def _offsets(geometry: ConvGeometry, of: Tensor) -> Tensor:
    """``[T, 2]`` in pixels, in the type of a tensor and where it is: a dozen small operations, once for all calls that nobody
    watches. A CUDA graph has them among its own, and every stream for itself, as no stream waits for another's."""
    call = geometry.kernel_size, geometry.support, of.dtype, of.device
    if torch.compiler.is_compiling() or _observers.are_there() or not (of.is_cpu or of.is_cuda):
        return _made(geometry, of.dtype, of.device)
    if of.is_cpu:
        return _kept(*call, 0)
    if torch.cuda.is_current_stream_capturing():
        return _made(geometry, of.dtype, of.device)
    return _kept(*call, torch.cuda.current_stream(of.device).cuda_stream)


def _made(geometry: ConvGeometry, dtype: torch.dtype, device: torch.device) -> Tensor:
    place, k, r = places(geometry, device), geometry.kernel_size, geometry.radius
    row = torch.div(place, k, rounding_mode="floor") - r
    return torch.stack([place % k - r, -row], -1).to(dtype)


@lru_cache(maxsize=256)
def _kept(kernel_size: int, support: str, dtype: torch.dtype, device: torch.device, stream: int) -> Tensor:
    geometry = ConvGeometry(kernel_size, (1, 1), (0, 0), (1, 1), support)
    # What is made in inference mode could not be saved for a backward pass later.
    with torch.inference_mode(False):
        return _made(geometry, dtype, device)
