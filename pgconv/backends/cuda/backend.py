"""The ``cuda`` backend: native kernel-net features, image and point convolutions on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgconv.backends import native_features
from pgconv.backends.base import raw_functions
from pgconv.backends.cpp.library import ops
from pgconv.backends.cuda import group_conv2d, library, point_conv, point_lists
from pgconv.backends.lists import Lists
from pgconv.spec import Facts

_ORDERS = {**native_features.ORDERS, "group_conv2d": group_conv2d.ORDERS, "point_conv": ("aggregate",)}
_BYTES = {"float32": 4, "float64": 8}


class CudaBackend:
    """See ``pgconv.backends.base.Backend``."""

    name = "cuda"
    devices = ("cuda",)
    only_by_name = ()
    planned = True

    def unavailable(self, device: str) -> str | None:
        return library.load_error() if device == "cuda" else f"the native CUDA library does not run on {device} tensors"

    def describe(self) -> str:
        """GPU architectures the library was built for."""
        return library.load_error() or f"built for compute capabilities {library.architectures()}"

    def orders(self, op: str) -> tuple[str, ...]:
        return _ORDERS.get(op, ())

    def why_not(self, facts: Facts, order: str) -> str | None:
        if order not in self.orders(facts.op):
            return f"{facts.op} has no CUDA kernel in the order {order!r}"
        if facts.op == "point_conv":
            return point_conv.why_not(facts)
        if facts.op == "group_conv2d":
            return group_conv2d.why_not(facts, order)
        return native_features.why_not_dtypes(facts) or _why_not_net(facts)

    def function(self, op: str) -> Callable[..., Any]:
        return _FUNCTIONS[op]


def _why_not_net(facts: Facts) -> str | None:
    return ops().cuda_why_not_net(facts.features.net, _BYTES[facts.dtypes[0]]) or None


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


_FUNCTIONS = native_features.FUNCTIONS | raw_functions(globals(), ("group_conv2d", "point_conv"))

BACKEND = CudaBackend()
