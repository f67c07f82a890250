"""What the engine knows of a benchmark: an operator of pgconv, the cases it is measured on and other people's ways to compute them.

The functions of a benchmark all have one signature, ``function(*operands, static)``: the differentiable tensors by position, then
whatever else the call needs (``Case.static``).
"""

from __future__ import annotations

import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, ClassVar

import torch

from pgconv.spec import Facts, Plan

Function = Callable[..., torch.Tensor]

Inputs = tuple[list[torch.Tensor], torch.Tensor]
"""Operands and cotangent."""


class Case(ABC):
    """One call and the gradients asked for; a frozen dataclass of numbers, words and tuples.

    Attributes:
        OPERANDS: names of the differentiable tensors
        source: what it stands for
        published: whether a published network has this layer, None where that is not the question
        dtype: of the operands, or of those that may be less than float32
        needs: operands whose gradient is asked for
        device: where it runs
        large: takes minutes: runs only when asked for, once and without a call before
    """

    OPERANDS: ClassVar[tuple[str, ...]]
    source: str
    published: bool | None
    dtype: str
    needs: tuple[str, ...]
    device: str
    large: bool

    @property
    @abstractmethod
    def name(self) -> str:
        """Unique, made of the fields."""

    @property
    @abstractmethod
    def static(self) -> Any:
        """Last argument of the functions."""

    @property
    @abstractmethod
    def checked(self) -> int:
        """How much of a problem it is, in the suite's unit."""

    @property
    @abstractmethod
    def work(self) -> float:
        """FLOPs that stand for the time of its slowest baseline: its share of the progress and of the time limit."""

    @abstractmethod
    def facts(self) -> Facts:
        """What planner and backends see of the call."""

    @abstractmethod
    def operands(self) -> list[torch.Tensor]:
        """The tensors, the same at every call."""

    @abstractmethod
    def cotangent(self) -> torch.Tensor:
        """Gradient of the result, the same at every call."""

    @abstractmethod
    def shrink(self, limit: float) -> Case:
        """The same on fewer images or points, with about ``limit`` FLOPs in a forward pass."""

    @abstractmethod
    def tiny(self) -> Case:
        """The smallest call that loads the same code."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Bytes of the operands, and of the result."""

    def moved(self, direction: str) -> float:
        """Bytes that any way must read and write at least, each number once: backward all operands again, the gradient of the
        result, and a gradient for each operand."""
        operands, result = self.sizes
        return float(operands + result if direction == "forward" else 3 * operands + 2 * result)

    def on(self, device: str) -> Case:
        """What is measured of it on a device."""
        return replace(self, device=device)

    @property
    def usual(self) -> bool:
        """Whether it runs without being asked for."""
        return not self.large

    @property
    def tf32(self) -> bool:
        """Whether vendors' functions may cut its float32 operands to 10 bits."""
        return False

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def asked(self) -> list[bool]:
        """For each operand, whether its gradient is asked for."""
        return [name in self.needs for name in self.OPERANDS]


def as_they_are(operands: Sequence[torch.Tensor], cotangent: torch.Tensor) -> Inputs:
    """Operands and cotangent in the layout of a case."""
    return list(operands), cotangent


@dataclass(frozen=True)
class Baseline:
    """One way to compute the cases in plain PyTorch.

    Attributes:
        name: short, names a column
        make: the function, made once for a case; a compiled one takes torch.compile's backend, one that ``differs`` the case
        flops: of one forward pass, by its own arithmetic
        refuses: reason why it does not run a case, or None
        compiled: whether its first call compiles
        backward: its backward pass in forward passes: two products for each, and one more if it computes them again
        arrange: operands and cotangent in the layout in which a network made for this way has them; not timed
        module: a package it needs that we do not: it runs only when named, and where that is installed
        differs: in what its result is another one than the case's; then the gate asks for the shape and finite numbers alone
        own: its operands in the places of the case's, for a way that ``differs``
    """

    name: str
    make: Callable[..., Function]
    flops: Callable[[Any], float]
    refuses: Callable[[Any], str | None]
    compiled: bool = False
    backward: float = 2.0
    arrange: Callable[[Sequence[torch.Tensor], torch.Tensor], Inputs] = as_they_are
    module: str = ""
    differs: str = ""
    own: Callable[[Any], list[torch.Tensor]] | None = None

    def __post_init__(self) -> None:
        if bool(self.differs) != (self.own is not None):
            raise ValueError(f"{self.name}: a way that differs has operands of its own, and no other has")

    def why_not(self, case: Case) -> str | None:
        """Reason why it does not run the case here, or None."""
        if self.module and not installed(self.module):
            return f"{self.module} is not installed"
        reason = self.refuses(case)
        if reason is None and self.compiled and not any(map(shutil.which, _COMPILERS)):
            return "torch.compile needs a C++ compiler"
        return reason


def installed(module: str) -> bool:
    """Whether a package can be imported; one that is loaded already counts."""
    return module in sys.modules or find_spec(module) is not None


def version_of(module: str) -> str:
    """Of an installed package, as its files say."""
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(module), "__version__", "of unknown version"))


_COMPILERS = (os.environ.get("CXX", "g++"), "clang++", "c++")


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: of the operator, the command and the package below ``benchmarks``
        description: for ``--help``
        case: class of the cases
        cases: what is measured
        baselines: others' ways; plots and ratios begin with the first
        call: pgconv's way, ``call(*operands, static, plan)``
        reference: plan of the definition, which the gate runs in float64
        unit: what ``Case.checked`` counts
        arrange: operands and cotangent in the layout in which a network made for a plan of pgconv's has them; not timed
        optional: ways of other packages, which run when named
        tests: of the operator against its reference, as pytest takes them
    """

    name: str
    description: str
    case: type[Case]
    cases: tuple[Case, ...]
    baselines: tuple[Baseline, ...]
    call: Function
    reference: str
    unit: str
    arrange: Callable[[Plan], Callable[[Sequence[torch.Tensor], torch.Tensor], Inputs]] = lambda plan: as_they_are
    optional: tuple[Baseline, ...] = ()
    tests: tuple[str, ...] = ()

    @property
    def ways(self) -> tuple[Baseline, ...]:
        """Of all others."""
        return self.baselines + self.optional


def get(name: str) -> Suite:
    """The suite of that name."""
    return import_module(f"benchmarks.{name}").SUITE
