"""What a call costs in one evaluation order."""

from __future__ import annotations

from dataclasses import dataclass

from pgconv.ops.rates import Rates
from pgconv.spec import Plan


@dataclass(frozen=True)
class Cost:
    """Work of one order in one direction.

    Attributes:
        flops: floating point operations of the sum itself; a multiply-add counts two
        bytes: moved to and from memory
        wasted: operations on padding, beside ``flops``
        calls: how many times the fixed cost of starting an order is paid
    """

    flops: float
    bytes: float
    wasted: float = 0.0
    calls: int = 1

    def seconds(self, plan: Plan, rates: Rates, direction: str = "forward", dtype: str = "float32") -> float:
        """Estimate on the machine the rates describe."""
        rate = rates.rate(plan, direction, dtype) * rates.peak
        return self.calls * rates.start(plan) + (self.flops + self.wasted) / rate + self.bytes / rates.bandwidth
