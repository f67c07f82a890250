"""Images moved by group elements."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv import groups
from pgconv._autocast import without_autocast
from pgconv._shapes import check_floating, check_same_device, check_shape
from pgconv.functional._kernel import check_elements
from pgconv.groups import Group


def move_images(x: Tensor, elements: Tensor, group: str | Group) -> Tensor:
    """``y[b,k,c,p] = x[b,c, h_k^-1 p]``: images about their centre, by the linear part ``h_k`` of each element.

    Values between pixels are interpolated bilinearly, in at least float32 (also under autocast); beside the image they are zero.
    Gradients go to the images and the elements.

    Args:
        x: images ``[B, C, H, W]``
        elements: ``[S, K, e]``, S = 1 (shared) or B (per example); their translations are not used
        group: acts on the plane, e.g. ``"SE(2)"``

    Returns:
        ``[B, K, C, H, W]`` in the dtype of ``x``

    Raises:
        ValueError: for wrong shapes, a group that does not act on the plane, values that are not its elements

    Example:
        >>> import torch, pgconv
        >>> x = torch.arange(9.0).reshape(1, 1, 3, 3)
        >>> quarter = torch.tensor([[[0.0, 0.0, torch.pi / 2]]])
        >>> pgconv.functional.move_images(x, quarter, "SE(2)")[0, 0, 0].round()
        tensor([[2., 5., 8.],
                [1., 4., 7.],
                [0., 3., 6.]])
    """
    op, group = "move_images", groups.get(group)
    if group.spatial_dim != 2:
        raise ValueError(f"{op}: group must act on the plane, received {group.name}")
    check_shape(op, "x", x, "B C H W", {})
    check_floating(op, "x", x)
    check_elements(op, group, "elements", elements, {"S": (1, x.shape[0])}, "S K e")
    check_same_device(op, x=x, elements=elements)
    with without_autocast(x.device):
        return _moved(x, group.matrix(group.inverse(elements)))


def _moved(x: Tensor, inverse: Tensor) -> Tensor:
    """Images read at ``inverse [S, K, 2, 2]`` of every pixel's position."""
    # Output pixel p = (x right, y up) reads the input at h^-1 p; grid_sample's second axis points down, and both go from -1 to 1.
    sides = (x.shape[-1], x.shape[-2])
    sign = torch.ones_like(inverse)
    sign[..., 0, 1] = -sides[1] / sides[0]
    sign[..., 1, 0] = -sides[0] / sides[1]
    # In 16 bits positions are off by whole pixels, and so would even the identity be.
    exact = torch.promote_types(x.dtype, torch.float32)
    theta = F.pad((inverse * sign).to(exact), (0, 1))
    (batch, channels, height, width), count = x.shape, inverse.shape[1]
    grid = F.affine_grid(theta.flatten(0, 1), [theta.shape[0] * count, channels, height, width], align_corners=False)
    grid = grid.reshape(-1, count * height, width, 2).expand(batch, -1, -1, -1)
    moved = F.grid_sample(x.to(exact), grid, padding_mode="zeros", align_corners=False).to(x.dtype)
    return moved.reshape(batch, channels, count, height, width).transpose(1, 2)
