"""The aggregate order where an output has few pixels: plain matrix products over the pixels of all images.

A panel of the native kernels holds pixels of one image; with up to ``MOST`` pixels most of its lanes would be empty. Here the
windows of all output pixels ``n = (b, p)`` stand one below the other, and

    M[n c, u h] = sum_{v, t} X[n c, v t] Phi[v t, u h],    Y[u n, o] = sum_{c, h} M[u n, c h] W[o, c h]

are two large products, for which the vendor's library is the best code there is. Where every image has features of its
own, the first is one product for each image. Images are taken a few at a time, so that intermediates stay small.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv.spec import ConvGeometry

MOST = 6
"""Output pixels of an image. At 9 both ways take the same time, at 16 the native kernels half of that."""

LEAST = 1 << 23
"""Multiply-adds of the native kernels, which take no less for fewer pixels than 16: below it is all calls of small operators."""

CHUNK = 1 << 21
"""Numbers in the windows or moments of the images taken together, unless one image has more."""


def pay(
    pixels: int, examples: int, inputs: tuple[int, int], outputs: tuple[int, int], taps: int, features: int
) -> bool:
    """Whether the products take less than the native kernels.

    Args:
        pixels: of an output image
        examples: images
        inputs, outputs: channels and group elements of each side
        taps, features: of the kernel
    """
    if not 0 < pixels <= MOST:
        return False
    (channels, nv), (out_channels, nu) = inputs, outputs
    return 16 * examples * channels * nu * features * (nv * taps + out_channels) >= LEAST


def applies(order: str, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry) -> bool:
    """Whether a call runs here."""
    if order != "aggregate":
        return False
    height, width = geometry.out_size(*f.shape[-2:])
    _, nu, nv, taps, features = phi.shape
    return pay(height * width, f.shape[0], (f.shape[1], nv), (weight.shape[0], nu), taps, features)


def forward(f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """``[B,O,Nu,Ho,Wo]`` in the signal's dtype; products in that of the features."""
    out = f.new_empty(f.shape[0], weight.shape[0], phi.shape[1], *geometry.out_size(*f.shape[-2:]))
    for images in _chunks(f, phi, geometry):
        call = _Products(f[images], phi[images] if phi.shape[0] > 1 else phi, geometry)
        out[images] = call.image(call.output_rows(call.windows() @ call.columns) @ weight.flatten(1).t())
    return out


def backward(
    grad: Tensor, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry, needs: tuple[bool, bool, bool]
) -> list[Tensor | None]:
    """Gradients of f (in its dtype), phi and weight (None where not needed)."""
    need_f, need_phi, need_weight = needs
    head = weight.flatten(1)
    grad_f = f.new_empty(f.shape) if need_f else None
    # Long sums: the parts of the chunks are added up in float64.
    grad_phi = phi.new_zeros(phi.shape, dtype=torch.float64) if need_phi else None
    grad_head = head.new_zeros(head.shape, dtype=torch.float64) if need_weight else None
    for images in _chunks(f, phi, geometry):
        sets = images if phi.shape[0] > 1 else slice(None)
        call = _Products(f[images], phi[sets], geometry)
        rows = call.rows(grad[images].to(phi.dtype))
        x = call.windows() if need_phi or need_weight else None
        if need_weight:
            grad_head += rows.t() @ call.output_rows(x @ call.columns)
        if not (need_f or need_phi):
            continue
        moments = call.pixel_rows(rows @ head)
        if need_phi:
            grad_phi[sets] += call.features(x.transpose(1, 2) @ moments)
        if need_f:
            grad_f[images] = call.folded(moments @ call.columns.transpose(1, 2))
    return [
        grad_f,
        None if grad_phi is None else grad_phi.to(phi.dtype),
        None if grad_head is None else grad_head.to(weight.dtype).view_as(weight),
    ]


