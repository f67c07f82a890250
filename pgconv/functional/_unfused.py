"""The point convolution with features from PyTorch: for a user's own group and nets without a packed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pgconv.backends.lists import Lists
from pgconv.backends.reference import point_conv as contraction
from pgconv.backends.reference.pieces import pieces
from pgconv.functional._kernel import KernelArgs
from pgconv.functional._pieces import can_be_recomputed, in_pieces

Operands = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]
"""f, v, u, weight, bias."""


def contract(kernel: KernelArgs, operands: Operands, lists: Lists, depthwise: bool) -> Tensor:
    """``[B,Nu,O]``, see ``ops.point_conv``; a few outputs at a time with recomputation, so memory is linear in the points."""
    _, _, u, weight, _ = operands
    parameters = kernel.parameters()
    if not can_be_recomputed():
        features = partial(_features, kernel, weight.dtype)
        return contraction.sum_over_pairs(features, *operands, lists, depthwise)
    net = _PairFeatures(kernel, weight.dtype)
    names = [f"net.{name}" for name in parameters]

    def evaluate(operands: Sequence[Any]) -> Iterator[tuple[slice, Tensor]]:
        f, v, u, weight, bias, *values = operands
        state = dict(zip(names, values))

        def features(v: Tensor, u: Tensor) -> Tensor:
            return torch.func.functional_call(net, state, (v, u))

        for piece in pieces(f, v, u, weight.shape[-1], lists):
            yield piece.rows, contraction.sum_over_pairs(features, f, v, piece.u, weight, bias, piece.lists, depthwise)

    return in_pieces(evaluate, (*operands, *parameters.values()), u.shape[1])


def _features(kernel: KernelArgs, dtype: torch.dtype, v: Tensor, u: Tensor) -> Tensor:
    return kernel.features_of_pairs(v, u).to(dtype)


class _PairFeatures(torch.nn.Module):
    """``_features`` as a module, so that a call can be repeated with the parameters it had."""

    def __init__(self, kernel: KernelArgs, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self._kernel, self._dtype = kernel.net, kernel, dtype

    def forward(self, v: Tensor, u: Tensor) -> Tensor:
        return _features(self._kernel, self._dtype, v, u)
