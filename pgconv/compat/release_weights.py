"""``load_release``: weights of the release's layers in this library's."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pgconv._shapes import describe
from pgconv.compat import kernel_nets
from pgconv.compat.entries import Entries, copy_into, read_state
from pgconv.kernel_nets import MLP, SIREN, KernelNet
from pgconv.kernel_nets.fourier import MultiplicativeNet
from pgconv.nn import GroupConv2d, LiftingConv2d, PointwiseGroupConv2d
from pgconv.sampling import LearnedInterval, LearnedProduct, LearnedSubset

_LAYERS = (LiftingConv2d, GroupConv2d, PointwiseGroupConv2d)
_OWNER = "load_release"


def load_release(
    state: Mapping[str, Tensor] | str | os.PathLike, model: nn.Module, prefix: str | Mapping[str, str] = ""
) -> nn.Module:
    """Loads weights of a layer of the method's public release into one of this library, which then computes the same.

    Into ``LiftingConv2d`` goes a ``LiftingConv``, into ``GroupConv2d`` a ``GroupConv``, into ``PointwiseGroupConv2d`` a
    ``PointwiseGroupConv`` (``bias=False``). The layer must have the release's conventions (``compat="release"``), its sizes
    and its kind of kernel net. Weight norm is multiplied out and batch norms of an ``"mlp"`` are folded in with their running
    statistics and eps 1e-5; the activation is not in the state and must be the same. The learned range of a partial layer goes into
    its sampler, but not the share of training that is over (see ``sampling.anneal``).

    Args:
        state: state dict, or the path of a file with one, which is read with ``weights_only=True``
        model: one of these layers; with a mapping as ``prefix`` any module
        prefix: what stands before the names of the layer's entries, such as ``"lift."``; entries with other beginnings are not
            looked at. A mapping from names of submodules of ``model`` to prefixes loads several; submodules that are no such layers
            (norms, linear layers) take their entries under the names they have

    Returns:
        ``model``

    Raises:
        ValueError: an entry is missing, unknown or has another shape (the text names it), or the layer has other conventions; then
            nothing is loaded into that layer

    Source: the layers of Romero & Lohit (2022), as their public package stores them.

    Example:
        >>> import torch, pgconv.compat
        >>> layer = pgconv.nn.PointwiseGroupConv2d(2, 3, hidden=4, kernel_net="fourier", bias=False, compat="release")
        >>> state = {f"filters.{i}.linear.weight": torch.ones(4, 1, 1) for i in range(4)}
        >>> state |= {f"filters.{i}.linear.bias": torch.zeros(4) for i in range(4)}
        >>> state |= {f"linear.{i}.weight": torch.ones(4, 4, 1) for i in range(3)}
        >>> state |= {f"linear.{i}.bias": torch.zeros(4) for i in range(3)}
        >>> state |= {"output_linear.weight": torch.ones(6, 4, 1), "output_linear.bias": torch.zeros(6)}
        >>> state = {f"shortcut.kernelnet.{name}": x for name, x in state.items()}
        >>> _ = pgconv.compat.load_release(state, layer, prefix="shortcut.")
        >>> layer.weight.shape, layer.weight.unique()
        (torch.Size([3, 2, 4]), tensor([1.], grad_fn=<Unique2Backward0>))
    """
    tensors = read_state(_OWNER, state)
    if not isinstance(prefix, Mapping):
        if not isinstance(model, _LAYERS):
            raise ValueError(
                f"{_OWNER}: model must be a {', '.join(c.__name__ for c in _LAYERS)}, or prefix a mapping from its submodules to "
                f"prefixes, received {describe(model)}"
            )
        _load(model, Entries(_OWNER, tensors, prefix))
        return model
    for name, beginning in prefix.items():
        layer = dict(model.named_modules()).get(name)
        if layer is None:
            raise ValueError(f"{_OWNER}: model has no submodule {name!r}; prefix must map names of its submodules")
        entries = Entries(_OWNER, tensors, beginning)
        if isinstance(layer, _LAYERS):
            _load(layer, entries)
        else:
            copy_into(_OWNER, layer, {own: entries.take(own) for own in layer.state_dict()})
            entries.check_all_used()
    return model


def _load(layer: nn.Module, entries: Entries) -> None:
    for option, value in (("form", "correlation"), ("chart", "release"), ("reduction", "sum")):
        own = getattr(layer, option)
        if own != value and not (isinstance(layer, LiftingConv2d) and option != "chart"):
            raise ValueError(
                f"{_OWNER}: the layer must have {option}={value!r}, received {own!r}; build it with compat='release'"
            )
    body, (weight, weight_bias) = kernel_nets.read_release(entries, {})
    values = _net_values(layer.net, body) | _sampler_values(layer, entries)  # type: ignore[arg-type]
    channels = (layer.out_channels, layer.in_channels)
    if weight.shape[0] != channels[0] * channels[1]:
        raise ValueError(
            f"{_OWNER}: the last layer of {entries.prefix + 'kernelnet'!r} must have out_channels x in_channels = {channels[0]} x "
            f"{channels[1]} outputs, received {weight.shape[0]}"
        )
    values |= {"weight": weight.unflatten(0, channels), "weight_bias": weight_bias.unflatten(0, channels)}
    bias = entries.find("bias") if layer.bias is None else entries.take("bias")
    if bias is not None:
        values["bias"] = bias.reshape(-1)
    entries.skip("group.")
    entries.check_all_used()
    copy_into(_OWNER, layer, values)


def _net_values(net: KernelNet, body: kernel_nets.Body) -> dict[str, Tensor]:
    """Values of the kernel net's parameters."""
    if isinstance(body, kernel_nets.Filters):
        if not isinstance(net, MultiplicativeNet):
            raise ValueError(_another_net("a Fourier, Gabor or MAGNet net", net))
        values = {
            f"net.filters.{i}.{name}": x
            for i, parts in enumerate(body.filters)
            for name, x in zip(("weight", "bias", "mu", "gamma"), parts)
            if x is not None
        }
        windows = hasattr(net.filters[0], "gamma")
        if windows != ("net.filters.0.gamma" in values):
            raise ValueError(_another_net("a net without windows" if windows else "a net with windows", net))
        layers = body.layers
    else:
        if not isinstance(net, SIREN if body.omegas else MLP):
            raise ValueError(_another_net("a SIREN" if body.omegas else "an MLP", net))
        values, layers = {}, body.layers
        if body.omegas:
            first = body.omegas[0]
            values["net.omega0"] = first
            # One frequency for all layers: where they differ, the weights make up for it.
            layers = [(a * (omega / first), b * (omega / first)) for (a, b), omega in zip(layers, body.omegas)]
    if len(layers) != len(net.weights):
        raise ValueError(
            f"{_OWNER}: the kernel net of the state has {len(layers)} hidden linear layers, the layer's has {len(net.weights)}; "
            "build the layer with as many layers"
        )
    for i, (a, b) in enumerate(layers):
        values |= {f"net.weights.{i}": a, f"net.biases.{i}": b}
    return values


def _another_net(received: str, net: KernelNet) -> str:
    return f"{_OWNER}: the layer has the kernel net {type(net).__name__}, but the state is that of {received}; see kernel_net="


def _sampler_values(layer: nn.Module, entries: Entries) -> dict[str, Tensor]:
    sampler = getattr(layer, "sampler", None)
    if isinstance(sampler, (LearnedInterval, LearnedProduct, LearnedSubset)):
        probs = entries.take("probs")
        if isinstance(sampler, LearnedProduct):
            probs = entries.take("probs", (2,))
            return {"sampler.theta": probs[:1], "sampler.alpha_mirror": probs[1:]}
        return {"sampler.theta" if isinstance(sampler, LearnedInterval) else "sampler.alpha": probs}
    found = entries.find("probs")
    if found is not None and not torch.equal(found, torch.ones_like(found)):
        raise ValueError(
            f"{_OWNER}: entry {entries.prefix + 'probs'!r} is {found.tolist()}, a learned range, but the layer learns none; build "
            "it with partial=True, or sampling='subset' for a fixed grid"
        )
    return {}
