"""The reference backend: plain PyTorch on any device and floating dtype. It is the specification the others are tested
against.

Written to be read; speed is not its aim. Backward passes are the automatic derivatives of the forward definitions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pgconv.backends.base import raw_functions
from pgconv.backends.lists import Lists
from pgconv.backends.reference import features, group_conv2d, point_conv
from pgconv.backends.reference.vjp import vjp
from pgconv.spec import ConvGeometry, Facts, FeatureSpec

_ORDERS = {
    "relative_features": ("direct",),
    "kernel_net": ("direct",),
    "group_conv2d": tuple(group_conv2d.ORDERS),
    "point_conv": ("aggregate",),
}


class ReferenceBackend:
    """See ``pgconv.backends.base.Backend``."""

    name = "reference"
    devices = ("cpu", "cuda")
    only_by_name = ()
    planned = False

    def unavailable(self, device: str) -> str | None:
        return None

    def orders(self, op: str) -> tuple[str, ...]:
        return _ORDERS[op]

    def why_not(self, facts: Facts, order: str) -> str | None:
        known = self.orders(facts.op)
        if order not in known:
            return f"the reference evaluates {facts.op} in the orders {', '.join(known)}, not {order!r}"
        # Vendor transforms know no half precision.
        if order.startswith("spectral") and not set(facts.dtypes) <= {"float32", "float64"}:
            return f"the order {order!r} needs float32 or float64, received {', '.join(facts.dtypes)}"
        return None

    def function(self, op: str) -> Callable[..., Any]:
        return _FUNCTIONS[op]


def _relative_features(order: str, v, u, params, spec: FeatureSpec):
    return features.relative_features(v, u, params, spec)


def _relative_features_backward(order: str, needs, grad, v, u, params, spec: FeatureSpec):
    return vjp(lambda v, u, p: features.relative_features(v, u, p, spec), (v, u, params), grad, needs)


def _kernel_net(order: str, coords, params, net: str):
    return features.kernel_net(coords, params, net)


def _kernel_net_backward(order: str, needs, grad, coords, params, net: str):
    return vjp(lambda x, p: features.kernel_net(x, p, net), (coords, params), grad, needs)


def _group_conv2d(order: str, f, phi, weight, geometry: ConvGeometry):
    return group_conv2d.group_conv2d(f, phi, weight, geometry, order)


def _group_conv2d_backward(order: str, needs, grad, f, phi, weight, geometry: ConvGeometry):
    return vjp(lambda *t: group_conv2d.group_conv2d(*t, geometry, order), (f, phi, weight), grad, needs)


def _point_conv(order: str, f, v, u, params, weight, bias, index, rowptr, first, spec: FeatureSpec, depthwise: bool):
    return point_conv.point_conv(f, v, u, params, weight, bias, Lists(index, rowptr, first), spec, depthwise)


def _point_conv_backward(order, needs, grad, f, v, u, params, weight, bias, index, rowptr, first, spec, depthwise):
    def forward(f: torch.Tensor, v, u, params, weight, bias):
        return point_conv.point_conv(f, v, u, params, weight, bias, Lists(index, rowptr, first), spec, depthwise)

    return vjp(forward, (f, v, u, params, weight, bias), grad, needs)


_FUNCTIONS = raw_functions(globals(), _ORDERS)

BACKEND = ReferenceBackend()
