"""The point convolution over neighbour lists by Triton kernels; what is made of the moments is in ``pgconv.backends.point_lists``.

Number formats are those of ``point_conv`` beside this file. Sums of listed signals are moments of a feature that is 1 everywhere.
Nothing is stored for pairs but the lists and, for groups whose law no kernel computes, the coordinates of some at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pgconv.backends import point_lists
from pgconv.backends.lists import Lists
from pgconv.backends.point_lists import Part, lists_of, of_examples, parts, rows_of
from pgconv.backends.reference.features import pair_coordinates
from pgconv.backends.triton import point_conv
from pgconv.backends.triton.features import kernel_net_backward
from pgconv.backends.triton.launch import on_device
from pgconv.backends.triton.padded_net import PaddedNet
from pgconv.backends.triton.pairs import GIVEN, Pairs, law_of
from pgconv.backends.triton.tiles import Tile, moments_tile, moments_tuning
from pgconv.backends.triton.tuning import choose
from pgconv.spec import FeatureSpec

ONE = FeatureSpec("T(1)", "product", "all", "convolution", "relu:1:1:2")
"""A net of one feature, at coordinates that cost little."""
MOST_HALF_TERMS = 1 << 17
"""Sums in an accumulator whose cut-off is below the rounding of 16 bits."""
COORDINATES = 1 << 24
"""Numbers in the given coordinates of pairs taken together, unless one output has more: 64 MB."""


def _sums(f: Tensor, v: Tensor, u: Tensor, lists: Lists, spec: FeatureSpec) -> Tensor:
    """Moments of ``relu(0 x + 1)``, whatever the elements are."""
    params = torch.arange(2, device=f.device, dtype=torch.float32)
    zeros = (torch.zeros(1, x.shape[1], 1, device=f.device) for x in (v, u))
    out = torch.empty(f.shape[0], u.shape[1], f.shape[2], device=f.device)
    for part, found in _numbers(f, *zeros, params, lists, ONE, torch.float32):
        out[part] = found[:, :, 0]
    return out


def _moments(
    f: Tensor, v: Tensor, u: Tensor, params: Tensor, lists: Lists, spec: FeatureSpec
) -> Iterator[tuple[Part, Tensor]]:
    """In the signal's dtype."""
    return _numbers(f, v, u, params, lists, spec, f.dtype)


