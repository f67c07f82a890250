"""What command lines that train networks share: numbers, progress, plain tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module


def positive(text: str) -> int:
    """An option's value as an integer >= 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, received {value}")
    return value


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
