"""What the first of everything costs: import and first call, each in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMPORT = "import"
FIRST = ("first group_conv2d", "first point_conv", "first LiftingConv2d", "first PointGroupConv")
_TORCH = """
import json, time
begin = time.perf_counter()
import torch
middle = time.perf_counter()
"""
_BOTH = _TORCH + "import pgconv\n"
_SAY = "print(json.dumps([middle - begin, time.perf_counter() - middle]))"

Samples = dict[str, list[float]]


def python(*arguments: str) -> list[float]:
    """Numbers a fresh process prints on its last line."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def importing(rounds: int, ask: Callable[..., list[float]] = python) -> Samples:
    """Seconds of ``import torch`` alone, of ``import pgconv`` after it, and of both; the two kinds of process in turn.

    One process of each goes before that is not counted: it fills the system's cache of files.
    """
    for script in (_TORCH, _BOTH):
        ask("-c", script + _SAY)
    samples: Samples = {"import torch": [], "pgconv after torch": [], "import pgconv": []}
    for _ in range(rounds):
        samples["import torch"].append(ask("-c", _TORCH + _SAY)[0])
        of_torch, of_pgconv = ask("-c", _BOTH + _SAY)
        samples["pgconv after torch"].append(of_pgconv)
        samples["import pgconv"].append(of_torch + of_pgconv)
    return samples


def first(name: str, rounds: int, ask: Callable[..., list[float]] = python) -> Samples:
    """Seconds of the first and of the second recorded call of what ``name`` ends with."""
    samples: Samples = {"first call": [], "second call": []}
    for _ in range(rounds):
        for direction, seconds in zip(samples, ask("-m", "benchmarks.overhead.processes", name.split()[-1])):
            samples[direction].append(seconds)
    return samples


def main(name: str) -> None:
    """Time two calls in this process, which must be a fresh one."""
    import pgconv
    from benchmarks.overhead import calls
    from pgconv.ops._define import FAMILIES

    if name in FAMILIES:
        tensors, statics = calls.operands()[name]
        leaves = [x if x is None or not x.is_floating_point() else x.requires_grad_() for x in tensors]

        def call() -> object:
            return getattr(pgconv.ops, name)(*leaves, *statics, calls.AUTO)
    else:
        module, inputs = calls.layers()[name]()

        def call() -> object:
            return module(*inputs)

    found = []
    for _ in range(2):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
