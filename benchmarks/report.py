"""Rows of results: aligned text, CSV and a plot."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from benchmarks.implementations import OURS
from benchmarks.suite import Suite

Row = dict[str, str | float | int | None]

CALL = ("case", "direction", "implementation", "plan", "threads")
"""Columns that say what was timed."""

_TEXT = ("case", "source", "published", "dtype", "needs", "direction", "implementation", "plan", "note")
_MACHINE = ("peak_probe", "allocator", "pgconv", "torch", "isa", "cpu", "gpu", "date")
_SHOWN = {
    "direction": "direction",
    "threads": "threads",
    "implementation": "implementation",
    "plan": "plan",
    "median_ms": "ms",
    "q20_ms": "20 %",
    "q80_ms": "80 %",
}
_SHOWN_AFTER_RATIOS = {
    "gflop_per_s": "GFLOP/s",
    "percent_of_peak": "% peak",
    "extra_mb": "MB",
    "error": "error",
}


@dataclass(frozen=True)
class Report:
    """Tables of one suite.

    Attributes:
        baselines: their names; the first one is the plot's
        unit: what the gate's size counts
        optional: names of ways that need another package
        others: those of them whose result is another one
    """

    baselines: tuple[str, ...]
    unit: str
    optional: tuple[str, ...] = ()
    others: frozenset[str] = frozenset()

    @staticmethod
    def of(suite: Suite) -> Report:
        """The tables of a suite."""
        names, optional = (tuple(way.name for way in ways) for ways in (suite.baselines, suite.optional))
        return Report(names, suite.unit, optional, frozenset(way.name for way in suite.optional if way.differs))

    @property
    def ratios(self) -> tuple[str, ...]:
        """A baseline's median over the row's: above 1 the row is faster."""
        return tuple(f"over_{name}" for name in self.baselines + self.optional)

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the CSV. ``over_best`` compares with the fastest baseline of the same result; ``extra_mb`` is the peak memory beyond
        the operands; ``moved_mb`` what any way must read and write, each number once; ``bandwidth_gb_per_s`` that of a copy;
        ``error`` that of the result (direction forward) or the largest of the gradients (with backward) over the largest exact
        value, on a problem of the size ``checked_...``."""
        return (*_TEXT[:-1], *self._numbers, *_MACHINE, "note")

    @property
    def _numbers(self) -> tuple[str, ...]:
        return (
            "threads",
            "rounds",
            "median_ms",
            "q20_ms",
            "q80_ms",
            *self.ratios,
            "over_best",
            "gflop",
            "gflop_per_s",
            "percent_of_peak",
            "peak_median_gflop_per_s",
            "peak_min_gflop_per_s",
            "extra_mb",
            "moved_mb",
            "bandwidth_gb_per_s",
            f"checked_{self.unit}",
            "error",
        )

    def row(self, **values: str | float | int | None) -> Row:
        """A row with every column; those not given are empty."""
        unknown = set(values) - set(self.columns)
        if unknown:
            raise ValueError(f"row: no column {', '.join(sorted(unknown))}")
        return {name: values.get(name) for name in self.columns}

    def add_ratios(self, rows: Sequence[Row]) -> None:
        """Fill the ratios of rows that were timed together: same case, direction and threads."""
        medians = {r["implementation"]: r["median_ms"] for r in rows if r["median_ms"] and r["implementation"] != OURS}
        for r in rows:
            if not r["median_ms"]:
                continue
            for name in self.baselines + self.optional:
                if name in medians:
                    r[f"over_{name}"] = medians[name] / r["median_ms"]
            same = [median for name, median in medians.items() if name not in self.others]
            if same:
                r["over_best"] = min(same) / r["median_ms"]

    def text(self, rows: Sequence[Row]) -> str:
        """One block for each case, then why something is missing. Columns without any value are left out."""
        ratios = {name: f"x {name.removeprefix('over_')}" for name in (*self.ratios, "over_best")}
        titles = {**_SHOWN, **ratios, **_SHOWN_AFTER_RATIOS}
        cases = dict.fromkeys(r["case"] for r in rows)
        return "\n\n".join(_block([r for r in rows if r["case"] == case], titles) for case in cases)

    def read_csv(self, path: Path) -> list[Row]:
        """Rows of an earlier run; an empty cell is None."""
        with path.open(newline="", encoding="utf-8") as file:
            return [
                self.row(**{name: self._value(name, cell) for name, cell in line.items() if cell != ""})
                for line in csv.DictReader(file)
            ]

    def _value(self, name: str, cell: str) -> str | float | int:
        if name in ("threads", "rounds"):
            return int(cell)
        return float(cell) if name in self._numbers else cell

    def plot(self, rows: Sequence[Row], path: Path) -> None:
        """Bars of the fastest plan's time ratio over the first baseline, for every case, direction and thread count."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        first = self.baselines[0]
        ratio = f"over_{first}"
        ours = [r for r in rows if r["implementation"] == OURS and r[ratio]]
        cases = list(dict.fromkeys(r["case"] for r in ours))
        series = list(dict.fromkeys((r["direction"], r["threads"]) for r in ours))
        figure, axes = pyplot.subplots(figsize=(10, 1.5 + 0.2 * len(cases) * (len(series) + 1)), layout="constrained")
        thickness = 0.8 / max(len(series), 1)
        for i, (direction, threads) in enumerate(series):
            best = {}
            for r in ours:
                if (r["direction"], r["threads"]) == (direction, threads):
                    best[r["case"]] = max(best.get(r["case"], 0.0), r[ratio])
            places = [cases.index(case) + (i - (len(series) - 1) / 2) * thickness for case in best]
            bars = axes.barh(places, list(best.values()), thickness, label=f"{direction}, {threads} thread(s)")
            axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_yticks(range(len(cases)), cases, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel(f"times faster than {first} in plain PyTorch (1 = the same)")
        if series:
            axes.legend(fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
        pyplot.close(figure)


def _block(rows: Sequence[Row], titles: dict[str, str]) -> str:
    """Rows of one case under its name."""
    first, timed = rows[0], [r for r in rows if r["median_ms"]]
    words = {"yes": "published; ", "no": "not published; "}.get(str(first["published"]), "")
    lines = [f"{first['case']}  [{words}{first['source']}]"]
    if timed:
        shown = [name for name in titles if any(r[name] not in (None, "") for r in timed)]
        table = [[titles[name] for name in shown], *([number(r[name]) for name in shown] for r in timed)]
        lines.append(aligned(table, (i for i, name in enumerate(shown) if name in _TEXT)))
        lines.append(_peaks(timed))
    lines += dict.fromkeys(
        ": ".join(filter(None, (f"{r['implementation'] or ''} {r['plan'] or ''}".strip(), r["note"])))
        for r in rows
        if r["note"]
    )
    return "\n".join(lines)


def aligned(table: Sequence[Sequence[str]], left: Iterable[int] = ()) -> str:
    """Lines of a table whose first row is the heading; columns in ``left`` are flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*table)]
    flush = set(left)
    lines = (
        "  ".join(x.ljust(w) if i in flush else x.rjust(w) for i, (x, w) in enumerate(zip(line, widths)))
        for line in table
    )
    return "\n".join(line.rstrip() for line in lines)


def number(value: object) -> str:
    """Four digits; an exponent only for what is tiny."""
    if not isinstance(value, (int, float)):
        return str(value or "")
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:.4g}"


def _peaks(rows: Sequence[Row]) -> str:
    peaks = {}
    for r in rows:
        median, low = peaks.get(r["threads"], (0.0, float("inf")))
        median = max(median, r["peak_median_gflop_per_s"])
        peaks[r["threads"]] = median, min(low, r["peak_min_gflop_per_s"])
    words = (f"{median:.0f} (lowest {low:.0f}) on {count} thread(s)" for count, (median, low) in peaks.items())
    return f"peak GFLOP/s by {rows[0]['peak_probe']}: {', '.join(words)}"


class CsvWriter:
    """Writes rows as they come, so that an interrupted run keeps what it has."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns)
        self._writer.writeheader()
        self._file.flush()

    def write(self, rows: Iterable[Row]) -> None:
        self._writer.writerows(rows)
        self._file.flush()

    def __enter__(self) -> CsvWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
