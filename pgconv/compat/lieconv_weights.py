"""``load_lieconv``: weights of LieConv's layer in this library's ``PointGroupConv``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv._shapes import describe
from pgconv.compat import kernel_nets
from pgconv.compat.entries import Entries, copy_into, read_state
from pgconv.compat.lieconv_layer import widened
from pgconv.kernel_nets import MLP
from pgconv.nn import PointGroupConv

_OWNER = "load_lieconv"


def load_lieconv(
    state: Mapping[str, Tensor] | str | os.PathLike,
    layer: PointGroupConv,
    prefix: str = "",
    order: Sequence[int] | None = None,
) -> PointGroupConv:
    """Loads weights of a ``LieConv`` into a ``PointGroupConv``, which then computes the same of the same neighbours.

    The layer is ``PointGroupConv(C, O, group, kernel_net="mlp", hidden=32, layers=4, chart="lie", weight_bias=False)``: a kernel of
    ``log(v_j^-1 u_i)`` from a net with layers of 32, 32 and 16 units. Narrower ones are filled up with units that are constantly 0.
    Batch norms are folded in with their running statistics and eps 1e-5. The state does not say which activation and reduction
    were trained: swish is ``"silu"``, ``mean=True`` is ``reduction="mean"``; ``bias`` is added behind the mean. The radius ``r``
    belongs to the neighbourhood, ``pgconv.neighbors.Ball(radius=...)``.

    Args:
        state: state dict, or the path of a file with one, which is read with ``weights_only=True``
        layer: see above
        prefix: what stands before the names of the layer's entries; entries with other beginnings are not looked at
        order: for each coordinate of the layer's chart (translation first), which of LieConv's coordinates it is; None where they
            come in the same order

    Returns:
        ``layer``

    Raises:
        ValueError: an entry is missing, unknown or has another shape (the text names it), or the layer has other conventions; then
            nothing is loaded

    Source: the layer of Finzi et al. (2020), as their public package stores it.

    Example:
        >>> import torch, pgconv.compat
        >>> sizes = {0: (32, 2), 3: (32, 32), 6: (16, 32)}
        >>> state = {f"weightnet.{i}.module.weight": torch.randn(o, c) for i, (o, c) in sizes.items()}
        >>> state |= {f"weightnet.{i}.module.bias": torch.zeros(o) for i, (o, c) in sizes.items()}
        >>> state |= {"linear.weight": torch.randn(5, 3 * 16), "linear.bias": torch.zeros(5), "r": torch.tensor(2.0)}
        >>> options = {"kernel_net": "mlp", "hidden": 32, "layers": 4, "chart": "lie", "weight_bias": False}
        >>> layer = pgconv.nn.PointGroupConv(3, 5, group="T(2)", **options)
        >>> pgconv.compat.load_lieconv(state, layer).weight.shape
        torch.Size([5, 3, 32])
    """
    _check_layer(layer)
    entries = Entries(_OWNER, read_state(_OWNER, state), prefix)
    layers, _ = kernel_nets.read_sequence(entries, "weightnet.", {})
    net, channels = layer.net, layer.in_channels
    widest = max((a.shape[0] for a, _ in layers), default=0)
    if len(layers) != len(net.weights) or widest > net.hidden:
        raise ValueError(
            f"{_OWNER}: the state's weightnet has {len(layers)} layers of up to {widest} units, the layer's net has "
            f"{len(net.weights)} of {net.hidden}; build the layer with hidden={max(widest, 1)}, layers={len(layers) + 1}"
        )
    if order is not None:
        if sorted(order) != list(range(net.coord_dim)):
            raise ValueError(
                f"{_OWNER}: order must hold the numbers 0 to {net.coord_dim - 1} once each, received {describe(order)}"
            )
        layers[0] = layers[0][0][:, list(order)], layers[0][1]
    units = layers[-1][0].shape[0]
    weight = entries.take("linear.weight", (layer.out_channels, channels * units)).unflatten(1, (channels, units))
    values = {"weight": F.pad(weight, (0, net.hidden - units))}
    for i, (a, b) in enumerate(widened(layers, net.hidden)):
        values |= {f"net.weights.{i}": a, f"net.biases.{i}": b}
    if layer.weight_bias is not None:
        values["weight_bias"] = torch.zeros_like(layer.weight_bias)
    bias = entries.find("linear.bias") if layer.bias is None else entries.take("linear.bias")
    if bias is not None:
        values["bias"] = bias
    entries.find("r")
    entries.check_all_used()
    copy_into(_OWNER, layer, values)
    return layer


def _check_layer(layer: object) -> None:
    if not isinstance(layer, PointGroupConv) or not isinstance(layer.net, MLP) or layer.depthwise:
        raise ValueError(
            f"{_OWNER}: layer must be a PointGroupConv with kernel_net='mlp' and depthwise=False, received {describe(layer)}"
        )
    for option, value in (("form", "convolution"), ("chart", "lie")):
        if getattr(layer, option) != value:
            raise ValueError(
                f"{_OWNER}: the layer must have {option}={value!r}, received {getattr(layer, option)!r}; build it with "
                f"{option}={value!r}"
            )
