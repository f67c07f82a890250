"""What the networks on images share: how their convolutions are built, and which samples and weights a layer hands on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pgconv._shapes import check_choice
from pgconv.nn import GroupBatchNorm2d, GroupConv2d, GroupLayerNorm2d
from pgconv.nn._conv import ImageConv
from pgconv.sampling import EncodedGates, Samples

NORMS = {"batch": GroupBatchNorm2d, "layer": GroupLayerNorm2d}


def make_norm(owner: str, name: str, channels: int) -> nn.Module:
    """Of a name: ``"batch"`` or ``"layer"``."""
    check_choice(owner, "norm", name, tuple(NORMS))
    return NORMS[name](channels)


def weighing(conv: nn.Module, samples: Samples) -> Samples | None:
    """The samples for norms and pooling behind a convolution; None where all of them always count the same, which is faster."""
    return samples if conv.weighs else None


def own_samples(partial: bool | str, one_grid: bool, sampling: str, per_example: bool) -> dict[str, Any]:
    """Options of a convolution: a learned range, the samples of the layer before, or a grid of its own."""
    if one_grid and not partial:
        return {"sampling": "same"}
    return ({"partial": partial} if partial else {"sampling": sampling}) | {"samples_per_example": per_example}


class Penalties(NamedTuple):
    """What training may add to the loss of one forward pass, both scalars.

    weights: ``sum (||K||_F + ||bias||_2)`` over all convolutions; gates: the sum of ``EncodedGates.divergence`` over those whose
    samples depend on the input, 0 where there are none.
    """

    weights: Tensor
    gates: Tensor


class Penalty:
    """Sums up the penalties of the convolutions of one forward pass, if they are wanted."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.weights: Tensor | float = 0.0
        self.gates: Tensor | float = 0.0

    def add(self, conv: ImageConv, x: Tensor, samples: Samples | None, out: Samples) -> None:
        """A convolution of maps x, from samples (None: from the plane) to samples."""
        if not self.wanted:
            return
        self.weights = self.weights + conv.kernel_norm(samples, out)
        if conv.bias is not None:
            self.weights = self.weights + torch.linalg.vector_norm(conv.bias)
        sampler = getattr(conv, "sampler", None)
        if isinstance(sampler, EncodedGates) and samples is not None:
            self.gates = self.gates + sampler.divergence(x, samples)

    def beside(self, logits: Tensor) -> Tensor | tuple[Tensor, Penalties]:
        """What a network returns."""
        if not self.wanted:
            return logits
        return logits, Penalties(*(torch.as_tensor(x, device=logits.device) for x in (self.weights, self.gates)))


def partial_convs(network: nn.Module) -> list[GroupConv2d]:
    """Convolutions with a learned range, in the order of the network."""
    return [module for module in network.modules() if isinstance(module, GroupConv2d) and module.partial]
