"""Gates that depend on the input: each example keeps its own part of the group."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgconv._shapes import check_choice, check_positive_int, check_shape, describe
from pgconv.sampling.base import Sampler, check_stabilizer
from pgconv.sampling.gates import SubsetSampler, straight_through
from pgconv.sampling.grid import FixedGrid, JitteredGrid
from pgconv.sampling.types import Samples

START = 2.0
"""Logit of every gate before training, that of the other learned samplers."""


class EncodedGates(SubsetSampler):
    """A subset of a grid for each example, chosen by an encoder of the maps that the layer convolves.

    ``z_b = sum_v w_v mean_p x[b,:,v,p] / sum_v w_v``, ``logit_b = L_2 silu(L_1 z_b)``, and element i is kept with probability
    ``p[b,i] = sigmoid(logit_b[i])``, the identity (its stratum) always. Moving an input moves samples and pixels, over which z is
    the mean: behind equivariant layers an image and its moved copy have the same gates.

    Called as ``sampler(batch_size, generator, x=x, samples=samples)``; layers see by ``sees_input`` that they have to pass
    x [B, C, N, H, W] and its samples. elements [B, n, e] of the base sampler, not copied where examples share them; weights
    [B, n], 0 or 1 with the gradient of ``GatedSampler``; in eval mode 1[logit > 0]. They are weights of the next layer's mean, the
    norms and the pooling. Gates are computed in float64, so autocast changes nothing in them.

    Args:
        group, n: any group with a regular grid of n >= 2 elements
        channels, hidden: C, and the width of the encoder
        prior: keep probability that ``divergence`` pulls to
        base: ``"jittered"``, or ``"fixed"`` for the grid as it is. Only turns are jittered: a grid that would be moved by any
            element (rotations in space, own groups) has no strata to gate, and stays fixed
        per_example: other elements for each example, too (in training)
        dtype: of elements and encoder

    Raises ``ValueError`` for a group without stabiliser or grid, n < 2, channels or hidden < 1, a prior outside (0, 1), an unknown
    base, and a call without x and samples. There is no name for it in ``sampling.get``, which knows no channels:
    ``nn.GroupConv2d(partial="input")`` builds it.

    Source: after Kim et al., "Variational Partial Group Convolutions for Input-Aware Partial Equivariance of Rotations and
    Color-Shifts" (2024): encoder and divergence; here with gates on the grid of any group.

    >>> from pgconv import groups
    >>> sampler = EncodedGates(groups.get("SE(2)"), 4, channels=3)
    >>> grid = FixedGrid(groups.get("SE(2)"), 4)()
    >>> drawn = sampler(2, x=torch.randn(2, 3, 4, 5, 5), samples=grid)
    >>> drawn.elements.shape, drawn.weights.shape
    (torch.Size([2, 4, 3]), torch.Size([2, 4]))
    """

    sees_input: ClassVar[bool] = True

    def __init__(
        self,
        group,
        n: int,
        channels: int,
        hidden: int = 16,
        prior: float = 0.9,
        base: str = "jittered",
        per_example: bool = False,
        dtype=torch.float32,
    ):
        if hasattr(group, "stabilizer"):  # else the base class says what is wrong
            check_stabilizer("EncodedGates", group)
        super().__init__(group, n, per_example, None, dtype)
        self.channels = check_positive_int("EncodedGates", "channels", channels)
        check_positive_int("EncodedGates", "hidden", hidden)
        check_choice("EncodedGates", "base", base, ("jittered", "fixed"))
        if not isinstance(prior, (int, float)) or not 0 < prior < 1:
            raise ValueError(f"EncodedGates: prior must be a probability between 0 and 1, received {describe(prior)}")
        self.prior = float(prior)
        jittered = base == "jittered" and self.kind != "other"
        self.base: Sampler = (
            JitteredGrid(group, n, per_example, dtype=dtype) if jittered else FixedGrid(group, n, dtype=dtype)
        )
        last = nn.Linear(hidden, n - 1, dtype=dtype)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, START)
        self.encoder = nn.Sequential(nn.Linear(channels, hidden, dtype=dtype), nn.SiLU(), last)

    def forward(
        self,
        batch_size: int = 1,
        generator: torch.Generator | None = None,
        x: Tensor | None = None,
        samples: Samples | None = None,
    ) -> Samples:
        """Samples of each example of ``x``, whose number ``batch_size`` is."""
        logits = self._logits(x, samples)
        sets = logits.shape[0]
        elements = self.base(sets, generator).elements
        weights = self._with_identity(straight_through(*self._gates(logits, sets, generator)))
        return Samples(elements.expand(sets, -1, -1), weights.to(self.dtype))

    def divergence(self, x: Tensor, samples: Samples) -> Tensor:
        """``mean_b sum_i KL(Bernoulli(p[b,i]) || Bernoulli(prior))``, a scalar with gradients; 0 for no examples.

        >>> from pgconv import groups
        >>> sampler = EncodedGates(groups.get("SE(2)"), 4, channels=3, prior=torch.tensor(2.0).sigmoid().item())
        >>> bool(sampler.divergence(torch.randn(2, 3, 4, 5, 5), FixedGrid(groups.get("SE(2)"), 4)()) < 1e-6)
        True
        """
        logits = self._logits(x, samples)
        kept = torch.sigmoid(logits) * (F.logsigmoid(logits) - math.log(self.prior))
        left_out = torch.sigmoid(-logits) * (F.logsigmoid(-logits) - math.log1p(-self.prior))
        return ((kept + left_out).sum() / max(1, logits.shape[0])).to(self.dtype)

    @torch.no_grad()
    def keep_probabilities(self, x: Tensor, samples: Samples) -> Tensor:
        """p [B, n], detached; 1 at the identity."""
        return self._with_identity(torch.sigmoid(self._logits(x, samples))).to(self.dtype)

    def _logits(self, x: Tensor | None, samples: Samples | None) -> Tensor:
        """[B, n - 1] in float64."""
        if x is None or samples is None:
            raise ValueError(
                "EncodedGates: x and samples are missing: gates depend on the maps that are convolved, which the layer passes; "
                "use it as the sampler of a group convolution, or call sampler(batch_size, x=x, samples=samples)"
            )
        axes: dict = {"C": self.channels}
        check_shape("EncodedGates", "x", x, "B C N H W", axes)
        check_shape("EncodedGates", "samples.weights", samples[1], "S N", {"S": (1, axes["B"]), "N": axes["N"]})
        weights = samples[1].to(torch.float64)
        total = weights.sum(-1, keepdim=True)
        share = weights / torch.where(total == 0, 1.0, total)
        maps = x.mean((-2, -1), dtype=torch.promote_types(x.dtype, torch.float32)).to(torch.float64)
        first, activation, last = self.encoder
        return _linear(last, activation(_linear(first, (maps * share[:, None]).sum(-1))))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, channels={self.channels}, prior={self.prior}"


def _linear(layer: nn.Linear, z: Tensor) -> Tensor:
    """The layer in the dtype of z; autocast leaves float64 alone."""
    return F.linear(z, layer.weight.to(z.dtype), layer.bias.to(z.dtype))
