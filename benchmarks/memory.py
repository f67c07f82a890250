"""Peak memory of a call beyond its operands, results included, measured in a process of its own, or by the GPU's allocator.

The kernel keeps a process's highest resident size (VmHWM) and resets it on request, so the peak of one call is read exactly. Where
it cannot be reset the highest size since the start is read; where there is no /proc, ``ru_maxrss``: both give a lower bound.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import implementations, suite, timing
from benchmarks.implementations import Implementation
from benchmarks.machine import threads
from benchmarks.suite import Case, Suite

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_SECONDS = 900


def peak_extra(name: str, case: Case, implementation: Implementation, count: int) -> dict[str, float]:
    """Bytes by direction of a case of the suite ``name`` on ``count`` threads; empty if the process did not finish.

    On a GPU the allocator counts them, and no process of its own is needed."""
    if case.device != "cpu":
        # What runs out of memory is measured no further.
        with suppress(torch.OutOfMemoryError):
            return _allocated(_calls(case, implementation))
        return {}
    request = json.dumps([name, asdict(case), implementation.name, implementation.plan, count])
    command = [sys.executable, "-m", "benchmarks.memory", request]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return {}
    return json.loads(run.stdout.splitlines()[-1])


def measure(of: Suite, case: Case, name: str, plan: str, count: int) -> dict[str, float]:
    """The same in this process, which must be a fresh one."""
    implementation = implementations.rebuild(of, name, plan, case)
    if not isinstance(implementation, Implementation):
        raise ValueError(f"{name} {plan}: {implementation.reason}")
    with threads(count):
        # Libraries and compiled code are loaded before the peak is reset: they are not memory of the call.
        small = case.tiny()
        if not implementation.compiled and implementation.refuses(small) is None:
            _run_all(_calls(small, implementation))
        calls = _calls(case, implementation)
        if implementation.compiled:
            _run_all(calls)
        return {direction: peak_beyond(call) for direction, call in calls.items()}


def peak_beyond(call: Callable[[], object]) -> float:
    """Highest size of this process during a call, beyond its size before."""
    _return_free_memory()
    base = _reset_peak()
    call()
    return float(_peak() - base)


def _allocated(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Highest size of the GPU's allocations over that before the call, which has run once."""
    peaks = {}
    for direction, call in calls.items():
        call()
        torch.cuda.synchronize()
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        peaks[direction] = float(torch.cuda.max_memory_allocated() - base)
    return peaks


def _calls(case: Case, implementation: Implementation) -> dict[str, Callable[[], object]]:
    operands, cotangent = implementation.inputs(case)
    return timing.steps(implementation.bind(case.static), operands, case.asked, cotangent)


def _run_all(calls: dict[str, Callable[[], object]]) -> None:
    for call in calls.values():
        call()


def _return_free_memory() -> None:
    """Freed memory that the C library keeps would hide as much of the peak."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> int:
    """Forget the highest size so far where that is possible; returns the bytes to subtract from the next ``_peak``."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main(request: str) -> None:
    """Measure what a JSON list ``[suite, case, name, plan, threads]`` says and print the answer as JSON."""
    owner, fields, name, plan, count = json.loads(request)
    of = suite.get(owner)
    case = of.case(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
    torch.manual_seed(0)
    print(json.dumps(measure(of, case, name, plan, count)))


if __name__ == "__main__":
    main(sys.argv[1])
