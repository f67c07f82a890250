"""Kernel nets in Triton: the functions other kernels are made of, and features at given coordinates with their gradients.

Tiles lie with the features along their rows and points along their columns, ``h_l [H, points]``: what one layer's matrix
product leaves in registers is then the operand of the next. The first layer is in float32, whatever the type of the others, as
phases of tens of radians would lose a tenth in 16 bits: a handful of multiply-adds, or a product, whose operands take fewer
registers. Weights and biases of "sin" carry the factor omega0.

Features beyond H and points beyond the last are computed along and not stored: weights of the former are 0, and every activation
maps 0 to 0.
"""

import triton
import triton.language as tl


@triton.jit
def sine(x, FAST: tl.constexpr):
    """``sin x``. The instruction's absolute error is 2^-20.5 up to pi, and grows with x: enough for features in 16 bits. Else a
    polynomial after reduction by multiples of pi: 2e-7 for ``|x| < 10^5``, without the branches of the library's sine."""
    if FAST:
        return tl.inline_asm_elementwise("sin.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return _half_turn(x, tl.floor(x * 0.3183098861837907 + 0.5), 0.0)


@triton.jit
def cosine(x, FAST: tl.constexpr):
    """``cos x``, as the sine."""
    if FAST:
        return tl.inline_asm_elementwise("cos.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return -_half_turn(x, tl.floor(x * 0.3183098861837907), 0.5)


@triton.jit
def _half_turn(x, turns, SHIFT: tl.constexpr):
    """``(-1)^turns sin(x - (turns + SHIFT) pi)`` for arguments of the sine up to pi / 2. Pi comes in three parts, the first two so
    short that their multiples are exact."""
    n = turns + SHIFT
    r = ((x - n * 3.140625) - n * 9.67502593994140625e-4) - n * 1.50995799097837643e-7
    s = r * r
    p = 2.59048822499e-6 * s - 1.98008976287e-4
    p = (p * s + 8.33289982121e-3) * s - 0.166666476345
    p = (p * s + 0.99999997659) * r
    return p * (1.0 - 2.0 * (turns - 2.0 * tl.floor(turns * 0.5)))


@triton.jit
def activate(z, ACT: tl.constexpr, FAST: tl.constexpr):
    """The activation of phases. A NaN stays one, as in PyTorch."""
    if ACT == "sin":
        return sine(z, FAST)
    elif ACT == "silu":
        return z / (1.0 + tl.exp(-z))
    elif ACT == "relu":
        return tl.where(z < 0.0, 0.0, z)
    elif ACT == "gelu":
        return 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    else:
        return 1.0 - 2.0 / (tl.exp(2.0 * z) + 1.0)


@triton.jit
def slope(z, ACT: tl.constexpr, FAST: tl.constexpr):
    """Its derivative."""
    if ACT == "sin":
        return cosine(z, FAST)
    elif ACT == "silu":
        s = 1.0 / (1.0 + tl.exp(-z))
        return s + z * s * (1.0 - s)
    elif ACT == "relu":
        return tl.where(z > 0.0, 1.0, 0.0)
    elif ACT == "gelu":
        return 0.5 + 0.5 * tl.erf(z * 0.7071067811865476) + z * 0.3989422804014327 * tl.exp(-0.5 * z * z)
    else:
        t = 1.0 - 2.0 / (tl.exp(2.0 * z) + 1.0)
        return 1.0 - t * t


@triton.jit
def load_rows(pointer, COUNT: tl.constexpr, SIZE: tl.constexpr):
    """Rows ``[SIZE]`` of a table, as a tuple."""
    rows = ()
    for k in tl.static_range(COUNT):
        rows = rows + (tl.load(pointer + k * SIZE + tl.arange(0, SIZE)),)
    return rows


@triton.jit
def load_hidden(hidden, LAYERS: tl.constexpr, PARTS: tl.constexpr, H: tl.constexpr, TURNED: tl.constexpr):
    """Weights ``[H, H]`` of the layers behind the first, as a tuple, part by part; transposed ones for the way back."""
    row, column = tl.arange(0, H)[:, None], tl.arange(0, H)[None, :]
    place = column * H + row if TURNED else row * H + column
    weights = ()
    for k in tl.static_range((LAYERS - 1) * PARTS):
        weights = weights + (tl.load(hidden + k * H * H + place),)
    return weights


@triton.jit
def load_first(first, DIM: tl.constexpr, D: tl.constexpr, H: tl.constexpr, PRODUCT: tl.constexpr):
    """The first layer's weights: a tuple of columns, or for a matrix product one matrix ``[H, D]`` that holds the bias, too."""
    if not PRODUCT:
        return load_rows(first, DIM, H)
    else:
        return (tl.load(first + tl.arange(0, D)[None, :] * H + tl.arange(0, H)[:, None]),)


@triton.jit
def first_phase(
    coords, first, bias, D: tl.constexpr, H: tl.constexpr, POINTS: tl.constexpr, PRECISION: tl.constexpr,
    PRODUCT: tl.constexpr,
):  # fmt: skip
    """``A_1 x + b_1`` of coordinates given as a tuple of numbers for every point."""
    if not PRODUCT:
        z = tl.full([H, POINTS], 0.0, tl.float32) + bias[:, None]
        for d in tl.static_range(len(coords)):
            z += first[d][:, None] * coords[d][None, :]
        return z
    else:
        return tl.dot(first[0], with_one(coords, D, POINTS, tl.float32), input_precision=PRECISION)


@triton.jit
def phases(
    coords, first, weights, biases, D: tl.constexpr, H: tl.constexpr, POINTS: tl.constexpr, ACT: tl.constexpr,
    FAST: tl.constexpr, PRECISION: tl.constexpr, PRODUCT: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Phases of all layers, and the features of all but the last, in the type of the products. Of weights in two parts and
    features in two parts three products are formed, the small ones first."""
    z = first_phase(coords, first, biases[0], D, H, POINTS, PRECISION, PRODUCT)
    all_phases, features = (z,), ()
    split: tl.constexpr = len(weights) > len(biases) - 1
    for k in tl.static_range(len(biases) - 1):
        exact = activate(z, ACT, FAST)
        h = exact.to(TYPE)
        if split:
            low = (exact - h.to(tl.float32)).to(TYPE)
            z = tl.dot(weights[k], low) + biases[k + 1][:, None]
            z = tl.dot(weights[len(biases) - 1 + k], h, z)
            z = tl.dot(weights[k], h, z)
        else:
            z = tl.dot(weights[k], h, input_precision=PRECISION) + biases[k + 1][:, None]
        all_phases, features = all_phases + (z,), features + (h,)
    return all_phases, features


@triton.jit
def with_one(coords, D: tl.constexpr, POINTS: tl.constexpr, TYPE: tl.constexpr):
    """``[D, points]``: the coordinates and a 1, whose products with a layer's gradient are those of its weights and its bias."""
    row = tl.arange(0, D)[:, None]
    x = tl.where(row == len(coords), 1.0, tl.full([D, POINTS], 0.0, tl.float32))
    for d in tl.static_range(len(coords)):
        x = tl.where(row == d, coords[d][None, :], x)
    return x.to(TYPE)


@triton.jit
def zeros(COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A tuple of tiles of zeros."""
    tiles = ()
    for _ in tl.static_range(COUNT):
        tiles = tiles + (tl.full([ROWS, COLUMNS], 0.0, tl.float32),)
    return tiles


@triton.jit
def back(
    of_features, all_phases, features, x, first, weights, of_inputs, of_hidden, ACT: tl.constexpr, FAST: tl.constexpr,
    PRECISION: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Back through the net. Returns the gradient of the coordinates ``[D, points]`` and the sums so far with this tile's terms:
    products of every layer's gradient with the coordinates and 1, and with the features before it. Of the former, all layers need
    the last column, their biases, and only the first the others."""
    inputs, hidden = (), ()
    for k in tl.static_range(len(all_phases) - 1, -1, -1):
        dz = (of_features * slope(all_phases[k], ACT, FAST)).to(TYPE)
        inputs = (tl.dot(dz, tl.trans(x), of_inputs[k], input_precision=PRECISION),) + inputs
        if k > 0:
            hidden = (tl.dot(dz, tl.trans(features[k - 1]), of_hidden[k - 1], input_precision=PRECISION),) + hidden
            of_features = tl.dot(weights[k - 1], dz, input_precision=PRECISION)
            if len(weights) > len(features):
                of_features = tl.dot(weights[len(features) + k - 1], dz, of_features)
    return tl.dot(first, dz, input_precision=PRECISION), inputs, hidden


@triton.jit
def store_sums(tiles, factor, pointer, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A tuple of tiles one behind the other, times a factor."""
    place = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    for k in tl.static_range(len(tiles)):
        tl.store(pointer + k * ROWS * COLUMNS + place, tiles[k] * factor)


@triton.jit
def load_coordinates(pointer, point, valid, DIM: tl.constexpr):
    """Of points with ``DIM`` numbers each; beyond the last they are 0."""
    coords = ()
    for d in tl.static_range(DIM):
        coords = coords + (tl.load(pointer + point * DIM + d, mask=valid, other=0.0),)
    return coords


@triton.jit
def net_values(
    coords, first, hidden, biases, out, count,
    DIM: tl.constexpr, D: tl.constexpr, HIDDEN: tl.constexpr, H: tl.constexpr, LAYERS: tl.constexpr, ACT: tl.constexpr,
    FAST: tl.constexpr, PRECISION: tl.constexpr, PRODUCT: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """``[count, DIM] -> [count, HIDDEN]``."""
    point = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    valid = point < count
    own = load_coordinates(coords, point, valid, DIM)
    own_first, own_biases = load_first(first, DIM, D, H, PRODUCT), load_rows(biases, LAYERS, H)
    weights = load_hidden(hidden, LAYERS, 1, H, False)
    z, _ = phases(own, own_first, weights, own_biases, D, H, POINTS, ACT, FAST, PRECISION, PRODUCT, tl.float32)
    row = tl.arange(0, H)[:, None]
    tl.store(
        out + point[None, :] * HIDDEN + row, activate(z[LAYERS - 1], ACT, FAST), mask=(row < HIDDEN) & valid[None, :]
    )


@triton.jit
def net_gradients(
    grad, coords, first, hidden, biases, of_coords, of_inputs, of_hidden, count, tiles,
    DIM: tl.constexpr, D: tl.constexpr, HIDDEN: tl.constexpr, H: tl.constexpr, LAYERS: tl.constexpr,
    ACT: tl.constexpr, FAST: tl.constexpr, PRECISION: tl.constexpr, PRODUCT: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """Of the coordinates ``[count, DIM]``, and of the parameters the sums over the program's tiles."""
    program = tl.program_id(0).to(tl.int64)
    row, field = tl.arange(0, H)[:, None], tl.arange(0, D)[:, None]
    own_first, own_biases = load_first(first, DIM, D, H, PRODUCT), load_rows(biases, LAYERS, H)
    weights, turned = load_hidden(hidden, LAYERS, 1, H, False), load_hidden(hidden, LAYERS, 1, H, True)
    first_turned = tl.load(first + field * H + tl.arange(0, H)[None, :])
    sum_inputs, sum_hidden = zeros(LAYERS, H, D), zeros(LAYERS - 1, H, H)
    for tile in range(0, tiles):
        point = (program * tiles + tile) * POINTS + tl.arange(0, POINTS)
        valid = point < count
        own = load_coordinates(coords, point, valid, DIM)
        z, h = phases(own, own_first, weights, own_biases, D, H, POINTS, ACT, FAST, PRECISION, PRODUCT, tl.float32)
        of_features = tl.load(grad + point[None, :] * HIDDEN + row, mask=(row < HIDDEN) & valid[None, :], other=0.0)
        x = with_one(own, D, POINTS, tl.float32)
        dx, sum_inputs, sum_hidden = back(
            of_features, z, h, x, first_turned, turned, sum_inputs, sum_hidden, ACT, FAST, PRECISION, tl.float32
        )
        tl.store(of_coords + point[None, :] * DIM + field, dx, mask=(field < DIM) & valid[None, :])
    store_sums(sum_inputs, 1.0, of_inputs + program * LAYERS * H * D, H, D)
    store_sums(sum_hidden, 1.0, of_hidden + program * (LAYERS - 1) * H * H, H, H)
