"""How the CUDA kernels want their 16-bit operands: octets of numbers, at addresses they can be read from in one piece."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OCTET = 8
"""Numbers that are read at once,"""
ALIGNMENT = 16
"""from addresses that are multiples of so many bytes."""
LARGEST_EXPONENT = 14
"""float16 ends at 2^16."""
LEAST_EXPONENT = -100
"""Of powers of two that numbers are divided by: their inverses are float32."""


def whole_octets(n: int) -> int:
    """The number of octets that hold n numbers."""
    return -(-n // OCTET)


def feature_octets(n: int) -> int:
    """The octets that n features take in image convolutions: a power of two, so that stages hold a whole number of channels."""
    return 1 << max(0, whole_octets(n) - 1).bit_length()


def aligned(x: Tensor) -> Tensor:
    """Contiguous, and copied only if it has to be: a view may begin anywhere."""
    x = x.contiguous()
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()


def whole_granules(f: Tensor) -> Tensor:
    """Columns padded to octets, at addresses the kernels can read them from."""
    return aligned(F.pad(f, (0, -f.shape[-1] % OCTET)))


def float16_parts(f: Tensor) -> tuple[Tensor, Tensor]:
    """Two float16 parts ``[2,B,N,C]`` of every column times a power of two that makes the best of their range, and what the moments
    have to be multiplied with, ``[B,1,1,C]``: parts lose less than 2^-22 of a number, or of 2^-17 times its column's largest."""
    largest = f.abs().amax(1, keepdim=True) if f.shape[1] else f.new_zeros(f.shape[0], 1, f.shape[2])
    exponent = exponent_below(largest)
    # Of a column of zeros nothing counts, least of all the size of what it is multiplied with.
    return halves(torch.ldexp(f, -exponent)), torch.ldexp((largest != 0).to(f), exponent)[:, None]


def exponent_below(largest: Tensor) -> Tensor:
    """Of the power of two by which numbers up to ``largest`` are divided to be just below ``2**LARGEST_EXPONENT``."""
    return torch.frexp(largest)[1].clamp(min=LEAST_EXPONENT) - LARGEST_EXPONENT


def halves(x: Tensor) -> Tensor:
    """Two float16 parts ``[2,...]``."""
    high = x.half()
    return torch.stack([high, (x - high).half()])
