"""Kernel-net features by the native libraries, whose operators are the same on every device. Inputs are made contiguous here
and nowhere else."""

from __future__ import annotations

import torch
from torch import Tensor

from pgconv.backends.base import feature_functions
from pgconv.backends.cpp.library import ops
from pgconv.spec import Facts, FeatureSpec

DTYPES = ("float32", "float64")
ORDERS = {"relative_features": ("direct",), "kernel_net": ("direct",)}


def why_not_dtypes(facts: Facts) -> str | None:
    """The reason why the features of a call cannot be computed here, or None."""
    if len(set(facts.dtypes)) > 1 or facts.dtypes[0] not in DTYPES:
        return f"native features need one dtype of {' or '.join(DTYPES)}, received {', '.join(facts.dtypes)}"
    return None


def relative_features(v: Tensor, u: Tensor, params: Tensor, spec: FeatureSpec) -> Tensor:
    """``phi [S,Nu,Nv,H]`` of all pairs."""
    return ops().relative_features(*_contiguous(v, u, params), *_text(spec))


def relative_features_backward(
    grad: Tensor, v: Tensor, u: Tensor, params: Tensor, spec: FeatureSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of v, u and params."""
    return ops().relative_features_backward(*_contiguous(grad, v, u, params), *_text(spec))


def kernel_net(coords: Tensor, params: Tensor, net: str) -> Tensor:
    """``[..., D] -> [..., H]``."""
    phi = ops().kernel_net(*_contiguous(_points(coords), params), net)
    return phi.reshape(*coords.shape[:-1], phi.shape[1])


def kernel_net_backward(grad: Tensor, coords: Tensor, params: Tensor, net: str) -> tuple[Tensor, Tensor]:
    """Gradients of coords and params."""
    flat_grad, points = _contiguous(_points(grad), _points(coords))
    grad_coords, grad_params = ops().kernel_net_backward(flat_grad, points, *_contiguous(params), net)
    return grad_coords.reshape(coords.shape), grad_params


def _points(x: Tensor) -> Tensor:
    # Not reshape(-1, D): with D = 0 the number of points could not be inferred.
    return x.reshape(torch.Size(x.shape[:-1]).numel(), x.shape[-1])


def _text(spec: FeatureSpec) -> tuple[str, str, str, str, str]:
    return spec.group, spec.chart, spec.part, spec.form, spec.net


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.contiguous() for t in tensors)


FUNCTIONS = feature_functions(globals())
"""Functions of a backend by operation, see ``Backend.function``."""
