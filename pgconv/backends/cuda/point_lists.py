"""The point convolution over neighbour lists on a GPU: moments by our own kernel, the head by the vendor's matrix product.

    ``M[b,i,h,c] = sum_{j in N(i)} phi_h(v_j^-1 u_i) f[b,j,c]``
    ``out[b,i,o] = sum_{c,h} W[o,c,h] M[b,i,h,c] + sum_c bias[o,c] sum_{j in N(i)} f[b,j,c]``

As in ``point_conv`` beside this file, whose number formats are these, too. Gradients of signal and head come from the moments of
the adjoint problem, over the transposed lists. Sums of listed signals are moments of a feature that is 1 everywhere. Nothing is
stored for pairs but the lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pgconv.backends import moments
from pgconv.backends.cpp.library import ops
from pgconv.backends.cuda import point_list_features
from pgconv.backends.cuda.layout import aligned, float16_parts, whole_granules
from pgconv.backends.lists import Lists
from pgconv.spec import FeatureSpec

Operands = Sequence[Tensor | None]
"""f, v, u, params, weight, bias."""

MOMENTS = 1 << 24
"""Numbers in the moments of the outputs taken together, unless one has more: 64 MB."""


def forward(operands: Operands, lists: Lists, spec: FeatureSpec, depthwise: bool) -> Tensor:
    """``[B,Nu,O]`` in the signal's dtype."""
    f, v, u, params, weight, bias = operands
    out = f.new_empty(f.shape[0], u.shape[1], weight.shape[0])
    moments.weighed(_moments(f, v, u, params, lists, spec), out, weight, depthwise)
    if bias is not None:
        sums = _sums(f, v, u, lists, spec).to(f.dtype)
        out += sums * bias if depthwise else sums @ bias.t()
    return out


def backward(
    needs: Sequence[bool], grad: Tensor, operands: Operands, lists: Lists, spec: FeatureSpec, depthwise: bool
) -> list[Tensor | None]:
    """Gradients of the operands (None where not needed)."""
    f, v, u, params, weight, bias = operands
    grad = grad.to(f.dtype)
    # The problem with inputs and outputs, and their signals, in each other's place.
    transposed = lists.transposed(u.shape[1], f.shape[1]) if needs[0] or needs[1] or needs[4] else None
    adjoint = spec.adjoint
    turned = weight if depthwise else weight.transpose(0, 1)
    found: list[Tensor | None] = [None] * len(operands)
    if needs[0] or needs[4]:
        parts = _moments(grad, u, v, params, transposed, adjoint)
        found[0], found[4] = moments.signal_and_head(needs[0], needs[4], parts, f, weight, depthwise)
    if bias is not None and needs[0]:
        sums = _sums(grad, u, v, transposed, adjoint).to(f.dtype)
        found[0] += sums * bias if depthwise else sums @ bias
    if bias is not None and needs[5]:
        sums = _sums(f, v, u, lists, spec)
        found[5] = (sums * grad).sum((0, 1)) if depthwise else grad.flatten(0, 1).t().float() @ sums.flatten(0, 1)
    if needs[1]:
        call = (grad, u, v, params, turned, f), transposed, adjoint, depthwise
        found[1], _ = point_list_features.gradients((True, False), *call)
    if needs[2] or needs[3]:
        call = (f, v, u, params, weight, grad), lists, spec, depthwise
        found[2], found[3] = point_list_features.gradients((needs[2], needs[3]), *call)
    return [x.to(own.dtype) if need and x is not None else None for x, own, need in zip(found, operands, needs)]


def _sums(f: Tensor, v: Tensor, u: Tensor, lists: Lists, spec: FeatureSpec) -> Tensor:
    """``sum_{j in N(i)} f[b,j,c]`` in float32, ``[B,Nu,C]``: moments of ``relu(0 x + 1)``."""
    coords = int(spec.net.split(":")[1])
    params = torch.cat([torch.zeros(coords, device=f.device), torch.ones(1, device=f.device)])
    out = torch.empty(f.shape[0], u.shape[1], f.shape[2], device=f.device)
    for part, found in _numbers(f, v, u, params, lists, replace(spec, net=f"relu:{coords}:1:2")):
        out[part] = found[:, :, 0]
    return out


Part = tuple[slice, slice]
"""Examples, and outputs of each."""


def _moments(
    f: Tensor, v: Tensor, u: Tensor, params: Tensor, lists: Lists, spec: FeatureSpec
) -> Iterator[tuple[Part, Tensor]]:
    """Moments ``[examples,rows,H,C]`` of some outputs at a time, in the signal's dtype."""
    return ((part, found.to(f.dtype)) for part, found in _numbers(f, v, u, params, lists, spec))


def _numbers(
    f: Tensor, v: Tensor, u: Tensor, params: Tensor, lists: Lists, spec: FeatureSpec
) -> Iterator[tuple[Part, Tensor]]:
    """The same in float32."""
    channels, nu = f.shape[2], u.shape[1]
    signal, factor = whole_granules(f), None
    if f.dtype == torch.float32:
        signal, factor = float16_parts(signal)
        factor = factor[..., :channels]
    for part in _parts(f.shape[0], nu, int(spec.net.split(":")[2]) * signal.shape[-1], lists):
        examples, rows = part
        own = aligned(signal[..., examples, :, :])
        call = own, _of(v, examples).contiguous(), _of(u, examples)[:, rows].contiguous(), params.contiguous()
        found = ops().point_list_moments(*call, *_lists_of(lists, part, nu), *_text(spec))[..., :channels]
        yield part, found if factor is None else found * factor[examples]


def _parts(batch: int, nu: int, numbers: int, lists: Lists) -> Iterator[Part]:
    """Outputs with so many numbers each, so that what the lists of a part say is a view of theirs: outputs of all examples where
    these share their lists, else several examples, or some outputs of one."""
    if lists.shared(nu):
        group, step = batch, MOMENTS // max(1, batch * numbers)
    else:
        group = MOMENTS // max(1, nu * numbers)
        step = nu if group > 1 else MOMENTS // max(1, numbers)
    group, step = max(1, group), max(1, step)
    for example in range(0, batch, group):
        for row in range(0, nu, step):
            yield slice(example, min(example + group, batch)), slice(row, min(row + step, nu))


def _lists_of(lists: Lists, part: Part, nu: int) -> Lists:
    examples, rows = part
    if lists.rowptr is None:
        return Lists(_of(lists.index, examples)[:, rows].contiguous())
    begin, end = rows.start, rows.stop
    if not lists.shared(nu):
        begin, end = examples.start * nu + begin, (examples.stop - 1) * nu + end
    own = None if lists.first is None else lists.first[begin:end].contiguous()
    index = None if lists.index is None else lists.index.contiguous()
    return Lists(index, lists.rowptr[begin : end + 1].contiguous(), own)


def _of(x: Tensor, examples: slice) -> Tensor:
    """What belongs to these examples of what may be shared by all."""
    return x if x.shape[0] == 1 else x[examples]


def _text(spec: FeatureSpec) -> tuple[str, str, str, str, str]:
    return spec.group, spec.chart, spec.part, spec.form, spec.net
