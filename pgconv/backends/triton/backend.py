"""The ``triton`` backend: image convolutions on GPUs of any maker that Triton compiles for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgconv.backends.base import raw_functions
from pgconv.backends.triton import group_conv2d, runtime
from pgconv.spec import Facts

_ORDERS: dict[str, tuple[str, ...]] = {"group_conv2d": group_conv2d.ORDERS}


class TritonBackend:
    """See ``pgconv.backends.base.Backend``."""

    name = "triton"
    devices = ("cuda",)
    only_by_name = ("cpu",)
    """Interpreted."""
    planned = True

    def unavailable(self, device: str) -> str | None:
        return runtime.unavailable(device)

    def describe(self) -> str:
        """Version of Triton."""
        return runtime.version()

    def orders(self, op: str) -> tuple[str, ...]:
        return _ORDERS.get(op, ())

    def why_not(self, facts: Facts, order: str) -> str | None:
        if order not in self.orders(facts.op):
            return f"{facts.op} has no Triton kernel in the order {order!r}"
        return group_conv2d.why_not(facts, order)

    def function(self, op: str) -> Callable[..., Any]:
        return _FUNCTIONS[op]


def _group_conv2d(order: str, f, phi, weight, geometry):
    return group_conv2d.forward(order, f, phi, weight, geometry)


def _group_conv2d_backward(order: str, needs, grad, f, phi, weight, geometry):
    return group_conv2d.backward(order, grad, f, phi, weight, geometry, needs)


_FUNCTIONS = raw_functions(globals(), _ORDERS)

BACKEND = TritonBackend()
