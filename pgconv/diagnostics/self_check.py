"""``self_check``: a module's values and gradients against the float64 reference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pgconv._shapes import describe
from pgconv.diagnostics._runs import mapped, run, tensors_in
from pgconv.kernel_nets import packing
from pgconv.kernel_nets.base import KernelNet
from pgconv.ops.dispatch import use_backend
from pgconv.sampling import Sampler

VALUE_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
GRADIENT_FACTOR = 10.0
ROUNDINGS = 3.0
"""So many times what one rounding of every parameter and gradient changes is never an error."""
RUNS = 3
"""With other roundings: of a sum that cancels, those of one run may, too."""


@dataclass(frozen=True)
class CheckReport:
    """Relative errors and their bounds, by name.

    An error is the largest absolute difference over the largest reference value, or over what makes the bound ``ROUNDINGS`` times
    the change by roundings (see ``self_check``), if that is more.
    """

    errors: dict[str, float]
    bounds: dict[str, float]

    @property
    def ok(self) -> bool:
        """Whether every error is within its bound (NaN is not)."""
        return all(self.errors[name] <= self.bounds[name] for name in self.errors)

    def __str__(self) -> str:
        width = max(map(len, self.errors), default=0)
        lines = [
            f"{name:<{width}}  {error:9.2e}  " + ("ok" if error <= self.bounds[name] else f"> {self.bounds[name]:.0e}")
            for name, error in self.errors.items()
        ]
        return "\n".join([*lines, "all within bounds" if self.ok else "OUT OF BOUNDS"])


def self_check(module: nn.Module, *inputs: Any, seed: int = 0) -> CheckReport:
    """Compare a module as it runs with a float64 copy of it on the reference backend.

    Both draw the same group samples (random numbers are drawn in float64 and then rounded). Compared are all floating
    tensors of the output, and the gradients of every parameter and every floating input that requires one, of
    the sum of outputs times a fixed random tensor. Bounds, of the largest value: 1e-5 in float32, 1e-10 in float64, 3e-2 in
    bfloat16, 4e-3 in float16, and ten times that for gradients.

    Where terms cancel (an odd kernel over opposite angles, a bias before a norm) the largest value says nothing of the terms'
    rounding. Further runs in float64, with every parameter changed by one rounding of the module's dtype (of float32 where that has
    less) and every gradient that goes from one operation to the next by one, say how far values are determined at all: three times
    the change is always within the bound, and so are three roundings of the largest gradient of any parameter of the same layer.

    Args:
        module: any module; it is copied, never changed
        *inputs: its arguments (tensors, or tuples of tensors such as ``Samples``)
        seed: of the sampling and of the random cotangent

    Returns:
        a report; ``str()`` is a table, ``.ok`` the verdict

    Example:
        >>> import torch, pgconv
        >>> conv = pgconv.nn.LiftingConv2d(1, 4, kernel_size=3, group="SE(2)", num_samples=4)
        >>> pgconv.self_check(conv, torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))).ok
        True
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"self_check: module must be a torch.nn.Module, received {describe(module)}")
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    fast = run(copy.deepcopy(module), inputs, seed)
    with use_backend("reference"):
        double = mapped(inputs, torch.Tensor.double)
        exact = run(copy.deepcopy(module).double(), double, seed)
        moved = [run(_rounded(copy.deepcopy(module).double(), dtype, number), double, seed) for number in range(RUNS)]
    value_bound = VALUE_TOLERANCE.get(dtype, 1e-5)
    bounds = {name: value_bound * (GRADIENT_FACTOR if name.startswith("grad ") else 1) for name in exact}
    layers = _of_layers(module, exact, torch.finfo(dtype).eps / 2)
    errors = {}
    for name, reference in exact.items():
        change = max([_largest(other[name] - reference) for other in moved], default=0.0)
        scale = max(_largest(reference), ROUNDINGS * max(change, layers[name]) / bounds[name])
        errors[name] = _error(fast[name], reference, scale)
    return CheckReport(errors, bounds)


@torch.no_grad()
def _rounded(module: nn.Module, dtype: torch.dtype, seed: int) -> nn.Module:
    """The module with parameters, and gradients of whatever it computes, that are off by half a unit in the last place of their
    largest value, up or down. Kernel nets are evaluated in float32 at least."""
    generator = torch.Generator().manual_seed(seed)
    # A full range and gates begin at their bounds, where derivatives jump: moved beyond them they would have none.
    kinks = {id(p) for inner in module.modules() if isinstance(inner, Sampler) for p in inner.parameters(recurse=False)}

    def off(x: Tensor, dtype: torch.dtype, largest: float) -> Tensor:
        signs = torch.randint(2, x.shape, generator=generator).to(x) * 2 - 1
        return signs * (largest * torch.finfo(dtype).eps / 2)

    def round_gradients(grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return tuple(g if g is None else g + off(g, dtype, _largest(g)) for g in grads)

    for p in module.parameters():
        if p.is_floating_point() and id(p) not in kinks:
            p.add_(off(p, packing.compute_dtype(dtype), _largest(p) or 1.0))
    module.register_forward_hook(lambda *call: _hook_all(call[-1], round_gradients))
    return module


def _hook_all(outputs: Any, hook: Callable[..., Any]) -> None:
    """Call a hook with the gradients that arrive at every operation that outputs were computed by."""
    known: set[Any] = set()
    waiting = [x.grad_fn for x in tensors_in(outputs)]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in known:
            known.add(node)
            node.register_prehook(hook)
            waiting += [before for before, _ in node.next_functions]


def _of_layers(module: nn.Module, exact: dict[str, Tensor], rounding: float) -> dict[str, float]:
    """By name, one rounding of the largest gradient of any parameter of the same layer; its kernel net is part of a convolution."""
    nets = [name for name, inner in module.named_modules() if name and isinstance(inner, KernelNet)]

    def layer(name: str) -> str:
        parameter = name.removeprefix("grad ")
        net = next((net for net in nets if parameter.startswith(f"{net}.")), parameter)
        return f"layer {net.rpartition('.')[0]}" if parameter in known else name

    known = dict(module.named_parameters())
    found: dict[str, float] = {}
    for name, x in exact.items():
        if name.startswith("grad "):
            found[layer(name)] = max(found.get(layer(name), 0.0), rounding * _largest(x))
    return {name: found.get(layer(name), 0.0) for name in exact}


def _largest(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


def _error(value: Tensor, reference: Tensor, scale: float) -> float:
    if value.shape != reference.shape:
        return float("inf")
    return _largest(value.double() - reference) / (scale or 1.0)
