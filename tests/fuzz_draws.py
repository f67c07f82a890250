"""Random numbers for calls: sizes, values and strides, all of one seed. See ``fuzzing``."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

SIZES = (1, 2, 3, 5, 7, 8, 9, 11, 13, 15, 16, 17)
WIDE = (31, 32, 33, 63, 64, 65, 67, 100, 129)
VALUES = ("normal", "wild", "small", "denormal", "nonfinite")


class Draw(random.Random):
    """Choices of one call; ``Draw(seed)`` makes the same ones again."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def chance(self, probability: float) -> bool:
        """True so often."""
        return self.random() < probability

    def size(self, wide: float = 0.2, none: float = 0.02) -> int:
        """Ones, primes and neighbours of vector widths; sometimes sizes around tiles, rarely 0."""
        if self.chance(none):
            return 0
        return self.choice(WIDE if self.chance(wide) else SIZES)

    def sizes(self, most: float, work, count: int, **odds: float) -> list[int]:
        """So many sizes whose ``work(*sizes)`` is at most ``most``, or the last ones tried, halved until it is."""
        for _ in range(50):
            found = [self.size(**odds) for _ in range(count)]
            if work(*found) <= most:
                return found
        while work(*found) > most and max(found) > 1:
            found[found.index(max(found))] //= 2
        return found

    def normal(self, *shape: int) -> Tensor:
        """Float64."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype, values: str = "normal") -> Tensor:
        """Numbers of a kind, with random strides."""
        x = self.normal(*shape)
        if values == "wild":  # of every size the products of a few of them can have
            x *= 10 ** (8 * torch.rand(shape, generator=self.generator, dtype=torch.float64) - 4)
        elif values == "small":
            x *= 1e-12
        elif values == "denormal":
            x *= 1e-40 if dtype != torch.float64 else 1e-310
        elif values == "nonfinite" and x.numel():
            places = torch.randint(0, x.numel(), (1 + x.numel() // 9,), generator=self.generator)
            x.view(-1)[places] = self.choice((math.nan, math.inf, -math.inf, 1e300, 3e38, -0.0))
        return self.strided(x.to(dtype))

    def strided(self, x: Tensor, expandable: int | None = None) -> Tensor:
        """The same numbers laid out in another way; of an expanded dimension, one of the first ``expandable``, only the first."""
        if x.dim() == 0:
            return x
        way = self.choice(("plain", "plain", "transposed", "slice", "step", "expanded", "negated"))
        a, b = self.randrange(x.dim()), self.randrange(x.dim())
        if way == "transposed":
            return x.transpose(a, b).contiguous().transpose(a, b)
        if way == "slice":  # of a larger tensor, from an offset on
            before = self.randrange(1, 4)
            large = torch.cat([x.narrow(a, 0, min(1, x.shape[a]))] * before + [x, x], a)
            return large.narrow(a, large.shape[a] - 2 * x.shape[a], x.shape[a])
        if way == "step":
            return x.repeat_interleave(2, a)[(slice(None),) * a + (slice(None, None, 2),)]
        if way == "expanded" and x.shape[a] and a < (x.dim() if expandable is None else expandable):
            return x.narrow(a, 0, 1).expand_as(x)
        if way == "negated":  # a view that is negated when it is read
            return torch._neg_view(-x)
        return x
