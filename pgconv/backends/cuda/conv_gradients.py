"""Gradients of the image convolution by its kernels, some images at a time.

Each takes, for images in turn, the output's gradient and, if it ``reads`` that, the signal, both with their samples last;
``result`` has the gradient of each operand of ``places`` (f, phi, weight). ``factor`` undoes the scales of float32 operands.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pgconv._layout import empty_as
from pgconv.backends.cpp.library import ops
from pgconv.backends.cuda import kernel_gradient
from pgconv.backends.cuda.adjoint import Adjoint
from pgconv.backends.cuda.conv_operands import Chain, Walk, packed_features, packed_head, sets_of, unpacked_features
from pgconv.backends.cuda.scaled import times


class OfSignal:
    """By the chain's kernel: convolutions of the output's gradient (adjoint.py)."""

    places = (0,)
    reads = False

    def __init__(self, f: Tensor, phi: Tensor, weight: Tensor, parts: Sequence[Adjoint], factor: Tensor | None):
        head = packed_head(weight.transpose(0, 1))
        self.chains = [Chain(packed_features(part.features(phi)), head, part.walk, factor) for part in parts]
        self.parts = parts
        self.found = empty_as(f, *f.shape)
        if sum(part.pixels for part in parts) < f.shape[3] * f.shape[4]:
            self.found.zero_()

    def add(self, images: slice, grad: Tensor, window: Tensor | None) -> None:
        found = self.found[images]
        for part, chain in zip(self.parts, self.chains):
            place = found[..., part.rows, part.columns]
            if place.shape == found.shape:
                chain.write(found, images, grad)
            else:
                piece = empty_as(found, *place.shape)
                chain.write(piece, images, grad)
                place.copy_(piece)

    def result(self) -> list[Tensor]:
        return [self.found]


class _Sum:
    """A sum over images, or, where they have features of their own, one for each."""

    reads = True

    def __init__(self, like: Tensor, walk: Walk, factor: Tensor | None, own: bool = False):
        self.like, self.walk, self.factor, self.own = like, walk, factor, own
        self.total: Tensor | None = None

    def add(self, images: slice, grad: Tensor, window: Tensor) -> None:
        sums = self._of(images, grad, window)
        if self.total is None:
            self.total = sums
        elif self.own:
            self.total = torch.cat([self.total, sums])
        else:
            self.total += sums

    def _of(self, images: slice, grad: Tensor, window: Tensor) -> Tensor:
        """The images' own, in float32."""
        raise NotImplementedError


class OfFeatures(_Sum):
    """In the shape and type of ``like``, by their own kernel."""

    places = (1,)

    def __init__(self, like: Tensor, weight: Tensor, walk: Walk, factor: Tensor | None):
        super().__init__(like, walk, factor, own=len(like) > 1)
        self.head = packed_head(weight)

    def _of(self, images: slice, grad: Tensor, window: Tensor) -> Tensor:
        sets = len(window) if self.own else 1
        return ops().conv_feature_gradient(grad, window, self.head, sets, self.like.shape[1], *self.walk)

    def result(self) -> list[Tensor]:
        return [unpacked_features(times(self.total, self.factor), self.like)]


class OfHead(_Sum):
    """In the shape and type of ``like``, by its own kernel."""

    places = (2,)

    def __init__(self, like: Tensor, phi: Tensor, walk: Walk, factor: Tensor | None):
        super().__init__(like, walk, factor)
        self.features = packed_features(phi)

    def _of(self, images: slice, grad: Tensor, window: Tensor) -> Tensor:
        return ops().conv_head_gradient(grad, window, sets_of(self.features, images), *self.walk)

    def result(self) -> list[Tensor]:
        values = times(self.total, self.factor).permute(2, 0, 1)[..., : self.like.shape[2]]
        return [values.to(self.like.dtype).contiguous()]


class ThroughKernel(_Sum):
    """Those of features and head that are needed, through the gradient of the kernel they make (kernel_gradient.py)."""

    places = (1, 2)

    def __init__(self, phi: Tensor, weight: Tensor, needs: tuple[bool, bool], walk: Walk, factor: Tensor | None):
        super().__init__(phi, walk, factor)
        self.weight, self.needs = weight, needs

    def _of(self, images: slice, grad: Tensor, window: Tensor) -> Tensor:
        return ops().conv_kernel_gradient(grad, window, *self.walk)

    def result(self) -> list[Tensor | None]:
        return kernel_gradient.of_factors(times(self.total, self.factor), self.like, self.weight, self.needs)
