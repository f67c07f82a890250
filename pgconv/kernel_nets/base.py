"""What every kernel net offers to the convolution that owns it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pgconv.kernel_nets import packing


class KernelNet(nn.Module):
    """phi: R^D -> R^H, a small network of group coordinates; the convolution adds the head.

    The kernel is ``psi(z)[o, c] = sum_h W[o, c, h] phi_h(z) + b[o, c]``; ``W`` and ``b`` (the head) belong to the
    convolution, everything else to this module. A subclass implements ``features`` and may override ``reset_head_``;
    a net that has a packed form (see ``packing``) overrides ``net_spec`` and ``pack`` as well, and only such a net can
    be evaluated inside a fused kernel.

    coord_dim: D >= 0 (0 is a net of constants); hidden: H; layers: number of linear layers counting the head, >= 2.
    """

    def __init__(self, coord_dim: int, hidden: int = 32, layers: int = 3):
        super().__init__()
        packing.check_sizes(type(self).__name__, coord_dim, hidden, layers)
        self.coord_dim = coord_dim
        self.hidden = hidden
        self.layers = layers

    def features(self, coords: Tensor) -> Tensor:
        """phi(coords): [..., D] -> [..., H] in the parameters' dtype, computed in at least float32."""
        raise NotImplementedError

    def forward(self, coords: Tensor) -> Tensor:
        """Same as ``features``."""
        return self.features(coords)

    @torch.no_grad()
    def reset_head_(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Initialise the head in place: weight [..., C, H] and bias [..., C] from U(-1/sqrt(H), 1/sqrt(H)).

        Raises ``ValueError`` if the last axis of weight is not H.
        """
        self._check_head(weight)
        bound = 1 / math.sqrt(self.hidden)
        weight.uniform_(-bound, bound)
        if bias is not None:
            bias.uniform_(-bound, bound)

    @property
    def net_spec(self) -> str | None:
        """Text of ``packing.NetSpec`` if the net has a packed form, else None."""
        return None

    def pack(self) -> Tensor:
        """All parameters as one vector [P] in at least float32, differentiable; layout in ``packing``.

        Raises ``ValueError`` if the net has no packed form (``net_spec`` is None).
        """
        raise ValueError(f"{type(self).__name__} has no packed form (net_spec is None); evaluate features(coords)")

    def _check_head(self, weight: Tensor) -> None:
        if weight.ndim == 0 or weight.shape[-1] != self.hidden:
            raise ValueError(
                f"reset_head_: weight must be [..., H={self.hidden}], got {list(weight.shape)}; "
                "the head's last axis is the net's hidden width"
            )

    def extra_repr(self) -> str:
        return f"coord_dim={self.coord_dim}, hidden={self.hidden}, layers={self.layers}"


def default_linear_(weight: Tensor, bias: Tensor) -> None:
    """The framework's rule for a linear layer: both from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), zeros for fan_in = 0."""
    fan_in = weight.shape[1]
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    with torch.no_grad():
        weight.uniform_(-bound, bound)
        bias.uniform_(-bound, bound)


class PackedNet(KernelNet):
    """A net that is a plain chain of affine maps and one activation, stored as ``weights`` and ``biases``."""

    activation: str

    def __init__(self, coord_dim: int, hidden: int, layers: int):
        super().__init__(coord_dim, hidden, layers)
        fan_ins = [coord_dim] + [hidden] * (layers - 2)
        self.weights = nn.ParameterList([nn.Parameter(torch.empty(hidden, fan_in)) for fan_in in fan_ins])
        self.biases = nn.ParameterList([nn.Parameter(torch.empty(hidden)) for _ in fan_ins])

    @property
    def net_spec(self) -> str:
        return f"{self.activation}:{self.coord_dim}:{self.hidden}:{self.layers}"

    def pack(self) -> Tensor:
        return packing.pack(list(zip(self.weights, self.biases)))

    def features(self, coords: Tensor) -> Tensor:
        return packing.features(self.net_spec, self.pack(), coords).to(self.weights[0].dtype)
