"""The image convolution in Triton: ``aggregate`` chains both products, ``direct`` builds kernel values on the way, ``materialize``
is the vendor's convolution.

Kernels read samples last; signals that lie otherwise are copied, results lie as the signal. The signal's gradient is the adjoint
problem in the same order, at strides other than 1 the vendor's. Gradients of features and head have one kernel each for both
orders. Sums are float32; 16-bit operands are rounded once between both products, as the reference does. float32 is taken in TF32
where PyTorch lets convolutions do that; else, on NVIDIA GPUs, in three products of TF32 parts ("tf32x3", close to float32) and on
AMD's in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv._layout import LAST, empty_as, is_group_last
from pgconv.backends import vendor_conv
from pgconv.backends.triton import conv_tiles, runtime
from pgconv.backends.triton.conv_tiles import Tile
from pgconv.backends.triton.launch import on_device
from pgconv.backends.triton.tuning import choose
from pgconv.spec import ConvGeometry, Facts

DTYPES = ("float16", "bfloat16", "float32")
ORDERS = ("materialize", "aggregate", "direct")
KERNELS = {"aggregate": "chain", "direct": "direct"}
MOST_ROWS = 31
"""The window's rows are unrolled."""
NUMBERS = 1 << 31
"""int32 counts pixels, and in smaller tensors all numbers; a block may overhang, so half of that is safe."""
PROGRAMS = 512
"""Into about so many the gradients of features and head are split: on any device, so that sums are the same."""


def why_not(facts: Facts, order: str) -> str | None:
    """The reason why a call cannot run in an order, or None."""
    if len(set(facts.dtypes)) > 1:
        return f"one dtype is needed for all operands, received {', '.join(facts.dtypes)}"
    if min(facts.size("Ho"), facts.size("Wo")) < 1:
        return "the kernel does not fit the padded image"
    if order == "materialize":
        return None
    if facts.dtypes[0] not in DTYPES:
        return f"the kernels take {', '.join(DTYPES)}, received {facts.dtypes[0]}"
    if facts.device == "cpu" and facts.dtypes[0] == "bfloat16":
        return "Triton's interpreter multiplies the bits of bfloat16 instead of its numbers"
    if facts.geometry.kernel_size > MOST_ROWS:
        return f"the kernels take windows of up to {MOST_ROWS} rows, received {facts.geometry.kernel_size}"
    if facts.size("B") * max(facts.size("Ho") * facts.size("Wo"), facts.size("H") * facts.size("W")) >= NUMBERS // 2:
        return f"the kernels count up to {NUMBERS // 2} pixels"
    return None


