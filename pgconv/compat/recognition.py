"""Layers of the other packages: found by names and shapes, then tried against their own code.

Every function raises `ValueError` with the reason where a layer cannot be replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pgconv.compat import kernel_nets, lieconv_layer, own_code, release_layers
from pgconv.compat.entries import Entries

_PACKED = {"ReLU": "relu", "SiLU": "silu", "Swish": "silu", "GELU": "gelu", "Tanh": "tanh"}
_STATELESS = (nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.Softplus, nn.Mish, nn.Sigmoid, nn.GELU)
_NOT_NETS = ("Sequential", "Identity")
# Float32 phases of hundreds of radians leave a relative error of 1e-4; another formula is off by the values themselves.
_AGREE = {torch.float64: 1e-6, torch.float32: 5e-3}


def kind_of(layer: nn.Module) -> str | None:
    """Name of the class that the layer has the structure of, or None."""
    for base in type(layer).__mro__:
        name = base.__name__
        if name in release_layers.LAYERS and isinstance(getattr(layer, "kernelnet", None), nn.Module):
            return name
        if name == lieconv_layer.NAME and all(
            isinstance(getattr(layer, n, None), nn.Module) for n in ("weightnet", "linear")
        ):
            return name
    return None


def release_layer(layer: Any) -> release_layers.Facts:
    """What is needed to replace a layer of the release."""
    kind = kind_of(layer) or ""
    base = release_layers.LAYERS[kind]
    name = type(getattr(layer, "group", None)).__name__
    if name not in release_layers.GROUPS:
        raise ValueError(f"its group is {name}, not one of {', '.join(release_layers.GROUPS)}")
    group, spatial = release_layers.GROUPS[name], kind != "PointwiseGroupConv"
    for attribute in ("in_channels", "out_channels", *(("kernel_size", "padding") if spatial else ())):
        if not hasattr(layer, attribute):
            raise ValueError(f"it has no attribute {attribute}")
    if spatial:
        _check_window(layer)
    entries = Entries.of_module(layer, "its state")
    eps = norms_of(getattr(layer.kernelnet, "kernel_net", layer.kernelnet), layer.training)
    body, (weight, _) = kernel_nets.read_release(entries, eps)
    waves = isinstance(body, kernel_nets.Filters) or bool(body.omegas)
    activation = "sin" if waves else activation_of(layer.kernelnet.kernel_net)
    coords = kernel_nets.view(body, activation).coord_dim
    if coords != group.coord_dim_of("release", base.PART):
        raise ValueError(
            f"its kernel net reads {coords} coordinates, not the {group.coord_dim_of('release', base.PART)} of {name}"
        )
    if weight.shape[0] != layer.out_channels * layer.in_channels:
        raise ValueError(
            f"its kernel net has {weight.shape[0]} outputs, not {layer.out_channels} x {layer.in_channels}"
        )
    entries.skip("group.")
    for known in ("probs", "bias"):
        entries.find(known)
    entries.check_all_used()
    return release_layers.Facts(type(layer), group, eps, activation)


def _check_window(layer: Any) -> None:
    if layer.padding not in ("same", "valid"):
        raise ValueError(f"its padding is {layer.padding!r}, not 'same' or 'valid'")
    size = str(layer.kernel_size)
    if not size.isdecimal() and size not in ("same", "full"):
        raise ValueError(f"its kernel_size is {layer.kernel_size!r}, not a number, 'same' or 'full'")
    if size.isdecimal() and int(size) % 2 == 0:
        raise ValueError(f"its kernel_size is {size}: even kernels have no centre pixel")


def norms_of(sequence: nn.Module, training: bool) -> dict[int, float]:
    """``eps`` of the batch norms among the numbered modules of a kernel net."""
    found: dict[int, float] = {}
    for number, child in enumerate(sequence._modules.values()):
        for module in () if child is None else child.modules():
            if hasattr(module, "running_mean"):
                if module.running_mean is None:
                    raise ValueError("its kernel net has a batch norm without running statistics")
                if training:
                    raise ValueError(
                        "its kernel net has a batch norm in training mode, whose statistics are those of each call; "
                        "call model.eval() before"
                    )
                found[number] = float(module.eps)
    return found


def activation_of(sequence: nn.Module) -> kernel_nets.Activation:
    """The one activation between the linear layers of a kernel net."""
    found: dict[str, nn.Module] = {}
    for child in sequence.children():
        leaf = [m for m in child.modules() if not list(m.children())][-1:]
        if leaf and not child.state_dict() and type(leaf[0]).__name__ not in _NOT_NETS:
            found[type(leaf[0]).__name__] = leaf[0]
    if len(found) == 1:
        ((name, module),) = found.items()
        if name in _PACKED and getattr(module, "approximate", "none") == "none":
            return _PACKED[name]
        if isinstance(module, _STATELESS):
            return module
    raise ValueError(
        f"its kernel net has {', '.join(found) or 'no modules'} between linear layers, no known activation"
    )


def try_release(layer: Any, facts: release_layers.Facts) -> release_layers.Facts:
    """Both codes on the same small input; the facts with the name under which the layer's own code keeps its kernel."""
    fused, own = (own_code.free_twin(layer, cls) for cls in (release_layers.fused_class(facts.own), facts.own))
    fused.__dict__.update(_facts=replace(facts, kernel_name=None), _last=release_layers._LastCall())
    with own_code.same_draws(layer), torch.no_grad():
        inputs = _release_input(layer, facts)
        with own_code.same_draws(layer):
            expected = facts.own.forward(own, *inputs)
        found = fused.forward(*inputs)
    _compare(found[0], expected[0])
    if not torch.equal(found[1], expected[1]):
        raise ValueError("its samples are others when it is called with one channel")
    return replace(facts, kernel_name=_kernel_name(layer, own, inputs, expected[1]))


