"""Files of what was measured on machines: JSON objects with an entry for each machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read(path: Path, machine: str) -> Any:
    """A machine's entry; None where there is none, no file, or a file of something else."""
    return _entries(path).get(machine)


def store(path: Path, machine: str, entry: Any) -> None:
    """Put an entry beside those of other machines. Readers, and other writers, see a whole file at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.new")
    scratch.write_text(json.dumps(_entries(path) | {machine: entry}, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


def _entries(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
