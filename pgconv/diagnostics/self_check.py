"""``self_check``: a module's values and gradients against the float64 reference."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pgconv._shapes import describe
from pgconv.diagnostics._runs import mapped, run
from pgconv.kernel_nets import packing
from pgconv.ops.dispatch import use_backend

VALUE_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
GRADIENT_FACTOR = 10.0
ROUNDINGS = 3.0
"""So many times what one rounding of every parameter changes is never an error."""


@dataclass(frozen=True)
class CheckReport:
    """Relative errors and their bounds, by name.

    An error is the largest absolute difference over the largest reference value, or over what makes the bound ``ROUNDINGS`` times
    the change by one rounding of every parameter, if that is more.
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

    Where terms cancel (an odd kernel over opposite angles, say) the largest value says nothing of the terms' rounding. A third run,
    in float64 with every parameter changed by one rounding of the module's dtype (of float32 where that has less), says
    how far values are determined at all: three times that change is always within the bound.

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
        exact = run(copy.deepcopy(module).double(), mapped(inputs, torch.Tensor.double), seed)
        moved = run(_rounded(copy.deepcopy(module).double(), dtype), mapped(inputs, torch.Tensor.double), seed)
    value_bound = VALUE_TOLERANCE.get(dtype, 1e-5)
    bounds = {name: value_bound * (GRADIENT_FACTOR if name.startswith("grad ") else 1) for name in exact}
    errors = {name: _error(fast[name], exact[name], moved[name], bounds[name]) for name in exact}
    return CheckReport(errors, bounds)


@torch.no_grad()
def _rounded(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with parameters that are off by half a unit in the last place of their largest value, up or down. Kernel nets are
    evaluated in float32 at least."""
    generator, rounding = torch.Generator().manual_seed(0), torch.finfo(packing.compute_dtype(dtype)).eps / 2
    for p in module.parameters():
        if p.is_floating_point() and p.numel():
            signs = torch.randint(2, p.shape, generator=generator).to(p) * 2 - 1
            p.add_(signs * ((p.abs().max() or 1.0) * rounding))
    return module


def _error(value: Tensor, reference: Tensor, moved: Tensor, bound: float) -> float:
    if value.shape != reference.shape:
        return float("inf")
    if value.numel() == 0:
        return 0.0
    scale = max(reference.abs().max().item(), ROUNDINGS * (moved - reference).abs().max().item() / bound)
    return (value.double() - reference).abs().max().item() / (scale or 1.0)
