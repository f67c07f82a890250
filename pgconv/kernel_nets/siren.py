"""SIREN: sine activations (Sitzmann et al., 2020), the kernel net of all rotated-MNIST and CIFAR experiments."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pgconv.kernel_nets import packing
from pgconv.kernel_nets.base import PackedNet


class SIREN(PackedNet):
    """``h_l = sin(omega0 (A_l h_(l-1) + b_l))`` for l = 1 .. layers - 1; features = the last h.

    coords [..., coord_dim] -> [..., hidden]. Initialisation: ``A_1 ~ U(-1/D, 1/D)``, every later matrix and the head
    ``U(-sqrt(6/hidden)/omega0, +sqrt(6/hidden)/omega0)``, all biases 0. With ``learn_omega0`` the frequency omega0 (one
    number per net) is a parameter, else a buffer. Raises ``ValueError`` for sizes out of range or omega0 <= 0.

    Source: Sitzmann et al. 2020; Romero & Lohit 2022 (omega0 = 10, 30 in some runs).

    >>> net = SIREN(coord_dim=3, hidden=8)
    >>> net(torch.zeros(5, 3)).shape, net.net_spec
    (torch.Size([5, 8]), 'sin:3:8:3')
    """

    activation = "sin"

    def __init__(
        self, coord_dim: int, hidden: int = 32, layers: int = 3, omega0: float = 10.0, learn_omega0: bool = False
    ):
        super().__init__(coord_dim, hidden, layers)
        if not isinstance(omega0, (int, float)) or not 0 < omega0 < math.inf:
            raise ValueError(f"SIREN: omega0 must be a positive finite number, got {omega0!r}")
        # Initial value; kept as a number because the initialisation depends on it and must not read the device.
        self.initial_omega0 = float(omega0)
        self.learn_omega0 = learn_omega0
        if learn_omega0:
            self.omega0 = nn.Parameter(torch.empty(()))
        else:
            self.register_buffer("omega0", torch.empty(()))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        bounds = [1 / max(self.coord_dim, 1)] + [self._bound] * (self.layers - 2)
        for weight, bias, bound in zip(self.weights, self.biases, bounds):
            weight.uniform_(-bound, bound)
            bias.zero_()
        self.omega0.fill_(self.initial_omega0)

    @torch.no_grad()
    def reset_head_(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Initialise the head in place: weight [..., C, H] from U(+-sqrt(6/H)/omega0), bias 0."""
        self._check_head(weight)
        weight.uniform_(-self._bound, self._bound)
        if bias is not None:
            bias.zero_()

    @property
    def _bound(self) -> float:
        return math.sqrt(6 / self.hidden) / self.initial_omega0

    def pack(self) -> Tensor:
        return packing.pack(list(zip(self.weights, self.biases)), self.omega0)

    def extra_repr(self) -> str:
        learned = ", learn_omega0=True" if self.learn_omega0 else ""
        return f"{super().extra_repr()}, omega0={self.initial_omega0:g}{learned}"
