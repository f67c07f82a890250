"""Files of a run, of which a reader, or a process that was killed, never sees a part."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LAST, BEST = "last.pt", "best.pt"


def save(path: Path, content: dict[str, Any]) -> None:
    """Tensors, numbers and text."""
    _whole(path, lambda scratch: torch.save(content, scratch))


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What ``save`` wrote; nothing in it is executed.

    Raises:
        FileNotFoundError: where there is none
        ValueError: for another kind of file
    """
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: train first, or name the folder of a run") from None
    except Exception as error:
        raise ValueError(f"{path} is no checkpoint of a run: {error}") from error
    if not isinstance(found, dict) or "network" not in found:
        raise ValueError(f"{path} is no checkpoint of a run: it has no network")
    return found


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """As CSV; the first row has all columns."""

    def write(scratch: Path) -> None:
        with open(scratch, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)

    _whole(path, write)


def _whole(path: Path, write: Callable[[Path], Any]) -> None:
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        write(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
