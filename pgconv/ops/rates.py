"""What a machine reaches: peak, bandwidth, and the fraction of the peak of every evaluation order.

Shipped values serve every machine: only their ratios choose between orders. ``calibrate()`` measures this machine's once and
keeps them in a file; the planner reads that file if there is one.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from pgconv import _kept
from pgconv._env import rates_file
from pgconv.backends.cpp import library
from pgconv.spec import Plan

# (forward, backward) as a fraction of the multiply-add peak on large calls, 2 cores with AVX-512. The vendor's convolution
# runs close to the peak; the reference's tap loops are many separate matrix products.
_SHIPPED = {
    "cpp:materialize": (0.88, 0.85),
    "cpp:direct": (0.90, 0.84),
    "cpp:aggregate": (0.90, 0.86),
    "cpp:mix": (0.86, 0.84),
    "cpp:spectral": (0.60, 0.53),
    "cpp:spectral-aggregate": (0.75, 0.60),
}
# With an instruction for pairs of bfloat16 the vendor's products and those of our aggregate order run at up to twice the
# float32 peak; the other orders convert on the way in.
_SHIPPED_PAIRS = {
    "cpp:materialize:bfloat16": (1.60, 1.50),
    "cpp:aggregate:bfloat16": (1.65, 1.55),
    "cpp:mix:bfloat16": (1.50, 1.45),
}
_OTHERS = {"materialize": (0.8, 0.7), "direct": (0.5, 0.4)}
_ELSE = (0.4, 0.3)

# Seconds before the first multiply-add: packing tables, starting threads, building a graph of vendor calls.
_STARTS = {"spectral": 1e-4, "spectral-aggregate": 1e-4, "materialize": 1e-4}
_START_ELSE = 2e-5


@dataclass(frozen=True)
class Rates:
    """Machine description for the planner.

    Attributes:
        source: ``"shipped"`` or the file the values come from
        peak: FLOP/s of float32 multiply-adds, all threads together
        bandwidth: bytes/s to and from memory
        table: (forward, backward) fraction of the peak by plan text, or by plan text and dtype
        starts: seconds that a call costs before the first multiply-add, by order
    """

    source: str = "shipped"
    peak: float = 2e11
    bandwidth: float = 1.5e10
    table: Mapping[str, tuple[float, float]] = field(default_factory=lambda: _SHIPPED)
    starts: Mapping[str, float] = field(default_factory=lambda: _STARTS)

    def rate(self, plan: Plan, direction: str, dtype: str = "float32") -> float:
        """Fraction of the float32 peak a plan reaches."""
        special = f"{plan}:{dtype}"
        found = (
            self.table.get(special)
            or (_SHIPPED_PAIRS.get(special) if _has_pairs() else None)
            or self.table.get(str(plan))
            or _SHIPPED.get(str(plan))
            or _OTHERS.get(plan.order, _ELSE)
        )
        return found[direction == "backward"]

    def start(self, plan: Plan) -> float:
        """Seconds that every call of a plan costs."""
        return self.starts.get(plan.order, _START_ELSE)


# Fractions of a matrix peak in 16 bits, on large calls on one GPU of compute capability 9.0. Calls are launched, some of several
# kernels each.
_GPU = Rates(
    source="shipped",
    peak=8e14,
    bandwidth=4.2e12,
    table={
        "cuda:materialize": (0.88, 0.80),
        "cuda:aggregate": (0.56, 0.40),
        # Not measured: matrix instructions take TF32 at half the rate of 16 bits.
        "cuda:materialize:float32": (0.44, 0.40),
        # Not measured: products in Triton are taken to reach half of what the native kernels do, so that it is chosen where that
        # is enough to be ahead of the vendor's convolution.
        "triton:materialize": (0.88, 0.80),
        "triton:materialize:float32": (0.44, 0.40),
        "triton:aggregate": (0.28, 0.20),
        "triton:direct": (0.28, 0.20),
    },
    starts={"materialize": 1.6e-4, "aggregate": 5e-5, "direct": 5e-5},
)


def _has_pairs() -> bool:
    return library.load_error() is None and library.isa() == "avx512bf16"


def machine_name() -> str:
    """Processor and thread count, the key of stored rates."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            model = next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name
    return f"{model}, {torch.get_num_threads()} threads"


@lru_cache(maxsize=8)
def _load(path: Path, machine: str) -> Rates:
    try:
        stored = _kept.read(path, machine)
        table = {plan: tuple(map(float, pair)) for plan, pair in stored["table"].items()}
        return Rates(str(path), float(stored["peak"]), float(stored["bandwidth"]), table)  # type: ignore[arg-type]
    except (ValueError, KeyError, TypeError, AttributeError):
        # No entry for this machine, or not one of ours: the shipped rates are right enough.
        return Rates()


def current(device: str = "cpu") -> Rates:
    """Rates in use: those measured on this machine with this number of threads, else the shipped ones."""
    if device == "cuda":
        return _GPU
    path = rates_file()
    return Rates() if path is None else _load(path, machine_name())


def store(rates: Rates, path: Path) -> None:
    """Keep rates for this machine, beside those of others in the same file."""
    entry = asdict(rates) | {"table": {plan: list(pair) for plan, pair in rates.table.items()}}
    for own in ("source", "starts"):
        entry.pop(own)
    _kept.store(path, machine_name(), entry)
    _load.cache_clear()
