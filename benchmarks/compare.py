"""``python -m benchmarks compare``: the working tree against a revision, or one stored result against another.

The revision is checked out into a folder that is gone afterwards. Native libraries of the working tree are copied there where the
native sources are the same, else they are built there. Each side has a process of its own; in every round both are timed, one
while the other waits. First the operation's tests run in the working tree, and each case on both sides is compared with the
float64 reference: on a failure nothing is timed.

Exit status 1: a case is slower than the tolerance by its median, and its 20/80 quantiles lie above the old ones, or it is wrong.
Exit status 2: nothing could be compared. The ratio is new over old, above 1 the working tree is slower.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import engine, options, report, suite, timing
from benchmarks.comparison import pairs, trees, verdicts
from benchmarks.report import Row
from benchmarks.suite import Case, Suite

SUITES = ("group_conv2d", "point_conv")
NOTHING = 2
_SHOWN = {
    "direction": "direction",
    "implementation": "implementation",
    "plan": "plan",
    "base_ms": "base ms",
    "head_ms": "head ms",
    "ratio": "ratio",
    "ratio_q20": "20 %",
    "ratio_q80": "80 %",
    "verdict": "",
}


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--base", default="HEAD", metavar="REV", help="the revision (default %(default)s)")
    result.add_argument(
        "--tolerance", type=_tolerance, default=verdicts.TOLERANCE, help="ratio that is still the same (%(default)s)"
    )
    result.add_argument(
        "--csv", type=Path, nargs=2, metavar=("OLD.csv", "NEW.csv"), help="compare two stored results and run nothing"
    )
    result.add_argument("--suite", choices=SUITES, help="cases of this one alone")
    result.add_argument("--filter", default="", help="only cases whose name contains this text, or one of several")
    result.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    result.add_argument("--rounds", type=options.positive, default=9, help="rounds per case (default %(default)s)")
    result.add_argument("--threads", type=options.positive, help="of each process (default: what PyTorch uses)")
    result.add_argument("--direction", choices=timing.DIRECTIONS, help="only this one")
    result.add_argument("--plan", default="auto:auto", help="asked for on both sides (default: the best of each)")
    result.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where (default %(default)s)")
    result.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of all cases instead of their own")
    result.add_argument("--large", action="store_true", help="also cases of minutes")
    result.add_argument(
        "--tests",
        choices=("few", "all", "none"),
        default="few",
        help="of the operation before: those against the reference, all of its file, or none (default %(default)s)",
    )
    result.add_argument("--out", type=Path, metavar="FILE", help="write the rows here as well, as CSV")
    return result


def _tolerance(text: str) -> float:
    value = float(text)
    if not value >= 1:
        raise argparse.ArgumentTypeError(f"must be a number >= 1, received {text}")
    return value


def tests_fail(suites: Sequence[Suite], which: str, root: Path = trees.ROOT) -> str | None:
    """What the operations' tests say where they fail, or None."""
    names = [name if which == "few" else name.partition("::")[0] for of in suites for name in of.tests]
    if which == "none" or not names:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *names]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env={"OMP_NUM_THREADS": "2", **os.environ})
    return None if done.returncode == 0 else "\n".join(done.stdout.splitlines()[-15:]) or done.stderr[-2000:]


def text(rows: Sequence[Row]) -> str:
    """A block for each case."""
    blocks = []
    for case in dict.fromkeys(r["case"] for r in rows):
        own = [r for r in rows if r["case"] == case]
        timed = [r for r in own if r["ratio"] is not None]
        lines = [str(case)]
        if timed:
            table = [list(_SHOWN.values()), *([report.number(r[name]) for name in _SHOWN] for r in timed)]
            lines.append(report.aligned(table, (0, 1, 2, 8)))
        lines += [f"{r['direction']} {r['implementation']}: {r['note']}" for r in own if r["note"]]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def summary(rows: Sequence[Row], tolerance: float) -> str:
    """How many rows have which verdict, and the names of those that fail."""
    count = {
        word: sum(r["verdict"] == word for r in rows) for word in (verdicts.SLOWER, verdicts.FASTER, verdicts.SAME)
    }
    left = sum(r["ratio"] is None for r in rows)
    words = ", ".join(f"{n} {word}" for word, n in count.items())
    lines = [f"{words} (tolerance {tolerance:g}), {left} without times"]
    for r in rows:
        if verdicts.failed([r]):
            why = r["note"] or f"{r['ratio']:.2f} times the time of the base"
            lines.append(f"{r['verdict']}: {r['case']} {r['direction']} {r['implementation']}: {why}")
    return "\n".join(lines)


def _jobs(chosen: argparse.Namespace) -> list[tuple[Suite, Case, str]]:
    directions = (chosen.direction,) if chosen.direction else timing.DIRECTIONS
    suites = [suite.get(name) for name in SUITES if chosen.suite in (None, name)]
    return [(of, case, way) for of in suites for case in engine.select(of, chosen) for way in directions]


def _files(chosen: argparse.Namespace) -> list[Row]:
    old, new = map(verdicts.read, chosen.csv)
    for words in verdicts.machines(old, new):
        print(f"different machines: {words}", file=sys.stderr)
    rows = verdicts.of_files(old, new, chosen.tolerance)
    rows = [r for r in rows if options.matches(str(r["case"]), chosen.filter)]
    print(text(rows), end="\n\n")
    return rows


def _measured(jobs: Sequence[tuple[Suite, Case, str]], chosen: argparse.Namespace) -> list[Row]:
    import torch

    def emit(row: Row) -> None:
        print(text([row]), end="\n\n", flush=True)

    head = trees.working()
    with trees.revision(chosen.base, make=partial(trees.build, cuda=chosen.device == "cuda")) as base:
        for name, tree in (("base", base), ("head", head)):
            print(f"{name}: {tree.label}; native libraries: {tree.libraries}")
        print(flush=True)
        return pairs.run(
            base,
            head,
            jobs,
            emit,
            rounds=chosen.rounds,
            threads=chosen.threads or torch.get_num_threads(),
            plan=chosen.plan,
            tolerance=chosen.tolerance,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    asked = parser()
    chosen = asked.parse_args(argv)
    try:
        if chosen.csv:
            rows = _files(chosen)
        else:
            jobs = _jobs(chosen)
            if chosen.list:
                print("\n".join(dict.fromkeys(case.name for _, case, _ in jobs)))
                return 0
            if not jobs:
                asked.error(f"--filter {chosen.filter!r} matches no case; --list prints their names")
            refusal = tests_fail(list({of.name: of for of, _, _ in jobs}.values()), chosen.tests)
            if refusal:
                print(f"nothing is timed, the tests fail:\n{refusal}", file=sys.stderr)
                return NOTHING
            rows = _measured(jobs, chosen)
    except (trees.NoTree, pairs.Failed, OSError, ValueError) as error:
        print(f"nothing is compared: {error}", file=sys.stderr)
        return NOTHING
    if chosen.out:
        with report.CsvWriter(chosen.out, verdicts.COLUMNS) as writer:
            writer.write(rows)
    print(summary(rows, chosen.tolerance))
    if not any(r["ratio"] is not None for r in rows):
        return 1 if verdicts.failed(rows) else NOTHING
    return 1 if verdicts.failed(rows) else 0
