"""``python -m benchmarks plot RESULTS.csv --out FOLDER``: pictures of stored results.

``roofline``: speed against arithmetic per byte, under the measured peak and, where the file has it, the measured bandwidth. Bytes
are what any way must read and write at least, so a point left of where it could be has a smaller problem, one below the roof a
slower way. Files from before bytes were stored get them from the cases' shapes. Ways that compute more for the same result stand
higher there than their time is worth; ``speed`` counts for all of them the arithmetic of the way that needs the least, so that
higher is sooner. A file with several thread counts or cards gives pictures of each.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import suite
from benchmarks.comparison import verdicts
from benchmarks.implementations import OURS
from benchmarks.suite import Case

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUITES = ("group_conv2d", "point_conv")
COLORS = ("blue", "orange", "green", "red", "purple", "brown", "pink", "gray", "olive", "cyan")
MARKERS = {"forward": "o", "forward+backward": "^"}


@dataclass(frozen=True)
class Point:
    """One timed row.

    Attributes:
        case: its name
        way: implementation, with the plan's order where it is ours
        direction: of ``timing.DIRECTIONS``
        gflop: arithmetic
        speed: GFLOP/s
        intensity: FLOP per byte, or None where bytes are not known
    """

    case: str
    way: str
    direction: str
    gflop: float
    speed: float
    intensity: float | None


@dataclass(frozen=True)
class Panel:
    """What goes into one picture: points that have a machine, a type and a thread count in common.

    Attributes:
        title: of these
        points: what was timed
        peak: GFLOP/s, the highest median of the rows
        bandwidth: GB/s, or None
    """

    title: str
    points: tuple[Point, ...]
    peak: float
    bandwidth: float | None


@cache
def _cases() -> dict[str, Case]:
    """By name, on both devices and in all types."""
    found = {}
    for name in SUITES:
        for case in suite.get(name).cases:
            for device in ("cpu", "cuda"):
                for dtype in (case.dtype, "float32", "bfloat16", "float16"):
                    made = replace(case.on(device), dtype=dtype)
                    found[made.name] = made
    return found


def _bytes(row: dict[str, str]) -> float | None:
    if row.get("moved_mb"):
        return 1e6 * float(row["moved_mb"])
    case = _cases().get(row["case"])
    return None if case is None else case.moved(row["direction"])


def _point(row: dict[str, str]) -> Point:
    flops, moved = 1e9 * float(row["gflop"]), _bytes(row)
    # The sum of rows of one way is a line: ours differ by the order taken.
    way = row["implementation"]
    order = row["plan"].partition(":")[2]
    label = f"{way} {order}" if way == OURS and order else way
    intensity = None if not moved else flops / moved
    return Point(row["case"], label, row["direction"], float(row["gflop"]), float(row["gflop_per_s"]), intensity)


def panels(rows: Sequence[dict[str, str]]) -> list[Panel]:
    """Rows that have arithmetic, by machine, type and threads."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        if row.get("gflop_per_s"):
            where = row.get("gpu", "").partition(",")[0] or f"{row['cpu']}, {row['isa']}, {row['threads']} thread(s)"
            groups.setdefault((where, row["dtype"]), []).append(row)
    found = []
    for key, own in groups.items():
        widths = [float(row["bandwidth_gb_per_s"]) for row in own if row.get("bandwidth_gb_per_s")]
        peak = max(float(row["peak_median_gflop_per_s"]) for row in own)
        found.append(Panel(", ".join(key), tuple(map(_point, own)), peak, max(widths, default=None)))
    return found


def draw(panel: Panel, kind: str, axes: Axes) -> None:
    """One picture of ``kind`` ``"roofline"`` or ``"speed"``, both axes logarithmic."""
    roof = kind == "roofline"
    points = [p for p in panel.points if not roof or p.intensity]
    if not roof:
        points = _alike(points)
    ways = list(dict.fromkeys(p.way for p in panel.points))
    for way, direction in dict.fromkeys((p.way, p.direction) for p in points):
        own = [p for p in points if (p.way, p.direction) == (way, direction)]
        color = f"tab:{COLORS[ways.index(way) % len(COLORS)]}"
        axes.scatter(
            [p.intensity if roof else p.gflop for p in own],
            [p.speed for p in own],
            s=22,
            marker=MARKERS.get(direction, "s"),
            facecolors="none" if direction != "forward" else color,
            edgecolors=color,
            label=f"{way}, {direction}",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    if roof and points:
        _roof(panel, axes)
    else:
        axes.axhline(panel.peak, color="black", linewidth=1)
    axes.set_xlabel("FLOP per byte that must be moved" if roof else "GFLOP of the way that needs the least")
    axes.set_ylabel("GFLOP/s" if roof else "GFLOP/s, counted alike for all ways")
    axes.set_title(panel.title, fontsize=8)
    axes.grid(which="major", alpha=0.3)
    axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.01, 1))


def _alike(points: Sequence[Point]) -> list[Point]:
    """The same times with the arithmetic of the case's cheapest way."""
    least: dict[tuple[str, str], float] = {}
    for p in points:
        key = p.case, p.direction
        least[key] = min(least.get(key, p.gflop), p.gflop)
    return [replace(p, gflop=(x := least[p.case, p.direction]), speed=p.speed * x / p.gflop) for p in points]


def _roof(panel: Panel, axes: Axes) -> None:
    low, high = axes.get_xlim()
    if panel.bandwidth is None:
        axes.axhline(panel.peak, color="black", linewidth=1, label=f"peak {panel.peak:.0f} GFLOP/s")
        return
    ridge = panel.peak / panel.bandwidth
    low, high = min(low, ridge / 2), max(high, 2 * ridge)
    label = f"peak {panel.peak:.0f} GFLOP/s, copy {panel.bandwidth:.1f} GB/s"
    roof = [low * panel.bandwidth, panel.peak, panel.peak]
    axes.plot([low, ridge, high], roof, color="black", linewidth=1, label=label)


def pictures(rows: Sequence[dict[str, str]], stem: str, folder: Path) -> Iterator[Path]:
    """Write all pictures and name them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for panel in panels(rows):
        for kind in ("roofline", "speed"):
            if kind == "roofline" and not any(p.intensity for p in panel.points):
                continue
            figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
            draw(panel, kind, axes)
            name = re.sub(r"[^a-z0-9]+", "-", panel.title.lower()).strip("-")
            path = folder / f"{stem}-{name}-{kind}.png"
            figure.savefig(path, dpi=130)
            pyplot.close(figure)
            yield path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 1 if there is nothing to draw."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path, metavar="RESULTS.csv", help="rows of group_conv2d or point_conv")
    parser.add_argument("--out", type=Path, default=Path("plots"), metavar="FOLDER", help="where to (%(default)s)")
    chosen = parser.parse_args(argv)
    try:
        rows = verdicts.read(chosen.csv)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    drawn = list(pictures(rows, chosen.csv.stem, chosen.out))
    print("\n".join(map(str, drawn)) or f"{chosen.csv}: no row has GFLOP/s", file=sys.stdout if drawn else sys.stderr)
    return 0 if drawn else 1
