"""Operators for kernel-net features: at relative offsets of group elements, and at given coordinates."""

from __future__ import annotations

import torch

from pgconv._shapes import dtype_names
from pgconv.backends.reference import features as reference
from pgconv.ops._define import define_op
from pgconv.ops._family import Family
from pgconv.ops.transforms import EXAMPLES, SETS
from pgconv.spec import Facts, FeatureSpec


def _relative_facts(v: torch.Tensor, u: torch.Tensor, params: torch.Tensor, spec: FeatureSpec) -> Facts:
    sizes = (("S", max(v.shape[0], u.shape[0])), ("Nv", v.shape[1]), ("Nu", u.shape[1]))
    return Facts("relative_features", v.device.type, dtype_names(v, u, params), sizes, spec)


def _relative_fake(v: torch.Tensor, u: torch.Tensor, params: torch.Tensor, spec: FeatureSpec) -> torch.Tensor:
    batch = u.shape[0] if v.shape[0] == 1 else v.shape[0]
    return params.new_empty(batch, u.shape[1], v.shape[1], int(spec.net.split(":")[2]))


relative_features = define_op(
    Family(
        name="relative_features",
        tensors=("v", "u", "params"),
        differentiable=3,
        statics="str spec",
        decode=lambda spec: (FeatureSpec.parse(spec),),
        facts=_relative_facts,
        fake=_relative_fake,
        axes=lambda v, u, params: (SETS, SETS, None),
        composite=reference.relative_features,
    )
)
"""``(v [S|1,Nv,e], u [S|1,Nu,e], params [P], spec, plan) -> phi [S,Nu,Nv,H]``."""


def _net_facts(coords: torch.Tensor, params: torch.Tensor, net: str) -> Facts:
    count = coords.numel() // max(coords.shape[-1], 1)
    spec = FeatureSpec("", "", "", "", net)
    return Facts("kernel_net", coords.device.type, dtype_names(coords, params), (("points", count),), spec)


kernel_net = define_op(
    Family(
        name="kernel_net",
        tensors=("coords", "params"),
        differentiable=2,
        statics="str net",
        decode=lambda net: (net,),
        facts=_net_facts,
        fake=lambda coords, params, net: params.new_empty(*coords.shape[:-1], int(net.split(":")[2])),
        axes=lambda coords, params: (EXAMPLES if coords.dim() > 1 else None, None),
        composite=reference.kernel_net,
    )
)
"""``(coords [...,D], params [P], net, plan) -> phi [...,H]``."""
