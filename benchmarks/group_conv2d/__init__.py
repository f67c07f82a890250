"""The image convolution: pgconv's plans against other people's ways, interleaved in one run.

Every implementation is first compared with the float64 reference; one that disagrees is not timed and the exit status is 1. Ratios
"x NAME" say how many times faster than that baseline a row is. GFLOP/s and percent of peak count the arithmetic of the row's own
evaluation order (see benchmarks.implementations.work); the peak is measured
in every round. Times include the allocation of results. MB is the peak memory beyond the operands, results included, in a process
of its own; on a GPU by its allocator's count.

On a GPU (--device cuda) cases have the batch of the published networks. cuDNN tries its algorithms on the first call of every shape
(torch.backends.cudnn.benchmark), which is not timed. "channels-last" is the materialised way in a network that keeps its maps in
that layout: signal and gradient come in it, the kernel is built in it inside the timed call. Likewise maps lie with their samples
last (pgconv.group_last) for pgconv's own kernels. float32 is what PyTorch makes of it by default: convolutions may cut operands to
TF32, matrix products may not; the column gpu says so, and the gate's bound is TF32's.

--baselines all,escnn adds another library's layer of equal shapes where it is installed (see benchmarks/group_conv2d/escnn.py). Its
result is another one, which its rows say; over_best leaves it out.

THP_MEM_ALLOC_ENABLE=1 in the environment backs large tensors with huge pages, for all implementations alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

import pgconv
from benchmarks import engine
from benchmarks.group_conv2d.baselines import BASELINES
from benchmarks.group_conv2d.cases import CASES, Case, Walk, with_bias
from benchmarks.group_conv2d.escnn import OPTIONAL
from benchmarks.suite import Inputs, Suite, as_they_are
from pgconv.functional import _head_bias as head_bias
from pgconv.spec import Plan


def call(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, walk: Walk, plan: str) -> torch.Tensor:
    """pgconv's operator, and the head's bias as its layers add it."""
    phi, weight, bias = with_bias(f, phi, weight, walk, plan)
    out = pgconv.ops.group_conv2d(f, phi, weight, str(walk), plan)
    return out if bias is None else out + head_bias.term(f, bias, None, "sum", None, walk)


def arrange(plan: Plan) -> Callable[[Sequence[torch.Tensor], torch.Tensor], Inputs]:
    """Maps lie with their samples last for our own kernels on a GPU."""

    def samples_last(operands: Sequence[torch.Tensor], cotangent: torch.Tensor) -> Inputs:
        f, *factors = operands
        return [pgconv.group_last(f), *factors], pgconv.group_last(cotangent)

    ours = plan.backend in ("cuda", "triton") and plan.order != "materialize"
    return samples_last if ours else as_they_are


TESTS = ("tests/test_native_conv.py::test_every_order_agrees_with_the_reference",)

SUITE = Suite(
    "group_conv2d", __doc__, Case, CASES, BASELINES, call, "reference:direct", "batch", arrange, OPTIONAL, TESTS
)

main = partial(engine.main, SUITE)
