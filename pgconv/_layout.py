"""The layout of maps ``[B, C, N, H, W]`` that GPU kernels read: samples last in memory, those of a pixel side by side.

As with PyTorch's channels-last it is the strides alone that differ, and what comes out of a convolution lies as what went in.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pgconv._shapes import check_shape, require_tensor

LAST = 0, 1, 3, 4, 2
BACK = 0, 1, 4, 2, 3
"""Permutations of the axes to the order in memory, and back."""


def group_last(f: Tensor) -> Tensor:
    """The same signal ``[B, C, N, H, W]`` with the samples last in memory, copied only if it has to be.

    Convolutions of a signal in this layout return one in it, and pointwise operations and the norms of ``pgconv.nn`` keep it.
    Called once, behind the lifting convolution, it saves every later layer on a GPU the copy into the layout its kernels read.
    Any operation takes such a tensor; only ``view`` across the sample axis has to become ``reshape``.

    Args:
        f: signal ``[B, C, N, H, W]``

    Returns:
        ``[B, C, N, H, W]`` with strides ``(C H W N, H W N, 1, W N, N)``

    Raises:
        ValueError: if ``f`` is not a tensor of five axes

    Example:
        >>> import torch, pgconv
        >>> pgconv.group_last(torch.zeros(2, 3, 8, 4, 5)).stride()
        (480, 160, 1, 40, 8)
    """
    check_shape("group_last", "f", require_tensor("group_last", "f", f), "B C N H W", {})
    return f.permute(LAST).contiguous().permute(BACK)


def is_group_last(f: Tensor) -> bool:
    """Whether five axes lie so, and not also contiguous."""
    return f.dim() == 5 and f.permute(LAST).is_contiguous() and not f.is_contiguous()


def laid_out_as(like: Tensor, x: Tensor) -> Tensor:
    """``x`` with samples last if ``like`` has them there, else contiguous; copied only if it has to be."""
    return x.permute(LAST).contiguous().permute(BACK) if is_group_last(like) else x.contiguous()


def empty_as(like: Tensor, *sizes: int) -> Tensor:
    """A new tensor of five axes in the layout of ``like``."""
    if not is_group_last(like):
        return like.new_empty(sizes)
    return like.new_empty([sizes[k] for k in LAST]).permute(BACK)


def in_memory_order(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of maps that treats all places and samples alike, and that would copy what does not lie in the axes' order."""
    return function(x.permute(LAST)).permute(BACK) if is_group_last(x) else function(x)
