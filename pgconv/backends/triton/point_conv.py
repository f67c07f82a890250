"""The point convolution by Triton kernels: moments by one of ours, the head by the vendor's matrix product.

    ``M[b,i,h,c] = sum_j phi_h(v_j^-1 u_i) f[b,j,c]``
    ``out[b,i,o] = sum_{c,h} W[o,c,h] M[b,i,h,c] + sum_c bias[o,c] sum_j f[b,j,c]``

Outputs are taken some at a time, so that what is stored for them and for pairs stays small. Gradients of signal and head come from
the moments of the adjoint problem. Those of elements and net come from a second kernel, which leaves the gradients of the pairs'
coordinates; from there to the elements it is plain PyTorch. No sum depends on the order in which programs run.

Hidden features of signals in 16 bits go through float16, which ends at 65504: beyond it, as with coordinates far from 1 under an
activation without bound, results are infinite or NaN, not wrong in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pgconv.backends import moments
from pgconv.backends.reference.vjp import vjp
from pgconv.backends.triton import padded_net
from pgconv.backends.triton.launch import has_ptx, on_device, precision
from pgconv.backends.triton.padded_net import PaddedNet
from pgconv.backends.triton.pairs import Pairs, coordinates
from pgconv.backends.triton.tiles import Tile, gradient_tile, gradient_tuning, moments_tile, moments_tuning
from pgconv.backends.triton.tuning import choose
from pgconv.kernel_nets.packing import NetSpec
from pgconv.spec import Facts, FeatureSpec

Operands = Sequence[Tensor | None]
"""f, v, u, params, weight, bias."""

SIGNALS = ("float32", "float16", "bfloat16")
NUMBERS = 1 << 24
"""In the moments or coordinates of the outputs taken together, unless one has more: 64 MB."""
PROGRAMS, LEAST_INPUTS, MOST_TERMS = 2048, 256, 8192
"""Sums over inputs are cut so that there are so many programs, but not below so many inputs; and where they are longer than an
accumulator's precision allows."""
LEAST_OUTPUTS, MOST_PROGRAMS = 16, 4096
"""Outputs of a program of the gradients' kernel, and programs whose sums for the parameters are stored at a time."""
FEW_COORDS = 4
"""Up to which the moments' kernel has the first layer's weights in registers."""
MOST_HALF_LAYERS = 3
"""Layers, with the head, through which gradients go in 16 bits: every one adds its rounding to theirs."""
FAR = 1 << 31
"""Numbers from the first image to the last beyond which their places take 64 bits."""
HEADROOM = 6
"""Binary exponent of the bound on features' gradients on their way through float16: the layers before may let them grow to a
thousand times as much, and a millionth of them is still a normal number."""


def why_not(facts: Facts) -> str | None:
    """The reason why a call cannot run here, or None."""
    signal, *elements, weight = facts.dtypes
    if signal not in SIGNALS or weight != signal or set(elements) != {"float32"}:
        return (
            f"the Triton kernels take signal and head in one of {', '.join(SIGNALS)}, elements and net in float32, "
            f"received {', '.join(facts.dtypes)}"
        )
    return moments.why_not_inputs(facts) or padded_net.why_not(facts.features.net)


def forward(operands: Operands, spec: FeatureSpec, depthwise: bool) -> Tensor:
    """``[B,Nu,O]`` in the signal's dtype."""
    return moments.all_inputs(_moments, operands, spec, depthwise)


def backward(
    needs: Sequence[bool], grad: Tensor, operands: Operands, spec: FeatureSpec, depthwise: bool
) -> list[Tensor | None]:
    """Gradients of the operands (None where not needed)."""
    grad = grad.to(operands[0].dtype)
    found: list[Tensor | None] = [None] * 6
    if needs[0] or needs[4] or needs[5]:
        found[0], found[4], found[5] = moments.all_inputs_gradients(needs, _moments, grad, operands, spec, depthwise)
    if any(needs[1:4]):
        found[1:4] = _elements_and_net(needs, grad, operands, spec, depthwise)
    return [x.to(own.dtype) if need and x is not None else None for x, own, need in zip(found, operands, needs)]


