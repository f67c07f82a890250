"""A sampler whose gates depend on what is convolved: partial equivariance that differs from input to input."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgconv._shapes import check_choice, check_positive_int
from pgconv.sampling.gates import GatedSampler, position_of_identity, straight_through, with_identity
from pgconv.sampling.grid import FixedGrid, JitteredGrid
from pgconv.sampling.types import Samples

BASES = {"jittered": JitteredGrid, "fixed": FixedGrid}
START = 2.0
"""Logit of every gate before training, as that of the gates that do not depend on the input."""


class EncodedGates(GatedSampler):
    """Elements of a grid, of which each example keeps a subset of its own: element i of example b with probability

    ``p[b,i] = sigmoid(l_i(z_b))``,  ``z_b = sum_v w_v mean_p x[b,:,v,p] / sum_v w_v``,  ``l = A silu(B z + b) + a``,

    the identity's always. ``x`` are the maps that the layer convolves, and ``v``, ``w`` their samples and weights, so a layer
    passes them on: ``forward(batch_size, generator, x, samples)``. elements [S, n, e], weights [B, n] exactly 0 or 1, with
    straight-through gradients (see ``GatedSampler``); in eval mode 1[p > 1/2]. They act like those of a learned subset, on the next
    layer's sum, on norms and on pooling. ``divergence`` is what the loss takes besides.

    Args:
        group, n: with a regular grid of n >= 2 elements; a jittered one has an element in each stratum, kept is the identity's
        channels: C of the maps
        hidden: width of the encoder
        prior: probability, in (0, 1), of every gate where nothing is known of the input
        base: ``"jittered"`` or ``"fixed"``
        per_example: in training the jitter differs between examples, too: S = B, else 1
        dtype: of the elements

    Raises:
        ValueError: for a stabiliser without elements to choose from, numbers out of range, and where the maps are not given

    Source: Kim et al., "Variational Partial Group Convolutions for Input-Aware Partial Equivariance of Rotations and Color-Shifts"
    (2024).

    >>> from pgconv import groups
    >>> _ = torch.manual_seed(0)
    >>> sampler, x = EncodedGates(groups.get("SE(2)"), 4, channels=3), torch.randn(2, 3, 8, 5, 5)
    >>> maps = FixedGrid(groups.get("SE(2)"), 8)()
    >>> elements, weights = sampler(x=x, samples=maps)
    >>> elements.shape, weights.shape, weights[:, 0].tolist()
    (torch.Size([1, 4, 3]), torch.Size([2, 4]), [1.0, 1.0])
    >>> sampler.keep_probabilities(x, maps)[0]
    tensor([1.0000, 0.8808, 0.8808, 0.8808])
    """

    sees_input = True

    def __init__(
        self,
        group,
        n: int,
        channels: int,
        hidden: int = 16,
        prior: float = 0.9,
        base: str = "jittered",
        per_example: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(group, n, per_example, None, dtype)
        if n < 2 or self.kind == "trivial":
            raise ValueError(
                f"EncodedGates: the identity is always kept, so there must be other elements, got n={n} on {group.name}"
            )
        if not 0 < prior < 1:
            raise ValueError(f"EncodedGates: prior must be a probability in (0, 1), got {prior!r}")
        check_choice("EncodedGates", "base", base, tuple(BASES))
        self.base = (
            FixedGrid(group, n, dtype=dtype) if base == "fixed" else JitteredGrid(group, n, per_example, dtype=dtype)
        )
        self.prior = prior
        self._identity_at = position_of_identity(group, n)
        self.encoder = nn.Sequential(
            nn.Linear(check_positive_int("EncodedGates", "channels", channels), hidden),
            nn.SiLU(),
            nn.Linear(hidden, n - 1),
        )
        nn.init.zeros_(self.encoder[2].weight)
        nn.init.constant_(self.encoder[2].bias, START)
        self.encoder.to(dtype)

    def logits(self, x: Tensor | None, samples: Samples | None) -> Tensor:
        """``l [B, n - 1]`` in float64, of all elements but the identity, for maps [B, C, Nv, H, W] and their samples."""
        if x is None or samples is None:
            raise ValueError(
                "EncodedGates: gates depend on the maps; a layer passes them, x=[B, C, Nv, H, W] and samples=Samples"
            )
        own = self.encoder[0].weight.dtype
        weights = samples.weights.to(own)[:, None]
        # Sums over many pixels, and probabilities: in full precision, whatever the convolutions have.
        with torch.autocast(x.device.type, enabled=False):
            z = (x.to(own).mean((3, 4)) * weights).sum(2) / weights.sum(2)
            return self.encoder(z).to(torch.float64)

    def forward(
        self,
        batch_size: int = 1,
        generator: torch.Generator | None = None,
        x: Tensor | None = None,
        samples: Samples | None = None,
    ) -> Samples:
        logits = self.logits(x, samples)
        sets = logits.shape[0]
        elements = self.base(sets, generator).elements
        z, y = self._gates(logits, sets, generator)
        return Samples(elements, with_identity(straight_through(z, y), self._identity_at).to(self.dtype))

    @torch.no_grad()
    def keep_probabilities(self, x: Tensor, samples: Samples) -> Tensor:
        """``p [B, n]``, 1 at the identity, detached."""
        return with_identity(torch.sigmoid(self.logits(x, samples)), self._identity_at).to(self.dtype)

    def divergence(self, x: Tensor, samples: Samples) -> Tensor:
        """``mean_b sum_i KL(Bernoulli(p[b,i]) || Bernoulli(prior))``, a scalar: 0 where all gates are as likely as they are before
        anything is seen."""
        logits = self.logits(x, samples)
        p, own, other = torch.sigmoid(logits), F.logsigmoid(logits), F.logsigmoid(-logits)
        each = p * (own - math.log(self.prior)) + (1 - p) * (other - math.log1p(-self.prior))
        return (each.sum() / max(1, logits.shape[0])).to(self.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, prior={self.prior}"