def _numbers(
    f: Tensor, v: Tensor, u: Tensor, params: Tensor, lists: Lists, spec: FeatureSpec, dtype: torch.dtype
) -> Iterator[tuple[Part, Tensor]]:
    """In any."""
    net, f, nu = PaddedNet.of(params, spec.net, f.dtype), f.contiguous(), u.shape[1]
    v, u = v.contiguous().float(), u.contiguous().float()
    found, given = (
        parts(f.shape[0], nu, net.spec.hidden * f.shape[2], lists),
        law_of(spec.group, spec.chart, spec.part) == GIVEN,
    )
    if given:
        # Of an entry: coordinates, and elements on the way to them, in every set that shares the lists.
        sets = max(v.shape[0], u.shape[0], 1) if lists.shared(nu) else 1
        found = _few_entries(found, lists, nu, COORDINATES // (sets * (net.spec.coord_dim + 4 * v.shape[2])))
    for part in found:
        examples, rows = part
        own = lists_of(lists, part, nu)
        elements = of_examples(v, examples), of_examples(u, examples)[:, rows]
        pairs = _given(*elements, own, spec) if given else Pairs.of(*elements, spec)
        yield part, _moments_of(f[examples], rows.stop - rows.start, own, pairs, net, spec, dtype)


def _few_entries(found: Iterable[Part], lists: Lists, nu: int, most: int) -> Iterator[Part]:
    """Parts halved until their lists have no more entries, unless one output has. The host waits for the lengths of lists that may
    differ."""
    bounds = None if lists.rowptr is None else lists.rowptr.cpu()
    todo = list(found)[::-1]
    while todo:
        examples, rows = part = todo.pop()
        own = rows_of(lists, part, nu)
        if bounds is None:
            entries = (own.stop - own.start) * lists.index.shape[2]
        else:
            entries = int(bounds[own.stop] - bounds[own.start])
        if entries > most and not lists.shared(nu) and examples.stop - examples.start > 1:
            todo += [(half, rows) for half in _halves(examples)]
        elif entries > most and rows.stop - rows.start > 1:
            todo += [(examples, half) for half in _halves(rows)]
        else:
            yield part


def _halves(x: slice) -> tuple[slice, slice]:
    middle = (x.start + x.stop) // 2
    return slice(middle, x.stop), slice(x.start, middle)


def _given(v: Tensor, u: Tensor, lists: Lists, spec: FeatureSpec) -> Pairs:
    """With the coordinates of every entry, ``[S,entries,D]``; where examples have lists of their own they are one long set."""
    nv, nu = v.shape[1], u.shape[1]
    number, row = _entries(lists)
    number = number.masked_fill((number < 0) | (number >= nv), 0)
    if not nv:
        number, row = number[:0], row[:0]
    if not lists.shared(nu):
        number = number + torch.div(row, nu, rounding_mode="floor") * nv
        sets = _rows(lists) // nu
        v, u = (x.expand(sets, -1, -1).flatten(0, 1)[None] for x in (v, u))
    return Pairs(GIVEN, pair_coordinates(v[:, number], u[:, row], spec).contiguous(), u)


def _entries(lists: Lists) -> tuple[Tensor, Tensor]:
    """Number and row of every entry of lists whose rowptr, if there is one, may begin behind the first entry of all."""
    index, rowptr, first = lists
    if rowptr is None:
        places = torch.arange(index.numel(), device=index.device)
        return index.flatten(), torch.div(places, max(1, index.shape[2]), rounding_mode="floor")
    begin, end = rowptr[:: rowptr.shape[0] - 1].tolist()
    places = torch.arange(begin, end if index is None else min(end, index.shape[0]), device=rowptr.device)
    row = torch.searchsorted(rowptr, places, right=True) - 1
    return index[places] if first is None else first[row] + places - rowptr[row], row


def _rows(lists: Lists) -> int:
    return lists.index.shape[:2].numel() if lists.rowptr is None else lists.rowptr.shape[0] - 1


def _moments_of(
    f: Tensor, nu: int, lists: Lists, pairs: Pairs, net: PaddedNet, spec: FeatureSpec, dtype: torch.dtype
) -> Tensor:
    """By the kernel, ``[B,Nu,H,C]``."""
    from pgconv.backends.triton.list_kernels import list_moments

    (batch, nv, channels), hidden, shared = f.shape, net.spec.hidden, lists.shared(nu)
    sets = max(pairs.v.shape[0], pairs.u.shape[0]) if shared else batch
    images = batch // max(1, sets)
    form = Form.of(lists, nv)
    most = point_conv.MOST_TERMS if f.dtype == torch.float32 else MOST_HALF_TERMS

    def run(tile: Tile) -> Tensor:
        blocks = -(-images * channels // tile.columns)
        programs = nu * blocks * sets
        splits = max(1, min(-(-point_conv.PROGRAMS // max(1, programs)), -(-form.typical // point_conv.LEAST_INPUTS)))
        out = f.new_empty(splits, batch, nu, hidden, channels, dtype=dtype if splits == 1 else torch.float32)
        if out.numel():
            with on_device(f):
                list_moments[(programs * splits,)](
                    f, pairs.v, pairs.u, form.numbers, form.rowptr, net.first, net.hidden, net.biases, out,
                    nv, nu, sets, *pairs.sets(), 0 if shared else nu, form.length,
                    images, channels, nv * channels, nu * hidden * channels, blocks, splits,
                    LISTS=form.name, TERMS=point_conv.MOST_TERMS if form.longest > most else 0,
                    PRODUCT=net.spec.coord_dim > point_conv.FEW_COORDS,
                    **point_conv.constants(f, net, pairs, spec, tile, images, max(nv, nu * hidden)),
                )  # fmt: skip
        return out[0] if splits == 1 else out.sum(0).to(dtype)

    usual, tuning = moments_tile(net.features, images * channels, f.dtype), moments_tuning(net.features)
    call = *point_conv.call_of("list_moments", f, images, nu, pairs, spec), form.name, form.typical.bit_length()
    return run(choose(call, usual, tuning, run))


class Form(NamedTuple):
    """Lists as the kernel takes them."""

    name: str
    numbers: Tensor
    """Of inputs, or of the first input of every row."""
    rowptr: Tensor
    """Not read where lists are padded."""
    length: int
    """Of padded lists, else entries in all."""
    typical: int
    """Length of a list, as far as it is known without waiting for the device."""
    longest: int
    """The same of the longest, which is taken to name no input twice."""

    @staticmethod
    def of(lists: Lists, nv: int) -> Form:
        """Of lists with contiguous tensors."""
        index, rowptr, first = lists
        if rowptr is None:
            return Form("padded", index, index, *3 * index.shape[2:])
        if index is None:
            return Form("runs", first, rowptr, 0, nv, nv)
        entries = index.shape[0]
        return Form("csr", index, rowptr, entries, -(-entries // max(1, rowptr.shape[0] - 1)), nv)


KERNELS = point_lists.Kernels(_moments, _sums, kernel_net_backward)
