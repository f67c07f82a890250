"""Raw native functions of the image convolution, one call for each order.

The native operators take features and head in float32 or float64 and the signal in the same type or bfloat16. Order
``mix`` walks over the signal's pixels, which needs stride 1: at other strides it computes every pixel of the stride-1
output and keeps each s-th.

Panels of the native code hold pixels of one image. Where an output has only a few, orders ``aggregate`` and ``direct`` see
the taps as more samples and the pixels of all images as those of one (``_Unfolded``).
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv.backends.cpp.library import ops
from pgconv.spec import ConvGeometry


def forward(order: str, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """``[B,O,Nu,Ho,Wo]`` in the signal's dtype."""
    if few_pixels(order, f.shape, phi.shape[0], geometry):
        small = _Unfolded(f, geometry)
        return small.output(forward(order, small.signal(f), small.features(phi), weight, _POINT))
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
    if few_pixels(order, f.shape, phi.shape[0], geometry):
        small = _Unfolded(f, geometry)
        operands = small.pixels(grad), small.signal(f), small.features(phi), weight
        grad_f, grad_phi, grad_weight = backward(order, *operands, _POINT, needs)
        return [
            small.folded(grad_f) if needs[0] else None,
            grad_phi.reshape(phi.shape) if needs[1] else None,
            grad_weight,
        ]
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
    return [g.to(x.dtype) if need else None for g, x, need in zip(grads, (f, phi, weight), needs)]


def few_pixels(order: str, signal: tuple[int, ...], sets: int, geometry: ConvGeometry) -> bool:
    """Whether a call runs on the pixels of all images at once."""
    height, width = geometry.out_size(*signal[-2:])
    return order in ("aggregate", "direct") and sets == 1 and signal[0] > 1 and 0 < height * width <= 16


_POINT = ConvGeometry(1, (1, 1), (0, 0), (1, 1), "disc")


class _Unfolded:
    """A convolution with few output pixels as one of 1 x 1 on one row of pixels (b, p), its samples being (v, t)."""

    def __init__(self, f: Tensor, geometry: ConvGeometry) -> None:
        self.shape = f.shape
        self.padding = geometry.padding
        self.out = geometry.out_size(*f.shape[-2:])
        self.taps = len(geometry.taps())
        # Dilated windows may end before the padding does: then some padding is never read.
        self.padded = tuple(n + 2 * p for n, p in zip(f.shape[-2:], geometry.padding))
        rows, cols = torch.arange(self.out[0]), torch.arange(self.out[1])
        r = geometry.radius
        self.index = torch.stack(
            [
                (
                    (rows * geometry.stride[0] + geometry.dilation[0] * (i + r))[:, None] * self.padded[1]
                    + cols * geometry.stride[1]
                    + geometry.dilation[1] * (j + r)
                ).flatten()
                for i, j in geometry.taps()
            ]
        ).flatten()

    def signal(self, f: Tensor) -> Tensor:
        """``[B,C,Nv,H,W] -> [1,C,Nv T,1,B P]``."""
        (ph, pw), (b, c, nv) = self.padding, f.shape[:3]
        taps = F.pad(f, (pw, pw, ph, ph)).flatten(3)[..., self.index].reshape(b, c, nv * self.taps, -1)
        return taps.permute(1, 2, 0, 3).reshape(1, c, nv * self.taps, 1, -1)

    def features(self, phi: Tensor) -> Tensor:
        """``[1,Nu,Nv,T,H] -> [1,Nu,Nv T,1,H]``."""
        return phi.flatten(2, 3).unsqueeze(3)

    def pixels(self, grad: Tensor) -> Tensor:
        """``[B,O,Nu,Ho,Wo] -> [1,O,Nu,1,B P]``."""
        return grad.flatten(3).permute(1, 2, 0, 3).reshape(1, grad.shape[1], grad.shape[2], 1, -1)

    def output(self, out: Tensor) -> Tensor:
        """The inverse of ``pixels``."""
        spread = out.reshape(out.shape[1], out.shape[2], self.shape[0], *self.out)
        return spread.permute(2, 0, 1, 3, 4).contiguous()

    def folded(self, grad: Tensor) -> Tensor:
        """The adjoint of ``signal``."""
        b, c, nv, height, width = self.shape
        taps = grad.reshape(c, nv, self.taps, b, -1).permute(3, 0, 1, 2, 4).reshape(b * c * nv, -1)
        padded = taps.new_zeros(b * c * nv, self.padded[0] * self.padded[1]).index_add_(1, self.index, taps)
        (ph, pw), plane = self.padding, padded.reshape(b, c, nv, *self.padded)
        return plane[..., ph : ph + height, pw : pw + width].contiguous()


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
