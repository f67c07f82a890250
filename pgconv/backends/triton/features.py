"""Kernel-net features at given coordinates and of all pairs of group elements, in float32, by Triton kernels.

Coordinates of pairs are plain PyTorch: they are fewer numbers than the features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pgconv.backends.base import feature_functions
from pgconv.backends.reference.vjp import vjp
from pgconv.backends.triton import padded_net
from pgconv.backends.triton.launch import on_device, precision
from pgconv.backends.triton.padded_net import PaddedNet
from pgconv.backends.triton.pairs import coordinates
from pgconv.spec import Facts, FeatureSpec

ORDERS = {"relative_features": ("direct",), "kernel_net": ("direct",)}
POINTS, WARPS = 64, 4
"""Points of a tile, and warps that share it."""
FEW_COORDS = 4
"""Up to which the first layer's weights stay in registers."""
PROGRAMS = 1024
"""Most programs for gradients: each stores sums of its own for the parameters."""


def why_not(facts: Facts) -> str | None:
    """The reason why the features of a call cannot be computed here, or None."""
    if set(facts.dtypes) != {"float32"}:
        return f"the Triton kernels compute features in float32, received {', '.join(facts.dtypes)}"
    return padded_net.why_not(facts.features.net)


def kernel_net(coords: Tensor, params: Tensor, net: str) -> Tensor:
    """``[..., D] -> [..., H]``."""
    from pgconv.backends.triton.net_kernels import net_values

    own = PaddedNet.of(params, net, torch.float32)
    count = coords.shape[:-1].numel()
    out = coords.new_empty(count, own.spec.hidden)
    if count:
        with on_device(coords):
            net_values[(-(-count // POINTS),)](
                coords.contiguous(),
                own.first,
                own.hidden,
                own.biases,
                out,
                count,
                **_constants(own, coords),
            )
    return out.reshape(*coords.shape[:-1], own.spec.hidden)


def kernel_net_backward(grad: Tensor, coords: Tensor, params: Tensor, net: str) -> tuple[Tensor, Tensor]:
    """Gradients of coords and params."""
    from pgconv.backends.triton.net_kernels import net_gradients

    own = PaddedNet.of(params, net, torch.float32)
    count = coords.shape[:-1].numel()
    of_coords = torch.empty_like(coords, memory_format=torch.contiguous_format)
    tiles = max(1, -(-count // (POINTS * PROGRAMS)))
    programs = -(-count // (POINTS * tiles))
    sums = own.sums(programs)
    if count:
        with on_device(coords):
            net_gradients[(programs,)](
                grad.contiguous(), coords.contiguous(), own.first, own.hidden, own.biases, of_coords, *sums, count, tiles,
                **_constants(own, coords),
            )  # fmt: skip
    return of_coords, own.gradient(params, *sums)


def relative_features(v: Tensor, u: Tensor, params: Tensor, spec: FeatureSpec) -> Tensor:
    """``phi [S,Nu,Nv,H]`` of all pairs."""
    return kernel_net(coordinates(v, u, spec), params, spec.net)


def relative_features_backward(
    grad: Tensor, v: Tensor, u: Tensor, params: Tensor, spec: FeatureSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of v, u and params."""
    of_coords, of_params = kernel_net_backward(grad, coordinates(v, u, spec), params, spec.net)
    of_v, of_u = vjp(lambda *x: coordinates(*x, spec), (v, u), of_coords, (True, True))
    return of_v, of_u, of_params


def _constants(net: PaddedNet, x: Tensor) -> dict:
    """What the kernels are compiled for. Features in float32 have no use for the fast sine."""
    spec = net.spec
    return dict(
        DIM=spec.coord_dim, D=net.columns, HIDDEN=spec.hidden, H=net.features, LAYERS=net.layers, ACT=spec.activation, FAST=False,
        PRECISION=precision(x), PRODUCT=spec.coord_dim > FEW_COORDS, POINTS=POINTS, num_warps=WARPS,
    )  # fmt: skip


FUNCTIONS = feature_functions(globals())
"""Functions of a backend by operation, see ``Backend.function``."""
