"""The network: three group convolutions over all pairs of elements and a classifier of the mean."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

import pgconv
from pgconv.sampling import Samples


class PointNet(nn.Module):
    """Lift, convolutions with norm and activation, weighted mean over the group elements, a linear classifier.

    Every layer sums over all pairs of elements, which for some hundred is cheaper than to look for neighbours.

    With ``group="SE(2)"`` every point becomes ``angles`` elements from a random one on, and turning them all together leaves the
    logits as they are.
    With ``group="T(2)"`` the same layers see differences of positions only.
    """

    def __init__(
        self, group: str, *, angles: int = 4, width: int = 24, hidden: int = 16, layers: int = 3, omega0: float = 10.0
    ) -> None:
        super().__init__()
        self.lift = pgconv.nn.PointLift(group, num_samples=1 if group == "T(2)" else angles)
        channels = [1] + [width] * layers
        options = {"group": self.lift.group, "hidden": hidden, "layers": 2, "omega0": omega0}
        self.convs = nn.ModuleList(pgconv.nn.PointGroupConv(c, o, **options) for c, o in pairwise(channels))
        self.norms = nn.ModuleList(pgconv.nn.GroupBatchNorm2d(width) for _ in self.convs)
        self.pool = pgconv.nn.GlobalGroupPool("mean")
        self.classify = nn.Linear(width, 10)

    def forward(self, x: Tensor, f: Tensor, mask: Tensor) -> Tensor:
        """Logits ``[B, 10]`` of points ``x [B, P, 2]`` with features ``f [B, P, 1]``."""
        return self.from_elements(*self.lift(x, f, mask))

    def from_elements(self, y: Tensor, samples: Samples) -> Tensor:
        """Logits of a signal ``y [B, N, 1]`` on group elements."""
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            z, samples = conv(y, samples)
            z = F.gelu(norm(_as_maps(z), samples)[..., 0, 0].mT)
            y = z if i == 0 else y + z
        return self.classify(self.pool(_as_maps(y), samples))


def _as_maps(y: Tensor) -> Tensor:
    """``[B, N, C]`` as the maps of one pixel ``[B, C, N, 1, 1]`` that norms and pooling take."""
    return y.mT[..., None, None]
