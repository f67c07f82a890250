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

MOST_PAIRS, MOST_PAIRS_BACKWARD = 32, 512
"""Of an example, up to which examples with elements of their own are taken as one ragged batch: tiles are then of pairs of several
of them."""


def forward(operands: Operands, lists: Lists, spec: FeatureSpec, depthwise: bool) -> Tensor:
    """``[B,Nu,O]`` in the signal's dtype."""
    if _have_few_pairs(operands, lists, MOST_PAIRS):
        shape = operands[0].shape[0], operands[2].shape[1]
        return forward(*_together(operands), spec, depthwise)[0].unflatten(0, shape)
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
    # Depthwise there is less to gain backward, too.
    if _have_few_pairs(operands, lists, MOST_PAIRS if depthwise else MOST_PAIRS_BACKWARD):
        found = backward(needs, _in_turn(grad), *_together(operands), spec, depthwise)
        return [None if g is None else g.reshape(x.shape) for g, x in zip(found, operands)]
    bits = needs[0] | any(needs[1:4]) << 1 | any(needs[4:6]) << 2
    call = *_wide(grad, *operands), *_lists(lists), depthwise, *_text(spec), bits
    found = ops().point_conv_backward(*call)
    return [g.to(x.dtype) if need else None for g, x, need in zip(found, operands, needs)]


def _have_few_pairs(operands: Operands, lists: Lists, most: int) -> bool:
    """Whether there are several examples, with elements of their own and few pairs each."""
    f, v, u = operands[:3]
    batch = f.shape[0]
    return batch > 1 and lists.dense and v.shape[0] == u.shape[0] == batch and 0 < f.shape[1] * u.shape[1] <= most


def _together(operands: Operands) -> tuple[Operands, Lists]:
    """The same sums as one example, whose inputs and outputs are those of all in turn."""
    f, v, u, *net = operands
    batch, nv, nu = f.shape[0], f.shape[1], u.shape[1]
    rowptr = torch.arange(0, batch * nu * nv + 1, nv)
    first = torch.arange(0, batch * nv, nv).repeat_interleave(nu)
    return (*map(_in_turn, (f, v, u)), *net), Lists(None, rowptr, first)


def _in_turn(x: Tensor) -> Tensor:
    return x.flatten(0, 1)[None]


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
