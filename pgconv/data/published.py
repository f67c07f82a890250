"""The published tasks: which files, how they are split, and how they are normalised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pgconv.data.motions import turn_randomly
from pgconv.data.readers import read_amat, read_cifar, read_idx, read_pcam
from pgconv.data.sources import CIFAR10, CIFAR100, MNIST, PCAM, ROTMNIST, File, damaged, find
from pgconv.data.task import Pairs, Split, Task, partition

_MNIST_SHAPE = (28, 28)
_NORMAL = {
    "MNIST": ((0.1307,), (0.3081,)),
    "RotMNIST": ((0.13,), (0.297,)),
    "CIFAR10": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR100": ((0.49137, 0.48235, 0.44667), (0.24706, 0.24353, 0.26157)),
    "PCam": ((0.701, 0.538, 0.692), (0.235, 0.277, 0.213)),
}


def mnist6(
    name: str,
    change: Callable[[Tensor], Tensor],
    root: Any,
    seed: int,
    *,
    validation: float = 0.1,
    rotation: float = 0.0,
    verify: bool = True,
) -> Task:
    """MNIST's sixes (label 0) and their transformed selves (label 1): 2 x 5918 for training and validation, 2 x 958 for testing.

    ``rotation``: each image is first turned by a fixed random angle, uniform within so many degrees either way.
    """
    generator = torch.Generator().manual_seed(seed)
    pool, test = (_sixes(MNIST[i : i + 2], root, verify) for i in (0, 2))
    kept, held = partition(len(pool), validation, generator)
    sets = [Pairs(_turned(images, rotation, generator), change) for images in (pool, test)]
    normal = _NORMAL["MNIST"]
    return Task(
        name,
        2,
        (1, *_MNIST_SHAPE),
        *normal,
        train=sets[0].split(kept, *normal),
        validation=sets[0].split(held, *normal),
        test=sets[1].split(torch.arange(len(test)), *normal),
    )


def _sixes(files: tuple[File, ...], root: Any, verify: bool) -> Tensor:
    """The images labelled 6, ``uint8 [n, 1, 28, 28]``, in the order of the file."""
    images, labels = read_idx(files[0], root, _MNIST_SHAPE, verify), read_idx(files[1], root, (), verify)
    if len(images) != len(labels) or not (labels == 6).any():
        raise damaged(
            files[1],
            find(files[1], root, ("", ".gz")),
            f"a label for each of {len(images)} images, some of them 6",
            f"{len(labels)} labels, {(labels == 6).sum()} of them 6",
        )
    return torch.from_numpy(images[labels == 6])[:, None]


def _turned(images: Tensor, rotation: float, generator: torch.Generator) -> Tensor:
    """Bytes as they are where nothing turns, else values from 0 to 1."""
    return images if rotation == 0 else turn_randomly(images.to(torch.float32) / 255, rotation, generator)


def rotmnist(root: Any, seed: int, *, validation: float = 1 / 6, verify: bool = True) -> Task:
    """Digits turned by any angle: 10000 for training, 2000 for validation, 50000 for testing.

    Pixels are taken row by row, as the files are usually read.
    """
    pool, test = (read_amat(file, root, 28, 10, verify) for file in ROTMNIST)
    return _split_pool("RotMNIST", 10, pool, test, seed, validation)


def cifar10(root: Any, seed: int, *, validation: float = 0.1, verify: bool = True) -> Task:
    """Small photographs of ten kinds of things: 45000 for training, 5000 for validation, 10000 for testing."""
    pool, test = (read_cifar(files, root, 10, verify) for files in (CIFAR10[:-1], CIFAR10[-1:]))
    return _split_pool("CIFAR10", 10, pool, test, seed, validation)


def cifar100(root: Any, seed: int, *, validation: float = 0.1, verify: bool = True) -> Task:
    """The same of a hundred kinds (the fine labels)."""
    pool, test = (read_cifar(files, root, 100, verify) for files in (CIFAR100[:-1], CIFAR100[-1:]))
    return _split_pool("CIFAR100", 100, pool, test, seed, validation)


def _split_pool(
    name: str,
    classes: int,
    pool: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    seed: int,
    validation: float,
) -> Task:
    """A published training set, from which a validation set is taken, and a published test set."""
    kept, held = partition(len(pool[0]), validation, torch.Generator().manual_seed(seed))
    normal = _NORMAL[name]
    return Task(
        name,
        classes,
        tuple(pool[0].shape[1:]),
        *normal,
        train=Split(*pool, kept, *normal),
        validation=Split(*pool, held, *normal),
        test=Split(*test, torch.arange(len(test[0])), *normal),
    )


def pcam(root: Any, seed: int, *, verify: bool = True) -> Task:
    """Patches of lymph nodes, with tumour tissue or without: 262144 for training, 32768 each for validation and testing.

    The splits are those published, and images stay in the files.
    """
    side, normal = 96, _NORMAL["PCam"]
    pairs = [read_pcam(*PCAM[i : i + 2], root, side, verify) for i in (0, 2, 4)]
    return Task(
        "PCam",
        2,
        (3, side, side),
        *normal,
        *(Split(pixels, labels, torch.arange(len(labels)), *normal) for pixels, labels in pairs),
    )
