"""Kernels of the gradients of head and features. See ``conv_pieces``.

A program adds up its share of the pixels, in turn; shares are added afterwards, always in the same way. No atomics.
"""

import triton
import triton.language as tl

from pgconv.backends.triton.conv_pieces import exchanged, moments, places, window


@triton.jit
def head_gradient(
    f,
    phi,
    grad,
    out,
    sets,
    images,
    channels,
    height,
    width,
    samples,
    outputs,
    out_height,
    out_width,
    share,
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
    """``out[share,c,h,o] = sum_{p,u} (sum_k phi[u,h,k] window[p,c,k]) grad[p,u,o]``; a program has CB channels, HB features, OB
    outputs, and of all tiles of pixels and blocks of samples ``share``."""
    BLOCKS: tl.constexpr = HIDDEN // HB
    blocks_o, blocks_c, blocks_u = tl.cdiv(outputs, OB), tl.cdiv(channels, CB), tl.cdiv(samples, UB)
    tiles = tl.cdiv(images * out_height * out_width, P)
    block = tl.program_id(0)
    o = block % blocks_o * OB + tl.arange(0, OB)
    h0 = block // blocks_o % BLOCKS * HB
    c0 = block // (blocks_o * BLOCKS) % blocks_c * CB
    part = block // (blocks_o * BLOCKS) // blocks_c
    if WIDE:
        o, part = o.to(tl.int64), part.to(tl.int64)

    channel = c0 + tl.arange(0, P * CB) % CB
    sample = tl.arange(0, UB * HB) // HB
    feature = h0 + tl.arange(0, UB * HB) % HB
    acc = tl.zeros([CB * HB, OB], tl.float32)
    first = tl.program_id(0) // (blocks_o * BLOCKS * blocks_c) * share
    for i in range(first, tl.minimum(first + share, sets * tiles * blocks_u)):
        u0, tile = i % blocks_u * UB, i // blocks_u % tiles
        own = tl.cast(i // (blocks_u * tiles), tl.int64 if WIDE else tl.int32)
        image, row, column, inside = places(tile * P, images, out_height, out_width, P, CB, WIDE)
        s = moments(
            f,
            phi,
            ((own * images + image) * channels + channel) * height * width * NV,
            row,
            column,
            inside & (channel < channels),
            ((own * samples + u0 + sample) * HIDDEN + feature) * PADDED,
            u0 + sample < samples,
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
        image, row, column, inside = places(tile * P, images, out_height, out_width, P, UB, WIDE)
        u = u0 + tl.arange(0, P * UB) % UB
        at = (own * images + image) * outputs * out_height * out_width * samples
        at += (row * out_width + column) * samples + u
        d = tl.load(
            grad + at[:, None] + (o * (out_height * out_width * samples))[None, :],
            mask=(inside & (u < samples))[:, None] & (o < outputs)[None, :],
            other=0.0,
        )
        s = tl.trans(exchanged(s.to(d.dtype), P, CB, UB, HB))
        acc = tl.dot(s, d, acc, input_precision=PRECISION)

    q = tl.arange(0, CB * HB)
    c = c0 + q // HB
    at = (part * channels + c) * HIDDEN + h0 + q % HB
    tl.store(out + at[:, None] * outputs + o[None, :], acc, mask=(c < channels)[:, None] & (o < outputs)[None, :])


@triton.jit
def feature_gradient(
    f,
    head,
    grad,
    out,
    sets,
    images,
    channels,
    height,
    width,
    samples,
    outputs,
    out_height,
    out_width,
    share,
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
    """``out[share,set,k,u,h] = sum_{p,c} window[p,c,k] (sum_o head[o,c,h] grad[p,u,o])``; a program has KB products, UB samples, HB
    features of a set, and of all tiles of pixels and blocks of channels ``share``."""
    BLOCKS: tl.constexpr = HIDDEN // HB
    CHUNKS: tl.constexpr = PADDED // KB
    blocks_c, blocks_u = tl.cdiv(channels, CB), tl.cdiv(samples, UB)
    tiles = tl.cdiv(images * out_height * out_width, P)
    block = tl.program_id(0)
    # Neighbours read the same gradient.
    k = block % CHUNKS * KB + tl.arange(0, KB)
    h0 = block // CHUNKS % BLOCKS * HB
    u0 = block // (CHUNKS * BLOCKS) % blocks_u * UB
    own = block // (CHUNKS * BLOCKS * blocks_u) % sets
    part = block // (CHUNKS * BLOCKS * blocks_u) // sets
    first = part * share
    if WIDE:
        own, part = own.to(tl.int64), part.to(tl.int64)

    q = tl.arange(0, CB * HB)
    channel = tl.arange(0, P * CB) % CB
    u = u0 + tl.arange(0, P * UB) % UB
    acc = tl.zeros([KB, UB * HB], tl.float32)
    for i in range(first, tl.minimum(first + share, tiles * blocks_c)):
        c0, tile = i % blocks_c * CB, i // blocks_c
        image, row, column, inside = places(tile * P, images, out_height, out_width, P, UB, WIDE)
        at = (own * images + image) * outputs * out_height * out_width * samples
        at += (row * out_width + column) * samples + u
        c = c0 + q // HB
        g = tl.zeros([P * UB, CB * HB], tl.float32)
        for o0 in range(0, outputs, OB):
            o = tl.cast(o0 + tl.arange(0, OB), tl.int64 if WIDE else tl.int32)
            d = tl.load(
                grad + at[:, None] + (o * (out_height * out_width * samples))[None, :],
                mask=(inside & (u < samples))[:, None] & (o < outputs)[None, :],
                other=0.0,
            )
            w = tl.load(
                head + o[:, None] * (channels * HIDDEN) + (c * HIDDEN + h0 + q % HB)[None, :],
                mask=(c < channels)[None, :] & (o < outputs)[:, None],
                other=0.0,
            )
            g = tl.dot(d, w, g, input_precision=PRECISION)
        image, row, column, inside = places(tile * P, images, out_height, out_width, P, CB, WIDE)
        start = ((own * images + image) * channels + c0 + channel) * height * width * NV
        inside &= c0 + channel < channels
        seen = window(f, start, row, column, inside, k, height, width, NV, PRODUCTS, ROWS, WALK)
        g = exchanged(g.to(seen.dtype), P, UB, CB, HB)
        acc = tl.dot(tl.trans(seen), g, acc, input_precision=PRECISION)

    n = tl.arange(0, UB * HB)
    u = u0 + n // HB
    at = ((part * sets + own) * PADDED + k)[:, None] * (samples * HIDDEN) + (u * HIDDEN + h0 + n % HB)[None, :]
    tl.store(out + at, acc, mask=(u < samples)[None, :])
