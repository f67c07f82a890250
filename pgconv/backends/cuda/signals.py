"""Signals as the image kernels read them: samples last, in octets (csrc/cuda/conv_chain.h).

Signals that do not lie so are copied, as many images at a time as ``COPY`` has room for: what a convolution needs beside its
operands and results does not grow with the batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from pgconv._layout import LAST, is_group_last
from pgconv.backends.cpp.library import ops
from pgconv.backends.cuda.layout import OCTET, aligned, whole_octets
from pgconv.backends.cuda.scaled import Scale, halves

COPY = 48 << 20
"""Bytes of a copy, or an image's if that has more. Every copy has launches of its own. How many bytes
are best has not been measured."""


def samples_last(x: Tensor, scale: Scale | None = None) -> Tensor:
    """``[B,C,N,H,W] -> [B,C,H,W,octets of N]``, scaled to float16 where a scale is given."""
    last = x.permute(LAST)
    if is_group_last(x) or not _copied(x, scale):
        return aligned(F.pad(halves(last, scale), (0, -x.shape[2] % OCTET)))
    return ops().group_last(x.contiguous(), None if scale is None else scale.factor)


def together(*signals: tuple[Tensor, Scale | None]) -> Iterator[slice]:
    """Images ``[B,...]`` to take together, one slice after the other of about the same length."""
    images = len(signals[0][0])
    bytes_each = [
        2 * OCTET * whole_octets(x.shape[2]) * x[:1, :, :1].numel() for x, scale in signals if _copied(x, scale)
    ]
    most = min((COPY // max(1, size) for size in bytes_each), default=images)
    count = -(-images // max(1, most))
    for k in range(count):
        yield slice(k * images // count, (k + 1) * images // count)


def _copied(x: Tensor, scale: Scale | None) -> bool:
    """Whether they lie otherwise than the kernels read them."""
    return scale is not None or x.shape[2] % OCTET > 0 or not x.permute(LAST).is_contiguous()
