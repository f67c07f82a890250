"""The image convolution as an operator: trilinear in signal, features and head.

``out[b,o,u,p] = sum_{v,t,c,h} W[o,c,h] phi[u,v,t,h] f[b,c,v,window(p,t)]``
"""

from __future__ import annotations

from dataclasses import replace

import torch

from pgconv._autocast import dtype_of
from pgconv._layout import empty_as
from pgconv._shapes import dtype_name, dtype_names
from pgconv.backends.reference.group_conv2d import group_conv2d as reference
from pgconv.ops import dispatch, gpu_costs
from pgconv.ops._define import define_op
from pgconv.ops._family import Family
from pgconv.ops.transforms import EXAMPLES, SETS
from pgconv.spec import ConvGeometry, Facts, Plan


def _facts(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> Facts:
    b, c, nv, height, width = f.shape
    s, nu, _, t, h = phi.shape
    out = geometry.out_size(height, width)
    values = (b, c, nv, height, width, s, nu, t, h, weight.shape[0], *out)
    names = ("B", "C", "Nv", "H", "W", "S", "Nu", "T", "Hb", "O", "Ho", "Wo")
    dtypes = dtype_names(f, phi, weight)
    tf32 = f.device.type == "cuda" and torch.backends.cudnn.conv.fp32_precision == "tf32"
    return Facts("group_conv2d", f.device.type, dtypes, tuple(zip(names, values)), None, geometry, tf32)


def _fake(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    height, width = geometry.out_size(f.shape[3], f.shape[4])
    return empty_as(f, f.shape[0], weight.shape[0], phi.shape[1], height, width)


group_conv2d = define_op(
    Family(
        name="group_conv2d",
        tensors=("f", "phi", "weight"),
        differentiable=3,
        statics="str geometry",
        decode=lambda geometry: (ConvGeometry.parse(geometry),),
        facts=_facts,
        fake=_fake,
        axes=lambda f, phi, weight: (EXAMPLES, SETS, None),
        composite=lambda f, phi, weight, geometry: reference(f, phi, weight, geometry, "materialize"),
        cast=("f", "phi", "weight"),
        keeps_layout=True,
    )
)
"""``(f [B,C,Nv,H,W], phi [S,Nu,Nv,T,H], weight [O,C,H], geometry, plan) -> [B,O,Nu,Ho,Wo]``."""


def bias_apart(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry, plan: str) -> bool:
    """Whether the head's bias takes less as a convolution of its own than as one more feature of ``phi``, constantly 1."""
    dtype, features = dtype_of(f), phi.shape[-1]
    if f.device.type != "cuda" or not gpu_costs.one_more_is_dear(features, dtype):
        return False
    if torch.compiler.is_compiling():
        # Sizes may be symbols. Where maps are so small that it is not true, little is lost.
        return True
    facts = replace(_facts(f, phi, weight, geometry), dtypes=(dtype_name(dtype),) * 3)
    return dispatch.bias_apart(facts, Plan.parse(plan))
