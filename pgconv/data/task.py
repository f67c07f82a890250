"""A task and its splits: pixels as they were stored, normalised when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pgconv._shapes import describe


class Pixels(Protocol):
    """Images of which some are asked for: a tensor, or a file that stays on the disk."""

    def __getitem__(self, rows: Tensor) -> Tensor:
        """``[n] -> [n, C, H, W]``, uint8 from 0 to 255 or float32 from 0 to 1."""


class Split(Dataset):
    """Normalised images and labels, used like ``torch.utils.data.TensorDataset``.

    ``split[i]`` is an image ``[C, H, W]`` (float32) and its label (int64); a slice, or a tensor of positions, gives
    ``[n, C, H, W]`` and ``[n]``. What is kept are the stored pixels, shared by all splits of a task, and which of them are meant:
    ``image = (pixels - mean) / std`` is computed for the images asked for.

    Example:
        >>> import torch, pgconv
        >>> train = pgconv.data.get("digits6-180").train
        >>> images, labels = train[:5]
        >>> images.shape, labels.dtype
        (torch.Size([5, 1, 16, 16]), torch.int64)
        >>> loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)
    """

    def __init__(
        self, pixels: Pixels, labels: Tensor, rows: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self._pixels, self._labels, self._rows = pixels, labels, rows
        self._mean = torch.tensor(mean, dtype=torch.float32)[:, None, None]
        self._std = torch.tensor(std, dtype=torch.float32)[:, None, None]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice | Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows[index]
        one = rows.dim() == 0
        # Indexing by a tensor copies, so what follows may be done in place.
        images = self._pixels[rows.reshape(-1)]
        if images.dtype == torch.uint8:
            images = images.to(torch.float32).div_(255)
        images.sub_(self._mean).div_(self._std)
        return (images[0] if one else images), self._labels[rows]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """A batch as ``torch.utils.data.DataLoader`` asks for it."""
        return list(zip(*self[torch.tensor(indices)]))

    def __repr__(self) -> str:
        return f"Split({len(self)} images)"

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """All images and labels at once."""
        return self[:]


@dataclass(frozen=True, eq=False)
class Task:
    """What a network is trained and tested on.

    Attributes:
        name: as ``pgconv.data.get`` was asked
        classes: number of classes; labels are ``0 ... classes - 1``
        image_shape: ``(C, H, W)``
        mean, std: of each channel, subtracted and divided by; pixels are from 0 to 1 before
        train, validation, test: no image, nor a transformed copy of it, is in two of them; ``validation`` may be empty
    """

    name: str
    classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    validation: Split
    test: Split


def partition(count: int, held: Any, generator: torch.Generator, name: str = "validation") -> tuple[Tensor, Tensor]:
    """A random order of ``count`` images, cut in two: those that stay, then those held out, as ``torch.utils.data.random_split``.

    ``held`` is a share of the images (a float below 1) or their number (an int). The order is drawn even if none is held out, so
    that what is drawn next does not depend on it.

    Raises:
        ValueError: for a share or number that leaves nothing to stay
    """
    number = held if isinstance(held, int) else round(held * count) if isinstance(held, float) and 0 <= held < 1 else -1
    if isinstance(held, bool) or not 0 <= number < count:
        raise ValueError(
            f"data.get: {name} must be a share of the {count} images (a float from 0, below 1) or their number "
            f"(an integer from 0 to {count - 1}), received {describe(held)}"
        )
    order = torch.randperm(count, generator=generator)
    return order[: count - number], order[count - number :]


class Pairs:
    """Images (label 0) and their transformed selves (label 1), chosen by image, so that no split separates the two.

    Args:
        images: ``[n, C, H, W]``
        change: ``half_turn``, ``mirror`` or ``flip``
    """

    def __init__(self, images: Tensor, change: Callable[[Tensor], Tensor]) -> None:
        self._pixels = torch.cat([images, change(images)])
        self._labels = torch.tensor([0, 1]).repeat_interleave(len(images))

    def split(self, sources: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Split:
        """The chosen images, then their transformed selves in the same order."""
        rows = torch.cat([sources, sources + len(self._labels) // 2])
        return Split(self._pixels, self._labels, rows, mean, std)
