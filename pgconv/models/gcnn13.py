"""The 13-layer network of the published experiments."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from pgconv.models._images import Penalties, Penalty, make_norm, own_samples, weighing
from pgconv.models._remade import lifted_again, remade_relu
from pgconv.nn import GlobalGroupPool, GroupConv2d, GroupMaxPool2d, LiftingConv2d

CHANNELS = (1, 2, 2, 2, 2, 2, 2, 2)
"""Of the group convolutions, as multiples of the width."""
POOLED, DROPPED = (2, 5), (2, 5, 8)
"""Convolutions behind which the map is pooled, and channels are dropped."""


class GCNN13(nn.Module):
    """Lifting and eight group convolutions, each with norm and ReLU; the mean over the group and the image; a linear classifier.

    Channels are ``width`` for the lifting and the first, twice as many for the others; behind the second and the fifth a 2 x 2
    maximum is taken, behind these and the last channels are dropped.

    Args:
        in_channels, num_classes: of images and logits
        group, num_samples: see ``nn.LiftingConv2d``
        width: channels of the first layers
        kernel_size, hidden, layers, omega0, kernel_net: of the kernels
        norm: ``"batch"`` or ``"layer"``
        dropout: of whole channels
        sampling, one_grid, partial, samples_per_example, options: see ``CKResNet``

    Shapes: ``[B, in_channels, H, W] -> [B, num_classes]``

    Raises:
        ValueError: as the layers

    Source: Romero & Lohit, "Learning Partial Equivariances From Data" (2022), after Laine & Aila (2017); parameter counts are
    equal.

    Example:
        >>> import torch, pgconv
        >>> model = pgconv.models.GCNN13(3, 10, group="SE(2)", num_samples=4, width=8, partial=True)
        >>> model(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        group: str = "SE(2)",
        num_samples: int = 8,
        *,
        width: int = 128,
        kernel_size: int = 3,
        hidden: int = 8,
        layers: int = 3,
        omega0: float = 10.0,
        kernel_net: str = "siren",
        norm: str = "batch",
        dropout: float = 0.3,
        sampling: str = "jittered",
        one_grid: bool = False,
        partial: bool | str = False,
        samples_per_example: bool = False,
        **options,
    ) -> None:
        super().__init__()
        spatial = {
            "group": group,
            "num_samples": num_samples,
            "kernel_size": kernel_size,
            "hidden": hidden,
            "layers": layers,
        }
        spatial |= {"omega0": omega0, "kernel_net": kernel_net, **options}
        own = own_samples(partial, one_grid, sampling, samples_per_example) | spatial
        self.lift = LiftingConv2d(
            in_channels, width, sampling=sampling, samples_per_example=samples_per_example, **spatial
        )
        self.lift_norm = make_norm("GCNN13", norm, width)
        channels = [width, *(width * factor for factor in CHANNELS)]
        self.convs = nn.ModuleList(GroupConv2d(c, o, **own) for c, o in pairwise(channels))
        self.norms = nn.ModuleList(make_norm("GCNN13", norm, o) for o in channels[1:])
        self.dropout = nn.Dropout3d(dropout)
        self.spatial_pool = GroupMaxPool2d(2)
        self.global_pool = GlobalGroupPool("mean")
        self.classify = nn.Linear(channels[-1], num_classes)

    def forward(
        self, x: Tensor, generator: torch.Generator | None = None, with_penalty: bool = False
    ) -> Tensor | tuple[Tensor, Penalties]:
        """Logits; with the penalties of all convolutions, if asked for."""
        penalty = Penalty(with_penalty)
        y, samples = self.lift(x, generator)
        penalty.add(self.lift, x, None, samples)
        norm, weights, source = self.lift_norm, weighing(self.lift, samples), lifted_again(self.lift, x, samples)
        for number, (conv, behind) in enumerate(zip(self.convs, self.norms)):
            with remade_relu(norm, y, weights, self._pool(number), self._kept(number, y), source) as maps:
                y, out = conv(maps, samples, generator=generator)
                penalty.add(conv, maps, samples, out)
            samples, norm, weights, source = out, behind, weighing(conv, out), None
        last = len(self.convs)
        with remade_relu(norm, y, weights, self._pool(last), self._kept(last, y)) as maps:
            return penalty.beside(self.classify(self.global_pool(maps, weights)))

    # The ReLU takes the largest of a window, and a factor >= 0, as well behind as before it: maps are convolved as they are made.

    def _pool(self, stage: int) -> nn.Module | None:
        return self.spatial_pool if stage in POOLED else None

    def _kept(self, stage: int, y: Tensor) -> Tensor | None:
        """A factor for each channel, 0 for those that are dropped."""
        if stage not in DROPPED or not self.dropout.training:
            return None
        return self.dropout(y.new_ones(*y.shape[:2], 1, 1, 1, dtype=torch.float32))
