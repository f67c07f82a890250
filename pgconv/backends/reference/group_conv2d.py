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
    return _ORDERS[order](f, phi, weight, geometry)


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


_ORDERS = {"direct": _direct, "aggregate": _aggregate, "mix": _mix, "materialize": vendor_conv.forward}
