"""Pairs of outputs and inputs that are near each other, some rows at a time: from all pairs, or from a tree."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

from pgconv.neighbors._arguments import HUGE, Sets
from pgconv.neighbors._embedding import embedding

# Pairs whose distances are held at a time: 2 MB for each number of an element.
CHUNK = 1 << 18
# Fewer inputs than this are not worth a tree.
TREE_FROM = 512
# The embedding bounds distances within 0.4 %, and rounding moves them by about 1e-9 of what the coordinates are.
SLACK, ROUNDING = 1.01, 1e-9


class Pairs(NamedTuple):
    """Outputs ``row`` (counted through all examples), inputs ``col`` and their distances ``[P]``, rows and then inputs rising."""

    row: Tensor
    col: Tensor
    distance: Tensor


def near_pairs(sets: Sets, *, radius: float | None = None, count: int | None = None) -> Iterator[Pairs]:
    """Pairs within the radius; or of every row at least the ``count`` nearest and all that are as far as the last of them.

    Every row is whole in the piece it is in.
    """
    for block in _tree_blocks(sets, count or 1) or _dense_blocks(sets):
        yield from block.within(block.reach(count) if count is not None else radius)


class _Dense:
    """All pairs of some rows."""

    def __init__(self, sets: Sets, rows: Tensor) -> None:
        nu = sets.u.shape[1]
        v, there = (_of_example(x, rows // nu) for x in (sets.v, sets.there))
        u = sets.u[rows // nu % sets.u.shape[0], rows % nu]
        self.rows = rows
        self.distance = sets.metric.distance(v, u[:, None]).masked_fill(~there, torch.inf)

    def reach(self, count: int) -> Tensor:
        last = self.distance.topk(min(count, self.distance.shape[1]), largest=False).values[:, -1:]
        return last.clamp(max=torch.finfo(last.dtype).max)

    def within(self, reach: Tensor | float) -> Iterator[Pairs]:
        near = self.distance <= reach
        row, col = near.nonzero().unbind(1)
        yield Pairs(self.rows[row], col, self.distance[near])


class _Tree:
    """Pairs of some rows of one example, from a tree of the inputs that are there."""

    def __init__(self, sets: Sets, tree: Any, example: int, rows: Tensor) -> None:
        self.metric, self.tree, self.rows = sets.metric, tree, rows
        self.v, self.u, there = (_of_example(x, torch.tensor([example]))[0] for x in (sets.v, sets.u, sets.there))
        self.u, self.numbers = self.u[rows % self.u.shape[0]], there.nonzero()[:, 0]
        points = embedding(self.metric, self.u)
        self.points = points.nan_to_num(0.0).numpy()
        self.rounding = ROUNDING * (1.0 + float(points.nan_to_num(0.0).abs().max()))

    def reach(self, count: int) -> Tensor:
        """Distance of the count-th of some inputs that are likely near, so at least that of the count-th of all."""
        n = len(self.numbers)
        if n <= count:
            return torch.full((len(self.rows),), torch.inf, dtype=torch.float64)
        _, near = self.tree.query(self.points, k=range(1, min(2 * count, n) + 1), workers=torch.get_num_threads())
        near = self.v[self.numbers[torch.from_numpy(near)]]
        return self.metric.distance(near, self.u[:, None]).kthvalue(count).values

    def within(self, reach: Tensor | float) -> Iterator[Pairs]:
        reach = torch.as_tensor(reach, dtype=torch.float64).expand(len(self.rows))
        radius = (SLACK * reach + self.rounding).numpy()
        options = {"workers": torch.get_num_threads()}
        sizes = self.tree.query_ball_point(self.points, radius, return_length=True, **options)
        for some in _pieces(torch.from_numpy(sizes)):
            lists = self.tree.query_ball_point(self.points[some], radius[some], return_sorted=True, **options)
            size = int(sizes[some].sum())
            local = torch.from_numpy(numpy.fromiter(chain.from_iterable(lists), numpy.int64, size))
            row = torch.arange(some.start, some.stop).repeat_interleave(torch.from_numpy(sizes[some]), output_size=size)
            col = self.numbers[local]
            distance = self.metric.distance(self.v[col], self.u[row])
            near = (distance <= reach[row]) & distance.isfinite()
            yield Pairs(self.rows[row[near]], col[near], distance[near])


def _dense_blocks(sets: Sets) -> Iterator[_Dense]:
    total = sets.examples * sets.u.shape[1]
    for rows in torch.arange(total, device=sets.u.device).split(max(1, CHUNK // sets.v.shape[1])):
        if len(rows):
            yield _Dense(sets, rows)


def _tree_blocks(sets: Sets, count: int) -> Iterator[_Tree] | None:
    """None where no tree can be used, or it does not pay."""
    kd_tree = _kd_tree()
    if kd_tree is None or sets.v.device.type != "cpu" or sets.v.shape[1] < TREE_FROM:
        return None
    points = embedding(sets.metric, sets.v)
    if points is None or points.shape[-1] == 0 or sets.metric.stabilizer_weight > HUGE:
        return None
    return _blocks_of_trees(sets, points, kd_tree, count)


def _blocks_of_trees(sets: Sets, points: Tensor, kd_tree: Any, count: int) -> Iterator[_Tree]:
    nu, tree = sets.u.shape[1], None
    for example in range(sets.examples):
        if tree is None or points.shape[0] > 1 or sets.there.shape[0] > 1:
            own, there = (_of_example(x, torch.tensor([example]))[0] for x in (points, sets.there))
            tree = kd_tree(own[there].numpy())
        for rows in torch.arange(example * nu, (example + 1) * nu).split(max(1, CHUNK // max(16, 2 * count))):
            yield _Tree(sets, tree, example, rows)


def _of_example(x: Tensor, examples: Tensor) -> Tensor:
    """Rows of these examples, or the one row that all of them share."""
    return x if x.shape[0] == 1 else x[examples]


def _pieces(sizes: Tensor) -> Iterator[slice]:
    """Consecutive rows with at most CHUNK pairs, but at least one row."""
    ends, start = sizes.cumsum(0), 0
    while start < len(sizes):
        before = ends[start - 1] if start else ends.new_zeros(())
        stop = max(start + 1, int(torch.searchsorted(ends, before + CHUNK, right=True)))
        yield slice(start, stop)
        start = stop


def _kd_tree() -> Any:
    """SciPy's tree, or None where SciPy is not installed."""
    try:
        from scipy.spatial import cKDTree
    except ImportError:
        return None
    return cKDTree
