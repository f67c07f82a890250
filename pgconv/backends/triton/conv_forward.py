"""Kernels of the image convolution's forward: both products chained, and kernel values built on the way. See ``conv_pieces``."""

import triton
import triton.language as tl

from pgconv.backends.triton.conv_pieces import exchanged, moments, places, window


@triton.jit
def chain(
    f,
    phi,
    head,
    out,
    images,
    channels,
    height,
    width,
    samples,
    outputs,
    out_height,
    out_width,
    out_image,
    out_output,
    out_sample,
    out_pixel,
    NV: tl.constexpr,
    PRODUCTS: tl.constexpr,
    PADDED: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WALK: tl.constexpr,
    P: tl.constexpr,
    UB: tl.constexpr,
    CB: tl.constexpr,
    HB: tl.constexpr,
    OB: tl.constexpr,
    KB: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out[p,u,o] = sum_{c,h} head[o,c,h] sum_k phi[u,h,k] window[p,c,k]``; a program has P pixels, UB samples, OB outputs.

    Rows of the first product are (pixel, channel), its columns (sample, feature); of the second (pixel, sample) are rows, and
    (channel, feature) is summed over.
    """
    blocks_o, blocks_u = tl.cdiv(outputs, OB), tl.cdiv(samples, UB)
    tiles = tl.cdiv(images * out_height * out_width, P)
    block = tl.program_id(0)
    # Neighbours read the same windows.
    o = block % blocks_o * OB + tl.arange(0, OB)
    u0 = block // blocks_o % blocks_u * UB
    tile = block // (blocks_o * blocks_u) % tiles
    own = block // (blocks_o * blocks_u) // tiles
    if WIDE:
        o, own = o.to(tl.int64), own.to(tl.int64)

    image, row, column, inside = places(tile * P, images, out_height, out_width, P, CB, WIDE)
    channel = tl.arange(0, P * CB) % CB
    start = ((own * images + image) * channels + channel) * height * width * NV
    n = tl.arange(0, UB * HB)
    features = ((own * samples + u0 + n // HB) * HIDDEN + n % HB) * PADDED
    known = u0 + n // HB < samples
    q = tl.arange(0, CB * HB)

    acc = tl.zeros([P * UB, OB], tl.float32)
    BLOCKS: tl.constexpr = HIDDEN // HB
    for i in range(0, tl.cdiv(channels, CB) * BLOCKS):
        c0, h0 = i // BLOCKS * CB, i % BLOCKS * HB
        at = tl.cast(c0, tl.int64 if WIDE else tl.int32) * height * width * NV
        s = moments(
            f + at,
            phi + h0 * PADDED,
            start,
            row,
            column,
            inside & (c0 + channel < channels),
            features,
            known,
            height,
            width,
            NV,
            PRODUCTS,
            PADDED,
            ROWS,
            WALK,
            KB,
            PRECISION,
        )
        c = c0 + q // HB
        w = tl.load(
            head + o[None, :] * (channels * HIDDEN) + (c * HIDDEN + h0 + q % HB)[:, None],
            mask=(c < channels)[:, None] & (o < outputs)[None, :],
            other=0.0,
        )
        acc = tl.dot(exchanged(s.to(w.dtype), P, CB, UB, HB), w, acc, input_precision=PRECISION)

    image, row, column, inside = places(tile * P, images, out_height, out_width, P, UB, WIDE)
    u = u0 + tl.arange(0, P * UB) % UB
    at = (own * images + image) * out_image + u * out_sample + (row * out_width + column) * out_pixel
    tl.store(
        out + at[:, None] + (o * out_output)[None, :],
        acc.to(out.dtype.element_ty),
        mask=(inside & (u < samples))[:, None] & (o < outputs)[None, :],
    )


@triton.jit
def direct(
    f,
    phi,
    head,
    out,
    images,
    channels,
    height,
    width,
    samples,
    outputs,
    out_height,
    out_width,
    out_image,
    out_output,
    out_sample,
    out_pixel,
    NV: tl.constexpr,
    PRODUCTS: tl.constexpr,
    PADDED: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WALK: tl.constexpr,
    P: tl.constexpr,
    HB: tl.constexpr,
    OB: tl.constexpr,
    KB: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out[o,p] = sum_{c,k} (sum_h head[o,c,h] phi[u,h,k]) window[p,c,k]``; a program has P pixels, one sample, OB outputs.

    Kernel values are rows of the second product, so that they stay in the registers in which the first leaves them.
    """
    blocks_o = tl.cdiv(outputs, OB)
    tiles = tl.cdiv(images * out_height * out_width, P)
    block = tl.program_id(0)
    o = block % blocks_o * OB + tl.arange(0, OB)
    u = block // blocks_o % samples
    tile = block // (blocks_o * samples) % tiles
    own = block // (blocks_o * samples) // tiles
    if WIDE:
        o, own = o.to(tl.int64), own.to(tl.int64)

    image, row, column, inside = places(tile * P, images, out_height, out_width, P, 1, WIDE)
    start = (own * images + image) * channels * height * width * NV
    features = phi + (own * samples + u) * HIDDEN * PADDED
    h, k = tl.arange(0, HB), tl.arange(0, KB)

    acc = tl.zeros([OB, P], tl.float32)
    CHUNKS: tl.constexpr = PADDED // KB
    for i in range(0, channels * CHUNKS):
        c, k0 = i // CHUNKS, i % CHUNKS * KB
        values = tl.zeros([OB, KB], tl.float32)
        for h0 in tl.static_range(0, HIDDEN, HB):
            w = tl.load(
                head + o[:, None] * (channels * HIDDEN) + (c * HIDDEN + h0 + h)[None, :],
                mask=(o < outputs)[:, None],
                other=0.0,
            )
            factor = tl.load(features + (h0 + h)[:, None] * PADDED + (k0 + k)[None, :])
            values = tl.dot(w, factor, values, input_precision=PRECISION)
        at = tl.cast(c, tl.int64 if WIDE else tl.int32) * height * width * NV
        seen = window(f + at, start, row, column, inside, k0 + k, height, width, NV, PRODUCTS, ROWS, WALK)
        acc = tl.dot(values.to(seen.dtype), tl.trans(seen), acc, input_precision=PRECISION)

    at = (own * images + image) * out_image + u * out_sample + (row * out_width + column) * out_pixel
    tl.store(
        out + at[None, :] + (o * out_output)[:, None],
        acc.to(out.dtype.element_ty),
        mask=inside[None, :] & (o < outputs)[:, None],
    )
