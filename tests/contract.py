"""Operands of every operation and inputs of every layer, for tests that loop over them all."""

import torch

import pgconv
from pgconv import nn
from pgconv.spec import ConvGeometry

SE2 = "SE(2)|product|all|convolution|sin:3:4:3"


def draw(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def _point_inputs(index=None, rowptr=None, first=None, bias=True, depthwise=False, elements=1):
    head = (3,) if depthwise else (2, 3)
    tensors = [draw(2, 5, 3), draw(1, 5, 3), draw(elements, 4, 3), draw(37), draw(*head, 4)]
    return [*tensors, draw(*head) if bias else None, index, rowptr, first], [SE2, depthwise]


def _image_inputs(sets, order_geometry, size):
    geometry = ConvGeometry.make("test", *order_geometry)
    return [draw(2, 3, 2, *size), draw(sets, 4, 2, len(geometry.taps()), 5), draw(3, 3, 5)], [str(geometry)]


# Tensors and static arguments of every operation: as many variants as it has code paths.
INPUTS = {
    "relative_features": {
        "shared": ([draw(1, 5, 3), draw(1, 4, 3), draw(37)], [SE2]),
        "v-each": ([draw(2, 5, 3), draw(1, 4, 3), draw(37)], [SE2]),
        "u-each-float32": ([draw(1, 5, 3).float(), draw(2, 4, 3).float(), draw(37).float()], [SE2]),
    },
    "kernel_net": {
        "matrix": ([draw(7, 3), draw(37)], ["sin:3:4:3"]),
        "batched-silu": ([draw(2, 3, 5, 2), draw(32)], ["silu:2:4:3"]),
    },
    "group_conv2d": {
        "shared": _image_inputs(1, (3, 1, "same", 1, "disc"), (5, 4)),
        "each": _image_inputs(2, (3, 2, "valid", 1, "disc"), (5, 7)),
        "square-dilated": _image_inputs(1, (3, 1, 1, 2, "square"), (6, 5)),
        "pointwise": _image_inputs(1, (1, 1, 0, 1, "disc"), (3, 3)),
    },
    "point_conv": {
        "dense": _point_inputs(),
        "dense-no-bias-each": _point_inputs(bias=False, elements=2),
        "depthwise": _point_inputs(depthwise=True),
        "padded": _point_inputs(torch.tensor([[[0, -1], [1, 2], [-1, -1], [4, 4]]])),
        "csr": _point_inputs(torch.tensor([1, 2, 4]), torch.tensor([0, 0, 2, 3, 3])),
        "padded-each": _point_inputs(
            torch.tensor([[[0, -1], [1, 2], [-1, -1], [4, 4]], [[3, 0], [-1, -1], [2, -1], [0, 1]]])
        ),
        "csr-each": _point_inputs(torch.tensor([1, 2, 4, 0, 3]), torch.tensor([0, 0, 2, 3, 3, 3, 4, 5, 5])),
        "runs": _point_inputs(None, torch.tensor([0, 2, 2, 5, 6]), torch.tensor([1, 0, 2, 4])),
    },
}


IMAGE = {"kernel_size": 3, "group": "E(2)", "num_samples": 4, "hidden": 4}
LAYERS = {
    "LiftingConv2d": lambda: nn.LiftingConv2d(2, 3, **IMAGE),
    "GroupConv2d": lambda: nn.GroupConv2d(3, 4, **IMAGE, partial=True),
    "PointwiseGroupConv2d": lambda: nn.PointwiseGroupConv2d(
        3, 4, group="E(2)", num_samples=4, hidden=4, sampling="jittered"
    ),
    "SeparableGroupConv2d": lambda: nn.SeparableGroupConv2d(3, 4, **IMAGE, partial=True),
    "PointGroupConv": lambda: nn.PointGroupConv(3, 4, group="SE(3)", kernel_net="mlp", hidden=4),
    "PointLift": lambda: nn.PointLift("SE(2)", num_samples=4),
    "GroupMaxPool2d": lambda: nn.GroupMaxPool2d(2),
    "GlobalGroupPool": lambda: nn.GlobalGroupPool("max"),
    "GroupBatchNorm2d": lambda: nn.GroupBatchNorm2d(3),
    "GroupInstanceNorm2d": lambda: nn.GroupInstanceNorm2d(3),
    "GroupLayerNorm2d": lambda: nn.GroupLayerNorm2d(3),
}


def layer_inputs(name):
    image, maps = draw(2, 2, 6, 6).float(), draw(2, 3, 4, 6, 6).float()
    samples = pgconv.sampling.get("fixed", pgconv.groups.get("E(2)"), 4)(2)
    points = pgconv.groups.get("SE(3)").sample(5, generator=torch.Generator().manual_seed(0))[None]
    table = {
        "LiftingConv2d": (image,),
        "PointLift": (draw(2, 5, 2).float(), draw(2, 5, 3).float()),
        "PointGroupConv": (draw(2, 5, 3).float(), pgconv.sampling.Samples(points, torch.ones(1, 5))),
        "GroupMaxPool2d": (maps,),
    }
    return table.get(name, (maps, samples))
