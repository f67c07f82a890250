"""The page of a study: how it was made, accuracies, what was learned, and plots."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pgconv.config import show_config
from pgconv.train import checkpoint, finished, plot
from pgconv.train.studies import Study


@dataclass(frozen=True)
class Circumstances:
    """How a study was run.

    Attributes:
        command: as it was typed
        workers: runs at a time
        seconds: of all, None where some had been run before
    """

    command: str
    workers: int
    seconds: float | None


def write(study: Study, folders: list[Path], out: Path, how: Circumstances) -> None:
    """``README.md``, ``results.csv`` and plots of runs that have ended."""
    out.mkdir(parents=True, exist_ok=True)
    results = [finished.result(folder) for folder in folders]
    checkpoint.write_table(out / "results.csv", _flat(results))
    plots = [plot.accuracies(results, out), *_plots(study, list(zip(folders, results)), out)]
    parts = [
        f"# {study.name}",
        f"{study.about[0].upper()}{study.about[1:]}.",
        _how(results, how),
        finished.accuracies(results),
    ]
    learned = [row for found in results for row in _learned(found)]
    parts += ["What was learned of the group, by layer:", finished.markdown(learned)] if learned else []
    parts += [f"![{path.stem}]({path.name})" for path in plots if path is not None]
    (out / "README.md").write_text("\n\n".join(part.rstrip() for part in parts) + "\n", encoding="utf-8")


def _plots(study: Study, runs: list[tuple[Path, dict[str, Any]]], out: Path) -> list[Path | None]:
    first = runs[0][1]["seed"]

    def named(names: tuple[str, ...]) -> list[tuple[Path, dict[str, Any]]]:
        return [run for run in runs if run[1]["seed"] == first and finished.title(run[1]) in names]

    written = []
    if ranges := named(study.ranges):
        written.append(plot.ranges([found for _, found in ranges], out))
    if epochs := named(study.epochs):
        written.append(plot.epochs([folder for folder, _ in epochs], [found for _, found in epochs], out))
    if response := named(study.response):
        trainers = [finished.load(folder) for folder, _ in response]
        written.append(plot.response(trainers, [finished.title(found) for _, found in response], out))
    return written


def _how(results: list[dict[str, Any]], how: Circumstances) -> str:
    cores = os.cpu_count()
    took = "" if how.seconds is None else f", {how.seconds / 60:.1f} minutes in all"
    lines = [
        "```text",
        f"$ {how.command}",
        f"{len(results)} runs, {how.workers} at a time on {cores} cores{took}; {date.today()}",
    ]
    # The rest of it is about GPUs, which these are not run on.
    return "\n".join([*lines, *show_config().splitlines()[:2], "```"])


def _flat(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the columns of all."""
    rows = []
    for found in results:
        row = {key: value for key, value in found.items() if key not in ("ranges", "gates", "settings")}
        for sampler, learned in found["ranges"].items():
            row[f"theta {sampler}"] = learned["theta"][0]
        rows.append(row)
    columns = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in columns} for row in rows]


def _learned(found: dict[str, Any]) -> list[dict[str, str]]:
    """A row for a run that learned a range: the share of the arc, and the chance of the mirror, layer by layer."""
    every = found["ranges"] | found["gates"]
    if not every:
        return []
    row = {"run": f"`{finished.title(found)}`", "seed": str(found["seed"])}
    for number, learned in enumerate(every.values(), 1):
        if "kept" in learned:
            text = "kept " + ", ".join(f"{x:.2f}" for x in learned["kept"])
            text += f" (+- {max(learned['spread']):.2f} between images)" if "spread" in learned else ""
        else:
            text = f"theta {learned['theta'][0]:.2f}"
        row[f"layer {number}"] = text + (f", m {learned['mirror'][0]:.2f}" if "mirror" in learned else "")
    return [row]
