"""Neighbours of every output: all within a radius, the nearest, or some within a radius drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor

from pgconv._shapes import check_positive_int
from pgconv.groups import Group
from pgconv.groups.base import uniforms
from pgconv.neighbors._arguments import Sets, check_generator, check_number, check_sets, rounded
from pgconv.neighbors._pairs import near_pairs


def within(
    v: Tensor,
    u: Tensor,
    group: str | Group,
    radius: float,
    *,
    stabilizer_weight: float = 1.0,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """All inputs within a radius: row i of example b lists the j with ``d(v_bj, u_bi) <= radius``, j rising.

    ``d(v, u) = |t| + stabilizer_weight |log h|`` with ``(t, h) = v^-1 u``, in float64, compared in 32 significant bits.

    Args:
        v: inputs ``[S|1, Nv, e]``, float32 or float64
        u: outputs ``[S|1, Nu, e]``
        group: name or ``Group``
        radius: at least 0
        stabilizer_weight: how much the stabiliser's part counts; orbit coordinates count as lengths do
        mask: boolean ``[S|1, Nv]``, False for inputs that are nobody's neighbour; the same holds for elements with a NaN

    Returns:
        CSR ``(rowptr [S Nu + 1], index [nnz])``, one row per example and output (S = 1: shared by all examples)

    Raises:
        ValueError: for a wrong shape, dtype, device or number, and values that are not group elements or whose distances overflow

    Memory is that of the result and a bounded part. On the CPU, with SciPy (``pip install pgconv[neighbors]``), time is near
    linear for built-in groups without a scale beside a translation; elsewhere all pairs are looked at, some at a time. No
    gradient flows through a search.

    Source: Finzi et al., "Generalizing Convolutional Neural Networks for Equivariance to Lie Groups" (2020).

    Example:
        >>> import torch, pgconv
        >>> x = torch.tensor([[[0.0], [1.0], [3.0]]])
        >>> pgconv.neighbors.within(x, x, "T(1)", 1.0)
        (tensor([0, 2, 4, 5]), tensor([0, 1, 0, 1, 2]))
    """
    op = "within"
    radius = _radius(op, radius)
    sets = check_sets(op, v, u, group, stabilizer_weight, mask)
    lengths = sets.u.new_zeros(sets.examples * sets.u.shape[1], dtype=torch.long)
    columns = [lengths[:0]]
    for row, col, _ in near_pairs(sets, radius=radius):
        lengths.index_add_(0, row, torch.ones_like(row))
        columns.append(col)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), torch.cat(columns)


def nearest(
    v: Tensor,
    u: Tensor,
    group: str | Group,
    count: int,
    *,
    stabilizer_weight: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """The ``count`` inputs with the smallest ``d(v_bj, u_bi)``, nearest first, of equal ones that with the smaller number first.

    Args:
        count: at least 1
        v, u, group, stabilizer_weight, mask: as for `within`

    Returns:
        ``[S, Nu, count]``, padded with -1 where fewer inputs exist

    Raises:
        ValueError: as `within`

    Time and memory are those of `within`. Source: Finzi et al. (2020).

    Example:
        >>> import torch, pgconv
        >>> x = torch.tensor([[[0.0], [1.0], [3.0]]])
        >>> pgconv.neighbors.nearest(x, x, "T(1)", 2)
        tensor([[[0, 1],
                 [1, 0],
                 [2, 1]]])
    """
    op = "nearest"
    count = check_positive_int(op, "count", count)
    sets = check_sets(op, v, u, group, stabilizer_weight, mask)
    out = _Padded(sets, count)
    for row, col, distance in near_pairs(sets, count=count):
        first = _first_of_rows(row, distance, count)
        out.fill(row[first], col[first])
    return out.index


def ball(
    v: Tensor,
    u: Tensor,
    group: str | Group,
    radius: float,
    count: int,
    *,
    generator: torch.Generator | None = None,
    stabilizer_weight: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """At most ``count`` of the inputs with ``d(v_bj, u_bi) <= radius``, drawn uniformly without replacement, j rising.

    Args:
        radius: at least 0
        count: at least 1
        generator: of the random numbers; one seed gives one result
        v, u, group, stabilizer_weight, mask: as for `within`

    Returns:
        ``[S, Nu, count]``, all of the ball and then -1 where it holds fewer

    Raises:
        ValueError: as `within`

    Time and memory are those of `within`. Source: Finzi et al. (2020), section 4.4 (sampling of neighbours).

    Example:
        >>> import torch, pgconv
        >>> x = torch.tensor([[[0.0], [1.0], [3.0]]])
        >>> pgconv.neighbors.ball(x, x, "T(1)", 1.5, 2)
        tensor([[[ 0,  1],
                 [ 0,  1],
                 [ 2, -1]]])
    """
    op = "ball"
    radius, count = _radius(op, radius), check_positive_int(op, "count", count)
    check_generator(op, generator)
    sets = check_sets(op, v, u, group, stabilizer_weight, mask)
    out = _Padded(sets, count)
    for row, col, _ in near_pairs(sets, radius=radius):
        # One number per pair in the order of the pairs: the draw does not depend on how they were found.
        chance = uniforms(len(row), 1, generator)[:, 0].to(row.device)
        drawn = _first_of_rows(row, chance, count).sort().values
        out.fill(row[drawn], col[drawn])
    return out.index


class _Padded:
    """Lists of at most ``count`` numbers, filled by whole rows."""

    def __init__(self, sets: Sets, count: int) -> None:
        shape = (sets.examples, sets.u.shape[1], count)
        self.index = torch.full(shape, -1, dtype=torch.long, device=sets.u.device)

    def fill(self, row: Tensor, col: Tensor) -> None:
        """Entries of rising rows, in the order they shall have."""
        self.index.view(-1, self.index.shape[-1])[row, _place_in_row(row)] = col


def _first_of_rows(row: Tensor, key: Tensor, count: int) -> Tensor:
    """Positions of the ``count`` smallest keys of every row, by row and then key; of equal keys the earlier first."""
    order = key.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]
    return order[_place_in_row(row) < count]


def _place_in_row(row: Tensor) -> Tensor:
    """How many entries of rising ``row`` with the same row come before, ``[P]``."""
    return torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)


def _radius(op: str, radius: object) -> float:
    return float(rounded(torch.tensor(check_number(op, "radius", radius), dtype=torch.float64)))
