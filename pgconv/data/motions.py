"""How images are turned and mirrored before they become a class of a task."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pgconv._shapes import describe
from pgconv.functional import move_images


def turn_randomly(images: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Each image ``[n, C, H, W]`` (float) turned by an angle of its own, uniform within ``degrees`` either way; 0 turns none.

    Raises:
        ValueError: for something else than a number from 0 to 180
    """
    if isinstance(degrees, bool) or not isinstance(degrees, (int, float)) or not 0 <= degrees <= 180:
        raise ValueError(
            f"data.get: rotation must be a number of degrees from 0 to 180: images are turned by a random angle up to it, "
            f"either way; received {describe(degrees)}"
        )
    if degrees == 0:
        return images
    return rotate(images, (2 * torch.rand(len(images), generator=generator, dtype=images.dtype) - 1) * degrees)


def rotate(images: Tensor, degrees: Tensor | float) -> Tensor:
    """Turn images ``[n, C, H, W]`` counter-clockwise about their centre (bilinear), one angle or one for each image."""
    radians = torch.as_tensor(degrees, dtype=images.dtype).expand(len(images)) * (math.pi / 180)
    elements = torch.stack([torch.zeros_like(radians), torch.zeros_like(radians), radians], -1)
    return move_images(images, elements[:, None], "SE(2)")[:, 0]


def half_turn(images: Tensor) -> Tensor:
    """By exactly 180 degrees: no value is interpolated."""
    return torch.rot90(images, 2, (-2, -1))


def mirror(images: Tensor) -> Tensor:
    """Left and right exchanged."""
    return images.flip(-1)


def flip(images: Tensor) -> Tensor:
    """Up and down exchanged, as the mirror of this library's groups does, which leaves the x axis where it is."""
    return images.flip(-2)
