"""Command-line options all benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """With ``--filter --list --rounds --threads --csv``."""
    result = argparse.ArgumentParser(
        prog=f"python -m benchmarks {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "--filter", default="", help="only cases whose name contains this text, or one of several separated by commas"
    )
    result.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    result.add_argument("--rounds", type=positive, default=9, help="interleaved rounds per case (default %(default)s)")
    result.add_argument(
        "--threads",
        type=counts,
        default=(torch.get_num_threads(),),
        help="thread counts, separated by commas (default: what PyTorch uses)",
    )
    result.add_argument("--csv", type=Path, metavar="FILE", help="write the rows here as well")
    return result


def positive(text: str) -> int:
    """An integer >= 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, received {text}")
    return value


def counts(text: str) -> tuple[int, ...]:
    """Integers >= 1 separated by commas."""
    return tuple(positive(part) for part in text.split(","))


def matches(name: str, text: str) -> bool:
    """Whether a name passes ``--filter``."""
    words = [word for word in text.split(",") if word]
    return not words or any(word in name for word in words)
