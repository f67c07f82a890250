"""Runs that were trained: their networks, tests and tables."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import torch

from pgconv.train import checkpoint
from pgconv.train.config import Config
from pgconv.train.loop import Trainer
from pgconv.train.studies import Run
from pgconv.train.world import World


def load(folder: Path, root: Any = None, device: str = "cpu") -> Trainer:
    """The run of a folder with its best network.

    Raises:
        FileNotFoundError: for a folder without one, and data files that are not there
        ValueError: for files of something else
    """
    state = checkpoint.load(folder / checkpoint.BEST, device)
    try:
        config = Config(**state["config"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / checkpoint.BEST} was written by another version: {error}") from error
    trainer = Trainer(config, config.make_task(root), World(0, 1, torch.device(device)))
    trainer.network.load_state_dict(state["network"])
    return trainer


def result(folder: Path) -> dict[str, Any]:
    """What a run ended with.

    Raises:
        FileNotFoundError: for one that has not
    """
    path = folder / "result.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: the run has not ended, or is none")
    return json.loads(path.read_text(encoding="utf-8"))


def title(found: dict[str, Any]) -> str:
    """Name of a result's run, and the evaluation order where it was not planned."""
    return Run(found["name"], found["order"]).title


def accuracies(results: list[dict[str, Any]]) -> str:
    """Test accuracies and seconds of an epoch by run, over its seeds, beside the published ones: a table in Markdown."""
    by_title: dict[str, list[dict[str, Any]]] = {}
    for found in results:
        by_title.setdefault(title(found), []).append(found)
    rows = []
    for name, runs in by_title.items():
        published = [x["published"] for x in runs if x.get("published") is not None]
        rows.append(
            {
                "run": f"`{name}`",
                "seeds": _listed(runs, "seed"),
                "fixed samples": _percent([x["test_accuracy"] for x in runs]),
                "random samples": _percent([x.get("test_mean") for x in runs]),
                "published": f"{published[0]:.2f} %" if published else "",
                "epochs": _listed(runs, "epochs"),
                "s / epoch": f"{statistics.median(x['epoch_seconds'] for x in runs):.2f}",
            }
        )
    return markdown(rows)


def markdown(rows: list[dict[str, str]]) -> str:
    """A table, without the columns that are empty in all rows."""
    columns = [name for name in dict.fromkeys(key for row in rows for key in row) if any(row.get(name) for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row.get(name, "") for name in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _listed(runs: list[dict[str, Any]], key: str) -> str:
    return ", ".join(dict.fromkeys(str(x[key]) for x in runs))


def _percent(values: list[float | None]) -> str:
    known = torch.tensor([x for x in values if x is not None], dtype=torch.float64)
    if not len(known):
        return ""
    spread = f" +- {100 * known.std(correction=0).item():.2f}" if len(known) > 1 else ""
    return f"{100 * known.mean().item():.2f}{spread} %"
