"""Outputs of a point convolution a few at a time: what is stored for pairs then stays small however many points there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pgconv.backends.lists import Lists

FEATURES = 1 << 18
"""Numbers in the features of the pairs taken together, unless one row of outputs has more: about what a core's cache holds."""

ACCELERATOR_PIECES = 64
"""How many times larger pieces are on other devices, where a call costs more than memory traffic."""


@dataclass(frozen=True)
class Piece:
    """Outputs ``rows`` of every example, with what of the operands is theirs."""

    rows: slice
    u: torch.Tensor
    lists: Lists


def pieces(f: torch.Tensor, v: torch.Tensor, u: torch.Tensor, hidden: int, lists: Lists) -> Iterator[Piece]:
    """At least one, in order. All outputs are one piece where the lists' lengths cannot be looked at."""
    nu = u.shape[1]
    step = max(1, nu)
    if lists.readable():
        dense = max(v.shape[0], u.shape[0]) * v.shape[1]
        pairs = dense if lists.dense else -(-lists.pairs() // step)
        limit = FEATURES if f.device.type == "cpu" else ACCELERATOR_PIECES * FEATURES
        step = min(step, max(1, limit // max(1, pairs * hidden)))
    for begin in range(0, max(1, nu), step):
        rows = slice(begin, min(begin + step, nu))
        yield Piece(rows, u if step >= nu else u[:, rows], lists.of(rows, nu))
