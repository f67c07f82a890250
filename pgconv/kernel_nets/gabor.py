"""Gabor nets: multiplicative filter networks whose sines are seen through a Gaussian window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgconv.kernel_nets import packing
from pgconv.kernel_nets.fourier import MultiplicativeNet, SineFilter


class GaborFilter(SineFilter):
    """``g(z) = exp(-1/2 sum_j (gamma_j (z_j - mu_j))^2) sin(Omega z + c)``; mu [hidden, D].

    gamma is [hidden, 1] (isotropic: one per unit) or [hidden, D]; its draw is Gamma(concentration, rate 1), and Omega
    is scaled by it so that a narrow window sees a proportionally higher frequency.
    """

    def __init__(self, coord_dim: int, hidden: int, num_filters: int, concentration: float, isotropic: bool):
        super().__init__(coord_dim, hidden, num_filters)
        self.concentration = concentration
        self.mu = nn.Parameter(torch.empty(hidden, coord_dim))
        self.gamma = nn.Parameter(torch.empty(hidden, 1 if isotropic else coord_dim))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.mu.uniform_(-1, 1)
        self.gamma.copy_(torch._standard_gamma(torch.full_like(self.gamma, self.concentration)))
        self.weight.mul_(self.gamma)

    def forward(self, z: Tensor) -> Tensor:
        mu, gamma = self.mu.to(z.dtype), self.gamma.to(z.dtype).expand(self.mu.shape)
        exponent = z.new_zeros(*z.shape[:-1], mu.shape[0])
        for d in range(mu.shape[1]):
            exponent = exponent - 0.5 * (gamma[:, d] * (z[..., d : d + 1] - mu[:, d])).square()
        return torch.exp(exponent) * super().forward(z)


class GaborNet(MultiplicativeNet):
    """Multiplicative filter net with ``g(z) = exp(-gamma^2 ||z - mu||^2 / 2) sin(Omega z + c)``, one gamma per unit.

    Recursion, shapes and the other initialisations as ``FourierNet``; ``gamma ~ Gamma(6/(L+1), 1)``,
    ``mu ~ U(-1, 1)^D``, ``Omega`` additionally multiplied by gamma; L = layers.

    Source: Fathony et al. 2021; Romero & Lohit 2022.

    >>> GaborNet(coord_dim=2, hidden=8).filters[0].gamma.shape
    torch.Size([8, 1])
    """

    def __init__(self, coord_dim: int, hidden: int = 32, layers: int = 3):
        packing.check_sizes(type(self).__name__, coord_dim, hidden, layers)
        count = layers + 1
        filters = [GaborFilter(coord_dim, hidden, count, 6 / count, isotropic=True) for _ in range(count)]
        super().__init__(coord_dim, hidden, layers, filters)


class MAGNet(MultiplicativeNet):
    """Multiplicative filter net, anisotropic windows: ``g = exp(-1/2 sum_j (gamma_j (z_j - mu_j))^2) sin(Om z + c)``.

    Recursion, shapes and the other initialisations as ``FourierNet``; in filter l = 0 .. L (L = layers)
    ``gamma_j ~ Gamma(6/(l+1), 1)`` per unit and coordinate, ``mu ~ U(-1, 1)^D``, ``Omega_j`` multiplied by gamma_j.

    Source: Romero et al. 2022 (FlexConv); Romero & Lohit 2022.

    >>> MAGNet(coord_dim=3, hidden=8).filters[0].gamma.shape
    torch.Size([8, 3])
    """

    def __init__(self, coord_dim: int, hidden: int = 32, layers: int = 3):
        packing.check_sizes(type(self).__name__, coord_dim, hidden, layers)
        count = layers + 1
        filters = [GaborFilter(coord_dim, hidden, count, 6 / (i + 1), isotropic=False) for i in range(count)]
        super().__init__(coord_dim, hidden, layers, filters)
