"""The machine as a number and as words: its arithmetic peak, and what a stored result must say about where it was measured."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import torch

import pgconv
from benchmarks import timing
from pgconv.backends.cpp import library

PROBE_MILLISECONDS = 50
PROBE_SIZE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices whose product is timed."""
COPIED_BYTES = 1 << 28


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def vendor_search() -> Iterator[None]:
    """Let cuDNN try its algorithms on the first call of every shape, as whoever trains on images of one size does."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def peak_probe(dtype: torch.dtype = torch.float32, device: str = "cpu") -> str:
    """What ``peak`` measures: ``fma`` (multiply-adds in registers); where there is no native operator ``matmul``, on a GPU with
    type and size."""
    if device == "cpu":
        return "matmul" if _fma_probe(_low(dtype)) is None else "fma"
    size, name = PROBE_SIZE[device], str(dtype).removeprefix("torch.")
    tf32 = f", TF32 {_switch(torch.backends.cuda.matmul.allow_tf32)}" if dtype == torch.float32 else ""
    return f"{name} matmul {size} x {size} x {size}{tf32}"


def peak(dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """FLOP/s the current threads, or the GPU, reach now. Asked in every round, so that a busy machine shows."""
    low = _low(dtype)
    if device != "cpu":
        return _matmul_rate(dtype, device)
    probe = _fma_probe(low)
    return _matmul_rate(torch.bfloat16 if low else torch.float32, device) if probe is None else probe()


def _fma_probe(low: bool) -> Callable[[], float] | None:
    """The native operator; a library whose operator has no precision argument measures float32 only."""
    if library.load_error() is not None or not hasattr(library.ops(), "fma_rate"):
        return None
    rate = library.ops().fma_rate
    if len(rate.default._schema.arguments) > 1:
        return lambda: rate(PROBE_MILLISECONDS, low)
    return None if low else lambda: rate(PROBE_MILLISECONDS)


def _low(dtype: torch.dtype) -> bool:
    return dtype in (torch.bfloat16, torch.float16)


def _matmul_rate(dtype: torch.dtype, device: str) -> float:
    """Rate of a large matrix product of random numbers, which is somewhat below the peak."""
    size = PROBE_SIZE[device]
    a = torch.randn(size, size, device=device).to(dtype)
    out = a @ a
    timing.finish()
    count, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < 1e-3 * PROBE_MILLISECONDS or not count:
        torch.mm(a, a, out=out)
        timing.finish()
        count += 1
    return 2.0 * size**3 * count / elapsed


def bandwidth(device: str = "cpu") -> float:
    """Bytes a second of a copy far larger than the caches, read and written ones counted, on the current threads; measured
    once in a process."""
    return _copied(device, torch.get_num_threads())


@cache
def _copied(device: str, threads: int) -> float:
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    best = float("inf")
    for _ in range(3):
        timing.finish()
        begin = time.perf_counter()
        target.copy_(source)
        timing.finish()
        best = min(best, time.perf_counter() - begin)
    return 2.0 * COPIED_BYTES / best


def describe(device: str = "cpu") -> dict[str, str]:
    """Versions, processor, instruction set, allocator setting, GPU and date: columns of every stored row."""
    native = library.load_error() is None
    return {
        "allocator": f"THP_MEM_ALLOC_ENABLE={os.environ.get('THP_MEM_ALLOC_ENABLE', 'unset')}",
        "pgconv": pgconv.__version__,
        "torch": torch.__version__,
        "isa": library.isa() if native else torch.backends.cpu.get_cpu_capability(),
        "cpu": f"{_processor()}, {os.cpu_count()} cores",
        "gpu": "" if device == "cpu" else _gpu(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _gpu() -> str:
    """Name, versions, and where float32 may be cut to TF32."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    return (
        f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, "
        f"TF32 of convolutions {_switch(convolutions)}, of matrix products {_switch(products)}"
    )


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
