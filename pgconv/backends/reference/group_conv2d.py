"""Group convolution on images in plain PyTorch, one short function for each evaluation order.

``out[b,o,u,p] = sum_{v,t,c,h} W[o,c,h] phi[u,v,t,h] f[b,c,v, stride p - padding + dilation (t + c)]``

with ``f [B,C,Nv,H,W]``, ``phi [S,Nu,Nv,T,H]`` (S = 1 or B) and ``W [O,C,H]``. Every order is the same exact sum.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from pgconv.backends import vendor_conv
from pgconv.spec import ConvGeometry


def group_conv2d(
    f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry, order: str
) -> torch.Tensor:
    """The sum in the named order; result ``[B,O,Nu,Ho,Wo]``."""
    return ORDERS[order](f, phi, weight, geometry)


def _windows(f: torch.Tensor, geometry: ConvGeometry) -> Iterator[torch.Tensor]:
    """For each tap the input as that tap sees it, ``[..., Ho, Wo]``."""
    height, width = geometry.out_size(*f.shape[-2:])
    (ph, pw), (sh, sw), (dh, dw) = geometry.padding, geometry.stride, geometry.dilation
    padded = F.pad(f, (pw, pw, ph, ph))
    for row, col in geometry.taps():
        top, left = dh * (row + geometry.radius), dw * (col + geometry.radius)
        yield padded[..., top : top + sh * (height - 1) + 1 : sh, left : left + sw * (width - 1) + 1 : sw]


def _direct(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """Kernel values first, tap by tap: the definition."""
    terms = (
        torch.einsum("bouvc,bcvyx->bouyx", torch.einsum("och,buvh->bouvc", weight, phi[:, :, :, t]), window)
        for t, window in enumerate(_windows(f, geometry))
    )
    return _total(terms)


def _aggregate(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """Features and signal first: ``A[c,h] = sum_{v,t} phi f``, then the head."""
    terms = (
        torch.einsum("buvh,bcvyx->buchyx", phi[:, :, :, t], window) for t, window in enumerate(_windows(f, geometry))
    )
    return torch.einsum("och,buchyx->bouyx", weight, _total(terms))


def _mix(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """Head and signal first: ``M[o,h] = sum_c W f``, then the features."""
    mixed = torch.einsum("och,bcvyx->bohvyx", weight, f)
    terms = (
        torch.einsum("buvh,bohvyx->bouyx", phi[:, :, :, t], window)
        for t, window in enumerate(_windows(mixed, geometry))
    )
    return _total(terms)


def _total(terms: Iterator[torch.Tensor]) -> torch.Tensor:
    total = next(terms)
    for term in terms:
        total = total + term
    return total


def _spectral(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """Products of spectra on a cyclic domain that holds the image, padding in front, and the taps."""
    height, width = f.shape[-2:]
    rows, cols = geometry.period(height, width)
    out_height, out_width = geometry.out_size(height, width)
    (ph, pw), (sh, sw), (dh, dw) = geometry.padding, geometry.stride, geometry.dilation
    signal = torch.fft.rfft2(F.pad(f, (pw, cols - pw - width, ph, rows - ph - height)))
    taps = torch.tensor(
        [dh * (i + geometry.radius) % rows * cols + dw * (j + geometry.radius) % cols for i, j in geometry.taps()],
        device=f.device,
    )
    values = torch.einsum("och,buvth->bouvct", weight, phi)
    window = values.new_zeros(*values.shape[:-1], rows * cols).index_add(-1, taps, values)
    kernel = torch.fft.rfft2(window.unflatten(-1, (rows, cols)))
    out = torch.fft.irfft2(torch.einsum("bouvcyx,bcvyx->bouyx", kernel.conj(), signal), (rows, cols))
    y, x = ((torch.arange(n, device=f.device) * s) % p for n, s, p in ((out_height, sh, rows), (out_width, sw, cols)))
    return out[..., y[:, None], x]


ORDERS = {
    "direct": _direct,
    "aggregate": _aggregate,
    "mix": _mix,
    "spectral": _spectral,
    "materialize": vendor_conv.forward,
}
