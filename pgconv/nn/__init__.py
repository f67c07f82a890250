"""Layers. They hold parameters and samplers; behaviour lives in ``pgconv.functional``."""

from pgconv.nn.group_conv2d import GroupConv2d, PointwiseGroupConv2d, SeparableGroupConv2d
from pgconv.nn.lifting import LiftingConv2d
from pgconv.nn.norm import GroupBatchNorm2d, GroupInstanceNorm2d, GroupLayerNorm2d
from pgconv.nn.point_conv import PointGroupConv, PointLift
from pgconv.nn.pooling import GlobalGroupPool, GroupMaxPool2d

__all__ = [
    "GlobalGroupPool",
    "GroupBatchNorm2d",
    "GroupConv2d",
    "GroupInstanceNorm2d",
    "GroupLayerNorm2d",
    "GroupMaxPool2d",
    "LiftingConv2d",
    "PointGroupConv",
    "PointLift",
    "PointwiseGroupConv2d",
    "SeparableGroupConv2d",
]
