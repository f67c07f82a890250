"""The point convolution as an operator; the relative features never leave the backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pgconv._shapes import dtype_names
from pgconv.backends.lists import Lists
from pgconv.backends.reference.pieces import pieces
from pgconv.backends.reference.point_conv import point_conv as reference
from pgconv.ops._define import define_op
from pgconv.ops._family import Family
from pgconv.ops.transforms import EXAMPLES, SETS
from pgconv.spec import Facts, FeatureSpec

_TENSORS = ("f", "v", "u", "params", "weight", "bias?", "index?", "rowptr?", "first?")


def _facts(f, v, u, params, weight, bias, index, rowptr, first, spec: FeatureSpec, depthwise: bool) -> Facts:
    lists, batch, nu = Lists(index, rowptr, first), f.shape[0], u.shape[1]
    listed, shared = lists.pairs(), lists.shared(nu)
    pairs = batch * nu * f.shape[1] if listed is None else listed * (batch if shared else 1)
    sizes = (
        ("B", f.shape[0]),
        ("Nv", f.shape[1]),
        ("Nu", u.shape[1]),
        ("C", f.shape[2]),
        ("O", weight.shape[0]),
        ("Hb", weight.shape[-1] + (bias is not None)),
        ("S", max(v.shape[0], u.shape[0]) if shared else batch),
        ("pairs", pairs),
        ("depthwise", int(depthwise)),
        ("lists", 0 if lists.dense else 1 if rowptr is None else 2),
    )
    dtypes = dtype_names(f, v, u, params, weight)
    return Facts("point_conv", f.device.type, dtypes, sizes, spec)


def _fake(f, v, u, params, weight, bias, index, rowptr, first, spec: FeatureSpec, depthwise: bool) -> torch.Tensor:
    return f.new_empty(f.shape[0], u.shape[1], weight.shape[0])


def _axes(f, v, u, params, weight, bias, index, rowptr, first):
    per_example = rowptr is not None and not Lists(index, rowptr, first).shared(u.shape[1])
    if per_example:
        return (None,) * len(_TENSORS)  # Rows of all examples lie in one list.
    return EXAMPLES, SETS, SETS, None, None, None, SETS if rowptr is None else None, None, None


def _composite(f, v, u, params, weight, bias, index, rowptr, first, spec: FeatureSpec, depthwise: bool):
    return reference(f, v, u, params, weight, bias, Lists(index, rowptr, first), spec, depthwise)


def _pieces(operands: Sequence[torch.Tensor | None], spec: FeatureSpec, depthwise: bool):
    f, v, u, params, weight, bias, *lists = operands
    for piece in pieces(f, v, u, weight.shape[-1], Lists(*lists)):
        yield (slice(None), piece.rows), (f, v, piece.u, params, weight, bias, *piece.lists)


point_conv = define_op(
    Family(
        name="point_conv",
        tensors=_TENSORS,
        differentiable=6,
        statics="str spec, bool depthwise",
        decode=lambda spec, depthwise: (FeatureSpec.parse(spec), depthwise),
        facts=_facts,
        fake=_fake,
        axes=_axes,
        composite=_composite,
        cast=("f", "weight", "bias"),
        pieces=_pieces,
    )
)
"""``(f, v, u, params, weight, bias?, index?, rowptr?, first?, spec, depthwise, plan) -> [B,Nu,O]``."""
