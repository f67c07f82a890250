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
    """Kernel values first, and their products with the signal as products of spectra."""
    signal = _signal_spectrum(f, geometry)
    kernel = _tap_spectrum(torch.einsum("och,buvth->bouvct", weight, phi), geometry, f.shape)
    return _from_spectrum(torch.einsum("bouvcyx,bcvyx->bouyx", kernel, signal), geometry, f.shape)


def _spectral_aggregate(
    f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry
) -> torch.Tensor:
    """Features and signal first, as products of spectra, then the head."""
    features = _tap_spectrum(phi.transpose(3, 4), geometry, f.shape)
    moments = torch.einsum("buvhyx,bcvyx->buchyx", features, _signal_spectrum(f, geometry))
    out = torch.einsum("och,buchyx->bouyx", weight.to(moments.dtype), moments)
    return _from_spectrum(out, geometry, f.shape)


def _signal_spectrum(f: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """Of the image on a cyclic domain, padding in front."""
    height, width = f.shape[-2:]
    rows, cols = geometry.period(height, width)
    ph, pw = geometry.padding
    return torch.fft.rfft2(F.pad(f, (pw, cols - pw - width, ph, rows - ph - height)))


def _tap_spectrum(values: torch.Tensor, geometry: ConvGeometry, shape: torch.Size) -> torch.Tensor:
    """Of values at the taps ``[..., T]``, conjugated: taps move the signal forward."""
    rows, cols = geometry.period(*shape[-2:])
    (dh, dw), r = geometry.dilation, geometry.radius
    places = [dh * (i + r) % rows * cols + dw * (j + r) % cols for i, j in geometry.taps()]
    window = values.new_zeros(*values.shape[:-1], rows * cols)
    window = window.index_add(-1, torch.tensor(places, device=values.device), values)
    return torch.fft.rfft2(window.unflatten(-1, (rows, cols))).conj()


def _from_spectrum(out: torch.Tensor, geometry: ConvGeometry, shape: torch.Size) -> torch.Tensor:
    """Every stride-th pixel."""
    period, size = geometry.period(*shape[-2:]), geometry.out_size(*shape[-2:])
    y, x = (torch.arange(n, device=out.device) * s % p for n, s, p in zip(size, geometry.stride, period))
    return torch.fft.irfft2(out, period)[..., y[:, None], x]


ORDERS = {
    "direct": _direct,
    "aggregate": _aggregate,
    "mix": _mix,
    "spectral": _spectral,
    "spectral-aggregate": _spectral_aggregate,
    "materialize": vendor_conv.forward,
}
