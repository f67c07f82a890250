"""``accelerate``: the convolutions of a model built with another package, computed by this library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pgconv._shapes import describe
from pgconv.compat import lieconv_layer, recognition, release_layers
from pgconv.compat.report import Report


def accelerate(model: nn.Module, *, strict: bool = False) -> Report:
    """Replaces, in place, the convolutions of the method's public release and of LieConv in ``model``.

    ``LiftingConv``, ``GroupConv`` and ``PointwiseGroupConv`` compute
    ``out[b,o,i,p] = bias[o] + sum_j sum_d sum_c K_oc(R(u_i)^-1 d / r, u_i^-1 v_j) f[b,c,j,p+d]`` from then on without the kernel K
    in memory, ``LieConv`` its sum over neighbours by fused operators; with gradients to all they had gradients to.

    A layer stays the same object with the same parameters, buffers, attributes and hooks, and an instance of its class, so
    optimisers made before, checkpoints and loops over the model's modules go on working. What its own code decides it goes on
    deciding: group samples and neighbours are drawn by its own forward function, with the same random numbers. That function also
    takes over in calls this library has no convolution for: kernels with an even side, kernel nets with a batch norm while they
    train, samples with the mirror 0. An attribute in which the layer keeps its kernel is computed when it is read, as
    ``[S, Nu, O, C, Nv, k, k]``.

    Layers are recognised by their class names and the names and shapes of what they hold, then each is tried: on a small random
    input it must return what its own code returns. Random numbers, counters and statistics are left as they were.

    Args:
        model: any module; layers that are in it more than once are replaced once
        strict: refuse a model with a recognised layer that cannot be replaced, and change nothing

    Returns:
        which layers were replaced, and why others were not; nothing for a model without such layers

    Raises:
        ValueError: ``model`` is no module; with ``strict``, some layer cannot be replaced (the text says which and why)

    Source: the layers of Romero & Lohit (2022) and Finzi et al. (2020), as their public packages structure them.

    Example:
        >>> import torch, pgconv.compat
        >>> print(pgconv.compat.accelerate(torch.nn.Linear(2, 3)))
        nothing to replace: no convolution of the release or of LieConv was found
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"accelerate: model must be a torch.nn.Module, received {describe(model)}")
    swaps: list[Callable[[], None]] = []
    replaced, kept = {}, {}
    for name, layer in model.named_modules():
        kind = recognition.kind_of(layer)
        if kind is None or isinstance(layer, (release_layers.FusedRelease, lieconv_layer.FusedLieConv)):
            continue
        try:
            swaps.append(_lieconv(layer) if kind == lieconv_layer.NAME else _release(layer))
            replaced[name] = f"{kind}, {_channels(layer)}"
        except Exception as error:
            # Whatever the layer's own code does with a small input, the model must be left as it is.
            kept[name] = f"{kind}: {error if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'}"
    report = Report(replaced, kept)
    if strict and kept:
        raise ValueError(
            "accelerate: strict=True, but not every layer can be replaced; nothing was changed. Pass strict=False to replace the "
            f"others.\n{report}"
        )
    for swap in swaps:
        swap()
    return report


def _release(layer: nn.Module) -> Callable[[], None]:
    facts = recognition.try_release(layer, recognition.release_layer(layer))
    cls = release_layers.fused_class(facts.own)

    def swap() -> None:
        if facts.kernel_name is not None:
            # What an earlier call left there would hide the kernel that is computed when it is read.
            layer.__dict__.pop(facts.kernel_name, None)
        layer.__dict__.update(_facts=facts, _last=release_layers._LastCall())
        layer.__class__ = cls

    return swap


def _lieconv(layer: nn.Module) -> Callable[[], None]:
    facts = recognition.lieconv(layer)
    cls = lieconv_layer.fused_class(facts.own, facts.method)

    def swap() -> None:
        layer.__dict__["_facts"] = facts
        layer.__class__ = cls

    return swap


def _channels(layer: Any) -> str:
    if hasattr(layer, "chin"):
        return f"{layer.chin} to {layer.linear.weight.shape[0]} channels"
    return f"{layer.in_channels} to {layer.out_channels} channels on {type(layer.group).__name__}"
