"""The convolution on points: pgconv against other people's ways, interleaved in one run.

Every implementation is first compared with the float64 reference, with fewer outputs and examples unless --full-gate is given; one
that disagrees is not timed and the exit status is 1. Ratios "x NAME" say how many times faster than that baseline a row is.
GFLOP/s and percent of peak count matrix products only (kernel net with its first layer, sums over pairs, head; not the
activations), as many as the row's own way makes: backward all that are made again as well. The peak is measured in every round.
Times include the allocation of results. MB is the peak memory beyond the operands, results included, in a process of its own; on a
GPU by its allocator's count.

--baselines all,nnconv,pointnet adds layers of PyTorch Geometric where it is installed (message_passing.py).

THP_MEM_ALLOC_ENABLE=1 in the environment backs large tensors with huge pages, for all implementations alike.
"""

from __future__ import annotations

from functools import partial

import torch

import pgconv
from benchmarks import engine
from benchmarks.point_conv.baselines import BASELINES
from benchmarks.point_conv.cases import CASES, Call, Case
from benchmarks.point_conv.message_passing import OPTIONAL
from benchmarks.suite import Suite


def call(
    f: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    params: torch.Tensor,
    weight: torch.Tensor,
    static: Call,
    plan: str,
) -> torch.Tensor:
    """pgconv's operator."""
    lists = static.index, static.rowptr, None
    return pgconv.ops.point_conv(f, v, u, params, weight, None, *lists, str(static.spec), static.depthwise, plan)


TESTS = ("tests/test_native_points.py::test_agrees_with_the_reference",)

SUITE = Suite(
    "point_conv",
    __doc__,
    Case,
    CASES,
    BASELINES,
    call,
    "reference:aggregate",
    "outputs",
    optional=OPTIONAL,
    tests=TESTS,
)

main = partial(engine.main, SUITE)
