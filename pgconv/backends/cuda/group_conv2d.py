"""The image convolution on a GPU: the order ``aggregate`` by our own kernel, ``materialize`` by the vendor's convolution.

The kernel reads samples last, in octets, and features in octets (csrc/cuda/conv_chain.h); operands are brought into that form here.
The gradient of the signal is the same kernel on the adjoint problem, those of features and head the vendor's.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv.backends import vendor_conv
from pgconv.backends.cpp.library import ops
from pgconv.backends.cuda.layout import OCTET, aligned, whole_octets
from pgconv.spec import ConvGeometry, Facts

HALVES = ("float16", "bfloat16")
ORDERS = ("materialize", "aggregate")
MOST_OCTETS = 8
MOST_TAPS = 128


def why_not(facts: Facts, order: str) -> str | None:
    """The reason why a call cannot run in an order, or None."""
    if len(set(facts.dtypes)) > 1:
        return f"one dtype is needed for all operands, received {', '.join(facts.dtypes)}"
    if min(facts.size("Ho"), facts.size("Wo")) < 1:
        return "the kernel does not fit the padded image"
    if order == "materialize":
        return None
    if facts.dtypes[0] not in HALVES:
        return f"the kernel takes {' or '.join(HALVES)}, received {facts.dtypes[0]}"
    if facts.size("Hb") > MOST_OCTETS * OCTET:
        return f"the kernel takes up to {MOST_OCTETS * OCTET} features, received {facts.size('Hb')}"
    if facts.size("T") > MOST_TAPS:
        return f"the kernel takes up to {MOST_TAPS} taps, received {facts.size('T')}"
    walk = *_walk(facts.geometry), facts.size("Ho"), facts.size("Wo")
    return _refusal(facts.size("Nv"), facts.size("Hb"), facts.size("O"), _taps(facts.geometry), walk)


def forward(order: str, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """``[B,O,Nu,Ho,Wo]``."""
    if order == "materialize":
        return vendor_conv.forward(f, phi, weight, geometry)
    return _chain(f, phi, weight, _taps(geometry), (*_walk(geometry), *geometry.out_size(*f.shape[-2:])))


def backward(
    order: str, grad: Tensor, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry, needs: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients of f, phi and weight (None where not needed)."""
    grad_f = _signal_gradient(grad, f, phi, weight, geometry) if order == "aggregate" and needs[0] else None
    left = needs[0] and grad_f is None, *needs[1:]
    of_f, of_phi, of_weight = vendor_conv.backward(grad, f, phi, weight, geometry, left) if any(left) else (None,) * 3
    return [of_f if grad_f is None else grad_f, of_phi, of_weight]


def _signal_gradient(grad: Tensor, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor | None:
    """Pixel ``q`` of the signal meets output ``q + padding - tap``: a convolution with the taps from behind. None at other strides
    than 1, where outputs have gaps."""
    if geometry.stride != (1, 1):
        return None
    reach = [d * (geometry.kernel_size - 1) for d in geometry.dilation]
    taps = tuple(reach[k % 2] - tap for k, tap in enumerate(_taps(geometry)))
    walk = 1, 1, *(r - p for r, p in zip(reach, geometry.padding)), *f.shape[-2:]
    phi, weight = phi.transpose(1, 2), weight.transpose(0, 1)
    if _refusal(phi.shape[2], phi.shape[4], weight.shape[0], taps, walk):
        return None
    return _chain(grad.to(f.dtype), phi, weight, taps, walk)


def _taps(geometry: ConvGeometry) -> tuple[int, ...]:
    """Rows and columns in turn, counted from the window's first pixel."""
    r, (dy, dx) = geometry.radius, geometry.dilation
    return tuple(x for row, col in geometry.taps() for x in (dy * (row + r), dx * (col + r)))


def _walk(geometry: ConvGeometry) -> tuple[int, ...]:
    return *geometry.stride, *geometry.padding


def _refusal(nv: int, hidden: int, outputs: int, taps: tuple[int, ...], walk: tuple[int, ...]) -> str | None:
    capability = ops().cuda_capability(torch.cuda.current_device())
    return _refusal_on(whole_octets(nv), _octets(hidden), outputs, taps, walk, capability)


@lru_cache(maxsize=1024)
def _refusal_on(*sizes) -> str | None:
    return ops().cuda_why_not_chain(*sizes) or None


def _chain(f: Tensor, phi: Tensor, weight: Tensor, taps: tuple[int, ...], walk: tuple[int, ...]) -> Tensor:
    octets = _octets(phi.shape[4])
    sets, nu, nv, count, hidden = phi.shape
    more_v, more_h = OCTET * whole_octets(nv) - nv, OCTET * octets - hidden
    window = f.permute(0, 1, 3, 4, 2)
    window = aligned(window) if window.is_contiguous() and not more_v else ops().group_last(f.contiguous())
    features = F.pad(phi, (0, more_h, 0, 0, 0, more_v)).view(sets, nu, whole_octets(nv), OCTET, count, octets, OCTET)
    granules = count * (whole_octets(nv))
    features = features.permute(0, 1, 5, 4, 2, 6, 3).reshape(sets, nu, octets, granules, OCTET, OCTET)
    features = aligned(F.pad(features, (0, 0, 0, 0, 0, features.shape[3] % 2)))
    return ops().conv_chain(window, features, aligned(F.pad(weight, (0, more_h))), taps, walk)


def _octets(hidden: int) -> int:
    """Of features; a stage of the kernel holds a whole number of channels."""
    return 1 << max(0, (hidden - 1) // OCTET).bit_length()
