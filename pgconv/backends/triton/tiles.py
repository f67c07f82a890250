"""Tiles of the point convolution's kernels: the largest that stay in registers, as compilation for every kind of GPU shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from pgconv.backends.triton.padded_net import padded
from pgconv.backends.triton.tuning import Tuning, within_registers


class Tile(NamedTuple):
    """Inputs and columns (image, channel) that a program takes at a time, the warps that share it, and loads under way."""

    inputs: int
    columns: int
    warps: int
    stages: int


def moments_tile(features: int, columns: int, dtype: torch.dtype) -> Tile:
    """A warp owns 16 features, so that no feature is computed twice."""
    single = dtype == torch.float32
    most = 32 if single and features > 32 else 64
    return Tile(16 if single else 32, min(most, padded(columns)), features // 16, 2)


def gradient_tile(features: int, columns: int, dtype: torch.dtype) -> Tile:
    """Here the sums for the parameters take most registers."""
    if dtype == torch.float32:
        # More columns than these come in blocks, of which none is kept. 64 features spill on compute capability 9.
        wide = columns > 32 or features > 32
        return Tile(16, 16 if wide else padded(columns), 4 if wide else 2, 1)
    columns = min(64, padded(columns))
    if features > 32:
        return Tile(32, columns, 4, 1)
    return Tile(64, columns, 4, 2) if columns > 32 else Tile(32, columns, 2, 2)


def moments_tuning(features: int) -> Tuning:
    """How a search by time goes on from the table, for kernels with so many features."""
    return Tuning(
        ("columns", "inputs", "warps", "stages"), partial(_allowed, lambda t: features * (t.columns + t.inputs))
    )


def gradient_tuning(features: int, coords: int, layers: int) -> Tuning:
    """The same, where sums for the parameters of so many layers stay in registers, too."""
    kept = layers * features * coords + (layers - 1) * features**2
    return Tuning(
        ("columns", "inputs", "warps", "stages"), partial(_allowed, lambda t: kept + layers * features * t.inputs)
    )


def _allowed(numbers: Callable[[Tile], int], t: Tile) -> bool:
    """Whether matrix instructions have such sides, and a block's numbers fit into registers."""
    sides = min(t.inputs, t.columns) >= 16 and min(t.warps, t.stages) >= 1 and t.stages <= 4
    return sides and within_registers(numbers(t), t.warps)
