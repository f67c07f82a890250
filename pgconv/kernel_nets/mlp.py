"""Multilayer perceptron with a smooth or piecewise linear activation."""

from __future__ import annotations

from pgconv.kernel_nets.base import PackedNet, default_linear_

_ACTIVATIONS = ("silu", "relu", "gelu", "tanh")


class MLP(PackedNet):
    """``h_l = act(A_l h_(l-1) + b_l)`` for l = 1 .. layers - 1; features = the last h.

    coords [..., coord_dim] -> [..., hidden]. ``activation``: "silu" (x sigmoid x), "relu", "gelu" (exact, with erf),
    "tanh". No norm inside: statistics over the positions of a call would make the kernel depend on them.
    Initialisation: the framework's, U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for matrices, biases and the head.
    Raises ``ValueError`` for sizes out of range or an unknown activation.

    Source: Finzi et al. 2020 (silu), Romero & Lohit 2022.

    >>> net = MLP(coord_dim=2, hidden=16, layers=4, activation="relu")
    >>> net.net_spec, net.pack().shape
    ('relu:2:16:4', torch.Size([592]))
    """

    def __init__(self, coord_dim: int, hidden: int = 32, layers: int = 3, activation: str = "silu"):
        super().__init__(coord_dim, hidden, layers)
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"MLP: activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}; for sines use SIREN"
            )
        self.activation = activation
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for weight, bias in zip(self.weights, self.biases):
            default_linear_(weight, bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation!r}"
