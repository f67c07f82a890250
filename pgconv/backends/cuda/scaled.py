"""float32 operands as the 16-bit kernels take them: float16 numbers times a power of two, one for each tensor.

They have the 11 significant bits that TF32 has, in which PyTorch lets convolutions take float32; sums and results are float32. A
power brings a tensor's largest number as far up as sums of float16 in the kernels leave room for: numbers lose bits where they are
more than ``2**(14 + room)`` times smaller than the largest. An infinite number or NaN in a tensor makes all of the result NaN.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Scale(NamedTuple):
    """A tensor is multiplied with ``factor = 2**-exponent``; both are numbers on its device."""

    exponent: Tensor
    factor: Tensor


class Room(NamedTuple):
    """Numbers of signals (and their gradients), features and head stay below two to that."""

    signal: int
    features: int
    head: int


LARGEST = 15
"""Sums stay below two to that; float16 ends just below ``2**16``."""


def room(pairs: int, outputs: int) -> Room:
    """For sums of so many products of signal and features, and of signal and head, that are rounded to float16."""
    left = LARGEST - _bits(pairs)
    features = left // 3
    signal = left - features
    return Room(signal, features, LARGEST - _bits(outputs) - signal)


def scale(x: Tensor, room: int) -> Scale:
    """What brings the largest number just below two to that."""
    largest = torch.linalg.vector_norm(x, math.inf) if x.numel() else x.new_zeros(())
    # NaN for an infinite number, too.
    exponent = torch.add(torch.frexp(largest)[1] - room, largest, alpha=0)
    return Scale(exponent, torch.exp2(-exponent))


def halves(x: Tensor, scale: Scale | None) -> Tensor:
    """The tensor as it is, or scaled in float16."""
    return x if scale is None else torch.mul(x, scale.factor, out=torch.empty_like(x, dtype=torch.float16))


def back(*scales: Scale | None) -> Tensor | None:
    """What a sum of products of scaled tensors has to be multiplied with; None where they are as they were."""
    exponents = [scale.exponent for scale in scales if scale is not None]
    return torch.exp2(sum(exponents)) if exponents else None


def times(x: Tensor, factor: Tensor | None) -> Tensor:
    """The product, or the tensor as it is."""
    return x if factor is None else x * factor


def _bits(count: int) -> int:
    """So many that two to that is no less."""
    return max(0, count - 1).bit_length()
