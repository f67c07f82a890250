"""The image convolution: pgconv's plans against other people's ways, interleaved in one run.

Every implementation is first compared with the float64 reference; one that disagrees is not timed and the exit status is 1. Ratios
"x NAME" say how many times faster than that baseline a row is. GFLOP/s and percent of peak count the arithmetic of the row's own
evaluation order (see benchmarks.implementations.work); the peak is measured
in every round. Times include the allocation of results. MB is the peak memory beyond the operands, in a process of its own.

THP_MEM_ALLOC_ENABLE=1 in the environment backs large tensors with huge pages, for all implementations alike.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import implementations, machine, memory, options, report, timing
from benchmarks.cases import CASES, OPERANDS, Case
from benchmarks.gate import Gate, Verdict
from benchmarks.implementations import Implementation, Skipped
from benchmarks.report import Row


@dataclass(frozen=True)
class Settings:
    """How a case is measured."""

    rounds: int = 9
    plans: str = "best"
    baselines: str = "all"
    directions: tuple[str, ...] = timing.DIRECTIONS
    memory: bool = True
    full_gate: bool = False


@dataclass(frozen=True)
class Outcome:
    """Rows of a case, and what failed the gate."""

    rows: tuple[Row, ...]
    failures: tuple[str, ...]


def measure(
    case: Case,
    threads: int,
    settings: Settings,
    *,
    deadline: float = float("inf"),
    tick: Callable[[], None] = lambda: None,
) -> Outcome:
    """Gate, memory and times of one case.

    Args:
        case: what to measure
        threads: how many threads
        settings: how
        deadline: value of ``time.perf_counter()`` after which no round begins
        tick: called after every round
    """
    with machine.threads(threads):
        # Two requests may come to the same plan.
        unique = {
            (x.name, x.plan): x for x in implementations.select(case, settings.plans, settings.baselines)
        }.values()
        if any(isinstance(x, Implementation) and x.compiled for x in unique):
            # Compiled code is kept by function and given up after a few shapes.
            torch.compiler.reset()
        common = _common(case, threads)
        rows = [
            report.row(**common, implementation=x.name, plan=x.plan, note=f"not run: {x.reason}")
            for x in unique
            if isinstance(x, Skipped)
        ]
        gate = Gate(case, settings.full_gate)
        sound, failures, verdicts = [], [], {}
        for x in unique:
            if isinstance(x, Implementation):
                verdicts[x.key] = gate.check(x)
                wrong = verdicts[x.key].wrong
                if wrong is None:
                    sound.append(x)
                else:
                    failures.append(f"{case.name}: {x.label}: {wrong}")
                    note = f"not timed, it disagrees with the reference: {wrong}"
                    rows.append(report.row(**common, implementation=x.name, plan=x.plan, note=note))
        del gate
        peaks = {x.key: memory.peak_extra(case, x, threads) for x in sound} if settings.memory else {}
        for direction in settings.directions:
            timed, broken = _time(case, direction, sound, settings.rounds, deadline, tick)
            failures += [f"{case.name}: {label}: {error}" for label, error in broken.items()]
            new = [
                _row(common, case, direction, x, timed, peaks.get(x.key, {}), verdicts[x.key])
                for x in sound
                if x.label not in broken
            ]
            report.add_ratios(new)
            rows += new
    return Outcome(tuple(rows), tuple(failures))


def _time(
    case: Case,
    direction: str,
    chosen: Sequence[Implementation],
    rounds: int,
    deadline: float,
    tick: Callable[[], None],
) -> tuple[timing.Times[tuple[str, str]], dict[str, str]]:
    """Times of one direction, and the errors of what could not run at full size."""
    operands, cotangent, geometry = case.operands(), case.cotangent(), case.geometry
    needs = [name in case.needs for name in OPERANDS]
    prepared, broken = {}, {}
    for x in chosen:
        # The default binds this implementation and not the last one.
        calls = timing.steps(lambda *t, function=x.function: function(*t, geometry), operands, needs, cotangent)
        try:
            prepared[x.key] = timing.prepare(calls[direction])
        except RuntimeError as error:
            broken[x.label] = f"{direction} raised {type(error).__name__}: {str(error).splitlines()[0]}"
    return timing.interleave(prepared, rounds, lambda: machine.peak(case.torch_dtype), deadline, tick), broken


def _common(case: Case, threads: int) -> Row:
    return {
        "case": case.name,
        "source": case.source,
        "published": "yes" if case.published else "no",
        "dtype": case.dtype,
        "needs": "+".join(case.needs),
        "threads": threads,
        "peak_probe": machine.peak_probe(case.torch_dtype),
        **machine.describe(),
    }


def _row(
    common: Row,
    case: Case,
    direction: str,
    implementation: Implementation,
    times: timing.Times[tuple[str, str]],
    peaks: dict[str, float],
    verdict: Verdict,
) -> Row:
    low, middle, high = times.quantiles(implementation.key)
    flops = implementations.work(implementation, case.needs, direction)
    return report.row(
        **common,
        direction=direction,
        implementation=implementation.name,
        plan=implementation.plan,
        rounds=len(times.peaks),
        median_ms=1e3 * middle,
        q20_ms=1e3 * low,
        q80_ms=1e3 * high,
        gflop=1e-9 * flops,
        gflop_per_s=1e-9 * flops / middle,
        percent_of_peak=100 * flops / middle / times.peak,
        peak_median_gflop_per_s=1e-9 * times.peak,
        peak_min_gflop_per_s=1e-9 * min(times.peaks),
        extra_mb=1e-6 * peaks[direction] if direction in peaks else None,
        checked_batch=verdict.batch,
        error=verdict.value if direction == "forward" else verdict.gradient,
    )


def run(
    cases: Sequence[Case],
    threads: Iterable[int],
    settings: Settings,
    *,
    time_limit: float | None = None,
    emit: Callable[[Sequence[Row]], None] = lambda rows: None,
) -> Outcome:
    """Measure all cases on all thread counts, with a progress bar on the standard error.

    Args:
        cases: what to measure
        threads: thread counts, each measured in turn for a case
        settings: how
        time_limit: seconds for all of it. Cases share it by their arithmetic; one that gets none is left out
        emit: called with the rows of every case as soon as they are there
    """
    jobs = [(case, count) for case in cases for count in threads]
    weights = [_weight(case, count) for case, count in jobs]
    begin = time.perf_counter()
    rows: list[Row] = []
    failures: list[str] = []
    # The bar's watching thread would wake up inside a measurement.
    tqdm.monitor_interval = 0
    with tqdm(total=sum(weights), bar_format=_BAR, file=sys.stderr, dynamic_ncols=True) as bar:
        for i, ((case, count), weight) in enumerate(zip(jobs, weights)):
            bar.set_description_str(f"{i + 1}/{len(jobs)} {case.name}")
            deadline = float("inf")
            if time_limit is not None:
                now = time.perf_counter()
                left = begin + time_limit - now
                deadline = now + left * weight / sum(weights[i:])
            if deadline <= time.perf_counter():
                outcome = Outcome((report.row(**_common(case, count), note="not run: the time limit is used up"),), ())
            else:
                step = weight / (settings.rounds * len(settings.directions))
                done = bar.n
                outcome = measure(case, count, settings, deadline=deadline, tick=lambda step=step: bar.update(step))
                bar.update(max(0.0, done + weight - bar.n))
            rows += outcome.rows
            failures += outcome.failures
            with tqdm.external_write_mode(file=sys.stdout):
                emit(outcome.rows)
    return Outcome(tuple(rows), tuple(failures))


_BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left"


def _weight(case: Case, threads: int) -> float:
    """Share of a case in the whole run: the dense convolution's time, which dominates, plus what every case costs."""
    pixels = case.batch * case.height * case.width
    flops = 2.0 * pixels * case.inputs * case.outputs * case.nv * case.nu * case.kernel**2
    return 1e10 + flops / threads


