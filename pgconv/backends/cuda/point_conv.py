"""The point convolution on a GPU: moments by our own kernel, the head by the vendor's matrix product.

    ``M[b,i,h,c] = sum_j phi_h(v_j^-1 u_i) f[b,j,c]``
    ``out[b,i,o] = sum_{c,h} W[o,c,h] M[b,i,h,c] + sum_c bias[o,c] sum_j f[b,j,c]``

A float32 signal goes in as two float16 parts, and so do features, of which the kernel forms three of the four products: results are
as accurate as float32 sums. Outputs are taken some at a time, so that what is stored for them stays small. Gradients of signal
and head come from the moments of the adjoint problem, those of elements and net from a kernel of their own, in float32 in parts as
well, or where a net is too large for it, from point_features.py beside this file.

Hidden features go through float16, which ends at 65504: beyond it, as with coordinates far from 1 under an activation without
bound, results are infinite or NaN, not wrong in silence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv.backends import moments
from pgconv.backends.cpp.library import ops
from pgconv.backends.cuda import point_features
from pgconv.backends.cuda.layout import aligned, exponent_below, float16_parts, halves, whole_granules
from pgconv.spec import Facts, FeatureSpec

Operands = Sequence[Tensor | None]
"""f, v, u, params, weight, bias."""

SIGNALS = ("float32", "float16", "bfloat16")
MOMENTS = 1 << 24
"""Numbers in the moments of the outputs taken together, unless one has more: 64 MB."""
TERMS = 4096
"""Longest sum in the kernel's accumulators (csrc/cuda/parts.h),"""
BLOCK_INPUTS, MOST_FIELDS = 128, 20
"""and of the gradients' kernel: inputs of a block, fields of an element (csrc/cuda/point_gradient.cuh, params.h)."""
COLUMNS = 96, 64, 48, 32, 16, 8
"""Numbers of columns to try, where the kernel does not take all."""
NUMBERS_OF_A_GRADIENT = 5
"""Stored at once for each float32 number of it: itself, scaled twice, and its halves before and after they are side by side."""


def why_not(facts: Facts) -> str | None:
    """The reason why a call cannot run here, or None."""
    signal, *elements, weight = facts.dtypes
    if signal not in SIGNALS or weight != signal or set(elements) != {"float32"}:
        return (
            f"the kernel takes signal and head in one of {', '.join(SIGNALS)}, elements and net in float32, "
            f"received {', '.join(facts.dtypes)}"
        )
    return moments.why_not_inputs(facts) or ops().cuda_why_not_moments(facts.features.net) or None


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
        found[1:4] = _features(grad, operands, spec, depthwise)
    return [x.to(own.dtype) if need and x is not None else None for x, own, need in zip(found, operands, needs)]


