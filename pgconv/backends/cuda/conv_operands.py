"""Operands of the image convolution as its kernels read them, beside the signal (csrc/cuda/conv_chain.h): taps and walk over the
pixels as numbers, features and head in octets. The chain's kernel with all of them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from pgconv._layout import LAST, is_group_last
from pgconv.backends.cpp.library import ops
from pgconv.backends.cuda.layout import OCTET, aligned, feature_octets, whole_octets
from pgconv.spec import ConvGeometry


class Walk(NamedTuple):
    """How taps walk over the pixels."""

    taps: tuple[int, ...]
    """Rows and columns in turn, counted from the window's first pixel."""
    geometry: tuple[int, ...]
    """Stride, padding and size of the result, a pair each."""

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, geometry: ConvGeometry, size: tuple[int, int]) -> Walk:
        """With results of that size."""
        r, (dy, dx) = geometry.radius, geometry.dilation
        taps = tuple(x for row, col in geometry.taps() for x in (dy * (row + r), dx * (col + r)))
        return cls(taps, (*geometry.stride, *geometry.padding, *size))


class Chain(NamedTuple):
    """A convolution by the chain's kernel, all but its signal: features and head as they are packed here."""

    features: Tensor
    head: Tensor
    walk: Walk
    factor: Tensor | None
    """What results in float32 are multiplied with; None where they have the signal's type."""

    def write(self, out: Tensor, images: slice, window: Tensor) -> None:
        """The results ``[images,O,Nu,Ho,Wo]`` of some images, whose signal has its samples last."""
        last = is_group_last(out)
        features = sets_of(self.features, images)
        call = features, self.head, *self.walk, last, self.factor
        ops().conv_chain(out.permute(LAST) if last else out, window, *call)


def sets_of(features: Tensor, images: slice) -> Tensor:
    """Those of some images: their own, or the one set that all share."""
    return features if len(features) == 1 else features[images]


def packed_head(weight: Tensor) -> Tensor:
    """``[O,C,H] -> [O,C,octets of H]``."""
    return aligned(F.pad(weight, (0, OCTET * feature_octets(weight.shape[2]) - weight.shape[2])))


def packed_features(phi: Tensor) -> Tensor:
    """``[S,Nu,Nv,T,H] -> [S,Nu,octets of H,granules,8 of H,8 of Nv]``, an even number of granules (tap, octet of Nv)."""
    sets, nu, nv, count, hidden = phi.shape
    vectors, octets = whole_octets(nv), feature_octets(hidden)
    phi = F.pad(phi, (0, OCTET * octets - hidden, 0, 0, 0, OCTET * vectors - nv))
    phi = phi.view(sets, nu, vectors, OCTET, count, octets, OCTET).permute(0, 1, 5, 4, 2, 6, 3)
    phi = phi.reshape(sets, nu, octets, count * vectors, OCTET, OCTET)
    return aligned(F.pad(phi, (0, 0, 0, 0, 0, count * vectors % 2)))


def unpacked_features(x: Tensor, like: Tensor) -> Tensor:
    """Back from the granules that there are to ``[S,Nu,Nv,T,H]``."""
    sets, nu, nv, count, hidden = like.shape
    vectors, octets = whole_octets(nv), feature_octets(hidden)
    x = x.view(sets, nu, octets, count, vectors, OCTET, OCTET).permute(0, 1, 4, 6, 3, 2, 5)
    x = x.reshape(sets, nu, OCTET * vectors, count, OCTET * octets)
    return x[:, :, :nv, :, :hidden].to(like.dtype).contiguous()
