"""Random calls of the native CPU code: every raw operator, forward and backward, and the public functions.

A call is made of one number. ``python tests/fuzzing.py conv --seed 7 --calls 1`` makes one, ``--seconds 60`` those from 7 on. Each
is printed before it runs: when the process dies, the last line says which call it was. Values of finite operands are compared
with the reference in float64; of all others it is enough that they come back.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import math
import os
import time
from collections.abc import Callable

import fuzz_broken
import fuzz_calls
from fuzz_draws import Draw
from native import threads

from pgconv.backends.cpp import library

HANGS = 120
"""Seconds after which a call is taken to hang."""


def abort(draw: Draw) -> tuple[str, Callable[[], None]]:
    """Dies: what is said of a call that does is tested, too."""
    return "dies", os.abort


KINDS = {
    "conv": fuzz_calls.conv,
    "points": fuzz_calls.points,
    "features": fuzz_calls.features,
    "functions": fuzz_calls.functions,
    "broken": fuzz_broken.broken,
}


def one(kind: str, seed: int) -> None:
    """A call on some instruction set with some number of threads."""
    draw = Draw(seed)
    level, count = draw.choice(library.supported_isas()), draw.choice((1, 1, 1, 1, 2, 3))
    said, run = (KINDS | {"abort": abort})[kind](draw)
    print(f"{kind} --seed {seed} level={level} threads={count} {said}", flush=True)
    used = library.isa()
    library.set_isa(level)
    try:
        with threads(count):
            run()
    finally:
        library.set_isa(used)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=[*KINDS, "abort"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--calls", type=int)
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    for n in itertools.count():
        if n == args.calls or time.monotonic() > end:
            break
        faulthandler.dump_traceback_later(HANGS, exit=True)
        one(args.kind, args.seed + n)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
