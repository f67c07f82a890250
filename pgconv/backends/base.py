"""What a backend is: a name, the orders it knows for an operation, reasons, and plain functions. No autograd here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pgconv.spec import Facts


class Backend(Protocol):
    """A set of raw functions named after the operations, each with a ``<op>_backward`` beside it."""

    name: str
    devices: tuple[str, ...]
    """Device types it is for."""
    only_by_name: tuple[str, ...]
    """Device types on which it is never chosen by itself."""
    planned: bool
    """Whether the planner picks among the orders when the backend is asked for by name; else the first that can run."""

    def unavailable(self, device: str) -> str | None:
        """Why nothing of this backend runs on a device type here, or None."""

    def orders(self, op: str) -> tuple[str, ...]:
        """Evaluation orders of an operation."""

    def why_not(self, facts: Facts, order: str) -> str | None:
        """Why this call cannot run in that order, or None. Selection, error texts, docs and tests read this string."""

    def function(self, op: str) -> Callable[..., Any]:
        """The raw function of an operation."""


@dataclass(frozen=True)
class Choice:
    """What a search found for a call.

    Attributes:
        call: name of the kernel, and what its speed depends on
        usual: block that is shipped
        taken: the fastest
        usual_seconds: time with the one
        taken_seconds: and with the other
        tried: number of blocks
    """

    call: tuple[str | int, ...]
    usual: tuple[int, ...]
    taken: tuple[int, ...]
    usual_seconds: float
    taken_seconds: float
    tried: int

    def __str__(self) -> str:
        gain = self.usual_seconds / self.taken_seconds
        return (
            f"{' '.join(map(str, self.call))}: {gain:.2f}x by {self.taken} instead of {self.usual}, {self.tried} tried"
        )


Tuned = tuple[str, list[tuple[tuple[str | int, ...], tuple[int, ...]]]]
"""A machine, and the blocks that were found on it, by call."""


class Tunable(Backend, Protocol):
    """A backend whose kernels' block sizes can be found by trying."""

    def search(self, seconds: float) -> AbstractContextManager[list[Choice]]:
        """Calls inside the block are tuned, for about so long in all; gives what was found."""

    def tuned(self) -> Tuned:
        """All that is known."""

    def adopt(self, tuned: Tuned) -> None:
        """Take over what another process found on the same machine."""


def raw_functions(namespace: Mapping[str, Any], ops: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """The table behind ``function``: a module's ``_<op>`` and ``_<op>_backward`` by operation name."""
    return {name: namespace[f"_{name}"] for op in ops for name in (op, f"{op}_backward")}


def feature_functions(module: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """The same of kernel-net features, from a module's functions of these names: they have one order, and all gradients at once."""

    def value(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda order, *call: function(*call)

    def gradients(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda order, needs, *call: function(*call)

    found = {name: value(module[name]) for name in ("relative_features", "kernel_net")}
    return found | {f"{name}_backward": gradients(module[f"{name}_backward"]) for name in found}
