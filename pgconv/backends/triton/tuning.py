"""Block sizes: those that were found by trying on this machine, else the shipped tables'.

``choose`` looks a call up. It tries nothing by itself, so that no call takes longer than others and processes that work together
do not choose apart; only inside ``search`` is a call that is not known yet run with several blocks. What is found holds for the
process and is kept in a file for later ones, by GPU, version of Triton and the kernels' source.

A search goes along one size after the other, by powers of two, as long as that makes the call faster. A block is not tried where
its sums would not fit into registers, and not taken where the kernel does not compile, or where the result is not that of the
shipped block, to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from pgconv import _kept
from pgconv._env import tiles_file
from pgconv.backends.base import Choice, Tuned
from pgconv.backends.triton import runtime

Block = TypeVar("Block", bound=tuple[int, ...])
Results = Tensor | tuple[Tensor, ...]
Call = tuple[str | int, ...]
"""A kernel's name, and what its speed depends on."""

MOST = 16
"""Blocks that are tried for a call."""
GAIN = 0.97
"""Of the best time so far, that a block has to beat: less is noise."""
SUMS = 200
"""float32 numbers that a thread may hold, of the 255 there are."""
AGREEMENT = {torch.float16: 2.0**-7, torch.bfloat16: 2.0**-5, torch.float32: 2.0**-9}
"""Of results of two blocks, which add up in different orders, relative to the larger; float32 may be multiplied in TF32."""


class Tuning(NamedTuple):
    """How blocks of a kernel may differ: fields that are moved, in turn, and which blocks make sense."""

    fields: tuple[str, ...]
    allowed: Callable[[tuple[int, ...]], bool]


class _Search:
    """One that is under way."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.found: list[Choice] = []

    def over(self) -> bool:
        """Whether its time is."""
        return time.monotonic() > self.end

    def best(self, call: Call, usual: Block, tuning: Tuning, run: Callable[[Block], Results]) -> Block:
        """The fastest of the blocks tried. Raises what the usual one raises."""
        want = run(usual)
        times = {usual: seconds_of(lambda: run(usual))}
        best = usual
        for field in tuning.fields:
            for up in (True, False):
                while (tile := _moved(best, field, up)) not in times and tuning.allowed(tile):
                    if len(times) >= MOST or self.over():
                        break
                    times[tile] = _tried(tile, run, want)
                    if times[tile] > GAIN * times[best]:
                        break
                    best = tile
        self.found.append(Choice(call, usual, best, times[usual], times[best], len(times)))
        return best


_searches: list[_Search] = []


def choose(call: Call, usual: Block, tuning: Tuning, run: Callable[[Block], Results]) -> Block:
    """The block of a call; ``run`` computes it with a block, without an effect beside its result."""
    numbers = _known().get(call, ())
    if len(numbers) == len(usual):
        tile = type(usual)(*numbers)
        if tuning.allowed(tile):
            return tile
    if not _searches or _searches[-1].over():
        return usual
    tile = _searches[-1].best(call, usual, tuning, run)
    _known()[call] = tuple(tile)
    path = tiles_file()
    if path is not None:
        # What other processes kept meanwhile stays.
        _kept.store(path, machine(), list((_stored() | _known()).items()))
    return tile


@contextmanager
def search(seconds: float) -> Iterator[list[Choice]]:
    """Calls inside the block that are not known yet are tuned, for about so long in all; gives the list of what was found."""
    own = _Search(seconds)
    _searches.append(own)
    try:
        yield own.found
    finally:
        _searches.remove(own)


def known() -> Tuned:
    """Of this machine: its name, and blocks by call."""
    return machine(), list(_known().items())


def adopt(tuned: Tuned) -> None:
    """Take over what another process found on the same machine, or nothing."""
    name, found = tuned
    if name == machine():
        _known().update(found)


def seconds_of(run: Callable[[], object]) -> float:
    """Median time of a call that has run before."""
    if runtime.interpreted():
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    from triton.testing import do_bench

    return 1e-3 * do_bench(run, warmup=5, rep=20, return_mode="median")


@cache
def machine() -> str:
    """GPU, version of Triton, and a digest of the kernels' source."""
    digest = sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    name = "interpreter" if runtime.interpreted() else torch.cuda.get_device_name()
    return f"{name}, {runtime.version()}, {digest.hexdigest()[:16]}"


def _tried(tile: Block, run: Callable[[Block], Results], want: Results) -> float:
    """Its time, infinite for a block that is of no use."""
    from triton.errors import TritonError

    try:
        found = run(tile)
    except TritonError:  # it takes more shared memory than there is, or its compiler fails
        return float("inf")
    if not all(_agree(*pair) for pair in zip(_listed(found), _listed(want))):
        return float("inf")
    return seconds_of(lambda: run(tile))


def _listed(results: Results) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else results


def _agree(x: Tensor, y: Tensor) -> bool:
    # In float64 no square of a float32 is too large.
    error, size = (torch.linalg.vector_norm(z, dtype=torch.float64) for z in (x - y, y))
    return bool(error <= AGREEMENT[y.dtype] * size)


def _moved(tile: Block, field: str, up: bool) -> Block:
    """Doubled, or halved; the loads under way are counted by ones."""
    value = getattr(tile, field)
    value = value + (1 if up else -1) if field == "stages" else value * 2 if up else value // 2
    return tile._replace(**{field: value})  # type: ignore[attr-defined]


@cache
def _known() -> dict[Call, tuple[int, ...]]:
    """Blocks by call, at first those of the file."""
    return _stored()


def _stored() -> dict[Call, tuple[int, ...]]:
    path = tiles_file()
    stored = _kept.read(path, machine()) if path else None
    found: dict[Call, tuple[int, ...]] = {}
    for entry in stored if isinstance(stored, list) else []:
        try:
            call, numbers = entry
            found[tuple(call)] = tuple(map(int, numbers))
        except (TypeError, ValueError):  # not an entry of ours
            continue
    return found


def within_registers(numbers: int, warps: int) -> bool:
    """Whether threads can hold so many sums."""
    return 0 < numbers <= SUMS * 32 * warps and warps <= 16
