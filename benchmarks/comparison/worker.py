"""Runs in a process of its own on one checkout, by its path: ``pgconv`` and ``benchmarks`` are those of the checkout in PYTHONPATH.

Reads one request a line as JSON and answers each with a line: ``hello``, ``prepare`` a call, ``check`` it against the reference,
``sample`` its time. Of a checkout it uses ``suite``, ``implementations``, ``timing.steps`` and ``gate`` alone; an answer with
``error`` says what it lacks.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from importlib import import_module
from pathlib import Path

SAMPLE_SECONDS, MOST_REPEATS = 0.02, 1000
"""A sample repeats a short call for about this long."""


class Worker:
    """The call in preparation."""

    def __init__(self) -> None:
        # The folder of this file would come before the checkout.
        own = str(Path(__file__).resolve().parent)
        sys.path[:] = [place for place in sys.path if place != own]
        self.call = self.made = None

    def hello(self) -> dict:
        import pgconv

        return {"file": pgconv.__file__}

    def prepare(self, suite: str, case: dict, name: str, plan: str, direction: str, threads: int) -> dict:
        """Make a case ready: by name among those of the checkout, else from its fields."""
        import torch

        torch.set_num_threads(threads)
        self.call = self.made = None
        implementations, timing, suites = (
            import_module(f"benchmarks.{module}") for module in ("implementations", "timing", "suite")
        )
        of = suites.get(suite)
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in case.items()}
        own = next((c for c in of.cases if c.name == name), None) or of.case(**fields)
        made = implementations.rebuild(of, "pgconv", plan, own)
        if not hasattr(made, "function"):
            return {"error": made.reason}
        operands, cotangent = made.inputs(own)
        self.call = timing.steps(made.bind(own.static), operands, own.asked, cotangent)[direction]
        self.made = of, own, made
        self._once()
        seconds = self._once()
        return {"plan": made.plan, "repeats": max(1, min(MOST_REPEATS, math.ceil(SAMPLE_SECONDS / seconds)))}

    def check(self) -> dict:
        """What the checkout's own gate says of the prepared call."""
        of, case, made = self.made
        return {"wrong": import_module("benchmarks.gate").Gate(of, case).check(made).wrong}

    def sample(self, repeats: int) -> dict:
        """Seconds a call, after one that is not timed."""
        self._once()
        return {"seconds": self._once(repeats)}

    def _once(self, repeats: int = 1) -> float:
        import torch

        wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
        wait()
        begin = time.perf_counter()
        for _ in range(repeats):
            self.call()
        wait()
        return max(time.perf_counter() - begin, 1e-9) / repeats


def main() -> None:
    """Answer until the input ends."""
    # Whatever prints goes to the standard error; answers have the old standard output for themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # of another revision's code, which may raise anything; it is told to whoever asked
            answer = {"error": f"{type(error).__name__}: {(str(error) or '?').splitlines()[0]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
