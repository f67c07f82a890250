"""Pieces of the image convolution's kernels: which pixels a program has, what they see, and the moments of that.

Maps lie samples last, ``[B,C,H,W,N]``, features with products last, ``[S,Nu,HIDDEN,PADDED]``, the head as it is, ``[O,C,HIDDEN]``;
``HIDDEN`` is a multiple of a block's features. A product is a tap and a sample, ``k = tap * NV + sample``: those of a tap lie side
by side. Pixels are numbered through the images that share their features (``images`` of them), row by row.

The window is arithmetic, not a table that would have to be brought to the device: rows of the support have no gaps, so ``ROWS``
holds for each in turn at which tap it begins and by how much its columns are shifted against those of the row before. ``WALK`` is,
of rows and columns each, stride, place of the first window, and step between taps.
"""

import triton
import triton.language as tl


@triton.jit
def places(first, images, height, width, COUNT: tl.constexpr, REPEAT: tl.constexpr, WIDE: tl.constexpr):
    """Image, row and column of the pixels from ``first``, each ``REPEAT`` times, and whether there are such."""
    n = first + tl.arange(0, COUNT * REPEAT) // REPEAT
    image = n // (height * width)
    row = n % (height * width) // width
    column = n % width
    if WIDE:
        image = image.to(tl.int64)
    return image, row, column, n < images * height * width


@triton.jit
def window(
    f,
    start,
    row,
    column,
    inside,
    k,
    height,
    width,
    NV: tl.constexpr,
    PRODUCTS: tl.constexpr,
    ROWS: tl.constexpr,
    WALK: tl.constexpr,
):
    """``[pixels, products]``: what pixels see of the map at ``start``; zero beside the image, and where nothing is ``inside``."""
    tap = k // NV
    down, right = tl.zeros_like(tap), tap + ROWS[1]
    for i in tl.static_range(2, len(ROWS), 2):
        begun = (tap >= ROWS[i]).to(tl.int32)
        down += begun
        right += begun * ROWS[i + 1]
    y = (row * WALK[0] + WALK[2])[:, None] + (down * WALK[4])[None, :]
    x = (column * WALK[1] + WALK[3])[:, None] + (right * WALK[5])[None, :]
    seen = (y >= 0) & (y < height) & (x >= 0) & (x < width) & inside[:, None] & (k < PRODUCTS)[None, :]
    return tl.load(f + start[:, None] + (y * width + x) * NV + (k % NV)[None, :], mask=seen, other=0.0)


@triton.jit
def moments(
    f,
    phi,
    start,
    row,
    column,
    inside,
    features,
    known,
    height,
    width,
    NV: tl.constexpr,
    PRODUCTS: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    WALK: tl.constexpr,
    KB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``[pixels, features]``: sums over all products of the window and the features that begin at ``features``."""
    sums = tl.zeros([start.shape[0], features.shape[0]], tl.float32)
    if PADDED <= 3 * KB:
        # Unrolled, so that the loop around is the innermost, whose loads run ahead.
        for k0 in tl.static_range(0, PADDED, KB):
            k = k0 + tl.arange(0, KB)
            seen = window(f, start, row, column, inside, k, height, width, NV, PRODUCTS, ROWS, WALK)
            factor = tl.load(phi + features[None, :] + k[:, None], mask=known[None, :], other=0.0)
            sums = tl.dot(seen, factor, sums, input_precision=PRECISION)
    else:
        for k0 in range(0, PADDED, KB):
            k = k0 + tl.arange(0, KB)
            seen = window(f, start, row, column, inside, k, height, width, NV, PRODUCTS, ROWS, WALK)
            factor = tl.load(phi + features[None, :] + k[:, None], mask=known[None, :], other=0.0)
            sums = tl.dot(seen, factor, sums, input_precision=PRECISION)
    return sums


@triton.jit
def exchanged(x, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, D: tl.constexpr):
    """``[(A,B), (C,D)] -> [(A,C), (B,D)]``."""
    return tl.reshape(tl.permute(tl.reshape(x, [A, B, C, D]), (0, 2, 1, 3)), [A * C, B * D])
