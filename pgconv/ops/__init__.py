"""Differentiable operators (namespace ``torch.ops.pgconv``), the planner and the dispatcher."""

from pgconv.ops.dispatch import use_backend
from pgconv.ops.features import kernel_net, relative_features
from pgconv.ops.group_conv2d import bias_apart, group_conv2d
from pgconv.ops.point_conv import point_conv

__all__ = ["bias_apart", "group_conv2d", "kernel_net", "point_conv", "relative_features", "use_backend"]
