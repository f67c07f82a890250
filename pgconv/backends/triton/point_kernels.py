"""Moments of a point convolution in Triton, and the gradients of elements and net.

A program of the moments owns an output and walks over the inputs; features lie as ``[H, inputs]``, an operand of the product with
the signal as they are. A program of the gradients owns some inputs and walks over the outputs, with the parameters'
sums in registers. Columns of the signal are (image, channel): images that share their elements share the features.

Coordinates of pairs are computed here for translations, and translations of the plane with rotations, mirror and scale, from fields
of the elements; for every other group they are read.
"""

import triton
import triton.language as tl

from pgconv.backends.triton.net_kernels import (
    activate,
    back,
    load_coordinates,
    load_first,
    load_hidden,
    load_rows,
    phases,
    store_sums,
    with_one,
    zeros,
)


@triton.jit
def load_fields(elements, number, valid, stride, COUNT: tl.constexpr):
    """Numbers ``[COUNT, N]`` that an element's law reads, as a tuple. Beyond the last element they are 0."""
    fields = ()
    for k in tl.static_range(COUNT):
        fields = fields + (tl.load(elements + k * stride + number, mask=valid, other=0.0),)
    return fields


@triton.jit
def relative_coordinates(a, b, LAW: tl.constexpr):
    """Of ``a^-1 b``, as a tuple: see ``pairs.Law`` for the fields, and the groups for the coordinates."""
    SPACE: tl.constexpr = LAW[0]
    ROTATION: tl.constexpr = LAW[1]
    MIRROR: tl.constexpr = LAW[2]
    SCALE: tl.constexpr = LAW[3]
    # Where the fields of the mirror and the scale begin; those of the angle follow the translation.
    M: tl.constexpr = SPACE + 3 * ROTATION
    S: tl.constexpr = M + MIRROR
    coords = ()
    for k in tl.static_range(SPACE):
        coords = coords + (b[k] - a[k],)
    if SPACE == 2:
        x, y = coords[0], coords[1]
        if ROTATION:
            x, y = a[SPACE + 1] * x + a[SPACE + 2] * y, a[SPACE + 1] * y - a[SPACE + 2] * x
        if MIRROR:
            y = a[M] * y
        if SCALE:
            x, y = a[S + 1] * x, a[S + 1] * y
        coords = (x, y)
    if LAW[5]:
        if ROTATION:
            if LAW[4]:
                turned = a[SPACE + 1] * b[SPACE + 2] - a[SPACE + 2] * b[SPACE + 1]
                if MIRROR:
                    turned = a[M] * turned
                coords = coords + (a[SPACE + 1] * b[SPACE + 1] + a[SPACE + 2] * b[SPACE + 2], turned)
            else:
                turn = b[SPACE] - a[SPACE]
                if MIRROR:
                    turn = a[M] * turn
                turn = turn - 6.283185307179586 * tl.ceil((turn - 3.1416026535897933) * 0.15915494309189535)
                coords = coords + (turn * 0.3183098861837907,)
        if MIRROR:
            coords = coords + (a[M] * b[M],)
        if SCALE:
            coords = coords + (b[S] - a[S],)
    return coords


@triton.jit
def pair_coordinates(
    v, u, i, j, valid, Nv, Nu, LAW: tl.constexpr, SWAPPED: tl.constexpr, DIM: tl.constexpr, FIELDS: tl.constexpr
):  # fmt: skip
    """Of output i with inputs j. Where they are given ``v`` points at the coordinates ``[Nu, Nv, DIM]``."""
    if LAW[0] < 0:
        return load_coordinates(v + tl.cast(i, tl.int64) * Nv * DIM, j, valid, DIM)
    else:
        of_v = load_fields(v, j, valid, Nv, FIELDS)
        of_u = load_fields(u, i, i < Nu, Nu, FIELDS)
        if SWAPPED:
            coords = relative_coordinates(of_u, of_v, LAW)
        else:
            coords = relative_coordinates(of_v, of_u, LAW)
        # Those of no input have features, too, which have to be finite: far from the origin they would leave float16.
        own = ()
        for d in tl.static_range(DIM):
            own = own + (tl.where(valid, coords[d], 0.0),)
        return own


@triton.jit
def column_places(first_column, images, channels, image_size, COLUMNS: tl.constexpr, IMAGES: tl.constexpr):
    """Where columns (image, channel) of a set of elements lie, and whether they exist. There is "one" image of a set, or "several";
    places of "many" are numbers of 64 bits."""
    column = first_column + tl.arange(0, COLUMNS)
    if IMAGES == "one":
        return column, column < channels
    else:
        image = column // channels
        channel = column - image * channels
        exists = image < images
        if IMAGES == "many":
            image = image.to(tl.int64)
        return image * image_size + channel, exists


