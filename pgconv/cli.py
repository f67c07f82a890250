"""The command ``pgconv``: ``train``, ``evaluate``, ``plot``, ``study``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

COMMANDS = {
    "train": ("pgconv.train.__main__", "a published experiment by name, or one on scikit-learn's digits"),
    "evaluate": ("pgconv.train.evaluate", "test a trained network again"),
    "plot": ("pgconv.train.plot", "learned ranges, accuracies, and the response to rotation of finished runs"),
    "study": ("pgconv.train.study", "sets of runs with several seeds, and a page of their results"),
}


def main(arguments: list[str] | None = None) -> int:
    """Returns what the command does, or 2 for an unknown one."""
    own = sys.argv[1:] if arguments is None else arguments
    if own and own[0] in COMMANDS:
        command: Callable[[list[str]], int] = import_module(COMMANDS[own[0]][0]).main
        return command(own[1:])
    wanted = bool(own) and own[0] in ("-h", "--help")
    print("usage: pgconv COMMAND ...", file=sys.stdout if wanted else sys.stderr)
    for name, (_, about) in COMMANDS.items():
        print(f"  {name:<9} {about}", file=sys.stdout if wanted else sys.stderr)
    return 0 if wanted else 2
