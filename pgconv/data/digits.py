"""Small tasks without files: scikit-learn's handwritten digits (1797 images of 8 x 8 pixels), enlarged and turned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv._shapes import check_choice
from pgconv.data.motions import turn_randomly
from pgconv.data.task import Pairs, Split, Task, partition

MEAN, STD = (0.2,), (0.35,)
_FINE = 32  # side on which images are turned
_TEST = 1 / 3


def load_images() -> tuple[Tensor, Tensor]:
    """All digits ``float32 [1797, 1, 8, 8]`` from 0 to 1, and which they are, ``int64 [1797]``.

    Raises:
        ImportError: scikit-learn is not installed
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "data: the digits come with scikit-learn, which is not installed: pip install pgconv[data]"
        ) from error
    bunch = load_digits()
    return torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16, torch.tensor(bunch.target)


def enlarge(images: Tensor) -> Tensor:
    """``[n, 1, 8, 8] -> [n, 1, 32, 32]``: 24 pixels inside 32, so that corners stay in the frame at every angle that matters."""
    return F.pad(F.interpolate(images, 24, mode="bicubic", align_corners=False).clamp(0, 1), (4, 4, 4, 4))


def shrink(fine: Tensor) -> Tensor:
    """``[n, 1, 32, 32] -> [n, 1, 16, 16]``, the mean of 2 x 2 pixels: what is left of interpolation after turning."""
    return F.avg_pool2d(fine, 2)


def digits6(
    name: str,
    change: Callable[[Tensor], Tensor],
    root: Any,
    seed: int,
    *,
    validation: float = 0.1,
    rotation: float = 0.0,
    size: int = 16,
) -> Task:
    """The 181 sixes (label 0) and their transformed selves (label 1): a third is for testing.

    ``rotation``: each image is first turned by a fixed random angle, uniform within so many degrees either way.
    """
    images, labels = load_images()
    fine, parts = _turned(enlarge(images[labels == 6]), seed, validation, rotation, size)
    pairs = Pairs(fine, change)
    return Task(name, 2, (1, size, size), MEAN, STD, *(pairs.split(part, MEAN, STD) for part in parts))


def rotated_digits(root: Any, seed: int, *, validation: float = 0.1, rotation: float = 180.0, size: int = 16) -> Task:
    """All ten digits, each turned by a fixed random angle: a third is for testing."""
    images, labels = load_images()
    fine, parts = _turned(enlarge(images), seed, validation, rotation, size)
    splits = (Split(fine, labels, part, MEAN, STD) for part in parts)
    return Task("rotated-digits", 10, (1, size, size), MEAN, STD, *splits)


def _turned(
    fine: Tensor, seed: int, validation: float, rotation: float, size: int
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Turned images of the size wanted; which are for training, validation and testing."""
    check_choice("data.get", "size", size, (_FINE // 2, _FINE))
    generator = torch.Generator().manual_seed(seed)
    rest, test = partition(len(fine), _TEST, generator)
    kept, held = partition(len(rest), validation, generator)
    fine = turn_randomly(fine, rotation, generator)
    return (fine if size == _FINE else shrink(fine)), (rest[kept], rest[held], test)
