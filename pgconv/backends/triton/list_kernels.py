"""Moments of a point convolution over neighbour lists in Triton.

A program owns an output and walks over its list, or over a part of it: it reads the numbers of some inputs, gathers their fields
and signals by these, and does the rest as for all inputs. Numbers of no input count for nothing: signals there are 0, and
coordinates, too.
"""

import triton
import triton.language as tl

from pgconv.backends.triton.net_kernels import load_coordinates, load_first, load_hidden, load_rows
from pgconv.backends.triton.point_kernels import (
    column_places,
    net_features,
    pair_coordinates,
    place_of_program,
    store_moments,
)


@triton.jit
def load_list(rowptr, row, length, LISTS: tl.constexpr):
    """The first entry of a row, and how many there are. The length is that of every row of "padded" lists, and that of "csr" lists
    all together."""
    if LISTS == "padded":
        return row * length, length
    else:
        begin, end = tl.load(rowptr + row), tl.load(rowptr + row + 1)
        if LISTS == "csr":
            end = tl.minimum(end, length)
        return begin, (end - begin).to(tl.int32)


@triton.jit
def load_numbers(own, at, end, Nv, LISTS: tl.constexpr):
    """Numbers of the inputs at some places of a list, and whether they are those of inputs. ``own`` points at the first number; of
    "runs" it is the first number."""
    valid = at < end
    if LISTS == "runs":
        number = own + at
    else:
        number = tl.load(own + at, mask=valid, other=-1)
    return number.to(tl.int32), valid & (number >= 0) & (number < Nv)


@triton.jit
def list_moments(
    signal, v, u, numbers, rowptr, first, hidden, biases, out,
    Nv, Nu, sets, v_set, u_set, lists_set, length, images, channels, signal_image, out_image, column_blocks, splits,
    LISTS: tl.constexpr, TERMS: tl.constexpr,
    LAW: tl.constexpr, SWAPPED: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, FIELDS: tl.constexpr,
    HIDDEN: tl.constexpr, H: tl.constexpr, LAYERS: tl.constexpr, PARTS: tl.constexpr, ACT: tl.constexpr,
    FAST: tl.constexpr, PRECISION: tl.constexpr, PRODUCT: tl.constexpr, INPUTS: tl.constexpr, COLUMNS: tl.constexpr,
    IMAGES: tl.constexpr,
):  # fmt: skip
    """As ``moments``; the list of output i of set s is row ``s * lists_set + i``. Numbers are those of inputs, or in "runs" of the
    first input of each row. Given coordinates are those of entries, ``[S, entries, DIM]``, from the first of row 0 on. If TERMS, a
    multiple of INPUTS, is not 0, so many inputs are summed before they are added to the others."""
    i, block, split, s = place_of_program(Nu, column_blocks, splits)
    first_column = block * COLUMNS
    place, exists = column_places(first_column, images, channels, signal_image, COLUMNS, IMAGES)
    row = s * lists_set + i
    entry, count = load_list(rowptr, row, length, LISTS)
    if LISTS == "runs":
        own_numbers = tl.load(numbers + row)
    else:
        own_numbers = numbers + entry
    signal += s * images * signal_image
    v += s * v_set
    u += s * u_set
    if LAW[0] < 0:
        v += (entry - load_list(rowptr, 0, length, LISTS)[0]) * DIM
    own_first, own_biases = load_first(first, DIM, D, H, PRODUCT), load_rows(biases, LAYERS, H)
    weights = load_hidden(hidden, LAYERS, PARTS, H, False)
    total = tl.full([H, COLUMNS], 0.0, tl.float32)
    if TERMS > 0:
        sums = total
    part = tl.cdiv(tl.cdiv(count, splits), INPUTS) * INPUTS
    begin = split * part
    end = tl.minimum(begin + part, count)
    for at in range(begin, end, INPUTS):
        if TERMS > 0:
            if (at - begin) % TERMS == 0:
                sums += total
                total = tl.full([H, COLUMNS], 0.0, tl.float32)
        where = at + tl.arange(0, INPUTS)
        number, valid = load_numbers(own_numbers, where, end, Nv, LISTS)
        if LAW[0] < 0:
            coords = load_coordinates(v, where, valid, DIM)
        else:
            coords = pair_coordinates(v, u, i, number, valid, Nv, Nu, LAW, SWAPPED, DIM, FIELDS)
        phi = net_features(
            coords, own_first, weights, own_biases, D, H, INPUTS, ACT, FAST, PRECISION, PRODUCT, hidden.dtype.element_ty
        )
        own = tl.load(
            signal + (number.to(tl.int64) * channels)[:, None] + place[None, :],
            mask=valid[:, None] & exists[None, :],
            other=0.0,
        )
        total = tl.dot(phi.to(own.dtype), own, total, input_precision=PRECISION)
    if TERMS > 0:
        total += sums
    out += (split * sets + s) * images * out_image + i.to(tl.int64) * HIDDEN * channels
    store_moments(out, total, first_column, images, channels, out_image, HIDDEN, H, COLUMNS, IMAGES)