def _parser() -> argparse.ArgumentParser:
    parser = options.parser("group_conv2d", __doc__)
    parser.add_argument("--plans", default="best", help='"best", "all", or plans such as cpp:aggregate,cpp:direct')
    parser.add_argument("--baselines", default="all", help='"all", "none", or names separated by commas')
    parser.add_argument("--direction", choices=timing.DIRECTIONS, help="only this one")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="for the whole run, shared by the cases")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory (a process for each row)")
    parser.add_argument("--full-gate", action="store_true", help="compare with the reference on the full batch")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="bars of the ratio over the materialised way")
    parser.add_argument("--from-csv", type=Path, metavar="FILE", help="show and plot an earlier run instead of running")
    return parser


def _run_and_show(cases: Sequence[Case], chosen: argparse.Namespace) -> Outcome:
    """Print and store the rows of each case as it ends."""
    settings = Settings(
        rounds=chosen.rounds,
        plans=chosen.plans,
        baselines=chosen.baselines,
        directions=(chosen.direction,) if chosen.direction else timing.DIRECTIONS,
        memory=not chosen.no_memory,
        full_gate=chosen.full_gate,
    )
    print("\n".join(f"{name}: {value}" for name, value in machine.describe().items()), end="\n\n")
    with ExitStack() as stack:
        writer = stack.enter_context(report.CsvWriter(chosen.csv)) if chosen.csv else None

        def emit(rows: Sequence[Row]) -> None:
            print(report.text(rows), end="\n\n", flush=True)
            if writer:
                writer.write(rows)

        return run(cases, chosen.threads, settings, time_limit=chosen.time_limit, emit=emit)


def main(argv: Sequence[str] | None = None, table: Sequence[Case] = CASES) -> int:
    """Run the command line; the exit status is 1 if an implementation disagrees with the reference."""
    parser = _parser()
    chosen = parser.parse_args(argv)
    cases = [case for case in table if options.matches(case.name, chosen.filter)]
    if not cases:
        parser.error(f"--filter {chosen.filter!r} matches no case; --list prints their names")
    if chosen.list:
        listing = [[case.name, "published" if case.published else "not published", case.source] for case in cases]
        print(report.aligned([["case", "layer", "source"], *listing], range(3)))
        return 0
    if chosen.from_csv:
        rows = [row for row in report.read_csv(chosen.from_csv) if options.matches(str(row["case"]), chosen.filter)]
        outcome = Outcome(tuple(rows), ())
        print(report.text(rows))
    else:
        try:
            outcome = _run_and_show(cases, chosen)
        except implementations.UnknownName as error:
            parser.error(str(error))
    if chosen.plot:
        report.plot(outcome.rows, chosen.plot)
    for failure in outcome.failures:
        print(f"wrong: {failure}", file=sys.stderr)
    return 1 if outcome.failures else 0
