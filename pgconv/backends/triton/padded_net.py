"""Packed kernel nets in the form the kernels read, and gradients from theirs back to the packed vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv.kernel_nets import packing
from pgconv.kernel_nets.packing import NetSpec

MOST_HIDDEN, MOST_LAYERS, MOST_COORDS = 64, 5, 31
"""Features, layers (with the head) and coordinates that the kernels hold in registers."""


def why_not(net: str) -> str | None:
    """The reason why the kernels do not take a net, or None."""
    spec = NetSpec.parse(net)
    for name, value, most in (
        ("too wide", spec.hidden, MOST_HIDDEN),
        ("too deep", spec.layers, MOST_LAYERS),
        ("of too many coordinates", spec.coord_dim, MOST_COORDS),
    ):
        if value > most:
            return f"the net {net} is {name} for the kernels, which hold at most {most}"
    return None


def padded(size: int) -> int:
    """Sides of matrix products: powers of two from 16."""
    return max(16, 1 << max(0, size - 1).bit_length())


def needs_parts(spec: NetSpec, signal: torch.dtype) -> bool:
    """Whether hidden layers are multiplied in two parts, which leaves phases the accuracy of float32. Signals in float16 show
    errors that vanish beside the rounding of bfloat16: of sines, whose every further layer multiplies the rounding of the one
    before by omega0 times its weights, and of "relu", where phases of the wrong sign change derivatives by all there is."""
    if signal == torch.float32:
        return False
    if signal == torch.float16:
        return spec.activation in ("sin", "relu") or spec.layers > 3
    return spec.activation == "sin" and spec.layers > 3


@dataclass(frozen=True)
class PaddedNet:
    """Layers ``A x + b`` padded with zeros to H features; those of "sin" carry the factor omega0.

    ``first [D, H]`` is the first layer transposed, with its bias in the row behind the coordinates, ``hidden [parts, L - 1, H, H]``
    the other layers in one part or two, whose sum they are, ``biases [L, H]`` of all L. ``first`` and ``biases`` are float32, and
    ``hidden`` is in the type of its products.
    """

    spec: NetSpec
    first: Tensor
    hidden: Tensor
    biases: Tensor

    @property
    def features(self) -> int:
        """H, padded."""
        return self.first.shape[1]

    @property
    def parts(self) -> int:
        """Of the hidden layers' weights."""
        return self.hidden.shape[0]

    @property
    def columns(self) -> int:
        """D: coordinates, and the 1 of the biases, padded."""
        return self.first.shape[0]

    @property
    def layers(self) -> int:
        """L, the head not counted."""
        return self.biases.shape[0]

    @staticmethod
    def of(params: Tensor, net: str, signal: torch.dtype) -> PaddedNet:
        """That of a packed vector, for the features of a signal in this type."""
        spec = NetSpec.parse(net)
        layers, omega0 = packing.unpack(spec, params.float())
        features, columns = padded(spec.hidden), padded(spec.coord_dim + 1)
        beyond = features - spec.hidden
        if omega0 is not None:
            layers = [(omega0 * weight, omega0 * bias) for weight, bias in layers]
        (weight, bias), *others = layers
        first = F.pad(torch.cat([weight, bias[:, None]], 1).t(), (0, beyond, 0, columns - spec.coord_dim - 1))
        hidden = [F.pad(weight, (0, beyond, 0, beyond)) for weight, _ in others]
        # At least one matrix, which a net of one layer never reads.
        hidden = torch.stack(hidden) if hidden else first.new_zeros(1, features, features)
        parts = [hidden] if signal == torch.float32 else [hidden.half()]
        if needs_parts(spec, signal):
            parts.append((hidden - parts[0]).half())
        biases = torch.stack([F.pad(bias, (0, beyond)) for _, bias in layers])
        return PaddedNet(spec, first.contiguous(), torch.stack(parts), biases)

    def sums(self, programs: int) -> tuple[Tensor, Tensor]:
        """For the programs' sums over points, of every layer's gradient times ``(x, 1)`` and times the features before it."""
        h, d = self.features, self.columns
        return (
            self.first.new_empty(programs, self.layers, h, d),
            self.first.new_empty(programs, self.layers - 1, h, h),
        )

    def gradient(self, params: Tensor, of_inputs: Tensor, of_hidden: Tensor) -> Tensor:
        """Of the packed vector, from the sums of all programs."""
        hidden, coords = self.spec.hidden, self.spec.coord_dim
        of_inputs, of_hidden = of_inputs.sum(0), of_hidden.sum(0)
        layers, omega0 = packing.unpack(self.spec, params.float())
        found, of_omega0 = [], None
        for k, (weight, bias) in enumerate(layers):
            own = of_inputs[0, :hidden, :coords] if k == 0 else of_hidden[k - 1, :hidden, :hidden]
            grads = own, of_inputs[k, :hidden, coords]
            if omega0 is not None:
                term = (grads[0] * weight).sum() + (grads[1] * bias).sum()
                of_omega0 = term if of_omega0 is None else of_omega0 + term
                grads = omega0 * grads[0], omega0 * grads[1]
            found.append(grads)
        return packing.pack(found, of_omega0)
