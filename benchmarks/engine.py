"""Runs a suite: gate, memory and times of every case, in one command line."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import implementations, machine, memory, options, report, timing
from benchmarks.gate import Gate, Verdict
from benchmarks.implementations import Implementation, Skipped
from benchmarks.report import Report, Row
from benchmarks.suite import Case, Suite


@dataclass(frozen=True)
class Settings:
    """How a case is measured."""

    rounds: int = 9
    plans: str = "best"
    baselines: str = "all"
    directions: tuple[str, ...] = timing.DIRECTIONS
    memory: bool = True
    full_gate: bool = False
    compiling: str = ""


@dataclass(frozen=True)
class Outcome:
    """Rows of a case, and what failed the gate."""

    rows: tuple[Row, ...]
    failures: tuple[str, ...]


def measure(
    suite: Suite,
    case: Case,
    threads: int,
    settings: Settings,
    *,
    deadline: float = float("inf"),
    tick: Callable[[], None] = lambda: None,
) -> Outcome:
    """Gate, memory and times of one case.

    Args:
        suite: the benchmark
        case: what to measure
        threads: how many threads
        settings: how
        deadline: value of ``time.perf_counter()`` after which no round begins
        tick: called after every round
    """
    with machine.threads(threads), machine.vendor_search():
        chosen = implementations.select(suite, case, settings.plans, settings.baselines, settings.compiling)
        # Two requests may come to the same plan.
        unique = {(x.name, x.plan): x for x in chosen}.values()
        if any(isinstance(x, Implementation) and x.compiled for x in unique):
            # Compiled code is kept by function and given up after a few shapes.
            torch.compiler.reset()
        table, common = Report.of(suite), _common(case, threads)
        rows = [
            table.row(**common, implementation=x.name, plan=x.plan, note=f"not run: {x.reason}")
            for x in unique
            if isinstance(x, Skipped)
        ]
        gate = Gate(suite, case, settings.full_gate)
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
                    rows.append(table.row(**common, implementation=x.name, plan=x.plan, note=note))
        del gate
        peaks = {x.key: memory.peak_extra(suite.name, case, x, threads) for x in sound} if settings.memory else {}
        bandwidth = machine.bandwidth(case.device)
        for direction in settings.directions:
            timed, broken = _time(case, direction, sound, settings.rounds, deadline, tick)
            failures += [f"{case.name}: {label}: {error}" for label, error in broken.items()]
            new = [
                _row(suite, common, case, direction, x, timed, peaks.get(x.key, {}), verdicts[x.key], bandwidth)
                for x in sound
                if x.label not in broken
            ]
            table.add_ratios(new)
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
    prepared, broken = {}, {}
    given = case.operands(), case.cotangent()
    for x in chosen:
        operands, cotangent = x.take(case, *given)
        calls = timing.steps(x.bind(case.static), operands, case.asked, cotangent)
        try:
            prepared[x.key] = (
                timing.once(calls[direction]) if case.large else timing.prepare(calls[direction], x.compiled)
            )
        except RuntimeError as error:
            broken[x.label] = f"{direction} raised {type(error).__name__}: {str(error).splitlines()[0]}"
    rounds = 1 if case.large else rounds
    return timing.interleave(
        prepared, rounds, lambda: machine.peak(case.torch_dtype, case.device), deadline, tick
    ), broken


def _common(case: Case, threads: int) -> Row:
    return {
        "case": case.name,
        "source": case.source,
        "published": {True: "yes", False: "no", None: None}[case.published],
        "dtype": case.dtype,
        "needs": "+".join(case.needs),
        "threads": threads,
        "peak_probe": machine.peak_probe(case.torch_dtype, case.device),
        **machine.describe(case.device),
    }


def _row(
    suite: Suite,
    common: Row,
    case: Case,
    direction: str,
    implementation: Implementation,
    times: timing.Times[tuple[str, str]],
    peaks: dict[str, float],
    verdict: Verdict,
    bandwidth: float,
) -> Row:
    low, middle, high = times.quantiles(implementation.key)
    flops = implementations.work(implementation, case.needs, direction)
    return Report.of(suite).row(
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
        error=verdict.value if direction == "forward" else verdict.gradient,
        note=implementation.note or None,
        moved_mb=1e-6 * case.moved(direction),
        bandwidth_gb_per_s=1e-9 * bandwidth,
        **{f"checked_{suite.unit}": verdict.checked},
    )


def run(
    suite: Suite,
    cases: Sequence[Case],
    threads: Iterable[int],
    settings: Settings,
    *,
    time_limit: float | None = None,
    emit: Callable[[Sequence[Row]], None] = lambda rows: None,
) -> Outcome:
    """Measure all cases on all thread counts, with a progress bar on the standard error.

    Args:
        suite: the benchmark
        cases: which of it
        threads: thread counts, each measured in turn for a case
        settings: how
        time_limit: seconds for all of it. Cases share it by their arithmetic; one that gets none is left out
        emit: called with the rows of every case as soon as they are there
    """
    jobs = [(case, count) for case in cases for count in threads]
    weights = [_overhead(suite, case, settings) + case.work / count for case, count in jobs]
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
                note = "not run: the time limit is used up"
                outcome = Outcome((Report.of(suite).row(**_common(case, count), note=note),), ())
            else:
                step = weight / (settings.rounds * len(settings.directions))
                done = bar.n
                outcome = measure(
                    suite, case, count, settings, deadline=deadline, tick=lambda step=step: bar.update(step)
                )
                bar.update(max(0.0, done + weight - bar.n))
            rows += outcome.rows
            failures += outcome.failures
            with tqdm.external_write_mode(file=sys.stdout):
                emit(outcome.rows)
    return Outcome(tuple(rows), tuple(failures))


_BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left"


_OVERHEAD = {"cpu": (1e10, 0.0), "cuda": (2e14, 1e15)}
"""FLOPs that stand for what every case costs, and for each baseline that compiles on it."""


def _overhead(suite: Suite, case: Case, settings: Settings) -> float:
    each, compiling = _OVERHEAD[case.device]
    if not options.matches(case.name, settings.compiling):
        return each
    return each + compiling * sum(way.compiled for way in implementations.named(suite, settings.baselines))


def _parser(suite: Suite) -> argparse.ArgumentParser:
    parser = options.parser(suite.name, suite.description)
    parser.add_argument("--plans", default="best", help='"best", "all", or plans such as cpp:aggregate')
    parser.add_argument(
        "--baselines",
        default="all",
        help='"all", "none", or names separated by commas: '
        f"{', '.join(way.name for way in suite.baselines)}"
        + "".join(f"; {way.name}, where {way.module} is installed" for way in suite.optional),
    )
    parser.add_argument(
        "--compile",
        default="",
        metavar="TEXT",
        help="baselines that compile only on cases whose name contains this text, or one of several (default: on all)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where all runs (default %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of all cases instead of their own")
    parser.add_argument("--direction", choices=timing.DIRECTIONS, help="only this one")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="for the whole run, shared by the cases")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory (a process for each row)")
    parser.add_argument("--full-gate", action="store_true", help="compare with the reference at full size")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help=f"bars of the ratio over {suite.baselines[0].name}"
    )
    parser.add_argument("--from-csv", type=Path, metavar="FILE", help="show and plot an earlier run instead of running")
    if any(case.large for case in suite.cases):
        parser.add_argument(
            "--large", action="store_true", help="also cases of minutes; else only if --filter names no other"
        )
    return parser


def _run_and_show(suite: Suite, cases: Sequence[Case], chosen: argparse.Namespace) -> Outcome:
    """Print and store the rows of each case as it ends."""
    settings = Settings(
        rounds=chosen.rounds,
        plans=chosen.plans,
        baselines=chosen.baselines,
        directions=(chosen.direction,) if chosen.direction else timing.DIRECTIONS,
        memory=not chosen.no_memory,
        full_gate=chosen.full_gate,
        compiling=chosen.compile,
    )
    table = Report.of(suite)
    described = machine.describe(chosen.device)
    print("\n".join(f"{name}: {value}" for name, value in described.items() if value), end="\n\n")
    with ExitStack() as stack:
        writer = stack.enter_context(report.CsvWriter(chosen.csv, table.columns)) if chosen.csv else None

        def emit(rows: Sequence[Row]) -> None:
            print(table.text(rows), end="\n\n", flush=True)
            if writer:
                writer.write(rows)

        return run(suite, cases, chosen.threads, settings, time_limit=chosen.time_limit, emit=emit)


def select(suite: Suite, chosen: argparse.Namespace) -> list[Case]:
    """The cases whose name passes the filter; unusual ones only if asked for, or if no other passes."""
    changes = {"dtype": chosen.dtype} if chosen.dtype else {}
    cases: dict[str, Case] = {}
    for case in suite.cases:
        case = replace(case.on(chosen.device), **changes)
        cases.setdefault(case.name, case)
    found = [case for name, case in cases.items() if options.matches(name, chosen.filter)]
    usual = [case for case in found if chosen.list or case.usual or (case.large and chosen.large)]
    return usual or (found if chosen.filter else [])


def main(suite: Suite, argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 1 if an implementation disagrees with the reference."""
    parser = _parser(suite)
    chosen = parser.parse_args(argv)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU")
    cases = select(suite, chosen)
    if not cases:
        parser.error(f"--filter {chosen.filter!r} matches no case; --list prints their names")
    if chosen.list:
        print(_listing(cases))
        return 0
    table = Report.of(suite)
    if chosen.from_csv:
        rows = [row for row in table.read_csv(chosen.from_csv) if options.matches(str(row["case"]), chosen.filter)]
        outcome = Outcome(tuple(rows), ())
        print(table.text(rows))
    else:
        try:
            outcome = _run_and_show(suite, cases, chosen)
        except implementations.UnknownName as error:
            parser.error(str(error))
    if chosen.plot:
        table.plot(outcome.rows, chosen.plot)
    for failure in outcome.failures:
        print(f"wrong: {failure}", file=sys.stderr)
    return 1 if outcome.failures else 0


def _listing(cases: Sequence[Case]) -> str:
    words = {True: "published", False: "not published", None: ""}
    rows = [[case.name, words[case.published], case.source] for case in cases]
    return report.aligned([["case", "layer", "source"], *rows], range(3))
