"""Other people's way: the same sum in PyTorch's own operators, each with the operands ``f [B,Nv,C]``, ``v [S,Nv,e]``,
``u [S,Nu,e]``, ``params`` (the packed kernel net), ``weight [O,C,H]`` (depthwise ``[C,H]``) and a ``Call``, and a result
``[B,Nu,O]``.

``eager`` stores the features of all pairs and sums with one matrix product; ``compiled`` is the same under ``torch.compile``;
``expert`` is what an expert would write: the compiled function on a few outputs at a time, whose features stay in cache, and
computed again in the backward pass. Nothing here is shared with pgconv's own orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from benchmarks.point_conv.cases import Call, Case
from benchmarks.point_conv.laws import LAWS
from benchmarks.suite import Baseline
from pgconv.kernel_nets import packing

MEMORY_LIMIT = 20e9
"""Bytes a baseline may need with its backward pass; more and it is not run."""

CHUNK_PAIRS = {"cpu": 1 << 14, "cuda": 1 << 21}
"""Pairs taken together by ``expert``: with 32 features 2 MB, about the second-level caches of two cores; on a GPU enough for all of
it."""

Layer = tuple[torch.Tensor, torch.Tensor]


def pair_sum(
    f: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    weight: torch.Tensor,
    layers: Sequence[Layer],
    neighbors: torch.Tensor | None,
    group: str,
    activation: str,
    depthwise: bool,
) -> torch.Tensor:
    """Features of all pairs, then one product with the signal and one with the head.

    Features have the inputs first, ``[S,Nv,Nu,H]``: the sum over inputs and both its gradients are then plain matrix products
    without a copy.
    """
    law = LAWS[group]
    of_u, of_v = law.prepare(u), law.prepare(v)
    if neighbors is not None:
        numbers = _numbers(neighbors, v.shape[1])
        phi = _net(law.offsets(of_u[:, :, None], F.embedding(numbers, of_v.flatten(0, 1))), layers, activation).to(
            f.dtype
        )
        moments = F.embedding(numbers, f.flatten(0, 1)).transpose(2, 3) @ phi
        return _head(moments, weight, depthwise)
    phi = _net(law.offsets(of_u[:, None], of_v[:, :, None]), layers, activation).to(f.dtype)
    (batch, nv, channels), (sets, _, nu, hidden) = f.shape, phi.shape
    if _kernel_first(depthwise, sets, batch):
        return _sum_of_values(phi[0], weight, f)
    signal = f.transpose(1, 2) if sets == batch else f.permute(0, 2, 1).reshape(1, batch * channels, nv)
    moments = torch.bmm(signal, phi.reshape(sets, nv, nu * hidden))
    return _head(moments.reshape(batch, channels, nu, hidden).transpose(1, 2), weight, depthwise)


def _sum_of_values(phi: torch.Tensor, weight: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """``out[b,i,c] = sum_j psi[j,i,c] f[b,j,c]``, in the faster of two ways: a fused sum in compiled code, else products."""
    if torch.compiler.is_compiling():
        values = F.linear(phi, weight)
        return torch.stack([(values * signal[:, None]).sum(0) for signal in f])
    # Channels first: einsum would find strides for which matrix products are slow.
    values = (weight @ phi.flatten(0, 1).t()).reshape(weight.shape[0], *phi.shape[:2])
    return torch.bmm(f.permute(2, 0, 1).contiguous(), values).permute(1, 2, 0).contiguous()


def _kernel_first(depthwise: bool, sets: int, batch: int) -> bool:
    """Whether values of the kernel before the sum take less than moments after it: one value serves all examples."""
    return depthwise and sets < batch


def _numbers(neighbors: torch.Tensor, nv: int) -> torch.Tensor:
    """Rows in the inputs of all examples, one after the other. A gradient of F.embedding is faster than one of indexing."""
    return neighbors + nv * torch.arange(neighbors.shape[0], device=neighbors.device)[:, None, None]


def _net(x: torch.Tensor, layers: Sequence[Layer], activation: str) -> torch.Tensor:
    function = torch.sin if activation == "sin" else getattr(F, activation)
    for matrix, shift in layers:
        x = function(F.linear(x, matrix, shift))
    return x


def _head(moments: torch.Tensor, weight: torch.Tensor, depthwise: bool) -> torch.Tensor:
    """``[B,Nu,C,H]`` to ``[B,Nu,O]``."""
    return (moments * weight).sum(-1) if depthwise else F.linear(moments.flatten(2), weight.flatten(1))


def _layers(params: torch.Tensor, call: Call) -> list[Layer]:
    """Matrices and shifts; omega0 multiplies them here and not the phases of every pair."""
    layers, omega0 = packing.unpack(call.spec.net, params)
    return layers if omega0 is None else [(omega0 * matrix, omega0 * shift) for matrix, shift in layers]


def _words(call: Call) -> tuple[str, str, bool]:
    return call.spec.group, call.spec.net.partition(":")[0], call.depthwise


def eager(
    f: torch.Tensor, v: torch.Tensor, u: torch.Tensor, params: torch.Tensor, weight: torch.Tensor, call: Call
) -> torch.Tensor:
    """Everything at once."""
    return pair_sum(f, v, u, weight, _layers(params, call), call.neighbors, *_words(call))


class Compiled:
    """``eager`` under ``torch.compile``; compiled anew for every shape, as static shapes give the best code.

    What cannot be compiled raises: a baseline must not fall back to plain operators unseen.
    """

    def __init__(self, backend: str = "inductor") -> None:
        # Shapes and directions of the gate and of the full size, of this class and the next: they share the traced function.
        torch._dynamo.config.recompile_limit = 32
        self._sum: Callable[..., torch.Tensor] = torch.compile(pair_sum, dynamic=False, fullgraph=True, backend=backend)

    def __call__(
        self, f: torch.Tensor, v: torch.Tensor, u: torch.Tensor, params: torch.Tensor, weight: torch.Tensor, call: Call
    ) -> torch.Tensor:
        return self._sum(f, v, u, weight, _layers(params, call), call.neighbors, *_words(call))


class Expert(Compiled):
    """The compiled function on some outputs of one set of elements at a time."""

    def __call__(
        self, f: torch.Tensor, v: torch.Tensor, u: torch.Tensor, params: torch.Tensor, weight: torch.Tensor, call: Call
    ) -> torch.Tensor:
        flat = [x for layer in _layers(params, call) for x in layer]
        return _Chunked.apply(self._sum, call, f, v, u, weight, *flat)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., torch.Tensor], call: Call, *operands: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*operands)
        ctx.function, ctx.call = function, call
        f, _, u, weight = operands[:4]
        out = f.new_empty(f.shape[0], u.shape[1], weight.shape[0])
        for chunk in _chunks(operands, call):
            out[chunk.examples, chunk.rows] = chunk.run(function, chunk.of(operands), call)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        operands = ctx.saved_tensors
        sums = [torch.zeros_like(x) for x in operands]
        for chunk in _chunks(operands, ctx.call):
            leaves = [x.detach().requires_grad_() for x in chunk.of(operands)]
            with torch.enable_grad():
                out = chunk.run(ctx.function, leaves, ctx.call)
            found = torch.autograd.grad(out, leaves, grad[chunk.examples, chunk.rows])
            for total, part in zip(chunk.of(sums), found):
                total += part
        return None, None, *sums


@dataclass(frozen=True)
class _Chunk:
    """Outputs ``rows`` of some examples, whose elements are those of ``sets``."""

    examples: slice
    sets: slice
    rows: slice

    def of(self, operands: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Views of what it needs of f, v, u and the rest."""
        f, v, u, *rest = operands
        return [f[self.examples], v[self.sets], u[self.sets, self.rows], *rest]

    def run(self, function: Callable[..., torch.Tensor], operands: Sequence[torch.Tensor], call: Call) -> torch.Tensor:
        f, v, u, weight, *flat = operands
        neighbors = None if call.neighbors is None else call.neighbors[self.sets, self.rows]
        return function(f, v, u, weight, list(zip(flat[::2], flat[1::2])), neighbors, *_words(call))


