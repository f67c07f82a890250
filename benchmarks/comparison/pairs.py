"""Times of two checkouts in turn: a process of each, one sample of one while the other waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from benchmarks.comparison import verdicts, worker
from benchmarks.comparison.trees import Tree
from benchmarks.report import Row
from benchmarks.suite import Case, Suite


class Failed(Exception):
    """A checkout does not run the benchmark at all."""


class Asked(Protocol):
    """Whatever answers requests; a ``Process``, or what a test puts in its place."""

    def ask(self, do: str, **request: Any) -> dict[str, Any]: ...


class Process:
    """``worker.py`` on a checkout, ended with the block."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        # What was measured for one checkout's kernels must not plan the other's.
        environment = {"PGCONV_RATES": "shipped", "PGCONV_TILES": "shipped", **os.environ, "PYTHONPATH": str(tree.root)}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(worker.__file__).resolve())],
            cwd=tree.root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer; ``Failed`` if the process has ended."""
        line = ""
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            raise Failed(f"{self._tree.label}: its process ended with status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Process:
        answer = self.ask("hello")
        if "error" in answer:
            self.__exit__()
            raise Failed(f"{self._tree.label}: {answer['error']}")
        if not Path(answer["file"]).resolve().is_relative_to(self._tree.root.resolve()):
            self.__exit__()
            raise Failed(f"{self._tree.label}: pgconv was imported from {answer['file']} and not from the checkout")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def compare(
    sides: Sequence[Asked],
    suite: Suite,
    case: Case,
    direction: str,
    *,
    rounds: int,
    threads: int,
    plan: str,
    tolerance: float,
) -> Row:
    """One row: the old and the new checkout on a case, or why there are no times.

    Args:
        sides: the old and the new one
        suite: the benchmark
        case: one of its cases
        direction: of ``timing.DIRECTIONS``
        rounds: samples of each
        threads: of each process
        plan: asked for on both
        tolerance: up to which ratio nothing is called slower
    """
    common = {"case": case.name, "direction": direction, "implementation": "pgconv", "threads": threads}
    request = {"suite": suite.name, "case": asdict(case), "name": case.name, "plan": plan, "threads": threads}
    answers = [side.ask("prepare", direction=direction, **request) for side in sides]
    names = ("base", "head")
    for name, side, answer in zip(names, sides, answers):
        if "error" in answer:
            return verdicts.missing(common, f"{name} does not run it: {answer['error']}")
        checked = side.ask("check")
        wrong = checked.get("error") or checked["wrong"]
        if wrong:
            row = verdicts.missing(common, f"{name} is not timed, it disagrees with the reference: {wrong}")
            return row | {"verdict": verdicts.WRONG if name == "head" else ""}
    repeats = max(answer["repeats"] for answer in answers)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        # Who goes first changes: whatever one leaves behind meets both.
        for i in (0, 1) if turn % 2 == 0 else (1, 0):
            answer = sides[i].ask("sample", repeats=repeats)
            if "error" in answer:
                return verdicts.missing(common, f"{names[i]} stopped: {answer['error']}")
            times[i].append(answer["seconds"])
    plans = [answer["plan"] for answer in answers]
    common["plan"] = plans[0] if plans[0] == plans[1] else f"{plans[0]} > {plans[1]}"
    return verdicts.row(common, *map(verdicts.of_samples, times), tolerance, verdicts.paired(*times))


def run(
    base: Tree,
    head: Tree,
    jobs: Sequence[tuple[Suite, Case, str]],
    emit: Callable[[Row], None],
    **settings: Any,
) -> list[Row]:
    """All jobs (suite, case, direction) on both checkouts; ``emit`` is called with every row, ``settings`` go to ``compare``."""
    rows = []
    with ExitStack() as stack:
        sides = [stack.enter_context(Process(tree)) for tree in (base, head)]
        for suite, case, direction in jobs:
            row = compare(sides, suite, case, direction, **settings)
            emit(row)
            rows.append(row)
    return rows
