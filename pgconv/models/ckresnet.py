"""The residual network of the published experiments."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgconv._shapes import describe
from pgconv.models._images import Penalties, Penalty, make_norm, own_samples, weighing
from pgconv.models._remade import lifted_again, remade_relu
from pgconv.nn import (
    GlobalGroupPool,
    GroupConv2d,
    GroupInstanceNorm2d,
    GroupMaxPool2d,
    LiftingConv2d,
    PointwiseGroupConv2d,
)
from pgconv.sampling import IdentitySampler, Samples


class CKResNet(nn.Module):
    """Lifting, residual blocks of two group convolutions, a last group convolution, the maximum over the group and the image.

    Stages: lifting convolution, norm, pool, ReLU; for each block ``conv1, InstanceNorm, ReLU, dropout, conv2, InstanceNorm, ReLU``,
    plus the shortcut, norm, pool, ReLU; a convolution without padding, norm, ReLU; pooling and a linear classifier. The shortcut is
    the identity where channels and samples stay the same, else a convolution over the stabiliser with a net of half the width.

    Args:
        in_channels, num_classes: of images and logits
        group, num_samples: see ``nn.LiftingConv2d``
        width, factors: channels of the first layer, and of every block as a multiple
        kernel_size, hidden, layers, omega0, kernel_net: of the kernels
        norm: ``"batch"`` or ``"layer"``
        pools: stages behind which a 2 x 2 maximum is taken: 0 the lifting, 1 the first block, ...
        dropout: of whole channels, inside blocks
        sampling: samples of the lifting, and of all convolutions that have their own
        one_grid: one set of samples for the whole network, instead of one for each convolution
        partial: every convolution but the lifting learns the range of its samples, with ``"input"`` one for each example (see
            ``nn.GroupConv2d``)
        samples_per_example: a sample set for each example (S = B) in training
        final_positions: instead of the maximum, learned weights of so many positions (samples times pixels of the last map)
        last_translations: the last convolution sees the mean over samples and has one sample, the identity
        **options: of all convolutions, such as ``compat`` or ``backend``

    Shapes: ``[B, in_channels, H, W] -> [B, num_classes]``

    Raises:
        ValueError: for arguments that contradict each other, and as the layers

    Source: Romero & Lohit, "Learning Partial Equivariances From Data" (2022), the residual network; parameter counts are equal.

    Example:
        >>> import torch, pgconv
        >>> model = pgconv.models.CKResNet(1, 10, group="SE(2)", num_samples=4, width=8, kernel_size=5, partial=True)
        >>> model(torch.randn(2, 1, 20, 20)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        group: str = "SE(2)",
        num_samples: int = 8,
        *,
        width: int = 32,
        factors: tuple[int, ...] = (1, 2),
        kernel_size: int = 7,
        hidden: int = 32,
        layers: int = 3,
        omega0: float = 10.0,
        kernel_net: str = "siren",
        norm: str = "batch",
        pools: tuple[int, ...] = (1, 2),
        dropout: float = 0.0,
        sampling: str = "jittered",
        one_grid: bool = False,
        partial: bool | str = False,
        samples_per_example: bool = False,
        final_positions: int | None = None,
        last_translations: bool = False,
        **options,
    ) -> None:
        super().__init__()
        if partial and (final_positions is not None or last_translations):
            raise ValueError(
                f"CKResNet: partial={partial!r} leaves no fixed positions; pass final_positions=None, last_translations=False"
            )
        shared = {"group": group, "omega0": omega0, "kernel_net": kernel_net, "layers": layers, **options}
        spatial = {"kernel_size": kernel_size, "num_samples": num_samples, "hidden": hidden, **shared}
        own = own_samples(partial, one_grid, sampling, samples_per_example) | spatial
        self.lift = LiftingConv2d(
            in_channels, width, sampling=sampling, samples_per_example=samples_per_example, **spatial
        )
        self.lift_norm = make_norm("CKResNet", norm, width)
        blocks, channels = [], width
        for factor in factors:
            # With the same samples and channels there is nothing for a shortcut to do.
            short = (
                None if one_grid and not partial and channels == width * factor else {"hidden": hidden // 2, **shared}
            )
            blocks.append(_Block(channels, width * factor, norm, dropout, own, short))
            channels = width * factor
        self.blocks = nn.ModuleList(blocks)
        last = {**own, "sampling": IdentitySampler(self.lift.group)} if last_translations else own
        self.last_translations = last_translations
        self.last = GroupConv2d(channels, channels, padding="valid", **last)
        self.last_norm = make_norm("CKResNet", norm, channels)
        self.pools = frozenset(pools)
        self.spatial_pool = GroupMaxPool2d(2)
        self.global_pool = GlobalGroupPool("max") if final_positions is None else _LearnedPool(final_positions)
        self.classify = nn.Linear(channels, num_classes)

    def forward(
        self, x: Tensor, generator: torch.Generator | None = None, with_penalty: bool = False
    ) -> Tensor | tuple[Tensor, Penalties]:
        """Logits; with the penalties of all convolutions, if asked for."""
        penalty = Penalty(with_penalty)
        y, samples = self.lift(x, generator)
        penalty.add(self.lift, x, None, samples)
        norm, weights, source = self.lift_norm, weighing(self.lift, samples), lifted_again(self.lift, x, samples)
        for number, block in enumerate(self.blocks):
            with remade_relu(norm, y, weights, self._pool(number), source=source) as maps:
                y, samples = block(maps, samples, generator, penalty)
            norm, weights, source = block.norm, weighing(block.conv2, samples), None
        with remade_relu(norm, y, weights, self._pool(len(self.blocks))) as maps:
            if self.last_translations:
                one = self.last.group.identity(dtype=samples.elements.dtype, device=y.device).reshape(1, 1, -1)
                maps, samples = maps.mean(2, keepdim=True), Samples(one, torch.ones_like(one[..., 0]))
            y, out = self.last(maps, samples, generator=generator)
            penalty.add(self.last, maps, samples, out)
        weights = weighing(self.last, out)
        with remade_relu(self.last_norm, y, weights) as maps:
            return penalty.beside(self.classify(self.global_pool(maps, weights)))

    def _pool(self, stage: int) -> nn.Module | None:
        return self.spatial_pool if stage in self.pools else None


class _Block(nn.Module):
    """Two convolutions beside a shortcut, ``short`` being its options where it is no identity."""

    def __init__(self, channels: int, out: int, norm: str, dropout: float, own: dict, short: dict | None) -> None:
        super().__init__()
        self.conv1, self.norm1 = GroupConv2d(channels, out, **own), GroupInstanceNorm2d(out)
        self.dropout = nn.Dropout3d(dropout)
        self.conv2, self.norm2 = GroupConv2d(out, out, **own), GroupInstanceNorm2d(out)
        self.shortcut = None if short is None else PointwiseGroupConv2d(channels, out, bias=False, **short)
        self.norm = make_norm("CKResNet", norm, out)

    def forward(
        self, x: Tensor, samples: Samples, generator: torch.Generator | None, penalty: Penalty
    ) -> tuple[Tensor, Samples]:
        """From samples to those of the second convolution, before the norm behind the sum."""
        y, between = self.conv1(x, samples, generator=generator)
        penalty.add(self.conv1, x, samples, between)
        with remade_relu(self.norm1, y, weighing(self.conv1, between)) as maps:
            maps = self.dropout(maps)
            y, out = self.conv2(maps, between, generator=generator)
            penalty.add(self.conv2, maps, between, out)
        with remade_relu(self.norm2, y, weighing(self.conv2, out)) as maps:
            if self.shortcut is None:
                return maps + x, out
            y = maps + self.shortcut(x, samples, out)[0]
            penalty.add(self.shortcut, x, samples, out)
        return y, out


class _LearnedPool(nn.Module):
    """A learned weighted sum over samples and pixels, the same for all channels."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.positions = nn.Linear(positions, 1)

    def forward(self, y: Tensor, samples: Samples | None = None) -> Tensor:
        """``[B, C, N, H, W] -> [B, C]``."""
        flat = y.flatten(2)
        if flat.shape[2] != self.positions.in_features:
            raise ValueError(
                f"CKResNet: final_positions is {self.positions.in_features}, but the last map has {flat.shape[2]} "
                f"(samples times pixels), received {describe(y)}"
            )
        return self.positions(flat)[..., 0]
