"""Multiplicative filter networks: the common recursion, and the Fourier net (plain sine filters)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgconv._autocast import without_autocast
from pgconv.kernel_nets import packing
from pgconv.kernel_nets.base import KernelNet, default_linear_

# Spread of the first-layer frequencies, shared out over the L + 1 filters that multiply each other.
_INPUT_SCALE = 256.0


class SineFilter(nn.Module):
    """``g(z) = sin(Omega z + c)``; weight = Omega [hidden, D], bias = c [hidden]."""

    def __init__(self, coord_dim: int, hidden: int, num_filters: int):
        super().__init__()
        self.num_filters = num_filters
        self.weight = nn.Parameter(torch.empty(hidden, coord_dim))
        self.bias = nn.Parameter(torch.empty(hidden))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        default_linear_(self.weight, self.bias)
        self.weight.mul_(_INPUT_SCALE / math.sqrt(self.num_filters))
        self.bias.uniform_(-math.pi, math.pi)

    def forward(self, z: Tensor) -> Tensor:
        return torch.sin(packing.exact_affine(z, self.weight.to(z.dtype), self.bias.to(z.dtype)))


class MultiplicativeNet(KernelNet):
    """``z_0 = g_0(z)``, ``z_i = g_i(z) (A_i z_(i-1) + a_i)`` for i = 1 .. L; features = ``z_L``, L = layers.

    So there are L + 1 filters and L hidden matrices besides the head. ``A_i`` and ``a_i`` start from
    U(-1/sqrt(hidden), 1/sqrt(hidden)), and so does the head.
    """

    def __init__(self, coord_dim: int, hidden: int, layers: int, filters: list[nn.Module]):
        super().__init__(coord_dim, hidden, layers)
        self.filters = nn.ModuleList(filters)
        self.weights = nn.ParameterList([nn.Parameter(torch.empty(hidden, hidden)) for _ in range(layers)])
        self.biases = nn.ParameterList([nn.Parameter(torch.empty(hidden)) for _ in range(layers)])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for filter_ in self.filters:
            filter_.reset_parameters()
        for weight, bias in zip(self.weights, self.biases):
            default_linear_(weight, bias)

    def features(self, coords: Tensor) -> Tensor:
        packing.check_coords(type(self).__name__, coords, self.coord_dim)
        dtype = packing.compute_dtype(self.biases[0].dtype)
        with without_autocast(coords.device):
            z = coords.to(dtype)
            out = self.filters[0](z)
            for filter_, weight, bias in zip(self.filters[1:], self.weights, self.biases):
                out = filter_(z) * F.linear(out, weight.to(dtype), bias.to(dtype))
        return out.to(self.biases[0].dtype)


class FourierNet(MultiplicativeNet):
    """Multiplicative filter net with ``g_i(z) = sin(Omega_i z + c_i)``.

    ``z_0 = g_0(z)``, ``z_i = g_i(z) (A_i z_(i-1) + a_i)``, i = 1 .. L with L = layers; features = ``z_L``.
    coords [..., coord_dim] -> [..., hidden]. Initialisation: ``Omega ~ U(+-1/sqrt(D)) 256/sqrt(L+1)``,
    ``c ~ U(-pi, pi)``, ``A_i, a_i`` and the head ``U(+-1/sqrt(hidden))``.

    Source: Fathony et al. 2021; Romero & Lohit 2022.

    >>> FourierNet(coord_dim=3, hidden=8)(torch.zeros(4, 3)).shape
    torch.Size([4, 8])
    """

    def __init__(self, coord_dim: int, hidden: int = 32, layers: int = 3):
        packing.check_sizes(type(self).__name__, coord_dim, hidden, layers)
        super().__init__(
            coord_dim, hidden, layers, [SineFilter(coord_dim, hidden, layers + 1) for _ in range(layers + 1)]
        )
