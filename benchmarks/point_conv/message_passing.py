"""PyTorch Geometric's layers on the same points, where it is installed.

``nnconv`` is the same sum by ``torch_geometric.nn.NNConv``: a network turns the relative coordinates of an edge into a matrix,
with which the neighbour's signal is multiplied. ``pointnet`` is ``PointNetConv`` on equal shapes, which computes something else:
see ``DIFFERS``. Edges are made before, as data loaders do.

    pip install --no-deps --target FOLDER torch_geometric xxhash psutil aiohttp yarl multidict aiosignal frozenlist attrs \
        propcache aiohappyeyeballs
    PYTHONPATH=FOLDER python -m benchmarks point_conv --baselines all,nnconv,pointnet
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

import torch
import torch.nn.functional as F

import pgconv
from benchmarks.point_conv.baselines import MEMORY_LIMIT, _layers, _net
from benchmarks.point_conv.cases import Call, Case
from benchmarks.point_conv.laws import LAWS
from benchmarks.suite import Baseline

DIFFERS = (
    "not the same sum: PointNetConv sends signal and offset of position together through a network of the same width and takes "
    "the maximum over the neighbours"
)


@lru_cache(maxsize=2)
def edges(call: Call, batch: int, nv: int, nu: int, device: torch.device) -> torch.Tensor:
    """Inputs and outputs of all pairs ``[2,E]``, numbered through the examples, those of an output one after the other."""
    examples = torch.arange(batch, device=device)[:, None, None]
    outputs = torch.arange(nu, device=device)[None, :, None]
    inputs = torch.arange(nv, device=device)[None, None] if call.neighbors is None else call.neighbors
    pairs = torch.broadcast_tensors(inputs + nv * examples, outputs + nu * examples)
    return torch.stack([x.flatten() for x in pairs])


def _rows(x: torch.Tensor, batch: int) -> torch.Tensor:
    """Points of all examples one after the other, shared elements once for each."""
    return x.expand(batch, *x.shape[1:]).flatten(0, 1)


class EdgeMatrices:
    """``NNConv``, whose network is the kernel net with the head; the layer is made once, which takes a while."""

    def __init__(self) -> None:
        self._layer = lru_cache(maxsize=1)(_nnconv)

    def __call__(
        self, f: torch.Tensor, v: torch.Tensor, u: torch.Tensor, params: torch.Tensor, weight: torch.Tensor, call: Call
    ) -> torch.Tensor:
        (batch, nv, channels), nu, outputs = f.shape, u.shape[1], weight.shape[0]
        law, activation = LAWS[call.spec.group], call.spec.net.partition(":")[0]
        pairs = edges(call, batch, nv, nu, f.device)
        of_u, of_v = _rows(law.prepare(u), batch), _rows(law.prepare(v), batch)
        layers, head = _layers(params, call), weight.transpose(0, 1).flatten(0, 1)

        def matrices(offsets: torch.Tensor) -> torch.Tensor:
            return F.linear(_net(offsets, layers, activation).to(f.dtype), head)

        layer = self._layer(channels, outputs)
        layer.nn = matrices
        offsets = law.offsets(F.embedding(pairs[1], of_u), F.embedding(pairs[0], of_v))
        out = layer((f.flatten(0, 1), None), pairs, offsets, size=(batch * nv, batch * nu))
        return out.reshape(batch, nu, outputs)


def _nnconv(channels: int, outputs: int) -> torch.nn.Module:
    make = import_module("torch_geometric.nn").NNConv
    return make(channels, outputs, None, aggr="add", root_weight=False, bias=False)


class Joint:
    """``PointNetConv`` with two hidden layers."""

    def __init__(self, case: Case) -> None:
        self._space, self._shapes = _space(case), _shapes(case)
        self._layer = import_module("torch_geometric.nn").PointNetConv(add_self_loops=False)

    def __call__(
        self, f: torch.Tensor, v: torch.Tensor, u: torch.Tensor, params: torch.Tensor, weight: torch.Tensor, call: Call
    ) -> torch.Tensor:
        (batch, nv, _), nu = f.shape, u.shape[1]
        flat = params.split([shape.numel() for shape in self._shapes])
        w1, b1, w2, b2 = (x.reshape(shape) for x, shape in zip(flat, self._shapes))

        def network(x: torch.Tensor) -> torch.Tensor:
            return F.linear(F.relu(F.linear(F.relu(F.linear(x, w1, b1)), w2, b2)), weight)

        self._layer.local_nn = network
        places = tuple(_rows(x[..., : self._space], batch) for x in (v, u))
        out = self._layer((f.flatten(0, 1), None), places, edges(call, batch, nv, nu, f.device))
        return out.reshape(batch, nu, -1)


def _space(case: Case) -> int:
    return pgconv.groups.get(case.group).spatial_dim


def _shapes(case: Case) -> list[torch.Size]:
    wide, hidden = case.inputs + _space(case), case.hidden
    return [torch.Size(shape) for shape in ((hidden, wide), (hidden,), (hidden, hidden), (hidden,))]


def operands(case: Case) -> list[torch.Tensor]:
    """Signal and elements of the case; matrices of the network in the places of net and head."""
    f, v, u, *_ = case.operands()
    generator = torch.Generator().manual_seed(2)
    count = sum(shape.numel() for shape in _shapes(case))
    own = torch.randn(count, generator=generator), torch.randn(case.outputs, case.hidden, generator=generator)
    params, weight = (x.to(case.device, case.torch_dtype) / case.hidden**0.5 for x in own)
    return [f, v.to(f.dtype), u.to(f.dtype), params, weight]


def _pairs(case: Case) -> int:
    return case.batch * case.nu * (case.neighbors or case.nv)


def _flops_of_matrices(case: Case) -> float:
    """Kernel net, a matrix for every edge, and its product with the signal; the matrices are most of it."""
    coords, net = int(case.spec.net.split(":")[1]), case.hidden
    return 2.0 * _pairs(case) * (net * (coords + net) + (net + 1) * case.inputs * case.outputs)


def _flops_of_network(case: Case) -> float:
    hidden = case.hidden
    return 2.0 * _pairs(case) * hidden * (case.inputs + _space(case) + hidden + case.outputs)


def _refuses(elements: int, case: Case) -> str | None:
    size = 4 * _pairs(case) * elements * case.torch_dtype.itemsize
    if case.depthwise:
        return "it mixes channels"
    if size > MEMORY_LIMIT:
        return f"its intermediates of {size / 1e9:.0f} GB are above the limit of {MEMORY_LIMIT / 1e9:.0f} GB"
    return None


OPTIONAL: tuple[Baseline, ...] = (
    Baseline(
        "nnconv",
        EdgeMatrices,
        _flops_of_matrices,
        lambda case: _refuses(case.inputs * case.outputs, case),
        module="torch_geometric",
    ),
    Baseline(
        "pointnet",
        Joint,
        _flops_of_network,
        lambda case: _refuses(2 * case.hidden + case.inputs + case.outputs, case),
        module="torch_geometric",
        differs=DIFFERS,
        own=operands,
    ),
)
