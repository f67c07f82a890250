"""What was learned about the group, and what training adds for it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgconv.kernel_nets import KernelNet
from pgconv.models._images import partial_convs
from pgconv.sampling import EncodedGates, LearnedSubset, Sampler


def learned_ranges(network: nn.Module) -> dict[str, dict[str, list[float]]]:
    """By name of the sampler, in the order of the network: ``theta``, the share of the rotations (or of the grid) that is covered;
    for an arc its ends, ``range``, in radians, and the probability of the ``mirror`` where there is one; for a subset of the grid
    the probability of every element, ``kept``.

    Example:
        >>> import pgconv
        >>> model = pgconv.models.CKResNet(1, 10, width=4, kernel_size=3, partial=True)
        >>> list(pgconv.models.learned_ranges(model))[:2]
        ['blocks.0.conv1.sampler', 'blocks.0.conv2.sampler']
    """
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, Sampler) and any(True for _ in module.parameters(recurse=False)):
            extent = "kept" if isinstance(module, LearnedSubset) else "range"
            own = {"theta": module.theta_effective.tolist(), extent: module.range().tolist()}
            mirror = getattr(module, "mirror_probability", None)
            found[name] = own if mirror is None else own | {"mirror": mirror.tolist()}
    return found


@torch.no_grad()
def gate_probabilities(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """By name of the sampler, in the order of the network, the probability ``[B, n]`` of every element for every image of ``x``, of
    samplers that depend on the input (``partial="input"``); in eval mode, after which modules are as they were.

    Example:
        >>> import torch, pgconv
        >>> model = pgconv.models.CKResNet(1, 10, num_samples=4, width=4, kernel_size=3, partial="input")
        >>> found = pgconv.models.gate_probabilities(model, torch.randn(2, 1, 12, 12))
        >>> list(found)[-1], found["last.sampler"].shape
        ('last.sampler', torch.Size([2, 4]))
    """
    found: dict[str, Tensor] = {}

    def seen(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _: tuple, options: dict) -> None:
            found[name] = module.keep_probabilities(options["x"], options["samples"])

        return hook

    modules = list(network.modules())
    training = [module.training for module in modules]
    hooks = [
        module.register_forward_pre_hook(seen(name), with_kwargs=True)
        for name, module in network.named_modules()
        if isinstance(module, EncodedGates)
    ]
    try:
        network.eval()(x)
    finally:
        for hook in hooks:
            hook.remove()
        for module, was in zip(modules, training):
            module.training = was
    return found


def monotone_loss(network: nn.Module) -> Tensor:
    """``sum_l sum relu(theta_{l+1} - theta_l)`` over consecutive convolutions with a learned range, element by element: later
    layers are kept from covering more of the group than earlier ones.

    Returns:
        a scalar; 0 for a network that learns no range

    Source: Romero & Lohit (2022).

    Example:
        >>> import pgconv
        >>> model = pgconv.models.CKResNet(1, 10, width=4, kernel_size=3, partial=True)
        >>> pgconv.models.monotone_loss(model).item()
        0.0
    """
    parameters = [list(conv.sampler.parameters(recurse=False)) for conv in partial_convs(network)]
    own = [torch.cat([p.flatten() for p in learned]) for learned in parameters if learned]
    total = next(network.parameters()).new_zeros(())
    for before, after in pairwise(own):
        total = total + F.relu(after - before).sum()
    return total


def parameter_groups(
    network: nn.Module, lr: float, range_lr: float | None = None, omega_lr: float | None = None
) -> list[dict]:
    """Parameter groups for an optimiser, always in the same order: the rest, the learned ranges of samplers (theta and gates), and
    learnable frequencies ``omega0`` of kernel nets, each with a learning rate of its own.

    Args:
        network: any module
        lr: of the rest
        range_lr, omega_lr: of the others; None for ``lr``

    Returns:
        groups that have parameters, each with ``name``, ``params`` and ``lr``

    Example:
        >>> import torch, pgconv
        >>> model = pgconv.models.CKResNet(1, 10, width=4, kernel_size=3, partial=True)
        >>> [(g["name"], g["lr"]) for g in pgconv.models.parameter_groups(model, 1e-3, range_lr=1e-4)]
        [('rest', 0.001), ('ranges', 0.0001)]
        >>> optimizer = torch.optim.Adam(pgconv.models.parameter_groups(model, 1e-3))
    """
    kinds: dict[int, str] = {}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, Sampler):
                kinds[id(parameter)] = "ranges"
            elif isinstance(module, KernelNet) and name == "omega0":
                kinds[id(parameter)] = "frequencies"
    rates = {
        "rest": lr,
        "ranges": lr if range_lr is None else range_lr,
        "frequencies": lr if omega_lr is None else omega_lr,
    }
    found = {name: [p for p in network.parameters() if kinds.get(id(p), "rest") == name] for name in rates}
    return [{"name": name, "params": params, "lr": rates[name]} for name, params in found.items() if params]
