"""Point convolutions over neighbour lists by kernels that form moments: what is the same whoever wrote the kernels.

    ``M[b,i,h,c] = sum_{j in N(i)} phi_h(v_j^-1 u_i) f[b,j,c]``
    ``out[b,i,o] = sum_{c,h} W[o,c,h] M[b,i,h,c] + sum_c bias[o,c] sum_{j in N(i)} f[b,j,c]``

Gradients of signal and head come from the moments of the adjoint problem, over the transposed lists; those of elements and net from
list_features.py beside this file. Outputs are taken some at a time, so that what is stored for them stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from pgconv.backends import list_features, moments
from pgconv.backends.lists import Lists
from pgconv.spec import FeatureSpec

Operands = Sequence[Tensor | None]
"""f, v, u, params, weight, bias."""

Part = tuple[slice, slice]
"""Examples, and outputs of each."""

MOMENTS = 1 << 24
"""Numbers in the moments of the outputs taken together, unless one has more: 64 MB."""


class Kernels(NamedTuple):
    """What a backend has to have."""

    moments: Callable[[Tensor, Tensor, Tensor, Tensor, Lists, FeatureSpec], Iterator[tuple[Part, Tensor]]]
    """Of f, v, u, params, lists and spec: parts and their moments ``[examples,rows,H,C]`` in the signal's dtype."""
    sums: Callable[[Tensor, Tensor, Tensor, Lists, FeatureSpec], Tensor]
    """Of f, v, u, lists and spec: ``sum_{j in N(i)} f[b,j,c]`` in float32, ``[B,Nu,C]``."""
    net_gradients: list_features.NetGradients

    def forward(self, operands: Operands, lists: Lists, spec: FeatureSpec, depthwise: bool) -> Tensor:
        """``[B,Nu,O]`` in the signal's dtype."""
        f, v, u, params, *_ = operands
        parts = self.moments(f, v, u, params, lists, spec)
        return moments.value(parts, lambda: self.sums(f, v, u, lists, spec).to(f.dtype), operands, depthwise)

    def backward(
        self, needs: Sequence[bool], grad: Tensor, operands: Operands, lists: Lists, spec: FeatureSpec, depthwise: bool
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
            parts = self.moments(grad, u, v, params, transposed, adjoint)
            signal = _listed(f, transposed) if needs[4] else f
            found[0], found[4] = moments.signal_and_head(needs[0], needs[4], parts, signal, weight, depthwise)
        if bias is not None and needs[0]:
            sums = self.sums(grad, u, v, transposed, adjoint).to(f.dtype)
            found[0] += sums * bias if depthwise else sums @ bias
        if bias is not None and needs[5]:
            sums = self.sums(f, v, u, lists, spec)
            found[5] = (sums * grad).sum((0, 1)) if depthwise else grad.flatten(0, 1).t().float() @ sums.flatten(0, 1)
        if needs[1]:
            call = (grad, u, v, params, turned, f), transposed, adjoint, depthwise, self.net_gradients
            found[1], _ = list_features.gradients((True, False), *call)
        if needs[2] or needs[3]:
            call = (f, v, u, params, weight, grad), lists, spec, depthwise, self.net_gradients
            found[2], found[3] = list_features.gradients((needs[2], needs[3]), *call)
        return [x.to(own.dtype) if need and x is not None else None for x, own, need in zip(found, operands, needs)]


def _listed(f: Tensor, transposed: Lists) -> Tensor:
    """Signals with 0 for inputs of no output, whose moments are 0: a NaN there is no pair's."""
    counts = transposed.rowptr.diff()
    return f.masked_fill((counts == 0).view(1 if transposed.shared(f.shape[1]) else -1, f.shape[1], 1), 0.0)


def parts(batch: int, nu: int, numbers: int, lists: Lists) -> Iterator[Part]:
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


def rows_of(lists: Lists, part: Part, nu: int) -> slice:
    """The rows of the lists of a part."""
    examples, rows = part
    if lists.shared(nu):
        return rows
    return slice(examples.start * nu + rows.start, (examples.stop - 1) * nu + rows.stop)


def lists_of(lists: Lists, part: Part, nu: int) -> Lists:
    """The lists of a part, which are views: a CSR index stays whole."""
    examples, rows = part
    if lists.rowptr is None:
        return Lists(of_examples(lists.index, examples)[:, rows].contiguous())
    own = rows_of(lists, part, nu)
    index = None if lists.index is None else lists.index.contiguous()
    first = None if lists.first is None else lists.first[own].contiguous()
    return Lists(index, lists.rowptr[own.start : own.stop + 1].contiguous(), first)


def of_examples(x: Tensor, examples: slice) -> Tensor:
    """What belongs to these examples of what may be shared by all."""
    return x if x.shape[0] == 1 else x[examples]
