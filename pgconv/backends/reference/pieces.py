"""Outputs of a point convolution a few at a time: what is stored for pairs then stays small however many points there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pgconv._shapes import values_can_be_read

FEATURES = 1 << 21
"""Numbers in the features of the pairs taken together, unless one row of outputs has more."""


@dataclass(frozen=True)
class Piece:
    """Outputs ``rows`` of every example, with what of the operands is theirs."""

    rows: slice
    u: torch.Tensor
    index: torch.Tensor | None
    rowptr: torch.Tensor | None


def pieces(
    f: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    hidden: int,
    index: torch.Tensor | None,
    rowptr: torch.Tensor | None,
) -> Iterator[Piece]:
    """At least one, in order. All outputs are one piece where the lists' lengths cannot be looked at."""
    nu = u.shape[1]
    step = max(1, nu)
    if rowptr is None or values_can_be_read(rowptr):
        if index is None:
            pairs = max(v.shape[0], u.shape[0]) * v.shape[1]
        elif rowptr is None:
            pairs = f.shape[0] * index.shape[2]
        else:
            pairs = -(-index.shape[0] // step)
        step = min(step, max(1, FEATURES // max(1, pairs * hidden)))
    for first in range(0, max(1, nu), step):
        rows = slice(first, min(first + step, nu))
        if step >= nu:
            yield Piece(rows, u, index, rowptr)
        elif rowptr is None:
            yield Piece(rows, u[:, rows], None if index is None else index[:, rows], None)
        else:
            yield Piece(rows, u[:, rows], *_part_of_lists(index, rowptr, nu, rows))


def _part_of_lists(
    index: torch.Tensor, rowptr: torch.Tensor, nu: int, rows: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """Index and rowptr of some rows of every example."""
    starts, ends = rowptr[:-1].view(-1, nu), rowptr[1:].view(-1, nu)
    counts = (ends - starts)[:, rows].flatten()
    bounds = zip(starts[:, rows.start].tolist(), ends[:, rows.stop - 1].tolist())
    part = torch.cat([index[first:last] for first, last in bounds])
    return part, torch.cat([counts.new_zeros(1), counts.cumsum(0)])
