"""scikit-learn's handwritten sixes, upright against turned by 180 degrees or mirrored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TASKS = ("6-180", "6-M")
_FINE = 32  # side on which images are rotated; the networks see it averaged 2 x 2


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
    from sklearn.datasets import load_digits

    bunch = load_digits()
    sixes = torch.tensor(bunch.images[bunch.target == 6], dtype=torch.float32)[:, None] / 16
    # 8 -> 24 pixels inside 32: the digit's corners stay in the frame at every angle that matters.
    fine = F.pad(F.interpolate(sixes, 24, mode="bicubic", align_corners=False).clamp(0, 1), (4, 4, 4, 4))
    order = torch.randperm(len(fine), generator=torch.Generator().manual_seed(seed))
    count = round(len(fine) * test_fraction)
    return Digits(task, fine[order[count:]], fine[order[:count]])


def rotate(fine: Tensor, degrees: Tensor | float) -> Tensor:
    """Turn images counter-clockwise about their centre (bilinear), one angle or one for each image."""
    radians = torch.as_tensor(degrees, dtype=fine.dtype).expand(len(fine)) * (math.pi / 180)
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    # Output position (x right, y down) reads the input turned the other way.
    theta = torch.stack([torch.stack([cos, -sin, zero], -1), torch.stack([sin, cos, zero], -1)], 1)
    grid = F.affine_grid(theta, list(fine.shape), align_corners=False)
    return F.grid_sample(fine, grid, align_corners=False, padding_mode="zeros")


def to_input(fine: Tensor) -> Tensor:
    """What the networks see: 16 x 16 pixels, centred and scaled."""
    return (F.avg_pool2d(fine, 2) - 0.2) / 0.35


def transform(task: str, images: Tensor) -> Tensor:
    """The other class: an exact half turn, or the exact mirror image (of the groups' mirror, which swaps up and down)."""
    return torch.rot90(images, 2, (-2, -1)) if task == "6-180" else images.flip(-2)


def batch(task: str, fine: Tensor, degrees: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Inputs and labels: each image (label 0) and its transformed self (label 1)."""
    images = to_input(rotate(fine, degrees))
    labels = torch.tensor([0, 1]).repeat_interleave(len(fine))
    return torch.cat([images, transform(task, images)]), labels
