"""The ``triton`` backend: kernel-net features, image and point convolutions on GPUs of any maker that Triton compiles for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pgconv.backends.base import Choice, Tuned, raw_functions
from pgconv.backends.lists import Lists
from pgconv.backends.triton import features, group_conv2d, point_conv, point_lists, runtime, tuning
from pgconv.spec import Facts

_ORDERS: dict[str, tuple[str, ...]] = {
    **features.ORDERS,
    "group_conv2d": group_conv2d.ORDERS,
    "point_conv": ("aggregate",),
}


class TritonBackend:
    """See ``pgconv.backends.base.Tunable``."""

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
        if facts.op == "group_conv2d":
            return group_conv2d.why_not(facts, order)
        return point_conv.why_not(facts) if facts.op == "point_conv" else features.why_not(facts)

    def function(self, op: str) -> Callable[..., Any]:
        return _FUNCTIONS[op]

    def search(self, seconds: float) -> AbstractContextManager[list[Choice]]:
        return tuning.search(seconds)

    def tuned(self) -> Tuned:
        return tuning.known()

    def adopt(self, tuned: Tuned) -> None:
        tuning.adopt(tuned)


def _group_conv2d(order: str, f, phi, weight, geometry):
    return group_conv2d.forward(order, f, phi, weight, geometry)


def _group_conv2d_backward(order: str, needs, grad, f, phi, weight, geometry):
    return group_conv2d.backward(order, grad, f, phi, weight, geometry, needs)


def _point_conv(order: str, f, v, u, params, weight, bias, index, rowptr, first, spec, depthwise):
    operands, lists = (f, v, u, params, weight, bias), Lists(index, rowptr, first)
    if lists.dense:
        return point_conv.forward(operands, spec, depthwise)
    return point_lists.KERNELS.forward(operands, lists, spec, depthwise)


def _point_conv_backward(order, needs, grad, f, v, u, params, weight, bias, index, rowptr, first, spec, depthwise):
    operands, lists = (f, v, u, params, weight, bias), Lists(index, rowptr, first)
    if lists.dense:
        return point_conv.backward(needs, grad, operands, spec, depthwise)
    return point_lists.KERNELS.backward(needs, grad, operands, lists, spec, depthwise)


_FUNCTIONS = features.FUNCTIONS | raw_functions(globals(), ("group_conv2d", "point_conv"))

BACKEND = TritonBackend()
