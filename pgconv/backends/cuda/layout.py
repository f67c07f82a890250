"""How the CUDA kernels want their 16-bit operands: octets of numbers, at addresses they can be read from in one piece."""

from __future__ import annotations

from torch import Tensor

OCTET = 8
"""Numbers that are read at once,"""
ALIGNMENT = 16
"""from addresses that are multiples of so many bytes."""


def whole_octets(n: int) -> int:
    """The number of octets that hold n numbers."""
    return -(-n // OCTET)


def aligned(x: Tensor) -> Tensor:
    """Contiguous, and copied only if it has to be: a view may begin anywhere."""
    x = x.contiguous()
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()
