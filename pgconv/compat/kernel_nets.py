"""Kernel nets of the other packages, read from their tensors.

All are pointwise nets of the coordinates whose weights may carry trailing axes of size 1. Nothing is copied: what is read has the
graph of the tensors it was read from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv._autocast import without_autocast
from pgconv.compat.entries import Entries
from pgconv.kernel_nets import KernelNet, packing

Affine = tuple[Tensor, Tensor]
Activation = str | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Chain:
    """``h_l = act(A_l h_(l-1) + b_l)``; with ``omegas`` ``h_l = sin(omega_l (A_l h_(l-1) + b_l))``."""

    layers: list[Affine]
    omegas: list[Tensor]


@dataclass(frozen=True)
class Filters:
    """``z_0 = g_0(z)``, ``z_i = g_i(z) (A_i z_(i-1) + a_i)``; a filter g is (Omega, c, mu, gamma), the last two None without
    window."""

    filters: list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]
    layers: list[Affine]


Body = Chain | Filters


def read_release(entries: Entries, eps: Mapping[int, float]) -> tuple[Body, Affine]:
    """Body and last linear layer of a net of the release, the entries below ``kernelnet``; ``eps`` of the norms by number."""
    if entries.names("kernelnet.kernel_net."):
        layers, omegas = read_sequence(entries, "kernelnet.kernel_net.", eps)
        if len(layers) < 2 or len(omegas) not in (0, len(layers) - 1):
            raise ValueError(
                f"{entries.owner}: the kernel net must have at least two linear layers, and omega_0 in all but the last or in "
                f"none, received {', '.join(entries.names('kernelnet.'))}"
            )
        return Chain(layers[:-1], omegas), layers[-1]
    if entries.names("kernelnet.filters."):
        return _read_filters(entries)
    received = ", ".join(entries.names("kernelnet.")) or "none"
    raise ValueError(
        f"{entries.owner}: the kernel net is not one of SIREN, MLP, Fourier, Gabor, MAGNet: its entries are {received}"
    )


def read_sequence(entries: Entries, prefix: str, eps: Mapping[int, float]) -> tuple[list[Affine], list[Tensor]]:
    """Linear layers of numbered modules with the norms behind them folded in, and the frequencies of sine layers."""
    numbers = sorted({_number(entries, name, prefix) for name in entries.names(prefix)})
    layers: list[Affine] = []
    omegas: list[Tensor] = []
    for number in numbers:
        parts = _parts(entries, f"{prefix}{number}.")
        if "running_mean" in parts:
            if not layers:
                raise ValueError(f"{entries.owner}: the norm {prefix}{number} has no linear layer before it")
            layers[-1] = _folded(layers[-1], parts, eps.get(number, 1e-5))
            continue
        omega = parts.pop("omega_0", None)
        layers.append(_affine(entries.owner, f"{prefix}{number}", parts))
        if omega is not None:
            omegas.append(omega.reshape(()))
    return layers, omegas


def _number(entries: Entries, name: str, prefix: str) -> int:
    number = name.removeprefix(prefix).partition(".")[0]
    if not number.isdecimal():
        raise ValueError(f"{entries.owner}: entry {name!r} is not known; modules below {prefix!r} are numbered")
    return int(number)


def _read_filters(entries: Entries) -> tuple[Filters, Affine]:
    def one(prefix: str) -> Affine:
        return _affine(entries.owner, prefix, _parts(entries, prefix + "."))

    count = len({_number(entries, name, "kernelnet.filters.") for name in entries.names("kernelnet.filters.")})
    filters = []
    for i in range(count):
        omega, phase = one(f"kernelnet.filters.{i}.linear")
        mu, gamma = (entries.find(f"kernelnet.filters.{i}.{name}") for name in ("mu", "gamma"))
        if (mu is None) != (gamma is None):
            raise ValueError(
                f"{entries.owner}: filter {i} must have both mu and gamma or neither, received one of them"
            )
        filters.append((omega, phase, mu, gamma))
    layers = [one(f"kernelnet.linear.{i}") for i in range(count - 1)]
    return Filters(filters, layers), one("kernelnet.output_linear")


def _parts(entries: Entries, prefix: str) -> dict[str, Tensor]:
    """Tensors of one module by the last word of their names: modules that pass their input on may stand around it."""
    parts: dict[str, Tensor] = {}
    for name in entries.names(prefix):
        word = name.rpartition(".")[2]
        if "parametrizations.weight." in name:
            word = {"original0": "weight_g", "original1": "weight_v"}.get(word, word)
        if word in parts:
            raise ValueError(f"{entries.owner}: {prefix!r} has two entries {word!r}; the kernel net is not known")
        parts[word] = entries.take(name)
    return parts


def _affine(owner: str, name: str, parts: dict[str, Tensor]) -> Affine:
    if {"weight_g", "weight_v"} <= parts.keys():
        g, v = parts.pop("weight_g"), parts.pop("weight_v")
        parts["weight"] = normed_weight(v, g)
    if not {"weight"} <= parts.keys() <= {"weight", "bias"}:
        raise ValueError(
            f"{owner}: {name!r} must be a linear layer with weight and bias, received {', '.join(parts) or 'nothing'}"
        )
    weight, bias = parts["weight"], parts.get("bias")
    if weight.dim() < 2 or any(size != 1 for size in weight.shape[2:]):
        raise ValueError(
            f"{owner}: {name + '.weight'!r} must be [out, in] or that with axes of size 1, received {list(weight.shape)}"
        )
    weight = weight.flatten(1)
    return weight, weight.new_zeros(weight.shape[0]) if bias is None else bias.reshape(-1)


def normed_weight(v: Tensor, g: Tensor) -> Tensor:
    """``g v / |v|``, the norm over all axes along which g has one number."""
    axes = [axis for axis in range(v.dim()) if g.dim() != v.dim() or g.shape[axis] == 1]
    return v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))


def _folded(layer: Affine, norm: dict[str, Tensor], eps: float) -> Affine:
    """The linear layer followed by a batch norm that uses its running statistics."""
    factor = torch.rsqrt(norm["running_var"] + eps)
    if "weight" in norm:
        factor = factor * norm["weight"]
    shift = (layer[1] - norm["running_mean"]) * factor
    return layer[0] * factor[:, None], shift + norm["bias"] if "bias" in norm else shift


class _View(KernelNet):
    """A net on tensors that belong to another module."""

    def _hold(self, tensors: Sequence[Tensor]) -> list[str]:
        """Names by which the tensors are parameters: operators that compute parts again have to see them."""
        start = len(self._parameters)
        names = [f"p{start + i}" for i in range(len(tensors))]
        self._parameters.update(zip(names, tensors))  # most of them are results, which nn.Module would not register
        return names

    def _held(self, names: Sequence[str], dtype: torch.dtype) -> list[Tensor]:
        return [getattr(self, name).to(dtype) for name in names]


class ChainView(_View):
    """A `Chain`; packed where the layers have one width and this library knows the activation."""

    def __init__(self, chain: Chain, activation: Activation) -> None:
        layers = chain.layers
        if chain.omegas:
            activation = "sin"
            layers = [(omega * a, omega * b) for (a, b), omega in zip(layers, chain.omegas)]
        super().__init__(layers[0][0].shape[1], layers[-1][0].shape[0], len(layers) + 1)
        self.activation = activation
        self._pairs = [self._hold(pair) for pair in layers]

    @property
    def net_spec(self) -> str | None:
        widths = {self._parameters[bias].shape[0] for _, bias in self._pairs}
        if len(widths) > 1 or self.activation not in packing.ACTIVATIONS:
            return None
        return f"{self.activation}:{self.coord_dim}:{self.hidden}:{self.layers}"

    def pack(self) -> Tensor:
        pairs = [(getattr(self, a), getattr(self, b)) for a, b in self._pairs]
        # The frequencies are in the layers.
        return packing.pack(pairs, pairs[0][0].new_ones(()) if self.activation == "sin" else None)

    def features(self, coords: Tensor) -> Tensor:
        own = getattr(self, self._pairs[0][0]).dtype
        dtype = packing.compute_dtype(own)
        act = {"sin": torch.sin, **packing._POINTWISE}.get(self.activation, self.activation)  # type: ignore[call-overload]
        with without_autocast(coords.device):
            h = coords.to(dtype)
            for number, names in enumerate(self._pairs):
                a, b = self._held(names, dtype)
                h = act(F.linear(h, a, b) if number else packing.exact_affine(h, a, b))
        return h.to(own)


class FiltersView(_View):
    """A `Filters`."""

    def __init__(self, net: Filters) -> None:
        omega = net.filters[0][0]
        super().__init__(omega.shape[1], omega.shape[0], len(net.layers) + 1)
        self._filters = [self._hold([x for x in filter_ if x is not None]) for filter_ in net.filters]
        self._pairs = [self._hold(pair) for pair in net.layers]

    def features(self, coords: Tensor) -> Tensor:
        own = self._parameters["p0"].dtype
        dtype = packing.compute_dtype(own)
        with without_autocast(coords.device):
            z = coords.to(dtype)
            out = self._filter(0, z)
            for number, names in enumerate(self._pairs, 1):
                out = self._filter(number, z) * F.linear(out, *self._held(names, dtype))
        return out.to(own)

    def _filter(self, number: int, z: Tensor) -> Tensor:
        omega, phase, *window = self._held(self._filters[number], z.dtype)
        wave = torch.sin(packing.exact_affine(z, omega, phase))
        if not window:
            return wave
        mu, gamma = window[0], window[1].expand(window[0].shape)
        exponent = z.new_zeros(*z.shape[:-1], mu.shape[0])
        for d in range(mu.shape[1]):
            exponent = exponent - 0.5 * (gamma[:, d] * (z[..., d : d + 1] - mu[:, d])).square()
        return torch.exp(exponent) * wave


def view(body: Body, activation: Activation) -> KernelNet:
    """The net as this library's; the activation counts where the net has no waves."""
    return ChainView(body, activation) if isinstance(body, Chain) else FiltersView(body)
