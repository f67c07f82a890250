"""scikit-learn's handwritten digits as point sets that can be turned by any angle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pgconv.data.digits import load_images

_SIDE = 8  # of the images, in pixels


@dataclass(frozen=True)
class Points:
    """Digits as points: positions ``x [n, P, 2]``, brightness ``f [n, P, 1]``, which exist ``mask [n, P]``, ``labels [n]``."""

    x: Tensor
    f: Tensor
    mask: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: Tensor | slice) -> Points:
        return Points(self.x[which], self.f[which], self.mask[which], self.labels[which])

    def rotated(self, degrees: Tensor | float) -> Points:
        """The same points turned counter-clockwise about the centre, by one angle or one for each digit."""
        return Points(rotate(self.x, degrees), self.f, self.mask, self.labels)


def load(points: int, seed: int, validate: bool = False) -> tuple[Points, Points]:
    """All 1797 digits at random in 1200 for training and 597 for testing, as their ``points`` brightest pixels.

    ``validate=True`` leaves the test digits alone and splits those for training: 1000 and 200.
    """
    images, labels = load_images()
    digits = Points(*from_images(images[:, 0], points), labels)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    if validate:
        return digits[order[:1000]], digits[order[1000:1200]]
    return digits[order[:1200]], digits[order[1200:]]


def from_images(images: Tensor, points: int) -> tuple[Tensor, Tensor, Tensor]:
    """The brightest pixels of images ``[n, 8, 8]`` as points, of equally bright ones the first in reading order.

    Positions are ``x`` (right) and ``y`` (up) about the centre, with pixel centres from -1 to 1 in both. Pixels of brightness 0
    are no points: where fewer than ``points`` are left, the rest of the mask is False and their brightness 0.

    Returns:
        ``x [n, P, 2]``, ``f [n, P, 1]``, ``mask [n, P]``

    Raises:
        ValueError: for another size of images, and a number of points that is not from 1 to 64

    >>> image = torch.zeros(1, 8, 8)
    >>> image[0, 0, 7] = 0.5                               # above, on the right
    >>> from_images(image, 2)[0][0, 0], from_images(image, 2)[2]
    (tensor([1., 1.]), tensor([[ True, False]]))
    """
    if images.shape[1:] != (_SIDE, _SIDE):
        raise ValueError(f"digits: images must be [n, {_SIDE}, {_SIDE}], received {list(images.shape)}")
    if not 1 <= points <= _SIDE**2:
        raise ValueError(f"digits: points must be from 1 to {_SIDE**2}, the pixels of an image, received {points}")
    f, pixel = images.flatten(1).sort(dim=1, descending=True, stable=True)
    f, pixel = f[:, :points], pixel[:, :points]
    half = (_SIDE - 1) / 2
    x = torch.stack([pixel % _SIDE - half, half - pixel // _SIDE], -1) / half
    return x, f[..., None], f > 0


def random_angles(count: int, seed: int) -> Tensor:
    """An angle for each test digit, in degrees."""
    return 360 * torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotate(x: Tensor, degrees: Tensor | float) -> Tensor:
    """Turn points ``[n, P, 2]`` counter-clockwise about the origin, by one angle or one for each set; quarter turns are exact."""
    degrees = torch.as_tensor(degrees, dtype=torch.float64).expand(len(x)).remainder(360)
    quarters = (degrees / 90).round()
    radians = (degrees - 90 * quarters) * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    for quarter in (1, 2, 3):
        turned = quarters.remainder(4) >= quarter
        cos, sin = torch.where(turned, -sin, cos), torch.where(turned, cos, sin)
    matrix = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    return x @ matrix.to(x.dtype).mT
