"""The ``cpp`` backend: native kernel-net features and planar convolutions on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgconv.backends import native_features, vendor_conv
from pgconv.backends.base import raw_functions
from pgconv.backends.cpp import group_conv2d, library, point_conv
from pgconv.backends.lists import Lists
from pgconv.spec import Facts

_ORDERS = {
    **native_features.ORDERS,
    "group_conv2d": ("aggregate", "direct", "mix", "spectral", "spectral-aggregate", "materialize"),
    "point_conv": ("aggregate",),
}


class CppBackend:
    """See ``pgconv.backends.base.Backend``."""

    name = "cpp"
    devices = ("cpu",)
    only_by_name = ()
    planned = True

    def unavailable(self, device: str) -> str | None:
        return library.load_error() if device == "cpu" else f"the native CPU library does not run on {device} tensors"

    def describe(self) -> str:
        """Instruction set in use."""
        return (
            library.load_error() or f"instruction set {library.isa()}, supported {', '.join(library.supported_isas())}"
        )

    def orders(self, op: str) -> tuple[str, ...]:
        return _ORDERS[op]

    def why_not(self, facts: Facts, order: str) -> str | None:
        if order not in self.orders(facts.op):
            return f"{facts.op} has no native kernel in the order {order!r}"
        if facts.op == "group_conv2d":
            return None if order == "materialize" else _why_not_fused(facts)
        if facts.op == "point_conv":
            return _why_not_points(facts)
        return native_features.why_not_dtypes(facts)

    def function(self, op: str) -> Callable[..., Any]:
        return _FUNCTIONS[op]


def _why_not_fused(facts: Facts) -> str | None:
    dtypes = set(facts.dtypes)
    if len(dtypes) > 1 or not dtypes <= {*native_features.DTYPES, "bfloat16"}:
        return (
            f"native convolutions need one dtype of {', '.join(native_features.DTYPES)} or bfloat16, received "
            f"{', '.join(facts.dtypes)}"
        )
    if min(facts.size("Ho"), facts.size("Wo")) < 1:
        return "the kernel does not fit the padded image"
    return None


def _why_not_points(facts: Facts) -> str | None:
    elements = set(facts.dtypes[1:4])
    if not elements <= set(native_features.DTYPES):
        return f"native features need {' or '.join(native_features.DTYPES)}, received {', '.join(facts.dtypes[1:4])}"
    return None


def _group_conv2d(order: str, f, phi, weight, geometry):
    if order == "materialize":
        return vendor_conv.forward(f, phi, weight, geometry)
    return group_conv2d.forward(order, f, phi, weight, geometry)


def _group_conv2d_backward(order: str, needs, grad, f, phi, weight, geometry):
    if order == "materialize":
        return vendor_conv.backward(grad, f, phi, weight, geometry, needs)
    return group_conv2d.backward(order, grad, f, phi, weight, geometry, needs)


def _point_conv(order: str, f, v, u, params, weight, bias, index, rowptr, first, spec, depthwise):
    return point_conv.forward((f, v, u, params, weight, bias), Lists(index, rowptr, first), spec, depthwise)


def _point_conv_backward(order, needs, grad, f, v, u, params, weight, bias, index, rowptr, first, spec, depthwise):
    operands, lists = (f, v, u, params, weight, bias), Lists(index, rowptr, first)
    return point_conv.backward(needs, grad, operands, lists, spec, depthwise)


_FUNCTIONS = native_features.FUNCTIONS | raw_functions(globals(), ("group_conv2d", "point_conv"))

BACKEND = CppBackend()
