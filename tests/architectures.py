"""Published networks assembled from the layers, for tests of how the layers fit together."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from pgconv.nn import (
    GlobalGroupPool,
    GroupBatchNorm2d,
    GroupConv2d,
    GroupInstanceNorm2d,
    GroupLayerNorm2d,
    GroupMaxPool2d,
    LiftingConv2d,
    PointwiseGroupConv2d,
)

NORMS = {"batch": GroupBatchNorm2d, "layer": GroupLayerNorm2d}


class Block(nn.Module):
    """Two group convolutions, and a pointwise group convolution as shortcut where channels or samples change."""

    def __init__(self, c_in, c_out, partial, norm, hidden, options):
        super().__init__()
        conv = {**options, "hidden": hidden, "partial": partial}
        self.conv1, self.conv2 = GroupConv2d(c_in, c_out, **conv), GroupConv2d(c_out, c_out, **conv)
        self.normal, self.norm = GroupInstanceNorm2d(c_out), NORMS[norm](c_out)
        shortcut = {k: v for k, v in options.items() if k != "kernel_size"} | {"hidden": hidden // 2, "bias": False}
        same = c_in == c_out and not options["num_samples"] > 1
        self.shortcut = None if same else PointwiseGroupConv2d(c_in, c_out, **shortcut)

    def forward(self, x, samples):
        y, middle = self.conv1(x, samples)
        y = torch.relu(self.normal(y, middle))
        y, out = self.conv2(y, middle)
        y = torch.relu(self.normal(y, out))
        x = x if self.shortcut is None else self.shortcut(x, samples, out)[0]
        return self.norm(x + y, out), out


class CKResNet(nn.Module):
    """Lifting, residual blocks, a last group convolution without padding, maximum over everything, a linear classifier.

    One sample (T(2)) keeps its grid through the network; otherwise every convolution draws its own samples.
    """

    def __init__(
        self,
        in_channels,
        classes,
        group="SE(2)",
        num_samples=8,
        partial=True,
        width=32,
        factors=(1, 2),
        norm="batch",
        kernel_net="siren",
        hidden=32,
        kernel_size=7,
        compat="release",
    ):
        super().__init__()
        options = {
            "kernel_size": kernel_size,
            "group": group,
            "num_samples": num_samples,
            "kernel_net": kernel_net,
            "compat": compat,
        }
        self.lift, self.norm = LiftingConv2d(in_channels, width, hidden=hidden, **options), NORMS[norm](width)
        widths = [width, *(width * factor for factor in factors)]
        pairs = pairwise(widths)
        self.blocks = nn.ModuleList(Block(c, o, partial, norm, hidden, options) for c, o in pairs)
        self.last = GroupConv2d(widths[-1], widths[-1], padding="valid", partial=partial, hidden=hidden, **options)
        self.last_norm = NORMS[norm](widths[-1])
        self.pool, self.readout = GroupMaxPool2d(2), GlobalGroupPool("max")
        self.classify = nn.Linear(widths[-1], classes)

    def forward(self, x):
        y, samples = self.lift(x)
        y = torch.relu(self.norm(y, samples))
        for block in self.blocks:
            y, samples = block(y, samples)
            y = torch.relu(self.pool(y))
        y, samples = self.last(y, samples)
        return self.classify(self.readout(torch.relu(self.last_norm(y, samples)), samples))


class GCNN13(nn.Module):
    """Lifting and eight group convolutions with batch norm, two poolings, mean over everything, a linear classifier."""

    def __init__(
        self, in_channels, classes, group="SE(2)", num_samples=8, partial=True, width=128, hidden=8, compat="release"
    ):
        super().__init__()
        options = {"kernel_size": 3, "group": group, "num_samples": num_samples, "hidden": hidden, "compat": compat}
        widths = [width, width] + [2 * width] * 7
        self.lift = LiftingConv2d(in_channels, width, **options)
        self.convs = nn.ModuleList(GroupConv2d(c, o, partial=partial, **options) for c, o in pairwise(widths))
        self.norms = nn.ModuleList(GroupBatchNorm2d(c) for c in widths)
        self.pool, self.readout = GroupMaxPool2d(2), GlobalGroupPool("mean")
        self.classify = nn.Linear(widths[-1], classes)

    def forward(self, x):
        y, samples = self.lift(x)
        y = torch.relu(self.norms[0](y, samples))
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms[1:]), 1):
            y, samples = conv(y, samples)
            y = torch.relu(norm(y, samples))
            y = self.pool(y) if number in (2, 5) else y
        return self.classify(self.readout(y, samples))