def _features(grad: Tensor, operands: Operands, spec: FeatureSpec, depthwise: bool):
    """Of elements and net, from the gradient of the moments ``dM[b,i,h,c] = sum_o W[o,c,h] grad[b,i,o]``. They are sums over the
    columns (image, channel) of a set of elements: as many at a time as the kernel takes."""
    f, v, u, params, weight, _ = operands
    padded = whole_granules(f)
    batch, channels = f.shape[0], padded.shape[2]
    sets = max(v.shape[0], u.shape[0])
    shared = sets == 1
    exact = f.dtype == torch.float32
    most = _most_columns(spec, channels * (batch if shared else 1), exact, f.get_device())
    if most == 0:
        return point_features.gradients(f, v, u, params, weight, grad, spec, depthwise)
    images = max(1, most // channels) if shared else max(1, batch)
    head = F.pad(weight, (0, 0, 0, channels - f.shape[2])).transpose(-1, -2)  # [O,H,C], or [H,C]
    total_v, total_u, total_params = torch.zeros_like(v), torch.zeros_like(u), torch.zeros_like(params)
    fixed = v.contiguous(), params.contiguous()
    fields = MOST_FIELDS * -(-f.shape[1] // BLOCK_INPUTS)
    for b in range(0, max(1, batch), images):
        for c in range(0, channels, most):
            signal, own_head = padded[b : b + images, :, c : c + most], head[..., c : c + most]
            count, size = signal.shape[0], own_head.shape[-2:].numel()
            signal, factor = float16_parts(signal) if exact else (aligned(signal), None)
            # Beside the moments, gradients of the outputs' fields from every block of inputs.
            numbers = count * max(size * (NUMBERS_OF_A_GRADIENT if exact else 1), fields)
            for rows in _rows(numbers, u.shape[1]):
                own_grad, own_u = grad[b : b + images, rows], u[:, rows].contiguous()
                if depthwise:
                    own_grad = F.pad(own_grad, (0, channels - f.shape[2]))[..., None, c : c + most] * own_head
                else:
                    own_grad = (own_grad @ own_head.flatten(1)).unflatten(2, own_head.shape[1:])
                parts, back = (own_grad, None) if factor is None else _gradient_parts(own_grad, factor, sets)
                call = aligned(parts), signal, back, fixed[0], own_u, fixed[1]
                of_v, of_u, of_params = ops().point_gradient(*call, *_text(spec))
                total_v += of_v
                total_u[:, rows] += of_u
                total_params += of_params
    return total_v, total_u, total_params


def _gradient_parts(grad: Tensor, factor: Tensor, sets: int) -> tuple[Tensor, Tensor]:
    """Of the gradient of the moments ``[B,rows,H,C]`` in float32: float16 parts, scaled so that a column of the signal, whose
    factor is ``[B,1,1,C]``, and its gradient have the range of their product, and what results of a set have to be multiplied
    with, ``[S]``. That is NaN where a gradient of the set is not finite."""
    batch, *sizes = grad.shape
    grad = (grad * factor).reshape(sets, batch // max(1, sets) * math.prod(sizes))
    largest = torch.linalg.vector_norm(grad, math.inf, 1) if grad.shape[1] else grad.new_zeros(sets)
    exponent = exponent_below(largest)
    parts = halves(torch.ldexp(grad, -exponent[:, None])).view(2, batch, *sizes)
    return parts, torch.ldexp(torch.ones_like(largest), exponent) + 0 * largest


def _most_columns(spec: FeatureSpec, columns: int, exact: bool, device: int) -> int:
    """Of so many columns, the number that the gradients' kernel takes at a time; 0 if it does not take the net."""
    counts = [columns, *(count for count in COLUMNS if count < columns)]
    fixed = exact, ops().cuda_capability(device)
    return next((n for n in counts if not ops().cuda_why_not_gradient(spec.group, spec.net, n, *fixed)), 0)


def _moments(f: Tensor, v: Tensor, u: Tensor, params: Tensor, spec: FeatureSpec) -> Iterator[tuple[slice, Tensor]]:
    """Moments ``[B,rows,H,C]`` of some outputs at a time, in the signal's dtype."""
    channels, nu = f.shape[2], u.shape[1]
    padded = whole_granules(f)
    # Of the partial sums, too, in which the kernel adds up long rows of inputs.
    numbers = f.shape[0] * int(spec.net.split(":")[2]) * padded.shape[2] * max(1, -(-f.shape[1] // TERMS))
    factor = None
    if f.dtype == torch.float32:
        padded, factor = float16_parts(padded)
        factor = factor[..., :channels]
    for rows in _rows(numbers, nu):
        call = padded, v.contiguous(), u[:, rows].contiguous(), params.contiguous()
        found = ops().point_moments(*call, *_text(spec))[..., :channels]
        yield rows, (found if factor is None else found * factor).to(f.dtype)


def _rows(numbers: int, nu: int) -> Iterator[slice]:
    step = max(1, MOMENTS // max(1, numbers))
    return (slice(first, min(first + step, nu)) for first in range(0, nu, step))


def _text(spec: FeatureSpec) -> tuple[str, str, str, str, str]:
    return spec.group, spec.chart, spec.part, spec.form, spec.net