def _elements_and_net(needs, grad: Tensor, operands: Operands, spec: FeatureSpec, depthwise: bool):
    """From the gradient of the moments, ``dM[b,i,h,c] = sum_o W[o,c,h] grad[b,i,o]``."""
    f, v, u, params, weight, _ = operands
    if NetSpec.parse(spec.net).layers > MOST_HALF_LAYERS:
        f, grad, weight = f.float(), grad.float(), weight.float()
    total = [torch.zeros_like(x) if need else None for x, need in zip((v, u, params), needs[1:4])]
    net, f = PaddedNet.of(params, spec.net, f.dtype), f.contiguous()
    own = v.contiguous().float(), u.contiguous().float()
    dims = net.spec.coord_dim * max(v.shape[0], u.shape[0])
    for rows in _rows(max(f.shape[0] * net.spec.hidden * f.shape[2], dims * f.shape[1]), u.shape[1]):
        if depthwise:
            of_moments = grad[:, rows, None] * weight.t()
        else:
            head = weight.transpose(1, 2).flatten(1)
            of_moments = (grad[:, rows] @ head).unflatten(2, (net.spec.hidden, f.shape[2]))
        elements = own[0], own[1][:, rows]
        of_coords, of_params = _coordinates_and_net(f, of_moments.contiguous(), elements, params, net, spec)
        if total[2] is not None:
            total[2] += of_params
        if not any(needs[1:3]):
            continue
        of_v, of_u = vjp(lambda *x: coordinates(*x, spec), elements, of_coords, needs[1:3])
        if of_v is not None:
            total[0] += of_v
        if of_u is not None:
            total[1][:, rows] = of_u
    return total


