"""A residual network on points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgconv._shapes import check_choice, check_positive_int
from pgconv.neighbors import Neighborhood
from pgconv.nn import GlobalGroupPool, GroupBatchNorm2d, PointGroupConv, PointLift
from pgconv.nn._neighborhood import repeated_draws
from pgconv.sampling import Samples

ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}


class LieResNet(nn.Module):
    """Points lifted to a group, residual blocks around group convolutions, the mean over the group elements, a linear classifier.

    A block is ``y + L_2 a(conv(a(L_1 a(y))))`` with linear maps to and from ``width / bottleneck`` channels, and in ``a`` a norm
    over examples and elements and the activation. All blocks share the elements of the lifting, and neighbours are looked for once.

    Args:
        in_features, num_classes: of every point, and of the logits
        group, num_samples: of the lifting; see ``nn.PointLift``
        width: channels between blocks
        blocks: how many
        bottleneck: the convolutions have ``width / bottleneck`` channels
        neighborhood: over which the convolutions sum (``pgconv.neighbors``); None: over all elements
        activation: ``"silu"``, ``"gelu"`` or ``"relu"``, between layers
        kernel_net, hidden, layers: of the kernels
        turns: of the lifting
        **options: of all convolutions

    Shapes: positions ``x [B, P, d]``, features ``f [B, P, in_features]``, ``mask [B, P] -> [B, num_classes]``

    Raises:
        ValueError: for arguments out of range, and as the layers

    Source: Finzi, Stanton, Izmailov & Wilson, "Generalizing Convolutional Neural Networks for Equivariance to Lie Groups on
    Arbitrary Continuous Data" (2020): bottleneck blocks, a kernel net of three layers with 16 features.

    Example:
        >>> import torch, pgconv
        >>> near = pgconv.neighbors.Nearest(8)
        >>> model = pgconv.models.LieResNet(1, 10, group="SE(2)", num_samples=2, width=16, blocks=2, neighborhood=near)
        >>> model(torch.randn(3, 20, 2), torch.ones(3, 20, 1)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        group: str = "SE(2)",
        num_samples: int = 1,
        *,
        width: int = 128,
        blocks: int = 6,
        bottleneck: int = 4,
        neighborhood: Neighborhood | None = None,
        activation: str = "silu",
        kernel_net: str = "mlp",
        hidden: int = 16,
        layers: int = 4,
        turns: str = "random",
        **options,
    ) -> None:
        super().__init__()
        check_choice("LieResNet", "activation", activation, tuple(ACTIVATIONS))
        check_positive_int("LieResNet", "bottleneck", bottleneck)
        if width % bottleneck:
            raise ValueError(f"LieResNet: width must be a multiple of bottleneck={bottleneck}, received {width}")
        self.activation = activation
        self.neighborhood = neighborhood
        self.lift = PointLift(group, num_samples, turns)
        self.embed = nn.Linear(in_features, width)
        options = {"group": self.lift.group, "kernel_net": kernel_net, "hidden": hidden, "layers": layers, **options}
        self.blocks = nn.ModuleList(_Block(width, width // bottleneck, activation, options) for _ in range(blocks))
        self.norm = GroupBatchNorm2d(width)
        self.pool = GlobalGroupPool("mean")
        self.classify = nn.Linear(width, num_classes)

    def forward(
        self, x: Tensor, f: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits of points ``x`` with features ``f``; those that the mask leaves out are not there, whatever they hold.

        An example without any has the mean 0, which the classifier gets.
        """
        y, samples = self.lift(x, f, mask, generator)
        weights = None if mask is None else samples
        y = self.embed(y)
        neighbors = self._neighbors(samples, generator)
        for block in self.blocks:
            y = block(y, samples, weights, neighbors)
        y = ACTIVATIONS[self.activation](_normed(self.norm, y, weights))
        return self.classify(self.pool(_as_maps(y), samples))

    def _neighbors(self, samples: Samples, generator: torch.Generator | None):
        if self.neighborhood is None:
            return None
        draws = (generator or torch.default_generator) if self.training else repeated_draws(self.neighborhood)
        v, there = samples.elements, samples.weights != 0
        return self.neighborhood(v, v, self.lift.group, mask=there, generator=draws)


class _Block(nn.Module):
    def __init__(self, width: int, inner: int, activation: str, options: dict) -> None:
        super().__init__()
        self.activation = activation
        self.norms = nn.ModuleList(GroupBatchNorm2d(channels) for channels in (width, inner, inner))
        self.narrow, self.widen = nn.Linear(width, inner), nn.Linear(inner, width)
        self.conv = PointGroupConv(inner, inner, **options)

    def forward(self, x: Tensor, samples: Samples, weights: Samples | None, neighbors) -> Tensor:
        """``[B, N, width]`` to the same."""
        act = ACTIVATIONS[self.activation]
        y = self.narrow(act(_normed(self.norms[0], x, weights)))
        y = self.conv(act(_normed(self.norms[1], y, weights)), samples, neighbors=neighbors)[0]
        return x + self.widen(act(_normed(self.norms[2], y, weights)))


def _as_maps(y: Tensor) -> Tensor:
    """``[B, N, C]`` as the maps of one pixel ``[B, C, N, 1, 1]`` that norms and pooling take."""
    return y.mT[..., None, None]


def _normed(norm: nn.Module, y: Tensor, weights: Samples | None) -> Tensor:
    return norm(_as_maps(y), weights)[..., 0, 0].mT
