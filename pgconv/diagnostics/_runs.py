"""A module run once, forward and backward, without a trace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def run(module: nn.Module, inputs: tuple[Any, ...], seed: int, backward: bool = True) -> dict[str, Tensor]:
    """Floating tensors of the output, and the gradients of all that requires one from the outputs' sum times a fixed random tensor.
    Random numbers of the module are those of the seed, and nobody else's."""
    inputs = mapped(inputs, lambda t: t.detach().clone().requires_grad_(t.requires_grad))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.set_grad_enabled(backward):
        torch.manual_seed(seed)
        outputs = list(tensors_in(module(*inputs)))
        generator = torch.Generator().manual_seed(seed + 1)
        loss = sum(
            (out * torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out)).sum() for out in outputs
        )
    results = {f"output {i}": out.detach() for i, out in enumerate(outputs)}
    leaves = {f"grad {name}": p for name, p in module.named_parameters() if p.requires_grad}
    leaves |= {f"grad input {i}": t for i, t in enumerate(tensors_in(inputs)) if t.requires_grad}
    if leaves and isinstance(loss, Tensor) and loss.requires_grad:
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        results |= dict(zip(leaves, grads))
    return results


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Floating tensors of nested tuples and lists, one after the other."""
    if isinstance(tree, Tensor):
        if tree.is_floating_point():
            yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from tensors_in(item)


def mapped(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A tree of tensors with the floating ones' images in their place, leaves that require gradients as those do."""
    if isinstance(tree, Tensor):
        if not tree.is_floating_point():
            return tree
        return function(tree).detach().requires_grad_(tree.requires_grad)
    if isinstance(tree, (tuple, list)):
        items = [mapped(item, function) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return tree