def forward(order: str, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """``[B,O,Nu,Ho,Wo]``."""
    if order == "materialize":
        return vendor_conv.forward(f, phi, weight, geometry)
    size = geometry.out_size(*f.shape[-2:])
    return _product(order, f, phi, weight, _rows(geometry), _walk(geometry), size, like=f)


def backward(
    order: str, grad: Tensor, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry, needs: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients of f, phi and weight (None where not needed)."""
    found: list[Tensor | None] = [None] * 3
    if order != "materialize":
        grad, rows, walk = grad.to(f.dtype), _rows(geometry), _walk(geometry)
        if needs[0] and geometry.stride == (1, 1):
            factors = phi.transpose(1, 2), weight.transpose(0, 1)
            found[0] = _product(order, grad, *factors, rows, _adjoint(walk), f.shape[-2:], like=f)
        if needs[1]:
            found[1] = _feature_gradient(grad, f, phi, weight, rows, walk)
        if needs[2]:
            found[2] = _head_gradient(grad, f, phi, weight, rows, walk)
    left = tuple(need and x is None for need, x in zip(needs, found))
    vendors = vendor_conv.backward(grad, f, phi, weight, geometry, left) if any(left) else found
    return [x if y is None else y for x, y in zip(vendors, found)]


def _product(
    order: str,
    f: Tensor,
    phi: Tensor,
    weight: Tensor,
    rows: tuple[int, ...],
    walk: tuple[int, ...],
    size: tuple[int, int],
    like: Tensor,
) -> Tensor:
    """``[B,O,Nu,*size]`` in the layout of ``like``."""
    sets, nu, nv, taps, _ = phi.shape
    (b, c, _, height, width), o = f.shape, weight.shape[0]
    pixels = size[0] * size[1]
    if not (f.numel() and weight.numel() and nu * pixels):
        return empty_as(like, b, o, nu, *size).zero_()
    signal = _samples_last(f)

    def run(tile: Tile) -> Tensor:
        features, head, out = _features(phi, tile), _head(weight, tile), empty_as(like, b, o, nu, *size)
        images, tiles = _tiles(b, sets, pixels, tile)
        # Of image, output, sample and pixel; strides of axes of one number may be anything.
        steps = (o * nu * pixels, nu * pixels, *((1, nu) if is_group_last(out) else (pixels, 1)))
        _launch(
            KERNELS[order],
            -(-o // tile.OB) * -(-nu // tile.UB) * tiles * (b // images),
            tile,
            (signal, features, head, out),
            (images, c, height, width, nu, o, *size, *steps),
            (nv, taps * nv, features.shape[-1], head.shape[-1], rows, walk),
        )
        return out

    return _with_blocks(KERNELS[order], f, phi, weight, pixels, run)


def _head_gradient(
    grad: Tensor, f: Tensor, phi: Tensor, weight: Tensor, rows: tuple[int, ...], walk: tuple[int, ...]
) -> Tensor:
    """``[O,C,H]``."""
    (sets, nu, nv, taps, _), (b, c, _, height, width), (o, _, hidden) = phi.shape, f.shape, weight.shape
    if not (weight.numel() and f.numel() and grad.numel()):
        return torch.zeros_like(weight)
    height_out, width_out = grad.shape[-2:]
    signal, grad = _samples_last(f), _samples_last(grad)

    def run(tile: Tile) -> Tensor:
        features = _features(phi, tile)
        images, tiles = _tiles(b, sets, height_out * width_out, tile)
        programs = -(-o // tile.OB) * -(-c // tile.CB) * (features.shape[2] // tile.HB)
        parts, share = _parts(programs, (b // images) * tiles * -(-nu // tile.UB))
        sums = f.new_empty(parts, c, features.shape[2], o, dtype=torch.float32)
        _launch(
            "head_gradient",
            programs * parts,
            tile,
            (signal, features, grad, sums),
            (b // images, images, c, height, width, nu, o, height_out, width_out, share),
            (nv, taps * nv, features.shape[-1], features.shape[2], rows, walk),
        )
        return sums.sum(0)

    sums = _with_blocks("head_gradient", f, phi, weight, height_out * width_out, run)
    return sums.permute(2, 0, 1)[..., :hidden].to(weight.dtype).contiguous()


def _feature_gradient(
    grad: Tensor, f: Tensor, phi: Tensor, weight: Tensor, rows: tuple[int, ...], walk: tuple[int, ...]
) -> Tensor:
    """``[S,Nu,Nv,T,H]``."""
    (sets, nu, nv, taps, hidden), (b, c, _, height, width), o = phi.shape, f.shape, weight.shape[0]
    if not (phi.numel() and f.numel() and grad.numel()):
        return torch.zeros_like(phi)
    height_out, width_out = grad.shape[-2:]
    signal, grad = _samples_last(f), _samples_last(grad)

    def run(tile: Tile) -> Tensor:
        head, products = _head(weight, tile), -(-taps * nv // tile.KB) * tile.KB
        images, tiles = _tiles(b, sets, height_out * width_out, tile)
        programs = products // tile.KB * (head.shape[2] // tile.HB) * -(-nu // tile.UB) * sets
        parts, share = _parts(programs, tiles * -(-c // tile.CB))
        sums = f.new_empty(parts, sets, products, nu, head.shape[2], dtype=torch.float32)
        _launch(
            "feature_gradient",
            programs * parts,
            tile,
            (signal, head, grad, sums),
            (sets, images, c, height, width, nu, o, height_out, width_out, share),
            (nv, taps * nv, products, head.shape[2], rows, walk),
        )
        return sums.sum(0)[:, : taps * nv]

    sums = _with_blocks("feature_gradient", f, phi, weight, height_out * width_out, run)
    sums = sums[..., :hidden].view(sets, taps, nv, nu, hidden)
    return sums.permute(0, 3, 2, 1, 4).to(phi.dtype).contiguous()


def _with_blocks(
    kernel: str, f: Tensor, phi: Tensor, weight: Tensor, pixels: int, run: Callable[[Tile], Tensor]
) -> Tensor:
    """What a call gives, with the blocks that are best for it."""
    (sets, samples, nv, taps, hidden), (outputs, channels, _) = phi.shape, weight.shape
    sizes = samples, hidden, outputs, taps * nv
    usual = conv_tiles.tile(runtime.architecture(), kernel, f.element_size(), *sizes)
    # Sizes of which there are many, up to a factor of two.
    places = (f.shape[0] * pixels).bit_length()
    call = kernel, str(f.dtype), _precision(f.dtype), *sizes, channels, places, int(sets > 1)
    return run(choose(call, usual, conv_tiles.TUNING[kernel], run))


def _launch(
    name: str, blocks: int, tile: Tile, tensors: tuple[Tensor, ...], sizes: tuple[int, ...], constants: tuple
) -> None:
    # Loaded here, and with it Triton: not before there is something to run.
    from pgconv.backends.triton import conv_forward, conv_gradients

    module = conv_gradients if name.endswith("gradient") else conv_forward
    names = ("P", "HB", "OB", "KB") if name == "direct" else ("P", "UB", "CB", "HB", "OB", "KB")
    with on_device(tensors[0]):
        getattr(module, name)[(blocks,)](
            *tensors,
            *sizes,
            *constants,
            **tile.sizes(*names),
            WIDE=max(x.numel() for x in tensors) >= NUMBERS // 2,
            PRECISION=_precision(tensors[0].dtype),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )


def _precision(dtype: torch.dtype) -> str:
    """Of products; it matters for float32 alone."""
    if dtype != torch.float32 or torch.version.hip is not None:
        return "ieee"
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "tf32x3"


def _tiles(b: int, sets: int, pixels: int, tile: Tile) -> tuple[int, int]:
    """Images that share their features, and tiles of their pixels."""
    images = b if sets == 1 else 1
    return images, -(-images * pixels // tile.P)


def _parts(programs: int, units: int) -> tuple[int, int]:
    """Into how many parts ``units`` of work of so many programs are split, and how many a part has."""
    share = -(-units // min(units, -(-PROGRAMS // programs)))
    return -(-units // share), share


def _samples_last(x: Tensor) -> Tensor:
    return x.permute(LAST).contiguous()


def _features(phi: Tensor, tile: Tile) -> Tensor:
    """``[S,Nu,Nv,T,H] -> [S,Nu,H,products]``, both filled up to whole blocks."""
    hidden, products = phi.shape[4], phi.shape[2] * phi.shape[3]
    phi = phi.permute(0, 1, 4, 3, 2).flatten(3)
    return F.pad(phi, (0, -products % tile.KB, 0, -hidden % tile.HB)).contiguous()


def _head(weight: Tensor, tile: Tile) -> Tensor:
    """Features filled up to whole blocks."""
    return F.pad(weight, (0, -weight.shape[2] % tile.HB)).contiguous()


def _rows(geometry: ConvGeometry) -> tuple[int, ...]:
    """Where rows of the support begin and by how much columns are shifted against the row before; see ``conv_pieces``."""
    begin: dict[int, tuple[int, int]] = {}
    for tap, (row, column) in enumerate(geometry.taps()):
        begin.setdefault(row, (tap, column + geometry.radius - tap))
    places = list(begin.values())
    before = [0, *(shift for _, shift in places)]
    return tuple(x for (tap, shift), last in zip(places, before) for x in (tap, shift - last))


def _walk(geometry: ConvGeometry) -> tuple[int, ...]:
    return *geometry.stride, *(-p for p in geometry.padding), *geometry.dilation


def _adjoint(walk: tuple[int, ...]) -> tuple[int, ...]:
    """Of the signal's gradient at stride 1: its pixel ``q`` meets output ``q + padding - tap``."""
    return 1, 1, *(-x for x in walk[2:])