def _chunks(operands: Sequence[torch.Tensor], call: Call) -> Iterator[_Chunk]:
    f, v, u = operands[:3]
    nu = u.shape[1]
    inputs = v.shape[1] if call.neighbors is None else call.neighbors.shape[2]
    count = -(-nu * inputs // CHUNK_PAIRS[f.device.type])
    step = -(-nu // min(nu, count))
    for s in range(v.shape[0]):
        examples = slice(None) if v.shape[0] == 1 else slice(s, s + 1)
        for first in range(0, nu, step):
            yield _Chunk(examples, slice(s, s + 1), slice(first, min(first + step, nu)))


def _flops(case: Case) -> float:
    """Matrix products alone, the sum over inputs included: in the order the planner counts, too."""
    return case.flops


def _refuses(case: Case) -> str | None:
    """Four arrays of a number for every pair and feature are kept for the backward pass, and four more live in it."""
    size = 8 * case.pairs * case.hidden * case.torch_dtype.itemsize
    if size > MEMORY_LIMIT:
        return f"its intermediates of {size / 1e9:.0f} GB are above the limit of {MEMORY_LIMIT / 1e9:.0f} GB"
    return None


def _too_long(case: Case) -> str | None:
    return "it would take half an hour" if case.large else None


BASELINES: tuple[Baseline, ...] = (
    Baseline("eager", lambda: eager, _flops, _refuses),
    Baseline("compiled", Compiled, _flops, _refuses, compiled=True),
    Baseline("expert", Expert, _flops, _too_long, compiled=True, backward=3.0),
)
