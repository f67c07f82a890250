"""``explain``: what a call or a module does, order by order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pgconv._shapes import describe
from pgconv.ops import dispatch
from pgconv.ops import rates as machine
from pgconv.ops.cost import Cost
from pgconv.ops.plan import DIRECTIONS, costs
from pgconv.ops.rates import Rates
from pgconv.spec import Facts, Plan


@dataclass(frozen=True)
class Step:
    """One operator call: its facts, the plan taken, the cost of every order, and why other plans did not run.

    Attributes:
        facts: operation, device, dtypes, sizes
        plan: backend and order of the forward pass
        backward_plan: those of the backward pass
        costs: of every order, forward
        backward_costs: of every order, backward
        refused: reason by plan that cannot run
        rates: what the machine is taken to reach
    """

    facts: Facts
    plan: Plan
    backward_plan: Plan
    costs: dict[str, Cost]
    backward_costs: dict[str, Cost]
    refused: dict[str, str]
    rates: Rates

    def seconds(self, order: str, direction: str = "forward") -> float:
        """Expected time of an order on the backend taken."""
        taken, table = (self.plan, self.costs) if direction == "forward" else (self.backward_plan, self.backward_costs)
        return table[order].seconds(Plan(taken.backend, order), self.rates, direction, self.facts.dtypes[0])

    def __str__(self) -> str:
        sizes = " ".join(f"{k}={v}" for k, v in self.facts.sizes)
        lines = [
            f"{self.facts.op}  {sizes}  {'/'.join(dict.fromkeys(self.facts.dtypes))} on {self.facts.device}",
            f"  plan {self.plan}, backward {self.backward_plan}",
        ]
        for direction, taken, table in zip(
            DIRECTIONS, (self.plan, self.backward_plan), (self.costs, self.backward_costs)
        ):
            width = max(12, *map(len, table))
            lines.append(f"  {direction} (expected times with {self.rates.source} rates)")
            lines += [
                f"    {'*' if order == taken.order else ' '} {order:<{width}} {cost.flops / 1e9:10.4f} GFLOP "
                f"{cost.bytes / 1e6:10.3f} MB {1e3 * self.seconds(order, direction):10.3f} ms"
                for order, cost in table.items()
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

    For each call: sizes, the plans taken forward and backward, FLOPs, bytes and expected time of every evaluation order
    (``*`` marks the one taken), and the reason why each better-ranked backend was passed over. The best available backend
    comes first; within it the order with the smallest estimate wins. ``pgconv.calibrate()`` measures the rates behind the
    estimates on this machine.

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

    def record(facts: Facts, asked: Plan, plan: Plan) -> None:
        refused = {str(p): why for p, why in dispatch.candidates(facts) if why is not None}
        backward = dispatch.resolve(facts, asked, "backward")
        steps.append(
            Step(
                facts,
                plan,
                backward,
                costs(facts, "forward", plan.backend),
                costs(facts, "backward", backward.backend),
                refused,
                machine.current(facts.device),
            )
        )

    with dispatch.recording(record), torch.no_grad():
        module_or_call(*inputs, **kwargs)
    return Explanation(tuple(steps))
