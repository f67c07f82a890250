"""Raw native functions of the image convolution, one call for each order.

The native operators take features and head in float32 or float64 and the signal in the same type or bfloat16. Order
``mix`` walks over the signal's pixels, which needs stride 1: at other strides it computes every pixel of the stride-1
output and keeps each s-th. Outputs with only a few pixels are the business of ``few_pixels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from pgconv.backends.cpp import few_pixels
from pgconv.backends.cpp.library import ops
from pgconv.spec import ConvGeometry


def forward(order: str, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """``[B,O,Nu,Ho,Wo]`` in the signal's dtype."""
    if few_pixels.applies(order, f, phi, weight, geometry):
        return few_pixels.forward(f, _wide(phi), _wide(weight), geometry)
    taps, numbers = _native_geometry(geometry, order)
    factors = _contiguous(_wide(phi), _wide(weight))
    out = ops().group_conv2d(f.contiguous(), *factors, taps, numbers, order)
    if order == "mix":
        out = out[..., :: geometry.stride[0], :: geometry.stride[1]]
    return out.to(f.dtype)


def backward(
    order: str,
    grad: Tensor,
    f: Tensor,
    phi: Tensor,
    weight: Tensor,
    geometry: ConvGeometry,
    needs: tuple[bool, bool, bool],
) -> list[Tensor | None]:
    """Gradients of f, phi and weight (None where not needed)."""
    if few_pixels.applies(order, f, phi, weight, geometry):
        grads = few_pixels.backward(grad, f, _wide(phi), _wide(weight), geometry, needs)
        return _as_operands(grads, f, phi, weight, needs)
    taps, numbers = _native_geometry(geometry, order)
    if order == "mix" and geometry.stride != (1, 1):
        height, width = ConvGeometry(
            geometry.kernel_size, (1, 1), geometry.padding, geometry.dilation, geometry.support
        ).out_size(*f.shape[-2:])
        every = grad.new_zeros(*grad.shape[:-2], height, width)
        every[..., :: geometry.stride[0], :: geometry.stride[1]] = grad
        grad = every
    bits = sum(1 << i for i, need in enumerate(needs) if need)
    operands = _contiguous(grad, f, _wide(phi), _wide(weight))
    grads = ops().group_conv2d_backward(*operands, taps, numbers, order, bits)
    return _as_operands(grads, f, phi, weight, needs)


def _as_operands(
    grads: Sequence[Tensor | None], f: Tensor, phi: Tensor, weight: Tensor, needs: tuple[bool, bool, bool]
) -> list[Tensor | None]:
    return [g.to(x.dtype) if need else None for g, x, need in zip(grads, (f, phi, weight), needs)]


@lru_cache(maxsize=256)
def _native_geometry(geometry: ConvGeometry, order: str) -> tuple[Tensor, list[int]]:
    taps = [(row + geometry.radius, col + geometry.radius) for row, col in geometry.taps()]
    stride = (1, 1) if order == "mix" else geometry.stride
    return torch.tensor(taps, dtype=torch.int64), [*stride, *geometry.padding, *geometry.dilation]


def _wide(x: Tensor) -> Tensor:
    # Sums are kept in float32 at least, and so are the small operands.
    return x.float() if x.dtype == torch.bfloat16 else x


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.contiguous() for t in tensors)
