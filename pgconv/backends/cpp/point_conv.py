"""Raw native functions of the point convolution: dtypes, contiguity and the native form of neighbour lists.

The native code computes in the widest dtype of its operands, float32 at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from pgconv.backends.cpp.library import ops
from pgconv.backends.lists import Lists
from pgconv.spec import FeatureSpec

Operands = Sequence[Tensor | None]
"""f, v, u, params, weight, bias."""

_OWN = {torch.float32, torch.float64}


def forward(operands: Operands, lists: Lists, spec: FeatureSpec, depthwise: bool) -> Tensor:
    """``[B,Nu,O]`` in the signal's dtype."""
    out = ops().point_conv(*_wide(*operands), *_lists(lists), depthwise, *_text(spec))
    return out if out.dtype == operands[0].dtype else out.to(operands[0].dtype)


def backward(
    needs: Sequence[bool],
    grad: Tensor,
    operands: Operands,
    lists: Lists,
    spec: FeatureSpec,
    depthwise: bool,
) -> list[Tensor | None]:
    """Gradients of the operands (None where not needed)."""
    bits = needs[0] | any(needs[1:4]) << 1 | any(needs[4:6]) << 2
    call = *_wide(grad, *operands), *_lists(lists), depthwise, *_text(spec), bits
    found = ops().point_conv_backward(*call)
    return [g.to(x.dtype) if need else None for g, x, need in zip(found, operands, needs)]


def _wide(*tensors: Tensor | None) -> list[Tensor | None]:
    dtypes = {x.dtype for x in tensors if x is not None}
    if not dtypes <= _OWN or len(dtypes) > 1:
        dtype = reduce(torch.promote_types, dtypes, torch.float32)
        tensors = [None if x is None else x.to(dtype) for x in tensors]
    return [None if x is None else x.contiguous() for x in tensors]


def _lists(lists: Lists) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(rowptr, index, first) of the native code: padding of lists in a rectangle is left out."""
    index, rowptr, first = lists
    if index is not None and rowptr is None:
        real = index >= 0
        counts = real.sum(-1).flatten()
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), index[real], None
    return tuple(None if x is None else x.contiguous() for x in (rowptr, index, first))


def _text(spec: FeatureSpec) -> tuple[str, str, str, str, str]:
    return spec.group, spec.chart, spec.part, spec.form, spec.net
