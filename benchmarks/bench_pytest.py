"""The usual cases for pytest-benchmark: ``pytest --benchmark-only benchmarks/bench_pytest.py -k residual``.

It stores, compares and draws runs by its own options; the gate, the baselines in turn and memory are in ``python -m benchmarks``.
"""

import pytest
import torch

from benchmarks import gate, implementations, suite, timing
from benchmarks.implementations import Implementation

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")

SUITES = tuple(suite.get(name) for name in ("group_conv2d", "point_conv"))
CASES = [pytest.param(of, case, id=case.name) for of in SUITES for case in of.cases if case.usual]


@pytest.mark.parametrize("direction", timing.DIRECTIONS)
@pytest.mark.parametrize(("of", "case"), CASES)
def test_call(benchmark, of, case, direction):
    (way,) = implementations.select(of, case, "best", "none")
    if not isinstance(way, Implementation):
        pytest.skip(way.reason)
    wrong = gate.Gate(of, case).check(way).wrong
    assert wrong is None, wrong
    operands, cotangent = way.inputs(case)
    call = timing.steps(way.bind(case.static), operands, case.asked, cotangent)[direction]
    benchmark.group = f"{of.name} {case.name}"
    benchmark.extra_info.update(plan=way.plan, threads=torch.get_num_threads(), source=case.source)
    benchmark.extra_info["gflop"] = 1e-9 * implementations.work(way, case.needs, direction)
    benchmark(call)
