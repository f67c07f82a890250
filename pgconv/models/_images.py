"""What the networks on images share: how their convolutions are built, and which samples and weights a layer hands on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pgconv._shapes import check_choice
from pgconv.nn import GroupBatchNorm2d, GroupConv2d, GroupLayerNorm2d
from pgconv.nn._conv import ImageConv
from pgconv.sampling import Samples
from pgconv.sampling.gates import GatedSampler

NORMS = {"batch": GroupBatchNorm2d, "layer": GroupLayerNorm2d}


def make_norm(owner: str, name: str, channels: int) -> nn.Module:
    """Of a name: ``"batch"`` or ``"layer"``."""
    check_choice(owner, "norm", name, tuple(NORMS))
    return NORMS[name](channels)


def weighing(conv: nn.Module, samples: Samples) -> Samples | None:
    """The samples for norms and pooling behind a convolution; None where all of them always count the same, which is faster."""
    sampler = getattr(conv, "sampler", None)
    always = not isinstance(sampler, GatedSampler) and getattr(sampler, "compat", None) is None
    return None if always else samples


def own_samples(partial: bool, one_grid: bool, sampling: str, per_example: bool) -> dict[str, Any]:
    """Options of a convolution: a learned range, the samples of the layer before, or a grid of its own."""
    if one_grid and not partial:
        return {"sampling": "same"}
    return ({"partial": True} if partial else {"sampling": sampling}) | {"samples_per_example": per_example}


class Penalty:
    """Sums up ``||K||_F + ||bias||_2`` of the convolutions of one forward pass, if it is wanted."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.total: Tensor | float = 0.0

    def add(self, conv: ImageConv, samples: Samples | None, out: Samples) -> None:
        """A convolution from samples (None: from the plane) to samples."""
        if not self.wanted:
            return
        self.total = self.total + conv.kernel_norm(samples, out)
        if conv.bias is not None:
            self.total = self.total + torch.linalg.vector_norm(conv.bias)

    def beside(self, logits: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """What a network returns."""
        return (logits, torch.as_tensor(self.total, device=logits.device)) if self.wanted else logits


def partial_convs(network: nn.Module) -> list[GroupConv2d]:
    """Convolutions with a learned range, in the order of the network."""
    return [module for module in network.modules() if isinstance(module, GroupConv2d) and module.partial]
