"""What is measured: one row for each convolution, with a name made of its fields and the published layer it stands for.

Layers are those of the method's networks: the 13-layer net (kernel 3, 8 features), the residual net (kernel 7, 32
features), each with a bias in its head. Published batches are 64 to 128 images; costs are linear in
the batch, so smaller ones are measured on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from benchmarks import suite
from pgconv import ops
from pgconv.functional import _head_bias as head_bias
from pgconv.ops._define import FAMILIES
from pgconv.spec import ConvGeometry, Facts


@dataclass(frozen=True)
class Walk(ConvGeometry):
    """How the taps walk, and whether the head's last column is a bias: it belongs to one more feature, constantly 1."""

    bias: bool = False


@dataclass(frozen=True)
class Case(suite.Case):
    """One call of ``group_conv2d`` and the gradients asked for.

    Attributes:
        layer: the part it plays in a network
        source: the published layer it is, or the nearest one and in what it differs
        published: whether a published network has a layer of these channels, samples, taps and maps (any batch)
        batch: images
        inputs: channels of the signal
        outputs: channels of the result
        nv: samples of the signal; 1 for lifting
        nu: samples of the result
        kernel: window size
        hidden: features of the kernel net
        height: rows of the map
        width: columns of the map
        bias: the head has one, in its last column
        padding: ``"same"`` or ``"valid"``
        per_example: samples of their own for every image (S = B)
        dtype: of all operands
        needs: operands whose gradient is asked for
        device: where it runs
        gpu_batch: images on a GPU, as many as the published networks train with; 0 for not measured there unless named
    """

    OPERANDS: ClassVar[tuple[str, ...]] = ("f", "phi", "weight")
    large: ClassVar[bool] = False

    layer: str
    source: str
    published: bool
    batch: int
    inputs: int
    outputs: int
    nv: int
    nu: int
    kernel: int
    hidden: int
    height: int
    width: int
    bias: bool = False
    padding: str = "same"
    per_example: bool = False
    dtype: str = "float32"
    needs: tuple[str, ...] = ("f", "phi", "weight")
    device: str = "cpu"
    gpu_batch: int = 0

    def on(self, device: str) -> Case:
        batch = self.batch if device == "cpu" or not self.gpu_batch else self.gpu_batch
        return replace(self, device=device, batch=batch)

    @property
    def usual(self) -> bool:
        return self.device == "cpu" or self.gpu_batch > 0

    @property
    def tf32(self) -> bool:
        return self.device == "cuda" and self.dtype == "float32" and torch.backends.cudnn.allow_tf32

    @property
    def name(self) -> str:
        """For example ``gcnn13-B16-C128-O128-N8-k3-H8-32x32``."""
        samples = f"N{self.nu}" if self.nv == self.nu else f"N{self.nv}to{self.nu}"
        parts = [
            self.layer,
            f"B{self.batch}",
            f"C{self.inputs}",
            f"O{self.outputs}",
            samples,
            f"k{self.kernel}",
            f"H{self.hidden}{'+1' if self.bias else ''}",
            f"{self.height}x{self.width}",
        ]
        parts += ["valid"] if self.padding != "same" else []
        parts += ["perexample"] if self.per_example else []
        parts += [self.dtype] if self.dtype != "float32" else []
        parts += [] if self.needs == self.OPERANDS else ["grad", *self.needs]
        parts += [] if self.device == "cpu" else [self.device]
        return "-".join(parts)

    @property
    def sets(self) -> int:
        """S: kernels per call."""
        return self.batch if self.per_example else 1

    @property
    def geometry(self) -> Walk:
        return Walk(**vars(ConvGeometry.make("benchmark", self.kernel, 1, self.padding, 1, "disc")), bias=self.bias)

    @property
    def static(self) -> Walk:
        return self.geometry

    @property
    def checked(self) -> int:
        return self.batch

    @property
    def work(self) -> float:
        """Of the dense convolution."""
        pixels = self.batch * self.height * self.width
        return 2.0 * pixels * self.inputs * self.outputs * self.nv * self.nu * self.kernel**2

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of f, phi and weight."""
        taps = len(self.geometry.taps())
        return (
            (self.batch, self.inputs, self.nv, self.height, self.width),
            (self.sets, self.nu, self.nv, taps, self.hidden),
            (self.outputs, self.inputs, self.hidden + self.bias),
        )

    @property
    def sizes(self) -> tuple[int, int]:
        result = self.batch, self.outputs, self.nu, *self.geometry.out_size(self.height, self.width)
        size = self.torch_dtype.itemsize
        return size * sum(map(math.prod, self.shapes)), size * math.prod(result)

    def facts(self) -> Facts:
        # Never written, so nothing of it takes memory.
        operands = [torch.empty(shape, dtype=self.torch_dtype, device=self.device) for shape in self.shapes]
        # What is planned is the operator's call.
        features, head, _ = with_bias(*operands, self.static, "auto:auto")
        return FAMILIES["group_conv2d"].facts(operands[0], features, head, self.geometry)

    def operands(self) -> list[torch.Tensor]:
        """f, phi and weight; a result has a variance near 1."""
        f, phi, weight = self._random(0, *self.shapes)
        weight /= math.sqrt(self.inputs * self.nv * phi.shape[3] * weight.shape[2] / 2)
        return [x.to(self.torch_dtype) for x in (f, phi.sin(), weight)]

    def cotangent(self) -> torch.Tensor:
        size = self.geometry.out_size(self.height, self.width)
        (cotangent,) = self._random(1, (self.batch, self.outputs, self.nu, *size))
        return cotangent.to(self.torch_dtype)

    def _random(self, seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
        """Made on the device: seconds of a CPU's time for a large batch."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return [torch.randn(shape, generator=generator, device=self.device) for shape in shapes]

    def shrink(self, limit: float) -> Case:
        """With the largest batch whose sum over the taps stays below the limit; at least one image, or two where every image
        has a kernel of its own."""
        _, _, _, taps, _ = self.shapes[1]
        rows, columns = self.geometry.out_size(self.height, self.width)
        image = 2.0 * self.inputs * self.outputs * self.nv * self.nu * taps * rows * columns
        return replace(self, batch=min(self.batch, max(self._least, int(limit // image))))

    def tiny(self) -> Case:
        return replace(self, batch=self._least, height=self.kernel, width=self.kernel)

    @property
    def _least(self) -> int:
        return 2 if self.per_example else 1


def with_bias(
    f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, walk: Walk, plan: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Features and head as pgconv's layers give them to the operator, and the bias where it goes a way of its own."""
    if not walk.bias:
        return phi, weight, None
    own, bias = weight[..., :-1], weight[..., -1]
    if ops.bias_apart(f, phi, own, walk, plan):
        return phi, own, bias
    return *head_bias.as_feature(phi, own, bias), None


_GCNN13 = Case(
    "gcnn13-block1",
    "CIFAR 13-layer net, N=8, block 1, without its bias feature",
    True,
    batch=16,
    inputs=128,
    outputs=128,
    nv=8,
    nu=8,
    kernel=3,
    hidden=8,
    height=32,
    width=32,
)
_RESIDUAL = Case(
    "residual",
    "nearest: CIFAR residual net, N=8, block 1, which has 32x32 maps and a bias feature",
    False,
    batch=16,
    inputs=32,
    outputs=32,
    nv=8,
    nu=8,
    kernel=7,
    hidden=32,
    height=28,
    width=28,
)
_WIDE = replace(
    _RESIDUAL,
    layer="residual64",
    source="nearest: residual net, N=8, block 2, which has 7x7 (RotMNIST) or 16x16 maps (CIFAR) and a bias feature",
    inputs=64,
    outputs=64,
)
_BFLOAT16 = {"dtype": "bfloat16", "source": f"{_GCNN13.source}; published in float32"}

CASES: tuple[Case, ...] = (
    replace(_GCNN13, gpu_batch=128),
    replace(_GCNN13, batch=1),
    replace(_GCNN13, bias=True, source="CIFAR 13-layer net, N=8, block 1", gpu_batch=128),
    replace(
        _GCNN13,
        batch=4,
        per_example=True,
        published=False,
        source="nearest: CIFAR 13-layer net, N=8, block 1, with samples of their own for every image",
        gpu_batch=128,
    ),
    replace(_GCNN13, nv=4, nu=4, source="CIFAR 13-layer net, N=4, block 1, without its bias feature"),
    replace(_GCNN13, batch=4, nv=16, nu=16, source="CIFAR 13-layer net, N=16, block 1, without its bias feature"),
    replace(_GCNN13, kernel=7, published=False, source="nearest: CIFAR 13-layer net, N=8, block 1, which has kernel 3"),
    replace(
        _GCNN13,
        layer="gcnn13-block2",
        source="CIFAR 13-layer net, N=8, block 2, without its bias feature",
        outputs=256,
    ),
    replace(
        _GCNN13,
        layer="gcnn13-block3",
        source="CIFAR 13-layer net, N=8, blocks 3 to 5, without their bias feature",
        inputs=256,
        outputs=256,
        height=16,
        width=16,
    ),
    replace(
        _RESIDUAL,
        layer="between",
        source="nearest: between the 13-layer and the residual net in channels, features and taps",
        inputs=64,
        outputs=64,
        kernel=5,
        hidden=16,
        height=32,
        width=32,
        gpu_batch=64,
    ),
    replace(_RESIDUAL, gpu_batch=64),
    replace(_RESIDUAL, batch=1),
    replace(_RESIDUAL, bias=True, source="nearest: CIFAR residual net, N=8, block 1, which has 32x32 maps"),
    replace(
        _RESIDUAL, bias=True, height=32, width=32, published=True, source="CIFAR residual net, N=8, block 1, first conv"
    ),
    replace(
        _RESIDUAL,
        nv=4,
        nu=4,
        source="nearest: CIFAR residual net, N=4, block 1, which has 32x32 maps and a bias feature",
    ),
    replace(
        _RESIDUAL,
        nv=16,
        nu=16,
        source="nearest: CIFAR residual net, N=16, block 1, which has 32x32 maps and a bias feature",
    ),
    replace(
        _RESIDUAL,
        per_example=True,
        source="nearest: MNIST6-180 residual net, which samples per image but has 10 channels",
    ),
    replace(_WIDE, height=14, width=14),
    _WIDE,
    replace(
        _WIDE,
        bias=True,
        height=16,
        width=16,
        published=True,
        source="CIFAR residual net, N=8, block 2, second conv",
    ),
    replace(
        _RESIDUAL,
        layer="shortcut",
        source="CIFAR residual net, N=8, shortcut of block 1 (it has no bias)",
        published=True,
        kernel=1,
        hidden=16,
        height=32,
        width=32,
    ),
    replace(
        _WIDE,
        layer="last",
        source="RotMNIST residual net, N=8, last conv, without its bias feature",
        published=True,
        height=7,
        width=7,
        padding="valid",
    ),
    replace(
        _RESIDUAL,
        layer="lifting",
        source="CIFAR residual net, N=8, lifting, without its bias feature; the image needs no gradient",
        published=True,
        batch=64,
        inputs=3,
        nv=1,
        height=32,
        width=32,
        needs=("phi", "weight"),
    ),
    replace(_GCNN13, **_BFLOAT16),
    replace(_GCNN13, batch=1, **_BFLOAT16),
    replace(
        _GCNN13, **(_BFLOAT16 | {"bias": True, "source": "CIFAR 13-layer net, N=8, block 1; published in float32"})
    ),
)
