"""Invariance learned at the input: the baseline of the published experiments."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgconv import groups, sampling
from pgconv._shapes import describe
from pgconv.functional import move_images
from pgconv.models._images import Penalties
from pgconv.nn._conv import sampler_of


class Augerino(nn.Module):
    """The mean of a network's logits over copies of the image, moved by samples of a learned part of the group.

    ``logits(x) = sum_u w_u network(x(h_u^-1 .)) / sum_u w_u``: the learned range of ``nn.GroupConv2d(partial=True)``, at the input.
    In training and in evaluation all samples are used. Copies are interpolated bilinearly with zeros around; the identity moves
    nothing, and the range has its gradient through the positions, a mirror's probability through the weights.

    Args:
        network: maps images to logits, usually without any symmetry but translations
        group: ``"SE(2)"``, ``"E(2)"``, ``"M(2)"``: what is learned
        num_samples: copies
        samples_per_example: other samples for each example

    Shapes: ``[B, C, H, W] -> [B, num_classes]``

    Raises:
        ValueError: for a group without anything to learn

    Source: Benton, Finzi, Izmailov & Wilson, "Learning Invariances in Neural Networks" (2020), as used by Romero & Lohit (2022):
    one learned range, no term that widens it.

    Example:
        >>> import torch, pgconv
        >>> network = pgconv.models.CKResNet(1, 10, group="T(2)", num_samples=1, width=4, kernel_size=3)
        >>> model = pgconv.models.Augerino(network, group="SE(2)", num_samples=4)
        >>> model(torch.randn(2, 1, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, network: nn.Module, group: str = "SE(2)", num_samples: int = 8, samples_per_example: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise ValueError(f"Augerino: network must be a torch.nn.Module, received {describe(network)}")
        self.group = groups.get(group)
        self.network = network
        with sampler_of("Augerino", "a learned range", self.group, num_samples):
            self.sampler = sampling.get("learned", self.group, num_samples, per_example=samples_per_example)

    def forward(
        self, x: Tensor, generator: torch.Generator | None = None, with_penalty: bool = False
    ) -> Tensor | tuple[Tensor, Penalties]:
        """Logits; with the network's penalties, if asked for (see ``CKResNet``)."""
        samples = self.sampler(x.shape[0], generator=generator)
        copies = move_images(x, samples.elements, self.group)
        options = {"with_penalty": True} if with_penalty else {}
        found = self.network(copies.flatten(0, 1), **options)
        logits, penalties = found if with_penalty else (found, None)
        weights = samples.weights.to(logits.dtype)[..., None]
        mean = (logits.unflatten(0, copies.shape[:2]) * weights).sum(1) / weights.sum(1)
        return (mean, penalties) if with_penalty else mean
