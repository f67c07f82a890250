"""scikit-learn's handwritten sixes, upright against turned by 180 degrees or mirrored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pgconv.data.digits import MEAN, STD, enlarge, load_images, shrink
from pgconv.data.motions import flip, half_turn, rotate

TASKS = ("6-180", "6-M")


@dataclass(frozen=True)
class Digits:
    """Sixes at the fine resolution ``[n, 1, 32, 32]``, split by image: no digit is in both halves."""

    task: str
    train: Tensor
    test: Tensor


def load(task: str, seed: int, test_fraction: float = 1 / 3) -> Digits:
    """Load and split the sixes (181 images of 8 x 8 pixels), enlarged into a 32 x 32 frame they can turn in.

    Raises:
        ValueError: for an unknown task
    """
    if task not in TASKS:
        raise ValueError(f"demo: task must be one of {', '.join(TASKS)}, received {task!r}")
    images, labels = load_images()
    fine = enlarge(images[labels == 6])
    order = torch.randperm(len(fine), generator=torch.Generator().manual_seed(seed))
    count = round(len(fine) * test_fraction)
    return Digits(task, fine[order[count:]], fine[order[:count]])


def to_input(fine: Tensor) -> Tensor:
    """What the networks see: 16 x 16 pixels, centred and scaled."""
    return (shrink(fine) - MEAN[0]) / STD[0]


def transform(task: str, images: Tensor) -> Tensor:
    """The other class: an exact half turn, or the exact mirror image (of the groups' mirror, which swaps up and down)."""
    return half_turn(images) if task == "6-180" else flip(images)


def batch(task: str, fine: Tensor, degrees: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Inputs and labels: each image (label 0) and its transformed self (label 1)."""
    images = to_input(rotate(fine, degrees))
    labels = torch.tensor([0, 1]).repeat_interleave(len(fine))
    return torch.cat([images, transform(task, images)]), labels
