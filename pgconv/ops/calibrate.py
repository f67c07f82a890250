"""``calibrate``: measure once what this machine reaches, for the planner."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from pgconv import backends
from pgconv._env import rates_file
from pgconv.backends.cpp import library
from pgconv.ops import dispatch, rates
from pgconv.ops.group_conv2d import group_conv2d
from pgconv.ops.plan import DIRECTIONS, costs
from pgconv.spec import ConvGeometry, Facts, Plan

# Large enough for an order's steady rate, small enough for a few seconds in all.
_SIZES = {"B": 4, "C": 64, "O": 64, "N": 8, "H": 16, "pixels": 24, "k": 5}
_ROUNDS = 3


def calibrate(path: str | Path | None = None) -> rates.Rates:
    """Measure the rates of every native evaluation order on this machine and keep them; takes a few seconds.

    Each order of ``group_conv2d`` runs a layer of 64 channels and 8 samples forward and backward. What it reaches, as a
    fraction of the measured multiply-add peak, replaces the shipped value in the planner's estimates, from now on and, as
    it is kept in a file, in later processes with the same processor and number of threads.

    Args:
        path: file to keep the rates in; ``PGCONV_RATES`` or the user's cache folder by default

    Returns:
        the measured rates

    Raises:
        RuntimeError: where the native library is missing

    Example:
        >>> import pgconv
        >>> rates = pgconv.calibrate("rates.json")  # doctest: +SKIP
        >>> print(pgconv.explain(module, x))  # doctest: +SKIP
    """
    target = Path(path) if path is not None else rates_file()
    peak = library.ops().fma_rate(200, False)
    plans = [Plan("cpp", order) for order in backends.load("cpp").orders("group_conv2d")]
    facts, calls = _calls(plans)
    bandwidth = _bandwidth()
    table = {}
    for plan in plans:
        seconds = [min(_seconds(call) for _ in range(_ROUNDS)) for call in calls[plan]]
        both = [costs(facts, direction)[plan.order] for direction in DIRECTIONS]
        table[str(plan)] = tuple(
            min(1.0, (cost.flops + cost.wasted) / max(time_ - cost.bytes / bandwidth, 1e-9) / peak)
            for cost, time_ in zip(both, seconds)
        )
    found = rates.Rates("measured", peak, bandwidth, table)
    if target is not None:
        rates.store(found, target)
    dispatch.resolve.cache_clear()
    return found


def _calls(plans: list[Plan]) -> tuple[Facts, dict[Plan, tuple[Callable[[], object], Callable[[], object]]]]:
    from pgconv.ops._define import FAMILIES

    s = _SIZES
    geometry = ConvGeometry.make("calibrate", s["k"], 1, "same", 1, "disc")
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    operands = (
        normal(s["B"], s["C"], s["N"], s["pixels"], s["pixels"]),
        normal(1, s["N"], s["N"], len(geometry.taps()), s["H"]),
        normal(s["O"], s["C"], s["H"]),
    )
    family = FAMILIES["group_conv2d"]
    grad = torch.ones_like(group_conv2d(*operands, str(geometry), ""))

    def pair(plan: Plan) -> tuple[Callable[[], object], Callable[[], object]]:
        return (
            lambda: family.forward_op(*operands, str(geometry), str(plan)),
            lambda: family.backward_op(grad, *operands, str(geometry), str(plan), [True] * 3),
        )

    return family.facts(*operands, geometry), {plan: pair(plan) for plan in plans}


def _bandwidth() -> float:
    """Bytes/s of a copy too large for the caches."""
    source = torch.ones(1 << 24)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(_seconds(lambda: target.copy_(source)) for _ in range(_ROUNDS + 1))


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
