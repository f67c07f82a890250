"""Runs that were trained: their networks, tests and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pgconv.train import checkpoint
from pgconv.train.config import Config
from pgconv.train.loop import Trainer
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


def accuracies(folders: list[Path]) -> str:
    """Test accuracies by run, over its seeds, beside the published ones: a table in Markdown."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        found = result(folder)
        by_name.setdefault(found["name"], []).append(found)
    lines = ["| run | seeds | fixed samples | random samples | published |", "|---|---|---|---|---|"]
    for name, runs in by_name.items():
        seeds = ", ".join(str(x["seed"]) for x in runs)
        published = next((x["published"] for x in runs if x.get("published") is not None), None)
        cells = [_percent([x.get(f"test_{key}") for x in runs]) for key in ("accuracy", "mean")]
        lines.append(
            f"| `{name}` | {seeds} | {' | '.join(cells)} | {'' if published is None else f'{published:.2f} %'} |"
        )
    return "\n".join(lines) + "\n"


def _percent(values: list[float | None]) -> str:
    known = torch.tensor([x for x in values if x is not None], dtype=torch.float64)
    if not len(known):
        return ""
    spread = f" +- {100 * known.std(correction=0).item():.2f}" if len(known) > 1 else ""
    return f"{100 * known.mean().item():.2f}{spread} %"
