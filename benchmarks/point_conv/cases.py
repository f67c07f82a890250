"""What is measured: one row for each convolution on points, with a name made of its fields.

Elements are drawn at random, positions in [-1, 1], by a generator with a fixed seed. All gradients are asked for: signal,
elements, kernel net, head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch

import pgconv
from benchmarks import suite
from benchmarks.point_conv.laws import CHARTS
from pgconv.kernel_nets.packing import NetSpec
from pgconv.ops._define import FAMILIES
from pgconv.ops.plan import costs
from pgconv.spec import Facts, FeatureSpec


@dataclass(frozen=True, eq=False)
class Call:
    """What a call has beside its differentiable tensors.

    Attributes:
        spec: group, chart and kernel net
        depthwise: one kernel value per channel
        neighbors: inputs of every output ``[B,Nu,K]``, or None for all
        index: the same numbers in a row
        rowptr: where the list of an output of an example begins in them
    """

    spec: FeatureSpec
    depthwise: bool
    neighbors: torch.Tensor | None = None
    index: torch.Tensor | None = None
    rowptr: torch.Tensor | None = None


@dataclass(frozen=True)
class Case(suite.Case):
    """One call of ``point_conv`` and the gradients asked for.

    Attributes:
        group: name of the group
        source: what it stands for
        batch: examples
        nv: inputs of an example
        nu: outputs of an example
        inputs: channels of the signal
        outputs: channels of the result
        hidden: features of the kernel net, which has two hidden layers
        activation: ``"sin"`` (SIREN, omega0 = 10) or another of the kernel nets
        shared: the same elements for all examples
        neighbors: inputs of an output, those nearest in space; 0 for all
        depthwise: one kernel value per channel
        large: takes minutes
        dtype: of signal and head; elements and net have it from float32 on
        needs: operands whose gradient is asked for
        device: where it runs
    """

    OPERANDS: ClassVar[tuple[str, ...]] = ("f", "v", "u", "params", "weight")
    published: ClassVar[None] = None

    group: str
    source: str
    batch: int
    nv: int
    nu: int
    inputs: int
    outputs: int
    hidden: int = 32
    activation: str = "sin"
    shared: bool = False
    neighbors: int = 0
    depthwise: bool = False
    large: bool = False
    dtype: str = "float32"
    needs: tuple[str, ...] = ("f", "v", "u", "params", "weight")
    device: str = "cpu"

    @property
    def name(self) -> str:
        """For example ``SE(2)-B16-N1024-C32-O32-H32-sin-shared``."""
        points = f"N{self.nu}" if self.nv == self.nu else f"N{self.nv}to{self.nu}"
        parts = [self.group, f"B{self.batch}", points, f"C{self.inputs}", f"O{self.outputs}", f"H{self.hidden}"]
        parts += [self.activation]
        parts += ["shared"] if self.shared else []
        parts += [f"K{self.neighbors}"] if self.neighbors else []
        parts += ["depthwise"] if self.depthwise else []
        parts += ["large"] if self.large else []
        parts += [self.dtype] if self.dtype != "float32" else []
        parts += [] if self.needs == self.OPERANDS else ["grad", *self.needs]
        parts += [] if self.device == "cpu" else [self.device]
        return "-".join(parts)

    @property
    def sets(self) -> int:
        """S: sets of elements, for each of which features are computed."""
        return 1 if self.shared else self.batch

    @property
    def pairs(self) -> int:
        """Of all sets of elements."""
        return self.sets * self.nu * (self.neighbors or self.nv)

    @property
    def checked(self) -> int:
        return self.batch * self.nu

    @property
    def spec(self) -> FeatureSpec:
        chart = CHARTS[self.group]
        dim = pgconv.groups.get(self.group).coord_dim_of(chart)
        return FeatureSpec(self.group, chart, "all", "convolution", f"{self.activation}:{dim}:{self.hidden}:3")

    @property
    def static(self) -> Call:
        return _call(self)

    @property
    def work(self) -> float:
        """Of the matrix products; activations and memory take a plain program many times as long."""
        return 10 * self.flops

    @property
    def flops(self) -> float:
        """Matrix products of a forward pass that sums over the pairs before the head: what the planner counts."""
        return costs(self.facts())["aggregate"].flops

    @property
    def sizes(self) -> tuple[int, int]:
        operands = sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(self._shapes, self._dtypes))
        channels = self.inputs if self.depthwise else self.outputs
        return operands, self.batch * self.nu * channels * self.torch_dtype.itemsize

    def facts(self) -> Facts:
        # Never written, so nothing of it takes memory.
        empty = [
            torch.empty(shape, dtype=dtype, device=self.device) for shape, dtype in zip(self._shapes, self._dtypes)
        ]
        index = torch.empty(self.pairs, dtype=torch.long) if self.neighbors else None
        rowptr = torch.empty(self.sets * self.nu + 1, dtype=torch.long) if self.neighbors else None
        return FAMILIES["point_conv"].facts(*empty, None, index, rowptr, None, self.spec, self.depthwise)

    @property
    def _dtypes(self) -> tuple[torch.dtype, ...]:
        low = self.torch_dtype
        wide = torch.promote_types(low, torch.float32)
        return low, wide, wide, wide, low

    @property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        size = pgconv.groups.get(self.group).element_dim
        head = (self.inputs,) if self.depthwise else (self.outputs, self.inputs)
        return (
            (self.batch, self.nv, self.inputs),
            (self.sets, self.nv, size),
            (self.sets, self.nu, size),
            (NetSpec.parse(self.spec.net).num_params,),
            (*head, self.hidden),
        )

    def operands(self) -> list[torch.Tensor]:
        """f, v, u, params and weight; a result has a variance near 1. With neighbours every output is one of the inputs."""
        generator = torch.Generator().manual_seed(0)
        group = pgconv.groups.get(self.group)
        signal, inputs, outputs, _, head = self._shapes

        def elements(shape: tuple[int, ...]) -> torch.Tensor:
            return group.sample(shape[0] * shape[1], generator=generator).reshape(shape)

        v = elements(inputs)
        u = v[:, : self.nu].clone() if self.neighbors else elements(outputs)
        f, weight = torch.randn(signal, generator=generator), torch.randn(head, generator=generator)
        terms = (self.neighbors or self.nv) * self.hidden * (1 if self.depthwise else self.inputs)
        weight /= math.sqrt(terms / 2)
        tensors = f, v, u, self._params(), weight
        return [x.to(self.device, dtype) for x, dtype in zip(tensors, self._dtypes)]

    def _params(self) -> torch.Tensor:
        activation, dim, hidden, layers = self.spec.net.split(":")
        sizes = int(dim), int(hidden), int(layers)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            nets = pgconv.kernel_nets
            net = nets.SIREN(*sizes) if activation == "sin" else nets.MLP(*sizes, activation=activation)
        return net.pack().detach()

    def cotangent(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        shape = self.batch, self.nu, self.inputs if self.depthwise else self.outputs
        return torch.randn(shape, generator=generator).to(self.device, self.torch_dtype)

    def shrink(self, limit: float) -> Case:
        """With two examples at most and fewer outputs, a power of two; every output keeps all its inputs."""
        small = replace(self, batch=min(self.batch, 2))
        most = limit / (small.flops / small.nu)
        return small if most >= self.nu else replace(small, nu=1 << max(1, int(math.log2(max(2.0, most)))))

    def tiny(self) -> Case:
        inputs = max(4, self.neighbors)
        return replace(self, batch=min(self.batch, 2), nv=inputs, nu=4)


@lru_cache(maxsize=2)
def _call(case: Case) -> Call:
    if not case.neighbors:
        return Call(case.spec, case.depthwise)
    _, v, u, _, _ = case.operands()
    space = pgconv.groups.get(case.group).spatial_dim
    distances = torch.cdist(u[..., :space], v[..., :space])
    nearest = distances.topk(case.neighbors, largest=False).indices
    rowptr = torch.arange(case.sets * case.nu + 1, device=nearest.device) * case.neighbors
    return Call(case.spec, case.depthwise, nearest, nearest.flatten(), rowptr)


_JUMP = "chart embed, as product jumps at half a turn (see laws.CHARTS)"
_TRANSLATIONS = Case("T(3)", "a large cloud, chart product", 1, 4096, 4096, 32, 32)
_PLANE = Case("SE(2)", f"clouds in the plane, elements of their own for each; {_JUMP}", 16, 1024, 1024, 32, 32)
_PLANE_LARGE = replace(_PLANE, source=f"a large cloud in the plane; {_JUMP}", batch=1, nv=4096, nu=4096)
_SHARED = replace(_PLANE, source=f"one set of elements for all examples; {_JUMP}", shared=True)
_LISTS = "the 25 nearest in space, themselves included, of the points of an example"
_DEPTHWISE = "one kernel value per channel"

CASES: tuple[Case, ...] = (
    _TRANSLATIONS,
    replace(_TRANSLATIONS, activation="silu"),
    _PLANE,
    replace(_PLANE, activation="silu"),
    _PLANE_LARGE,
    replace(_PLANE_LARGE, activation="silu"),
    _SHARED,
    Case("SE(3)", f"molecules, wide channels; {_JUMP}", 75, 80, 80, 96, 96),
    replace(_TRANSLATIONS, source=f"{_LISTS}, chart product", batch=25, nv=784, nu=784, neighbors=25),
    replace(_PLANE, source=f"{_LISTS}; {_JUMP}", batch=25, nv=784, nu=784, neighbors=25),
    replace(_TRANSLATIONS, source=f"{_DEPTHWISE}, chart product", nv=2048, nu=2048, depthwise=True),
    replace(_SHARED, source=f"{_DEPTHWISE}, one set of elements for all examples; {_JUMP}", depthwise=True),
    Case("SE(3)", f"{_DEPTHWISE}; {_JUMP}", 8, 256, 256, 96, 96, depthwise=True),
    replace(_TRANSLATIONS, source="as many points as fit no pair in memory", nv=65536, nu=65536, large=True),
)
