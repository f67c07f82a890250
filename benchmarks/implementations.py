"""Baselines and pgconv's plans as one kind of thing: a function of operands and static argument, with a name and a cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks import options
from benchmarks.suite import Baseline, Case, Function, Inputs, Suite, as_they_are, version_of
from pgconv.ops import dispatch
from pgconv.ops.plan import DIRECTIONS, costs
from pgconv.spec import Plan

OURS = "pgconv"


@dataclass(frozen=True)
class Implementation:
    """One way to evaluate one case.

    Attributes:
        name: of the baseline, or ``pgconv``
        plan: backend and order taken; empty for a baseline
        function: ``(*operands, static)``, see ``Case``
        flops: of one forward pass, by its own arithmetic
        backward_flops: of one backward pass for all gradients
        refuses: reason why it does not run a case, or None
        compiled: whether its first call compiles
        arrange: operands and cotangent in the layout it is used with
        note: what a reader of its times must know
        own: its operands where it computes something else than the case's sum
    """

    name: str
    plan: str
    function: Function
    flops: float
    backward_flops: float
    refuses: Callable[[Any], str | None]
    compiled: bool = False
    arrange: Callable[[Sequence[torch.Tensor], torch.Tensor], Inputs] = as_they_are
    note: str = ""
    own: Callable[[Any], list[torch.Tensor]] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.plan

    @property
    def label(self) -> str:
        return f"{self.name} {self.plan}".rstrip()

    def inputs(self, case: Case) -> Inputs:
        """Operands and cotangent of a case, in its layout."""
        return self.take(case, case.operands() if self.own is None else [], case.cotangent())

    def take(self, case: Case, operands: Sequence[torch.Tensor], cotangent: torch.Tensor) -> Inputs:
        """The same from operands and cotangent that are there already."""
        return self.arrange(operands if self.own is None else self.own(case), cotangent)

    def bind(self, static: Any) -> Function:
        """The function of the operands alone."""
        return lambda *operands: self.function(*operands, static)


@dataclass(frozen=True)
class Skipped:
    """What does not run on a case, and why."""

    name: str
    plan: str
    reason: str


class UnknownName(ValueError):
    """A baseline asked for that does not exist."""


def work(implementation: Implementation, needs: Sequence[str], direction: str) -> float:
    """FLOPs counted for a direction.

    The sum is linear in each operand of the head, so a gradient costs about one forward pass: a baseline's backward pass counts
    two (three if it computes the forward pass again), ours what its order does by the planner's count (recomputation
    included). Half of it where the signal needs no gradient.
    """
    if direction == "forward":
        return implementation.flops
    return implementation.flops + implementation.backward_flops * (1 if "f" in needs else 0.5)


def baseline(way: Baseline, case: Case) -> Implementation | Skipped:
    """A baseline on a case."""
    reason = way.why_not(case)
    if reason is not None:
        return Skipped(way.name, "", reason)
    flops = way.flops(case)
    backward = way.backward * flops
    version = f"{way.module} {version_of(way.module)}" if way.module else ""
    note = f"{version}: {way.differs}" if way.differs else version
    # What differs has no more than a case's shapes to be made of.
    function = way.make(case) if way.own else way.make()
    made = Implementation(way.name, "", function, flops, backward, way.why_not, way.compiled, way.arrange)
    return replace(made, note=note, own=way.own)


def ours(suite: Suite, plan: str, case: Case) -> Implementation | Skipped:
    """pgconv on a case with a plan such as ``auto:auto`` or ``cpp:aggregate``.

    The planner chooses for each direction; where it takes two orders the plan's text names both, ``cpp:direct+spectral``.
    """
    facts = case.facts()
    asked = Plan.parse("auto:auto" if "+" in plan else plan)
    try:
        taken, back = (dispatch.resolve(facts, asked, direction) for direction in DIRECTIONS)
    except ValueError as error:
        return Skipped(OURS, plan, str(error))
    request = str(asked if taken != back else taken)

    def refuses(other: Case) -> str | None:
        return dict(dispatch.candidates(other.facts()))[taken]

    text = str(taken) if taken == back else f"{taken}+{back.order}"
    forward, backward = (costs(facts, d)[p.order].flops for d, p in zip(DIRECTIONS, (taken, back)))
    function, arrange = lambda *call: suite.call(*call, request), suite.arrange(taken)
    return Implementation(OURS, text, function, forward, backward, refuses, arrange=arrange)


def select(suite: Suite, case: Case, plans: str, baselines: str, compiling: str = "") -> list[Implementation | Skipped]:
    """What runs on a case, baselines first.

    Args:
        suite: the benchmark
        case: one of its cases
        plans: ``"best"`` for the planner's choice, ``"all"`` for every native plan that can run, or plans by name
        baselines: ``"all"``, ``"none"`` or names, see ``named``
        compiling: text in the names of the cases on which those that compile run
    """
    chosen = [
        Skipped(way.name, "", "it compiles for long and was not asked for here (--compile)")
        if way.compiled and not options.matches(case.name, compiling)
        else baseline(way, case)
        for way in named(suite, baselines)
    ]
    return chosen + [ours(suite, plan, case) for plan in _plans(case, plans)]


def named(suite: Suite, baselines: str) -> list[Baseline]:
    """The suite's baselines by ``"none"`` or names separated by commas, of which ``"all"`` means those that need nothing else."""
    known = {way.name: way for way in suite.ways}
    usual = [way.name for way in suite.baselines]
    words = [] if baselines == "none" else baselines.split(",")
    names = [name for word in words for name in (usual if word == "all" else [word])]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownName(f"baselines must be 'all', 'none' or among {', '.join(known)}, received {', '.join(unknown)}")
    return [known[name] for name in names]


def _plans(case: Case, plans: str) -> list[str]:
    if plans == "all":
        native = [p for p, why in dispatch.candidates(case.facts()) if why is None and p.backend != "reference"]
        # The vendor's convolution is the same in every backend.
        vendors = [p for p in native if p.order == "materialize"]
        return [str(p) for p in native if p not in vendors[1:]] or ["auto:auto"]
    return ["auto:auto"] if plans == "best" else plans.split(",")


def rebuild(suite: Suite, name: str, plan: str, case: Case) -> Implementation | Skipped:
    """The implementation with this name and plan, in another process."""
    if name == OURS:
        return ours(suite, plan, case)
    return baseline({way.name: way for way in suite.ways}[name], case)
