"""What command lines that train networks share: numbers, folders, progress, plain tables."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

LARGEST_SEED = (1 << 63) - 1
"""That PyTorch's generators take, and is the same number everywhere."""


def whole(minimum: int, maximum: float = math.inf) -> Callable[[str], int]:
    """Reads an option's value as an integer in this range."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value <= maximum:
            allowed = f">= {minimum}" if maximum == math.inf else f"from {minimum} to {maximum}"
            raise argparse.ArgumentTypeError(f"must be an integer {allowed}, received {text!r}")
        return value

    return read


positive = whole(1)
seed = whole(0, LARGEST_SEED)


def real(zero: bool = False) -> Callable[[str], float]:
    """Reads an option's value as a finite number that is positive, or ``zero``."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (0 < value < math.inf or (zero and value == 0)):
            raise argparse.ArgumentTypeError(f"must be a finite number {'>=' if zero else '>'} 0, received {text!r}")
        return value

    return read


def made(name: str, folder: Path) -> Path:
    """The folder, made where it is missing.

    Raises:
        ValueError: where nothing can be written
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK) else "no permission"
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise ValueError(f"{name} must be a folder that can be made and written to, received {folder} ({reason})")
    return folder


def extra_is_missing(what: str) -> bool:
    """Whether packages of the ``demo`` extra cannot be imported; says so on the standard error."""
    try:
        for package in ("matplotlib", "sklearn", "tqdm"):
            import_module(package)
    except ImportError as error:
        print(f"{what} needs the demo extra: pip install 'pgconv[demo]' ({error})", file=sys.stderr)
        return True
    return False


@contextmanager
def training_bar(title: str, steps: int) -> Iterator[Callable[[float], None]]:
    """A progress bar on the standard error; what it gives is called with the loss after every step."""
    from tqdm import tqdm

    with tqdm(total=steps, desc=title, unit="step", mininterval=0.5) as bar:

        def step(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        yield step


def table(rows: list[tuple[str, ...]]) -> str:
    """Plain text columns; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
