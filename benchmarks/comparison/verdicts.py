"""Old and new times side by side, and when the new one is called slower.

Slower is what is so by the median, by more than the tolerance, and by quantiles that do not overlap: a median alone wanders on a
machine with other work.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.report import CALL, Row

TOLERANCE = 1.15
SLOWER, FASTER, SAME, WRONG = "slower", "faster", "same", "wrong"
OURS = ("pgconv", "fused", "op", "layer")
"""Implementations whose times are this library's; the others' tell how the machine differs."""
COLUMNS = (
    *CALL,
    "base_ms",
    "base_q20_ms",
    "base_q80_ms",
    "head_ms",
    "head_q20_ms",
    "head_q80_ms",
    "ratio",
    "ratio_q20",
    "ratio_q80",
    "verdict",
    "note",
)
_KEYS = ("case", "direction", "implementation", "threads", "batch")
_MACHINE = ("cpu", "gpu", "torch", "isa", "allocator")


class Times(NamedTuple):
    """20 %, median and 80 %, in milliseconds."""

    low: float
    middle: float
    high: float


def of_samples(samples: Sequence[float]) -> Times:
    """Of seconds."""
    return Times(*(1e3 * x for x in _quantiles(samples)))


def paired(base: Sequence[float], head: Sequence[float]) -> Times:
    """Quantiles of new over old, round by round: drift of the machine meets both of a round."""
    return Times(*_quantiles([new / old for old, new in zip(base, head)]))


def _quantiles(values: Sequence[float]) -> list[float]:
    at = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    return torch.tensor(values, dtype=torch.float64).quantile(at).tolist()


def verdict(base: Times, head: Times, tolerance: float) -> str:
    """One word for a pair."""
    if head.middle > tolerance * base.middle and head.low > base.high:
        return SLOWER
    return FASTER if base.middle > tolerance * head.middle and base.low > head.high else SAME


def row(common: Row, base: Times, head: Times, tolerance: float, ratios: Times | None = None) -> Row:
    """A row with every column; without ratios by rounds those of the quantiles bound them."""
    middle = head.middle / base.middle
    low, high = (head.low / base.high, head.high / base.low) if ratios is None else (ratios.low, ratios.high)
    values = dict(zip(COLUMNS[5:14], (base[1], base[0], base[2], head[1], head[0], head[2], middle, low, high)))
    return dict.fromkeys(COLUMNS) | common | values | {"verdict": verdict(base, head, tolerance)}


def missing(common: Row, note: str) -> Row:
    """A row without times, and why."""
    return dict.fromkeys(COLUMNS) | common | {"note": note, "verdict": ""}


def failed(rows: Iterable[Row]) -> bool:
    """Whether something of ours got slower, or is wrong."""
    return any(r["verdict"] == WRONG or (r["verdict"] == SLOWER and r["implementation"] in OURS) for r in rows)


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a benchmark's CSV that have a time."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        needed = {"case", "median_ms", "q20_ms", "q80_ms"}
        if not needed <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} has no columns {', '.join(sorted(needed - set(reader.fieldnames or ())))}")
        return [line for line in reader if line["median_ms"]]


def of_files(base: Sequence[dict[str, str]], head: Sequence[dict[str, str]], tolerance: float) -> list[Row]:
    """Rows of two files that are of the same case, direction, implementation, batch and threads.

    Where such rows differ in their plan alone (``--plans all``) the plan belongs to what is the same.
    """
    by_plan = any(len({_key(r, False) for r in rows}) < len(rows) for rows in (base, head))
    old, new = ({_key(r, by_plan): r for r in rows} for rows in (base, head))
    rows = []
    for key, r in old.items():
        common: Row = {name: r.get(name) or "" for name in CALL}
        if key not in new:
            rows.append(missing(common, "in the first file alone"))
            continue
        if new[key].get("plan", "") != r.get("plan", ""):
            common["plan"] = f"{r.get('plan', '')} > {new[key].get('plan', '')}"
        rows.append(row(common, _times(r), _times(new[key]), tolerance))
    for key, r in new.items():
        if key not in old:
            common = {name: r.get(name) or "" for name in CALL}
            rows.append(missing(common, "in the second file alone"))
    return rows


def machines(base: Sequence[dict[str, str]], head: Sequence[dict[str, str]]) -> list[str]:
    """In what the machines of two files differ, in words: their ratio says nothing of the code then."""
    found = []
    for name in _MACHINE:
        old, new = (sorted({r.get(name) or "" for r in rows}) for rows in (base, head))
        if old != new:
            found.append(f"{name}: {' / '.join(old)} in the first, {' / '.join(new)} in the second file")
    return found


def _key(r: dict[str, str], by_plan: bool) -> tuple[str, ...]:
    return tuple(r.get(name) or "" for name in (*_KEYS, *(("plan",) if by_plan else ())))


def _times(r: dict[str, str]) -> Times:
    return Times(float(r["q20_ms"]), float(r["median_ms"]), float(r["q80_ms"]))
