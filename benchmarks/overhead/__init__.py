"""What a call costs beside its arithmetic: import, first call, and operators and layers on operands so small that nothing else is
left.

Import and first call are timed in fresh processes, torch alone beside torch with pgconv. "recorded" is a forward call of which
autograd keeps a graph, as in training; the goal is for an operator's. An operator's time has four parts: "kernel" (the backend's
function), "planning" (decoding, facts, choice of the plan), "operator" (PyTorch's dispatcher and its way into Python), "autograd"
(what recording adds). "nothing" is an operator registered the same way that only makes its result: what the mechanism itself costs.
Others of PyTorch stand beside for scale. Operands are on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch

from benchmarks import machine, options, report, timing
from benchmarks.overhead import calls, processes
from benchmarks.overhead.calls import PARTS, Call
from benchmarks.report import Row

GOAL_MICROSECONDS = 25.0
COLUMNS = (
    *report.CALL,
    "rounds",
    "median_ms",
    "q20_ms",
    "q80_ms",
    "goal_us",
)
COLUMNS += (*(f"{name}_us" for name in PARTS), "allocator", "pgconv", "torch", "isa", "cpu", "gpu", "date", "note")
_SHOWN = ("case", "direction", "median_us", "q20_us", "q80_us", "goal_us", *(f"{name}_us" for name in PARTS), "note")


def measure(call: Call, rounds: int) -> list[Row]:
    """Rows of the directions of a call, with its parts where it has some."""
    prepared = {name: timing.prepare(function) for name, function in (call.directions | call.parts).items()}
    times = timing.interleave(prepared, rounds, lambda: 1.0)
    rows = []
    for direction in call.directions:
        low, middle, high = (1e3 * x for x in times.quantiles(direction))
        row = _row(call.name, direction, call.kind, call.plan, (low, middle, high), rounds)
        if direction == "recorded" and call.kind == "op":
            row["goal_us"] = GOAL_MICROSECONDS
            row |= split({name: 1e6 * times.quantiles(name)[1] for name in call.parts}, 1e3 * middle)
        rows.append(row)
    return rows


def split(parts: dict[str, float], recorded: float) -> Row:
    """Where the microseconds of a recorded call go.

    Args:
        parts: of the backend's function, of planning, and of the operator without recording, which contains both
        recorded: of the call
    """
    kernel, planning, operator = (parts[name] for name in ("kernel", "planning", "operator"))
    found = kernel, planning, operator - kernel - planning, recorded - operator
    return {f"{name}_us": value for name, value in zip(PARTS, found)}


def _row(
    case: str,
    direction: str,
    kind: str,
    plan: str,
    milliseconds: tuple[float, float, float],
    rounds: int,
    note: str = "",
) -> Row:
    low, middle, high = milliseconds
    row: Row = dict.fromkeys(COLUMNS)
    row |= {"case": case, "direction": direction, "implementation": kind, "plan": plan, "rounds": rounds, "note": note}
    row |= {"threads": torch.get_num_threads(), "median_ms": middle, "q20_ms": low, "q80_ms": high}
    return row | machine.describe()


def of_processes(rounds: int, names: Sequence[str]) -> list[Row]:
    """Rows of import and first calls."""
    rows = []
    for name in names:
        found = processes.importing(rounds) if name == processes.IMPORT else processes.first(name, rounds)
        for direction, samples in found.items():
            kind = "pytorch" if direction == "import torch" else "process"
            times = timing.Times({name: samples})
            low, middle, high = (1e3 * x for x in times.quantiles(name))
            rows.append(_row(name, direction, kind, "", (low, middle, high), rounds))
    return rows


def text(rows: Sequence[Row]) -> str:
    """One table in microseconds."""
    shown = []
    for row in rows:
        words = {"median_us": "median_ms", "q20_us": "q20_ms", "q80_us": "q80_ms"}
        shown.append([_number(1e3 * row[words[x]]) if x in words else _number(row[x]) for x in _SHOWN])
    kept = [i for i, _ in enumerate(_SHOWN) if any(line[i] for line in shown)]
    titles = [_SHOWN[i].replace("median_us", "us").replace("_us", "") for i in kept]
    return report.aligned([titles, *([line[i] for i in kept] for line in shown)], (0, 1, len(kept)))


def _number(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, float) and value >= 1000 else report.number(value)


def above(rows: Sequence[Row]) -> list[str]:
    """Operators that take longer than the goal, with the largest part."""
    found = []
    for row in rows:
        if row["goal_us"] is not None and 1e3 * row["median_ms"] > row["goal_us"]:
            largest = max(PARTS, key=lambda name: row[f"{name}_us"])
            took, most = 1e3 * row["median_ms"], row[f"{largest}_us"]
            found.append(f"{row['case']}: {took:.1f} us, goal {row['goal_us']:g} us; most is {largest}, {most:.1f} us")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = options.parser("overhead", __doc__)
    parser.add_argument(
        "--processes", type=int, default=5, help="fresh processes for each figure, 0 for none (%(default)s)"
    )
    chosen = parser.parse_args(argv)
    made: dict[str, Callable[[], Call]] = {
        name: make for name, make in calls.table().items() if options.matches(name, chosen.filter)
    }
    fresh = [name for name in (processes.IMPORT, *processes.FIRST) if options.matches(name, chosen.filter)]
    if chosen.list:
        print("\n".join((*fresh, *made)))
        return 0
    if not made and not fresh:
        parser.error(f"--filter {chosen.filter!r} matches nothing; --list prints the names")
    rows = of_processes(chosen.processes, fresh) if chosen.processes > 0 else []
    for count in chosen.threads:
        with machine.threads(count):
            for make in made.values():
                rows += measure(make(), chosen.rounds)
    print("\n".join(f"{name}: {value}" for name, value in machine.describe().items() if value), end="\n\n")
    if rows:
        print(text(rows))
    print("\n".join(("", *above(rows))) if above(rows) else "\nno operator is above the goal", file=sys.stdout)
    if chosen.csv:
        with report.CsvWriter(chosen.csv, COLUMNS) as writer:
            writer.write(rows)
    return 0
