"""``explain``: what a call or a module does, order by order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pgconv._shapes import describe
from pgconv.ops import dispatch
from pgconv.ops.plan import Cost, costs
from pgconv.spec import Facts, Plan


@dataclass(frozen=True)
class Step:
    """One operator call: its facts, the plan taken, the cost of every order, and why other plans did not run."""

    facts: Facts
    plan: Plan
    costs: dict[str, Cost]
    refused: dict[str, str]

    def __str__(self) -> str:
        sizes = " ".join(f"{k}={v}" for k, v in self.facts.sizes)
        lines = [
            f"{self.facts.op}  {sizes}  {'/'.join(dict.fromkeys(self.facts.dtypes))} on {self.facts.device}",
            f"  plan {self.plan}",
        ]
        lines += [
            f"    {'*' if order == self.plan.order else ' '} {order:<12} {cost.flops / 1e9:10.4f} GFLOP "
            f"{cost.bytes / 1e6:10.3f} MB"
            for order, cost in self.costs.items()
        ]
        lines += [f"    not {plan}: {reason}" for plan, reason in self.refused.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Explanation:
    """Every operator call of one forward pass, in order; ``str()`` is the report."""

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return "\n".join(str(step) for step in self.steps) or "no pgconv operator was called"

    __repr__ = __str__


def explain(module_or_call: Callable[..., Any], *inputs: Any, **kwargs: Any) -> Explanation:
    """Run a module or function once, without gradients, and report the plan of every operator call inside it.

    For each call: sizes, the plan taken, FLOPs and bytes of every evaluation order (``*`` marks the one taken), and the
    reason why each better-ranked backend was passed over. The best available backend comes first; within it the order
    with the smallest estimate wins.

    Args:
        module_or_call: a module, or any function of pgconv
        *inputs: its arguments

    Example:
        >>> import torch, pgconv
        >>> conv = pgconv.nn.LiftingConv2d(1, 4, kernel_size=3, group="SE(2)", num_samples=4).eval()
        >>> report = pgconv.explain(conv, torch.ones(1, 1, 5, 5))
        >>> [step.facts.op for step in report.steps]
        ['relative_features', 'group_conv2d']
    """
    if not callable(module_or_call):
        raise ValueError(f"explain: module_or_call must be a module or a function, received {describe(module_or_call)}")
    steps: list[Step] = []

    def record(facts: Facts, plan: Plan) -> None:
        refused = {str(p): why for p, why in dispatch.candidates(facts) if why is not None}
        steps.append(Step(facts, plan, costs(facts), refused))

    with dispatch.recording(record), torch.no_grad():
        module_or_call(*inputs, **kwargs)
    return Explanation(tuple(steps))