@triton.jit
def load_columns(
    signal, first_column, images, channels, signal_image, input, valid, COLUMNS: tl.constexpr, IMAGES: tl.constexpr
):
    """``[COLUMNS, inputs]`` of the signal."""
    place, exists = column_places(first_column, images, channels, signal_image, COLUMNS, IMAGES)
    return tl.load(
        signal + place[:, None] + (input * channels)[None, :], mask=exists[:, None] & valid[None, :], other=0.0
    )


@triton.jit
def place_of_program(Nu, column_blocks, splits):
    """A program's output, block of columns, split, and set of elements. Neighbouring programs have the same inputs."""
    at = tl.program_id(0)
    i = at % Nu
    at = at // Nu
    block = at % column_blocks
    at = at // column_blocks
    return i, block, at % splits, (at // splits).to(tl.int64)


@triton.jit
def net_features(
    coords, first, weights, biases, D: tl.constexpr, H: tl.constexpr, INPUTS: tl.constexpr, ACT: tl.constexpr,
    FAST: tl.constexpr, PRECISION: tl.constexpr, PRODUCT: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """``[H, inputs]``, in float32."""
    z, _ = phases(coords, first, weights, biases, D, H, INPUTS, ACT, FAST, PRECISION, PRODUCT, TYPE)
    return activate(z[len(biases) - 1], ACT, FAST)


@triton.jit
def store_moments(
    out, total, first_column, images, channels, out_image, HIDDEN: tl.constexpr, H: tl.constexpr, COLUMNS: tl.constexpr,
    IMAGES: tl.constexpr,
):  # fmt: skip
    """Those of an output, in the first of its images."""
    row = tl.arange(0, H)[:, None]
    place, exists = column_places(first_column, images, channels, out_image, COLUMNS, IMAGES)
    tl.store(
        out + row * channels + place[None, :], total.to(out.dtype.element_ty), mask=(row < HIDDEN) & exists[None, :]
    )


@triton.jit
def moments(
    signal, v, u, first, hidden, biases, out,
    Nv, Nu, sets, v_set, u_set, images, channels, signal_image, out_image, column_blocks, splits, split_inputs,
    LAW: tl.constexpr, SWAPPED: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, FIELDS: tl.constexpr,
    HIDDEN: tl.constexpr, H: tl.constexpr, LAYERS: tl.constexpr, PARTS: tl.constexpr, ACT: tl.constexpr,
    FAST: tl.constexpr, PRECISION: tl.constexpr, PRODUCT: tl.constexpr, INPUTS: tl.constexpr, COLUMNS: tl.constexpr,
    IMAGES: tl.constexpr,
):  # fmt: skip
    """``out [splits, S images, Nu, HIDDEN, channels]`` of ``signal [S images, Nv, channels]``; ``v, u [S | 1, FIELDS, N]`` or
    coordinates ``[S, Nu, Nv, DIM]``, with the distance of their sets, and of images."""
    i, block, split, s = place_of_program(Nu, column_blocks, splits)
    first_column = block * COLUMNS
    place, exists = column_places(first_column, images, channels, signal_image, COLUMNS, IMAGES)
    signal += s * images * signal_image
    v += s * v_set
    u += s * u_set
    own_first, own_biases = load_first(first, DIM, D, H, PRODUCT), load_rows(biases, LAYERS, H)
    weights = load_hidden(hidden, LAYERS, PARTS, H, False)
    total = tl.full([H, COLUMNS], 0.0, tl.float32)
    input = tl.arange(0, INPUTS)
    end = tl.minimum((split + 1) * split_inputs, Nv)
    for begin in range(split * split_inputs, end, INPUTS):
        valid = begin + input < end
        coords = pair_coordinates(v, u, i, begin + input, valid, Nv, Nu, LAW, SWAPPED, DIM, FIELDS)
        phi = net_features(
            coords, own_first, weights, own_biases, D, H, INPUTS, ACT, FAST, PRECISION, PRODUCT, hidden.dtype.element_ty
        )
        tile = signal + tl.cast(begin, tl.int64) * channels
        own = tl.load(
            tile + (input * channels)[:, None] + place[None, :], mask=valid[:, None] & exists[None, :], other=0.0
        )
        total = tl.dot(phi.to(own.dtype), own, total, input_precision=PRECISION)
    out += (split * sets + s) * images * out_image + i.to(tl.int64) * HIDDEN * channels
    store_moments(out, total, first_column, images, channels, out_image, HIDDEN, H, COLUMNS, IMAGES)


@triton.jit
def gradients(
    signal, of_moments, factor, v, u, first, hidden, biases, of_coords, of_inputs, of_hidden,
    first_program, Nv, Nu, v_set, u_set, images, channels, signal_image, moments_image, tiles, parts, part_outputs,
    LAW: tl.constexpr, SWAPPED: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, FIELDS: tl.constexpr,
    HIDDEN: tl.constexpr, H: tl.constexpr, LAYERS: tl.constexpr, PARTS: tl.constexpr, ACT: tl.constexpr,
    FAST: tl.constexpr, PRECISION: tl.constexpr, PRODUCT: tl.constexpr, INPUTS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCKS: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    """From ``of_moments [S images, Nu, HIDDEN, channels]`` those of the coordinates, ``[S, Nu, DIM, Nv]``, and of the parameters
    the sums over the program's pairs. On the way everything is multiplied by the factor, a power of two that brings it into the
    range of float16."""
    TYPE: tl.constexpr = hidden.dtype.element_ty
    program = tl.program_id(0) + first_program
    j = program % tiles * INPUTS + tl.arange(0, INPUTS)
    at = program // tiles
    part = at % parts
    s = (at // parts).to(tl.int64)
    valid = j < Nv
    signal += s * images * signal_image + (program % tiles).to(tl.int64) * INPUTS * channels
    of_moments += s * images * moments_image
    v += s * v_set
    u += s * u_set
    of_coords += s * Nu * DIM * Nv
    row, field, input = tl.arange(0, H)[:, None], tl.arange(0, D)[:, None], tl.arange(0, INPUTS)
    own_first, own_biases = load_first(first, DIM, D, H, PRODUCT), load_rows(biases, LAYERS, H)
    weights, turned = load_hidden(hidden, LAYERS, PARTS, H, False), load_hidden(hidden, LAYERS, PARTS, H, True)
    first_turned = tl.load(first + field * H + tl.arange(0, H)[None, :]).to(TYPE)
    scale = tl.load(factor)
    sum_inputs, sum_hidden = zeros(LAYERS, H, D), zeros(LAYERS - 1, H, H)
    if BLOCKS == 1:
        columns = load_columns(signal, 0, images, channels, signal_image, input, valid, COLUMNS, IMAGES)
    for i in range(part * part_outputs, tl.minimum((part + 1) * part_outputs, Nu)):
        own = of_moments + tl.cast(i, tl.int64) * HIDDEN * channels + row * channels
        if BLOCKS == 1:
            place, exists = column_places(0, images, channels, moments_image, COLUMNS, IMAGES)
            of_features = tl.dot(
                tl.load(own + place[None, :], mask=(row < HIDDEN) & exists[None, :], other=0.0),
                columns,
                input_precision=PRECISION,
            )
        else:
            of_features = tl.full([H, INPUTS], 0.0, tl.float32)
            for block in range(0, BLOCKS):
                place, exists = column_places(block * COLUMNS, images, channels, moments_image, COLUMNS, IMAGES)
                of_features = tl.dot(
                    tl.load(own + place[None, :], mask=(row < HIDDEN) & exists[None, :], other=0.0),
                    load_columns(
                        signal, block * COLUMNS, images, channels, signal_image, input, valid, COLUMNS, IMAGES
                    ),
                    of_features,
                    input_precision=PRECISION,
                )
        coords = pair_coordinates(v, u, i, j, valid, Nv, Nu, LAW, SWAPPED, DIM, FIELDS)
        z, h = phases(coords, own_first, weights, own_biases, D, H, INPUTS, ACT, FAST, PRECISION, PRODUCT, TYPE)
        x = with_one(coords, D, INPUTS, TYPE)
        dx, sum_inputs, sum_hidden = back(
            of_features * scale, z, h, x, first_turned, turned, sum_inputs, sum_hidden, ACT, FAST, PRECISION, TYPE
        )
        tl.store(
            of_coords + (tl.cast(i, tl.int64) * DIM + field) * Nv + j[None, :],
            dx * (1.0 / scale),
            mask=(field < DIM) & valid[None, :],
        )
    own = tl.program_id(0).to(tl.int64)
    store_sums(sum_inputs, 1.0 / scale, of_inputs + own * LAYERS * H * D, H, D)
    store_sums(sum_hidden, 1.0 / scale, of_hidden + own * (LAYERS - 1) * H * H, H, H)
