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
    the probability of every element, ``kept``. What an encoder gives to each example is not among them: see ``gate_probabilities``.

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


def gate_probabilities(network: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """By name of the sampler, in the order of the network: keep probabilities ``[B, n]`` of ``EncodedGates`` in eval mode. Modes
    are afterwards what they were, after an error too; a sampler that was not reached has no entry.

    Args:
        network: any module; it is called with the inputs

    Example:
        >>> import torch, pgconv
        >>> model = pgconv.models.CKResNet(1, 10, num_samples=4, width=4, kernel_size=3, partial="input")
        >>> found = pgconv.models.gate_probabilities(model, torch.randn(2, 1, 16, 16))
        >>> list(found)[-1], found["last.sampler"][0]
        ('last.sampler', tensor([1.0000, 0.8808, 0.8808, 0.8808]))
    """
    found: dict[str, Tensor] = {}
    modes = {module: module.training for module in network.modules()}

    def reader(name: str) -> Callable:
        def read(sampler: EncodedGates, args: tuple, options: dict) -> None:
            found[name] = sampler.keep_probabilities(options["x"], options["samples"])

        return read

    hooks = [
        module.register_forward_pre_hook(reader(name), with_kwargs=True)
        for name, module in network.named_modules()
        if isinstance(module, EncodedGates)
    ]
    try:
        with torch.no_grad():
            network.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return found


def monotone_loss(network: nn.Module) -> Tensor:
    """``sum_l sum relu(theta_{l+1} - theta_l)`` over consecutive convolutions with a learned range, element by element: later
    layers are kept from covering more of the group than earlier ones.

    Returns:
        a scalar; 0 for a network that learns no range, or one for each example

    Source: Romero & Lohit (2022).

    Example:
        >>> import pgconv
        >>> model = pgconv.models.CKResNet(1, 10, width=4, kernel_size=3, partial=True)
        >>> pgconv.models.monotone_loss(model).item()
        0.0
    """
    own = [
        torch.cat(learned)
        for conv in partial_convs(network)
        if conv.sampler is not None and (learned := [p.flatten() for p in conv.sampler.parameters(recurse=False)])
    ]
    total = next(network.parameters()).new_zeros(())
    for before, after in pairwise(own):
        total = total + F.relu(after - before).sum()
    return total


def parameter_groups(
    network: nn.Module, lr: float, range_lr: float | None = None, omega_lr: float | None = None
) -> list[dict]:
    """Parameter groups for an optimiser, always in the same order: the rest, what samplers learn (ranges, gates, encoders of
    gates), and learnable frequencies ``omega0`` of kernel nets, each with a learning rate of its own.

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
        if isinstance(module, Sampler):
            kinds |= {id(parameter): "ranges" for parameter in module.parameters()}
        elif isinstance(module, KernelNet):
            own = module.named_parameters(recurse=False)
            kinds |= {id(parameter): "frequencies" for name, parameter in own if name == "omega0"}
    rates = {
        "rest": lr,
        "ranges": lr if range_lr is None else range_lr,
        "frequencies": lr if omega_lr is None else omega_lr,
    }
    found = {name: [p for p in network.parameters() if kinds.get(id(p), "rest") == name] for name in rates}
    return [{"name": name, "params": params, "lr": rates[name]} for name, params in found.items() if params]
