"""The operations as functions: check, fill defaults, call the operators.

All functions share one kernel: ``psi(g)[o,c] = sum_h W[o,c,h] phi_h(coordinates(g)) + b[o,c]`` with ``phi`` a kernel net.
"""

from pgconv.functional._lists import Neighbors, Offsets
from pgconv.functional.group_conv2d import depthwise_lifting_conv2d, group_conv2d, lifting_conv2d, pointwise_group_conv
from pgconv.functional.kernel_norm import kernel_norm
from pgconv.functional.move_images import move_images
from pgconv.functional.point_conv import point_conv

__all__ = [
    "Neighbors",
    "Offsets",
    "depthwise_lifting_conv2d",
    "group_conv2d",
    "kernel_norm",
    "lifting_conv2d",
    "move_images",
    "point_conv",
    "pointwise_group_conv",
]