def _coordinates_and_net(f: Tensor, of_moments: Tensor, elements, params: Tensor, net: PaddedNet, spec: FeatureSpec):
    """Gradients of the coordinates ``[S,rows,Nv,D]`` and of the packed vector, by the kernel."""
    from pgconv.backends.triton.point_kernels import gradients

    (batch, nv, channels), nu = f.shape, of_moments.shape[1]
    pairs = Pairs.of(*elements, spec)
    sets = max(x.shape[0] for x in elements)
    images, dim = batch // max(1, sets), net.spec.coord_dim
    factor = _factor(of_moments, f, images)

    def run(tile: Tile) -> tuple[Tensor, Tensor]:
        of_coords = f.new_zeros(sets, nu, dim, nv, dtype=torch.float32)
        of_params = torch.zeros_like(params)
        tiles = -(-nv // tile.inputs)
        parts = max(1, min(-(-PROGRAMS // max(1, tiles * sets)), -(-nu // LEAST_OUTPUTS)))
        programs = tiles * parts * sets if images * channels * nu else 0
        for start in range(0, programs, MOST_PROGRAMS):
            count = min(MOST_PROGRAMS, programs - start)
            sums = net.sums(count)
            with on_device(f):
                gradients[(count,)](
                    f, of_moments, factor, pairs.v, pairs.u, net.first, net.hidden, net.biases, of_coords, *sums,
                    start, nv, nu, *pairs.sets(), images, channels, nv * channels, nu * net.spec.hidden * channels,
                    tiles, parts, -(-nu // parts),
                    PRODUCT=True, BLOCKS=-(-images * channels // tile.columns),
                    **constants(f, net, pairs, spec, tile, images, max(nv, nu * net.spec.hidden)),
                )  # fmt: skip
            of_params += net.gradient(params, *sums)
        return of_coords.transpose(2, 3), of_params

    tuning = gradient_tuning(net.features, net.columns, net.layers)
    usual = gradient_tile(net.features, images * channels, f.dtype)
    return run(choose(call_of("gradients", f, images, nu, pairs, spec), usual, tuning, run))


def _factor(of_moments: Tensor, f: Tensor, images: int) -> Tensor:
    """A power of two that takes ``sum_c dM f`` below 2^HEADROOM; 1 in float32. The host waits for no number."""
    if f.dtype == torch.float32 or not (f.numel() and of_moments.numel()):
        return torch.ones(1, device=f.device)
    bound = of_moments.abs().amax().float() * f.abs().amax().float() * (images * f.shape[2])
    exponent = (HEADROOM - torch.log2(bound)).floor().nan_to_num(0.0, 0.0, 0.0).clamp(-100, 100)
    return torch.exp2(exponent).reshape(1)


def _moments(f: Tensor, v: Tensor, u: Tensor, params: Tensor, spec: FeatureSpec) -> Iterator[tuple[slice, Tensor]]:
    """Moments ``[B,rows,H,C]`` of some outputs at a time, in the signal's dtype."""
    net, f = PaddedNet.of(params, spec.net, f.dtype), f.contiguous()
    v, u = v.contiguous().float(), u.contiguous().float()
    dims = net.spec.coord_dim * max(v.shape[0], u.shape[0])
    for rows in _rows(max(f.shape[0] * net.spec.hidden * f.shape[2], dims * f.shape[1]), u.shape[1]):
        yield rows, _moments_of(f, v, u[:, rows], net, spec)


def _moments_of(f: Tensor, v: Tensor, u: Tensor, net: PaddedNet, spec: FeatureSpec) -> Tensor:
    """By the kernel, ``[B,Nu,H,C]``."""
    from pgconv.backends.triton import point_kernels

    (batch, nv, channels), nu, hidden = f.shape, u.shape[1], net.spec.hidden
    pairs = Pairs.of(v, u, spec)
    sets = max(v.shape[0], u.shape[0])
    images = batch // max(1, sets)

    def run(tile: Tile) -> Tensor:
        blocks = -(-images * channels // tile.columns)
        programs = nu * blocks * sets
        wanted = min(-(-PROGRAMS // max(1, programs)), -(-nv // LEAST_INPUTS))
        splits = max(1, wanted, -(-nv // MOST_TERMS))
        split_inputs = -(-nv // splits)
        # A piece of whole tiles, so that only the last tile has inputs beyond the end.
        split_inputs = -(-split_inputs // tile.inputs) * tile.inputs
        out = f.new_empty(splits, batch, nu, hidden, channels, dtype=f.dtype if splits == 1 else torch.float32)
        if out.numel():
            with on_device(f):
                point_kernels.moments[(programs * splits,)](
                    f, pairs.v, pairs.u, net.first, net.hidden, net.biases, out,
                    nv, nu, sets, *pairs.sets(), images, channels, nv * channels, nu * hidden * channels,
                    blocks, splits, split_inputs, PRODUCT=net.spec.coord_dim > FEW_COORDS,
                    **constants(f, net, pairs, spec, tile, images, max(nv, nu * hidden)),
                )  # fmt: skip
        return out[0] if splits == 1 else out.sum(0).to(f.dtype)

    usual = moments_tile(net.features, images * channels, f.dtype)
    return run(choose(call_of("moments", f, images, nu, pairs, spec), usual, moments_tuning(net.features), run))


def call_of(kernel: str, f: Tensor, images: int, nu: int, pairs: Pairs, spec: FeatureSpec) -> tuple[str | int, ...]:
    """What a kernel's speed depends on; numbers of points up to a factor of two."""
    batch, nv, channels = f.shape
    sizes = images, channels, nv.bit_length(), nu.bit_length(), (batch // max(1, images)).bit_length()
    return kernel, str(f.dtype), *pairs.law, spec.net, *sizes


def constants(f: Tensor, net: PaddedNet, pairs: Pairs, spec: FeatureSpec, tile, images: int, rows: int) -> dict:
    """What both kernels are compiled for."""
    far = images * rows * f.shape[2] >= FAR
    return pairs.constants() | dict(
        SWAPPED=spec.form == "correlation", DIM=net.spec.coord_dim, D=net.columns, HIDDEN=net.spec.hidden, H=net.features,
        LAYERS=net.layers, PARTS=net.parts, ACT=net.spec.activation, FAST=has_ptx(f) and f.dtype != torch.float32,
        PRECISION=precision(f), INPUTS=tile.inputs, COLUMNS=tile.columns,
        IMAGES="one" if images == 1 else "many" if far else "several",
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def _rows(numbers: int, nu: int) -> Iterator[slice]:
    step = max(1, NUMBERS // max(1, numbers))
    return (slice(first, min(first + step, nu)) for first in range(0, nu, step))
