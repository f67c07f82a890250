"""Wall time in interleaved rounds: in each round every call runs in turn, so that drift of the machine meets all alike.

A time includes allocating and releasing the results, for every call: large results cost page faults, and whoever calls pays them.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

DIRECTIONS = ("forward", "forward+backward")

SAMPLE_SECONDS = 0.01
"""A sample repeats a short call for about this long, far above the clock's and the scheduler's grain."""

LONG_SECONDS = 5.0
"""A call this long is not made once more before every sample: whoever waits for it does not call again at once."""

Key = TypeVar("Key")


def steps(
    function: Callable[..., torch.Tensor],
    operands: Sequence[torch.Tensor],
    needs: Sequence[bool],
    cotangent: torch.Tensor,
) -> dict[str, Callable[[], object]]:
    """The calls of both directions: the result without a graph, and the gradients of the operands that need them."""
    leaves = [x.detach().requires_grad_(need) for x, need in zip(operands, needs)]
    asked = [x for x, need in zip(leaves, needs) if need]

    def forward() -> object:
        with torch.no_grad():
            return function(*operands)

    def both() -> object:
        return torch.autograd.grad(function(*leaves), asked, cotangent)

    return dict(zip(DIRECTIONS, (forward, both)))


@dataclass(frozen=True)
class Prepared:
    """A call that has run, how often a sample repeats it, and whether a call that is not timed goes before."""

    call: Callable[[], object]
    repeats: int
    warm: bool = True

    def sample(self) -> float:
        """Seconds per call, as a rule after one call that is not timed.

        Other ways run between two samples for seconds, long enough for the system to take back the memory the last one
        used; a training loop calls again at once.
        """
        if self.warm:
            self.call()
        finish()
        begin = time.perf_counter()
        for _ in range(self.repeats):
            self.call()
        finish()
        return (time.perf_counter() - begin) / self.repeats


def finish() -> None:
    """Wait for what a GPU in use has been given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def once(call: Callable[[], object]) -> Prepared:
    """The call as it is, for one that takes minutes."""
    return Prepared(call, 1, warm=False)


def prepare(call: Callable[[], object], compiles: bool = False) -> Prepared:
    """Run the call: once to compile and to fill caches, then to see how long it takes.

    Args:
        call: what to prepare
        compiles: its first run says nothing about its time
    """
    first = Prepared(call, 1, warm=False).sample()
    if compiles and first > LONG_SECONDS:
        first = Prepared(call, 1, warm=False).sample()
    if first > LONG_SECONDS:
        return Prepared(call, 1, warm=False)
    seconds = Prepared(call, 1).sample()
    return Prepared(call, max(1, min(1000, math.ceil(SAMPLE_SECONDS / max(seconds, 1e-9)))))


@dataclass
class Times(Generic[Key]):
    """Samples of every call in seconds, and the machine's peak in every round."""

    samples: dict[Key, list[float]]
    peaks: list[float] = field(default_factory=list)

    def quantiles(self, key: Key) -> tuple[float, float, float]:
        """20 %, median and 80 % of a call's samples, in seconds."""
        low, middle, high = torch.tensor(self.samples[key], dtype=torch.float64).quantile(
            torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
        )
        return low.item(), middle.item(), high.item()

    @property
    def peak(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.peaks)


def interleave(
    calls: Mapping[Key, Prepared],
    rounds: int,
    probe: Callable[[], float],
    deadline: float = math.inf,
    tick: Callable[[], None] = lambda: None,
) -> Times[Key]:
    """One sample of every call in each round, the peak first; each round starts with another call.

    Args:
        calls: what to time
        rounds: how many rounds
        probe: the machine's peak
        deadline: value of ``time.perf_counter()`` after which no round begins, except the first
        tick: called after every round
    """
    times: Times[Key] = Times({key: [] for key in calls})
    order = list(calls)
    with _no_garbage_collection():
        for turn in range(rounds):
            if turn and time.perf_counter() > deadline:
                break
            times.peaks.append(probe())
            start = turn % max(len(order), 1)
            for key in order[start:] + order[:start]:
                times.samples[key].append(calls[key].sample())
            tick()
    return times


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
