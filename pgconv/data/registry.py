"""Tasks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from pgconv._shapes import check_choice, check_positive_int
from pgconv.data import digits, published, sources
from pgconv.data.motions import flip, half_turn, mirror
from pgconv.data.sources import File
from pgconv.data.task import Task

# Of each name what makes the task, and which files it is read from.
_TASKS: dict[str, tuple[Callable[..., Task], tuple[File, ...]]] = {
    "MNIST6-180": (partial(published.mnist6, "MNIST6-180", half_turn), sources.MNIST),
    "MNIST6-M": (partial(published.mnist6, "MNIST6-M", mirror), sources.MNIST),
    "MNIST6-flip": (partial(published.mnist6, "MNIST6-flip", flip), sources.MNIST),
    "RotMNIST": (published.rotmnist, sources.ROTMNIST),
    "CIFAR10": (published.cifar10, sources.CIFAR10),
    "CIFAR100": (published.cifar100, sources.CIFAR100),
    "PCam": (published.pcam, sources.PCAM),
    "digits6-180": (partial(digits.digits6, "digits6-180", half_turn), ()),
    "digits6-M": (partial(digits.digits6, "digits6-M", mirror), ()),
    "digits6-flip": (partial(digits.digits6, "digits6-flip", flip), ()),
    "rotated-digits": (digits.rotated_digits, ()),
}


def names() -> list[str]:
    """Tasks that ``get`` knows.

    Example:
        >>> import pgconv
        >>> pgconv.data.names()  # doctest: +NORMALIZE_WHITESPACE
        ['MNIST6-180', 'MNIST6-M', 'MNIST6-flip', 'RotMNIST', 'CIFAR10', 'CIFAR100', 'PCam',
         'digits6-180', 'digits6-M', 'digits6-flip', 'rotated-digits']
    """
    return list(_TASKS)


def files(name: str) -> tuple[File, ...]:
    """The files a task is read from: names, sizes, checksums and where they come from. Empty for scikit-learn's digits.

    Raises:
        ValueError: for an unknown task

    Example:
        >>> import pgconv
        >>> file = pgconv.data.files("CIFAR100")[1]
        >>> file.name, file.size, file.address
        ('test.bin', 30740000, 'https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz')
    """
    check_choice("data.files", "name", name, tuple(_TASKS))
    return _TASKS[name][1]


def get(name: str, root: Any = None, seed: int = 42, **options: Any) -> Task:
    """A task with its training, validation and test images.

    Nothing is downloaded: published tasks are read from their standard files (``files(name)``, docs/data.md). The same arguments
    give the same splits and angles.

    Args:
        name: one of ``names()``
        root: the folder with the files, which may lie in their usual folder below it; not used for scikit-learn's digits
        seed: of the random splits and angles
        options: what the task has of these
            ``validation``: share (a float) or number (an int) of the training images held out for selecting models, both versions
            of an image together; 0 keeps all for training, and ``validation`` is empty. Not for PCam, which has its own
            ``rotation``: each image is turned by a fixed random angle, uniform within so many degrees either way, before it is
            transformed; 0, for ``rotated-digits`` 180
            ``size``: side of scikit-learn's digits, 16 or 32
            ``verify``: compare sizes, numbers of images and checksums with those published; False reads other data in the same
            formats, e.g. the first images of each file

    Raises:
        ValueError: for an unknown name or option, and a file that is damaged or not the published one
        FileNotFoundError: a file is not there; the message says where it comes from
        ImportError: the task needs scikit-learn, or h5py (PCam)

    Source: Romero & Lohit, "Learning Partial Equivariances from Data" (2022), for all from files: contents, splits, mean and std.
    ``MNIST6-flip`` is ``MNIST6-M`` for the group M(2), whose mirror exchanges up and down: theirs exchanges left and right, as
    their task does. Their MNIST6 has no validation images and selects models on the test images; ``validation=0`` gives its
    training images.

    Example:
        >>> import pgconv
        >>> task = pgconv.data.get("rotated-digits")
        >>> task.image_shape, task.classes, len(task.train), len(task.validation), len(task.test)
        ((1, 16, 16), 10, 1078, 120, 599)
    """
    check_choice("data.get", "name", name, tuple(_TASKS))
    make = _TASKS[name][0]
    known = tuple(
        p.name for p in inspect.signature(make).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY
    )
    for option in options:
        check_choice("data.get", f"each option of {name}", option, known)
    return make(root, check_positive_int("data.get", "seed", seed, minimum=0), **options)
