"""A small group-equivariant classifier from the library's layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import pgconv


class DigitNet(nn.Module):
    """Lifting, two group convolutions, mean over the group and the image, a linear classifier.

    ``partial=False``: one sample grid for the whole net, so the logits are invariant. ``partial=True``: each group
    convolution learns over which part of the group its outputs spread.
    """

    def __init__(self, group: str, partial: bool, width: int = 12, num_samples: int = 8, kernel_size: int = 5) -> None:
        super().__init__()
        options = {"group": group, "kernel_size": kernel_size, "num_samples": num_samples}
        self.lift = pgconv.nn.LiftingConv2d(1, width, **options)
        self.conv1 = pgconv.nn.GroupConv2d(width, width, partial=partial, **options)
        self.conv2 = pgconv.nn.GroupConv2d(width, width, partial=partial, **options)
        self.norms = nn.ModuleList(pgconv.nn.GroupLayerNorm2d(width) for _ in range(3))
        self.spatial_pool = pgconv.nn.GroupMaxPool2d(2)
        self.global_pool = pgconv.nn.GlobalGroupPool("mean")
        self.classify = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, 2]`` of images ``[B, 1, H, W]``."""
        y, samples = self.lift(x)
        y = self.spatial_pool(torch.relu(self.norms[0](y, samples)))
        y, samples = self.conv1(y, samples)
        y = self.spatial_pool(torch.relu(self.norms[1](y, samples)))
        y, samples = self.conv2(y, samples)
        y = torch.relu(self.norms[2](y, samples))
        return self.classify(self.global_pool(y, samples))
