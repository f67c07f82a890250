"""Gradients of elements and net of a point convolution in float32, some outputs at a time, where no kernel takes the net.

With the gradient of the moments ``dM[b,i,h,c] = sum_o W[o,c,h] grad[b,i,o]`` the features of a pair have the gradient
``dphi[i,j,h] = sum_{b,c} dM[b,i,h,c] f[b,j,c]``, a matrix product over all columns (image, channel) of a set of elements; behind it
comes the kernel of the features, which computes them again. Numbers of pairs are stored for the outputs of a piece alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pgconv.backends import native_features
from pgconv.backends.cpp.library import ops
from pgconv.backends.reference.features import relative_features
from pgconv.backends.reference.vjp import vjp
from pgconv.spec import FeatureSpec

NUMBERS = 1 << 26
"""Of the pairs of a piece, unless one output has more: 256 MB. Calls with less to do cost more than they compute."""


def gradients(
    f: Tensor, v: Tensor, u: Tensor, params: Tensor, weight: Tensor, grad: Tensor, spec: FeatureSpec, depthwise: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of v, u and params, from that of the outputs."""
    (batch, nv, _), nu = f.shape, u.shape[1]
    sets = max(v.shape[0], u.shape[0])
    images = batch // max(1, sets)
    signal = f.float().unflatten(0, (sets, images)).transpose(1, 2).flatten(2)[:, None]  # [S,1,Nv,columns]
    total_v, total_u, total_params = torch.zeros_like(v), torch.zeros_like(u), torch.zeros_like(params)
    native = not ops().cuda_why_not_net(spec.net, 4)
    step = max(1, NUMBERS // max(1, sets * nv * _numbers_of_a_pair(spec.net, native)))
    for first in range(0, nu, step):
        rows = slice(first, min(first + step, nu))
        moments = _grad_moments(grad[:, rows].float().unflatten(0, (sets, images)), weight.float(), depthwise)
        of_features, own = signal @ moments, u[:, rows]
        if native:
            found = native_features.relative_features_backward(of_features, v, own, params, spec)
        else:
            found = vjp(lambda *x: relative_features(*x, spec), (v, own, params), of_features, (True,) * 3)
        total_v += found[0]
        total_u[:, rows] = found[1]
        total_params += found[2]
    return total_v, total_u, total_params


def _grad_moments(grad: Tensor, weight: Tensor, depthwise: bool) -> Tensor:
    """``[S,images,rows,O]`` times the head, ``[S,rows,columns,H]``."""
    equation = "smic,ch->simch" if depthwise else "smio,och->simch"
    return torch.einsum(equation, grad, weight).flatten(2, 3)


def _numbers_of_a_pair(net: str, native: bool) -> int:
    """Features and coordinates with their gradients; plain PyTorch keeps several for every layer."""
    coords, hidden, layers = map(int, net.split(":")[1:])
    return 2 * (hidden + coords) * (1 if native else 3 * layers)
