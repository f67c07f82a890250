"""Raw native functions of the point convolution: dtypes, contiguity and the native form of neighbour lists.

The native code computes in the widest dtype of its operands, float32 at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from pgconv.backends.cpp.library import ops
from pgconv.spec import FeatureSpec


def forward(
    f: Tensor,
    v: Tensor,
    u: Tensor,
    params: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    index: Tensor | None,
    rowptr: Tensor | None,
    spec: FeatureSpec,
    depthwise: bool,
) -> Tensor:
    """``[B,Nu,O]`` in the signal's dtype."""
    operands = _wide(f, v, u, params, weight, bias)
    return ops().point_conv(*operands, *_lists(index, rowptr), depthwise, *_text(spec)).to(f.dtype)


def backward(
    needs: Sequence[bool],
    grad: Tensor,
    f: Tensor,
    v: Tensor,
    u: Tensor,
    params: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    index: Tensor | None,
    rowptr: Tensor | None,
    spec: FeatureSpec,
    depthwise: bool,
) -> list[Tensor | None]:
    """Gradients of f, v, u, params, weight, bias (None where not needed)."""
    grad, *operands = _wide(grad, f, v, u, params, weight, bias)
    bits = needs[0] | any(needs[1:4]) << 1 | any(needs[4:6]) << 2
    found = ops().point_conv_backward(grad, *operands, *_lists(index, rowptr), depthwise, *_text(spec), bits)
    return [g.to(x.dtype) if need else None for g, x, need in zip(found, (f, v, u, params, weight, bias), needs)]


def _wide(*tensors: Tensor | None) -> list[Tensor | None]:
    dtype = reduce(torch.promote_types, (x.dtype for x in tensors if x is not None), torch.float32)
    return [None if x is None else x.to(dtype).contiguous() for x in tensors]


def _lists(index: Tensor | None, rowptr: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
    """(rowptr, index, first) of the native code: padding of lists in a rectangle is left out."""
    if index is None:
        return None, None, None
    if rowptr is not None:
        return rowptr.contiguous(), index.contiguous(), None
    real = index >= 0
    counts = real.sum(-1).flatten()
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), index[real], None


def _text(spec: FeatureSpec) -> tuple[str, str, str, str, str]:
    return spec.group, spec.chart, spec.part, spec.form, spec.net
