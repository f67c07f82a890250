"""LieConv's convolution: its sum over neighbours, computed by this library.

What the layer does before (neighbours, subsampling, radius) and after that sum stays its own code. The offsets of neighbours are
given: each output is an example of its own in a ragged batch, at the origin, and its neighbours stand at their offsets from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgconv import functional
from pgconv.compat import kernel_nets
from pgconv.compat.entries import Entries
from pgconv.kernel_nets import KernelNet
from pgconv.ops import dispatch, kernel_net

NAME = "LieConv"


@dataclass
class Facts:
    """What was found out about a layer.

    Attributes:
        own: its class before
        method: its method that sums over neighbours, called with their offsets, values and mask
        eps: of the kernel net's norms, by number
        activation: of the kernel net
        bias_in_mean: whether the mean is that of the sum with the bias
    """

    own: type
    method: str
    eps: dict[int, float]
    activation: kernel_nets.Activation
    bias_in_mean: bool = True


class FusedLieConv:
    """``out[b,i,o] = sum_k sum_c psi(offset_k)[o,c] f[b,k,c]`` over the neighbours k of i that are there."""

    _facts: Facts

    def _sum_neighbors(self, offsets: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """``[B, m, K, d], [B, m, K, C], [B, m, K] -> [B, m, O]``."""
        facts = self._facts
        if self.training and facts.eps:  # type: ignore[attr-defined]
            return getattr(facts.own, facts.method)(self, offsets, values, mask)
        here = mask.bool()[..., None]
        # Nothing that padding holds, not even NaN, may reach the sum.
        offsets, values = (torch.where(here, x, torch.zeros_like(x)).flatten(0, 1) for x in (offsets, values))
        net, weight = net_and_head(Entries.of_module(self), facts, values.shape[-1])  # type: ignore[arg-type]
        out = _convolved(net, weight, offsets, values).unflatten(0, mask.shape[:2])
        bias = self.linear.bias  # type: ignore[attr-defined]
        bias = out.new_zeros(()) if bias is None else bias.to(out.dtype)
        if not self.mean:  # type: ignore[attr-defined]
            return out + bias
        count = mask.sum(-1, keepdim=True).clamp(min=1)
        return (out + bias) / count if facts.bias_in_mean else out / count + bias

    def __reduce__(self) -> tuple:
        return _restored, (self._facts.own, self._facts.method), self.__dict__


def net_and_head(entries: Entries, facts: Facts, channels: int) -> tuple[KernelNet, Tensor]:
    """Kernel net and head ``[O, C, H]`` on the layer's own tensors; the net may have more than H units, the first of which count.

    The layers have different widths. Units that are constantly 0 make them one, which the native operators ask for.
    """
    layers, _ = kernel_nets.read_sequence(entries, "weightnet.", facts.eps)
    weight = entries.take("linear.weight")
    if isinstance(facts.activation, str):
        layers = widened(layers, max(a.shape[0] for a, _ in layers))
    net = kernel_nets.ChainView(kernel_nets.Chain(layers, []), facts.activation)
    return net, weight.reshape(weight.shape[0], channels, -1)


def _convolved(net: KernelNet, weight: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
    """``[R, K, d], [R, K, C] -> [R, O]``."""
    (rows, count, dim), units = offsets.shape, weight.shape[-1]
    if net.net_spec is not None and dim <= 3:
        ends = torch.arange(rows + 1, device=values.device)
        return functional.point_conv(
            values.flatten(0, 1)[None],
            offsets.flatten(0, 1)[None],
            offsets.new_zeros(1, rows, dim),
            net,
            F.pad(weight, (0, net.hidden - units)),
            offsets=(count * ends, ends),
            group=f"T({dim})",
            form="correlation",
            reduction="sum",
        )[0]
    # There are no fused translations of more dimensions, nor with other activations.
    if net.net_spec is None:
        phi = net.features(offsets)
    else:
        params = net.pack()
        phi = kernel_net(offsets.to(params.dtype), params, net.net_spec, dispatch.request("kernel_net", None))
    moments = values.mT @ phi[..., :units].to(values.dtype)
    return moments.flatten(1) @ weight.flatten(1).mT


def widened(layers: list[kernel_nets.Affine], width: int) -> list[kernel_nets.Affine]:
    """Layers with more units, which are 0 for an activation with act(0) = 0 and act on nothing."""
    wide = []
    for number, (a, b) in enumerate(layers):
        columns = width - a.shape[1] if number else 0
        wide.append((F.pad(a, (0, columns, 0, width - a.shape[0])), F.pad(b, (0, width - b.shape[0]))))
    return wide


_classes: dict[tuple[type, str], type] = {}


def fused_class(own: type, method: str) -> type:
    """The class ``own`` with that method computed here."""
    if (own, method) not in _classes:
        namespace = {"__module__": __name__, "__doc__": FusedLieConv.__doc__, method: _summing()}
        _classes[own, method] = type("Fused" + own.__name__, (FusedLieConv, own), namespace)
    return _classes[own, method]


def _summing() -> Callable[..., Tensor]:
    def sum_neighbors(self: Any, *args: Tensor, **options: Tensor) -> Tensor:
        return self._sum_neighbors(*args, *options.values())

    return sum_neighbors


def _restored(own: type, method: str) -> nn.Module:
    return object.__new__(fused_class(own, method))
