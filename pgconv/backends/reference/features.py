"""Kernel-net features at relative group offsets, in plain PyTorch: the definition.

``phi[s,i,j,:] = net(coordinates(v_j^-1 u_i))`` for form "convolution", ``net(coordinates(u_i^-1 v_j))`` for
"correlation".
"""

from __future__ import annotations

import torch

from pgconv import groups
from pgconv.kernel_nets import packing
from pgconv.spec import FeatureSpec


def pair_features(v: torch.Tensor, u: torch.Tensor, params: torch.Tensor, spec: FeatureSpec) -> torch.Tensor:
    """Features of paired elements: ``v, u [..., e]`` broadcast against each other, result ``[..., H]``."""
    return packing.features(spec.net, params, pair_coordinates(v, u, spec))


def pair_coordinates(v: torch.Tensor, u: torch.Tensor, spec: FeatureSpec) -> torch.Tensor:
    """Their coordinates ``[..., D]``."""
    group = groups.get(spec.group)
    offset = group.relative(v, u) if spec.form == "convolution" else group.relative(u, v)
    return group.coordinates(offset, spec.chart, spec.part)


def relative_features(v: torch.Tensor, u: torch.Tensor, params: torch.Tensor, spec: FeatureSpec) -> torch.Tensor:
    """All pairs: ``v [S|1,Nv,e]``, ``u [S|1,Nu,e]`` -> ``phi [S,Nu,Nv,H]``."""
    return pair_features(v[:, None, :, :], u[:, :, None, :], params, spec)


def kernel_net(coords: torch.Tensor, params: torch.Tensor, net: str) -> torch.Tensor:
    """Features at given coordinates ``[..., D] -> [..., H]``."""
    return packing.features(net, params, coords)
