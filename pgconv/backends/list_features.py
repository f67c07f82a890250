"""Gradients of elements and net of a point convolution over neighbour lists, some outputs at a time.

With ``dM[b,i,h,c] = sum_o W[o,c,h] grad[b,i,o]`` the features of a pair have the gradient
``dphi[p,h] = sum_{b,c} dM[b,i,h,c] f[b,j,c]``: products of matrices, one for each output, with pairs padded to the longest list of
the outputs taken together. Behind them come the net, by a backend's kernel, and the coordinates. That gives the gradients of u, by
output, and of the net; that of v is the gradient of u in the adjoint problem, so that nothing is added up across outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pgconv import groups
from pgconv.backends.lists import Lists
from pgconv.backends.reference.features import pair_coordinates
from pgconv.backends.reference.vjp import vjp
from pgconv.spec import FeatureSpec

NetGradients = Callable[[Tensor, Tensor, Tensor, str], tuple[Tensor, Tensor]]
"""Of coords and params, from the gradient of the features, coords ``[..., D]``, params and the net."""

NUMBERS = 1 << 26
"""Numbers of the pairs taken together, unless one output has more: 256 MB. Calls with less to do cost more than they compute."""


def gradients(
    needs: Sequence[bool],
    operands: Sequence[Tensor],
    lists: Lists,
    spec: FeatureSpec,
    depthwise: bool,
    net_gradients: NetGradients,
) -> tuple[Tensor | None, Tensor | None]:
    """Of u and params, as far as needed; operands: f, v, u, params, weight, and the gradient of the outputs."""
    f, v, u, params, weight, grad = operands
    (batch, nv, _), nu = f.shape, u.shape[1]
    sets = 1 if lists.shared(nu) and max(v.shape[0], u.shape[0]) == 1 else batch
    hidden, columns = weight.shape[-1], f.shape[2] * (batch // max(1, sets))
    total_u = torch.zeros(sets * nu, u.shape[2], device=f.device) if needs[0] else None
    total_params = torch.zeros_like(params) if needs[1] else None
    # Rows are the outputs of a set, one set behind the other.
    signals, grads = _by_set(f, sets), _by_set(grad, sets)
    points, outputs = (x.expand(sets, -1, -1) for x in (v, u))
    # Signals, features and coordinates of pairs with their gradients, and elements; and the moments' gradients.
    pair = columns + 3 * hidden + 2 * int(spec.net.split(":")[1]) + 6 * v.shape[2]
    row = 2 * hidden * columns
    for part, longest in _pieces(lists, sets * nu if nv else 0, nu, pair, row):
        rows = torch.arange(part.start, part.stop, device=f.device)
        of_set, row_in_set = torch.div(rows, nu, rounding_mode="floor"), rows % nu
        numbers = _numbers(lists, rows, nu, longest)
        valid = (numbers >= 0) & (numbers < nv)
        place = of_set[:, None], numbers.masked_fill(~valid, 0)
        moments = _grad_moments(grads[of_set, row_in_set], weight, depthwise)  # [rows,columns,H]
        of_features = signals[place].flatten(2).float() @ moments
        of_features = of_features.masked_fill(~valid[..., None], 0.0)
        own = outputs[of_set, row_in_set]
        coordinates = _coordinates_at(points[place], valid[..., None], spec)
        of_coords, of_params = net_gradients(of_features, coordinates(own), params, spec.net)
        if total_u is not None:
            total_u[part] = vjp(coordinates, (own,), of_coords, (True,))[0]
        if total_params is not None:
            total_params += of_params
    if total_u is not None:
        total_u = total_u.unflatten(0, (sets, nu))
        total_u = total_u.sum(0, keepdim=True) if u.shape[0] == 1 else total_u
    return total_u, total_params


def _coordinates_at(v: Tensor, valid: Tensor, spec: FeatureSpec) -> Callable[[Tensor], Tensor]:
    """``[rows,K,D]`` of inputs ``[rows,K,e]`` and outputs ``[rows,e]``, as a function of the latter. Entries of no input are pairs
    of neutral elements: those of the operands may be anything, and NaN times a gradient of 0 is NaN."""
    neutral = groups.get(spec.group).identity(v.dtype, v.device)
    inputs = torch.where(valid, v, neutral)
    return lambda u: pair_coordinates(inputs, torch.where(valid, u[:, None], neutral), spec)


def _by_set(x: Tensor, sets: int) -> Tensor:
    """``[B,N,C]`` as ``[sets,N,images,C]``."""
    return x.unflatten(0, (sets, -1)).transpose(1, 2) if sets else x[:, :, None]


def _grad_moments(grad: Tensor, weight: Tensor, depthwise: bool) -> Tensor:
    """``[rows,images,O]`` times the head, ``[rows, images * C, H]`` in float32."""
    equation = "rmc,ch->rmch" if depthwise else "rmo,och->rmch"
    return torch.einsum(equation, grad.float(), weight.float()).flatten(1, 2)


def _numbers(lists: Lists, rows: Tensor, nu: int, longest: int) -> Tensor:
    """Numbers of inputs ``[rows,longest]``, -1 where a list has no more."""
    rows = rows % nu if lists.shared(nu) else rows
    if lists.rowptr is None:
        return lists.index.flatten(0, 1)[rows]
    begin, end = lists.rowptr[rows, None], lists.rowptr[rows + 1, None]
    places = begin + torch.arange(longest, device=rows.device)
    if lists.index is None:
        numbers = lists.first[rows, None] + (places - begin)
    else:
        numbers = lists.index[places.clamp(max=lists.index.shape[0] - 1)]
    return numbers.masked_fill(places >= end, -1)


def _pieces(lists: Lists, rows: int, nu: int, pair: int, row: int) -> Iterator[tuple[slice, int]]:
    """Rows in order with their longest list, halved until they have few enough numbers: ``pair`` for each pair of padded lists, and
    ``row`` for each row. The host waits for the lengths of lists that may differ."""
    counts = None
    if lists.rowptr is not None:
        counts = lists.rowptr.diff().cpu()
        counts = counts.repeat(rows // max(1, counts.shape[0]))
    todo = [slice(0, rows)]
    while todo:
        part = todo.pop()
        if part.start == part.stop:
            continue
        longest = lists.index.shape[2] if counts is None else int(counts[part].max())
        if longest and part.stop - part.start > 1 and (part.stop - part.start) * (longest * pair + row) > NUMBERS:
            middle = (part.start + part.stop) // 2
            todo += [slice(middle, part.stop), slice(part.start, middle)]
        elif longest:
            yield part, longest
