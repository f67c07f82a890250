"""``warmup``: all that happens once is done before the first step, and block sizes are tried out on this machine."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from pgconv import backends
from pgconv._shapes import describe
from pgconv.backends.base import Choice
from pgconv.diagnostics._runs import run


@dataclass(frozen=True)
class WarmupReport:
    """What it took, and what was found.

    Attributes:
        first_seconds: of the run in which kernels were compiled and tried
        seconds: of one after it
        choices: calls whose block sizes were tried by this process
    """

    first_seconds: float
    seconds: float
    choices: tuple[Choice, ...]

    def __str__(self) -> str:
        lines = [f"first run {self.first_seconds:.3g} s, then {1e3 * self.seconds:.3g} ms", *map(str, self.choices)]
        return "\n".join(lines)


def warmup(
    module: nn.Module, *inputs: Any, backward: bool = True, tune: bool = True, seconds: float = 60.0
) -> WarmupReport:
    """Run a module before it is needed, so that no step of training waits for compilers.

    A copy of the module runs on these inputs, forward and backward, twice. The Triton kernels of its calls are compiled, and with
    ``tune`` those that are not known yet are run with several block sizes, from the shipped ones on; the fastest are kept in a
    file (``PGCONV_TILES``, by default in the user's cache folder) for calls of these sizes in this and later processes. Without
    it, shipped sizes are used. Other backends have nothing to tune.

    In a process group every rank has to call it: the first tunes, the others take over what it found, so that all compute with
    the same blocks.

    Args:
        module: any module, in the mode (training or not), on the device and in the dtype it will have; it is not changed
        *inputs: its arguments, as large as they will be (tensors, or tuples of tensors such as ``Samples``)
        backward: whether gradients are computed, too
        tune: whether block sizes are tried
        seconds: for which they are, about, in all; what was begun is finished

    Returns:
        a report; ``str()`` has a line for each call that was tuned

    Raises:
        ValueError: for something else than a module

    Example:
        >>> import torch, pgconv
        >>> conv = pgconv.nn.LiftingConv2d(1, 4, kernel_size=3, group="SE(2)", num_samples=4)
        >>> report = pgconv.warmup(conv, torch.ones(2, 1, 5, 5))
        >>> report.choices  # nothing to tune on a CPU
        ()
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"warmup: module must be a torch.nn.Module, received {describe(module)}")
    own = copy.deepcopy(module)

    def once() -> float:
        begin = time.perf_counter()
        run(own, inputs, 0, backward)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    with _tuned_together() as first, ExitStack() as searches:
        found = [searches.enter_context(b.search(seconds)) for b in _tunable()] if tune and first else []
        first_seconds = once()
    return WarmupReport(first_seconds, once(), tuple(choice for choices in found for choice in choices))


@contextmanager
def _tuned_together() -> Iterator[bool]:
    """Whether this process is the one that tunes. Others wait at the beginning for what it found."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        yield True
        return
    first = distributed.get_rank() == 0
    if not first:
        _exchange(None)
    try:
        yield first
    finally:
        # Also after an error, so that nobody waits for ever.
        if first:
            _exchange([b.tuned() for b in _tunable()])


def _exchange(tuned: list[Any] | None) -> None:
    """From the first process to all."""
    message = [tuned]
    distributed.broadcast_object_list(message, src=0)
    for backend, found in zip(_tunable(), message[0] or ()):
        backend.adopt(found)


def _tunable() -> list[Any]:
    loaded = map(backends.load, backends.NAMES)
    usable = (
        b for b in loaded if hasattr(b, "search") and any(b.unavailable(d) is None for d in b.devices + b.only_by_name)
    )
    return list(usable)