def _release_input(layer: Any, facts: release_layers.Facts) -> tuple[Any, ...]:
    like = next(layer.parameters())
    size = str(getattr(layer, "kernel_size", 1))
    side = int(size) + 1 if size.isdecimal() else 5
    options = {"dtype": like.dtype, "device": like.device}
    if kind_of(layer) == "LiftingConv":
        return (torch.randn(2, layer.in_channels, side, side, **options),)
    x = torch.randn(2, layer.in_channels, 2, side, side, **options)
    angles = torch.tensor([[0.3, 4.1]], dtype=torch.float64, device=like.device)
    mirrors = torch.tensor([[1.0, -1.0]], dtype=torch.float64, device=like.device)
    samples = torch.stack([angles, mirrors], -1) if facts.group.mirror else angles
    return (x, samples, samples.flip(1)) if kind_of(layer) == "PointwiseGroupConv" else ((x, samples),)


def _kernel_name(layer: Any, after: Any, inputs: tuple[Any, ...], u: Tensor) -> str | None:
    """Which attribute the call left a tensor as large as the kernel in."""
    samples = u.shape[0] * u.shape[1]
    if kind_of(layer) != "LiftingConv":
        samples *= 2
    window = 1 if kind_of(layer) == "PointwiseGroupConv" else None
    pairs = samples * layer.in_channels * layer.out_channels
    names = [
        name
        for name, x in vars(after).items()
        if isinstance(x, Tensor) and x.is_floating_point() and x.numel() % pairs == 0 and _is_window(x, pairs, window)
    ]
    return names[0] if len(names) == 1 else None


def _is_window(x: Tensor, pairs: int, window: int | None) -> bool:
    taps = x.numel() // pairs
    return taps == window if window else x.dim() >= 4 and taps == x.shape[-1] * x.shape[-2]


def lieconv(layer: Any) -> lieconv_layer.Facts:
    """What is needed to replace LieConv's layer, after both codes were tried on the same small input."""
    own = type(layer)
    entries = Entries.of_module(layer, "its state")
    eps = norms_of(layer.weightnet, layer.training)
    layers, omegas = kernel_nets.read_sequence(entries, "weightnet.", eps)
    activation = activation_of(layer.weightnet)
    if omegas or not layers:
        raise ValueError("its weightnet is no multilayer perceptron")
    entries.skip("linear.")
    entries.find("r")
    entries.check_all_used()
    facts = lieconv_layer.Facts(own, "", eps, activation)
    with own_code.same_draws(layer), torch.no_grad():
        inputs = _pairs(layer, layers[0][0].shape[1])
        with own_code.same_draws(layer):
            expected, calls = own_code.methods_called(layer, own, (inputs,))
        facts = replace(facts, method=_summing_method(calls, layers[0][0].shape[1], expected[1]))
        reasons = []
        for bias_in_mean in (True, False):
            facts = replace(facts, bias_in_mean=bias_in_mean)
            fused = own_code.free_twin(layer, lieconv_layer.fused_class(own, facts.method))
            fused.__dict__["_facts"] = facts
            try:
                with own_code.same_draws(layer):
                    found = fused.forward(inputs)
                _compare(found[1], expected[1])
                return facts
            except ValueError as error:
                reasons.append(str(error))
    raise ValueError(reasons[0])


def _pairs(layer: Any, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, values and mask of a few points more than there are neighbours."""
    weight = layer.linear.weight
    n = int(getattr(layer, "mc_samples", 4)) + 2
    options = {"dtype": weight.dtype, "device": weight.device}
    half = torch.randn(2, n, n, dim, **options) / 2
    mask = torch.ones(2, n, dtype=torch.bool, device=weight.device)
    mask[1, -1] = False
    return half - half.transpose(1, 2), torch.randn(2, n, _channels(layer), **options), mask


def _channels(layer: Any) -> int:
    if isinstance(getattr(layer, "chin", None), int):
        return layer.chin
    raise ValueError("it has no attribute chin")


def _summing_method(calls: Iterable[tuple[str, tuple, Any]], dim: int, result: Tensor) -> str:
    """The method that was given offsets, values and mask of neighbours and returned a value for each output."""
    found = []
    for name, args, out in calls:
        if len(args) == 3 and all(isinstance(x, Tensor) for x in (*args, out)):
            offsets, values, mask = args
            fits = offsets.dim() == values.dim() == 4 and offsets.shape[:3] == values.shape[:3] == mask.shape
            if fits and offsets.shape[-1] == dim and out.shape == result.shape:
                found.append(name)
    if len(found) != 1:
        raise ValueError(
            "it has no method of its own that is given offsets, values and mask of neighbours and returns their sum"
        )
    return found[0]


def _compare(found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape:
        raise ValueError(f"its output has the shape {list(expected.shape)}, not {list(found.shape)}")
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not error <= _AGREE.get(expected.dtype, 5e-2):
        raise ValueError(f"its own output differs from the formula's by {error:.1e} of the largest value")