def _chunks(f: Tensor, phi: Tensor, geometry: ConvGeometry) -> Iterator[slice]:
    height, width = geometry.out_size(*f.shape[-2:])
    _, nu, nv, taps, hidden = phi.shape
    numbers = height * width * f.shape[1] * max(nv * taps, nu * hidden)
    step = max(1, CHUNK // max(numbers, 1))
    return (slice(first, min(first + step, f.shape[0])) for first in range(0, f.shape[0], step))


class _Products:
    """Operands of the two products for some images, with N pixels for each of S sets of features."""

    def __init__(self, f: Tensor, phi: Tensor, geometry: ConvGeometry) -> None:
        self.f, self.geometry = f, geometry
        self.out = geometry.out_size(*f.shape[-2:])
        self.sets, self.nu, self.nv, self.taps, self.hidden = phi.shape
        self.pixels = f.shape[0] * self.out[0] * self.out[1] // self.sets
        self.columns = phi.permute(0, 2, 3, 1, 4).reshape(self.sets, self.nv * self.taps, self.nu * self.hidden)
        # A dilated window may end before the padding does: then some padding is never read.
        self.padded = tuple(n + 2 * p for n, p in zip(f.shape[-2:], geometry.padding))

    def windows(self) -> Tensor:
        """X ``[S,N C,Nv T]``."""
        g, (ph, pw) = self.geometry, self.geometry.padding
        plane = F.pad(self.f, (pw, pw, ph, ph)).to(self.columns.dtype).contiguous()
        b, c, v, y, x = plane.stride()
        view = plane.as_strided(
            (self.f.shape[0], *self.out, *self.f.shape[1:3], g.kernel_size, g.kernel_size),
            (b, y * g.stride[0], x * g.stride[1], c, v, y * g.dilation[0], x * g.dilation[1]),
        )
        # The support's taps in a row of the window are consecutive.
        rows = [list(row) for _, row in groupby(g.taps(), key=lambda tap: tap[0])]
        spans = [(row[0][0] + g.radius, row[0][1] + g.radius, row[-1][1] + g.radius + 1) for row in rows]
        taken = torch.cat([view[..., i, first:last] for i, first, last in spans], -1)
        return taken.reshape(self.sets, self.pixels * self.f.shape[1], self.nv * self.taps)

    def folded(self, grad: Tensor) -> Tensor:
        """The adjoint of ``windows``: ``[S,N C,Nv T] -> [B,C,Nv,H,W]``."""
        g, (b, c, nv, height, width) = self.geometry, self.f.shape
        rows, cols = torch.arange(self.out[0]) * g.stride[0], torch.arange(self.out[1]) * g.stride[1]
        corners = (rows[:, None] * self.padded[1] + cols).flatten()
        taps = [(i + g.radius) * g.dilation[0] * self.padded[1] + (j + g.radius) * g.dilation[1] for i, j in g.taps()]
        index = (torch.tensor(taps)[:, None] + corners).flatten()
        taken = grad.view(b, len(corners), c, nv, self.taps).permute(0, 2, 3, 4, 1).flatten(3).flatten(0, 2)
        planes = grad.new_zeros(b * c * nv, self.padded[0] * self.padded[1]).index_add_(1, index, taken)
        (ph, pw), padded = g.padding, planes.view(b, c, nv, *self.padded)
        return padded[..., ph : ph + height, pw : pw + width]

    def output_rows(self, moments: Tensor) -> Tensor:
        """M ``[S,N C,Nu H] -> [S Nu N,C H]``."""
        split = moments.view(self.sets, self.pixels, self.f.shape[1], self.nu, self.hidden)
        return split.permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 2)

    def pixel_rows(self, moments: Tensor) -> Tensor:
        """The inverse of ``output_rows``."""
        split = moments.view(self.sets, self.nu, self.pixels, self.f.shape[1], self.hidden)
        return split.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)

    def image(self, y: Tensor) -> Tensor:
        """``[S Nu N,O] -> [B,O,Nu,Ho,Wo]``."""
        split = y.view(self.sets, self.nu, self.f.shape[0] // self.sets, *self.out, y.shape[1])
        return split.permute(0, 2, 5, 1, 3, 4).flatten(0, 1)

    def rows(self, grad: Tensor) -> Tensor:
        """The inverse of ``image``."""
        split = grad.reshape(self.sets, self.f.shape[0] // self.sets, *grad.shape[1:])
        return split.permute(0, 3, 1, 4, 5, 2).flatten(0, 4)

    def features(self, columns: Tensor) -> Tensor:
        """``[S,Nv T,Nu H] -> [S,Nu,Nv,T,H]``."""
        return columns.view(self.sets, self.nv, self.taps, self.nu, self.hidden).permute(0, 3, 1, 2, 4)
