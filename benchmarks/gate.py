"""No number without a gate: values and gradients against the float64 reference before anything is timed.

float32: 1e-5 for the result and 1e-4 for gradients, of the largest value. bfloat16: at most twice the error of the reference in
that precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

import pgconv
from benchmarks.cases import Case, shrink
from benchmarks.implementations import Implementation

VALUE_BOUND, GRADIENT_BOUND = 1e-5, 1e-4

REDUCED_FLOPS = 1e9
"""A batch is cut down to about this much arithmetic over the taps, seconds for the float64 reference on the largest layers."""


def reference(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: object) -> torch.Tensor:
    """The definition."""
    return pgconv.ops.group_conv2d(f, phi, weight, str(geometry), "reference:direct")


def evaluate(
    function: Callable[..., torch.Tensor], case: Case, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Result (``"out"``) and the gradients asked for, by name."""
    cast = dtype or case.torch_dtype
    leaves = {
        name: x.to(cast).requires_grad_(name in case.needs) for name, x in zip(("f", "phi", "weight"), case.operands())
    }
    out = function(*leaves.values(), case.geometry)
    grads = torch.autograd.grad(out, [leaves[name] for name in case.needs], case.cotangent().to(cast))
    return {"out": out.detach(), **dict(zip(case.needs, grads))}


def errors(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest deviation of each, over the largest exact value."""
    return {
        name: ((found[name].double() - x).abs().max() / x.abs().max().clamp_min(torch.finfo(x.dtype).tiny)).item()
        for name, x in exact.items()
    }


@dataclass(frozen=True)
class Verdict:
    """Outcome of a check.

    Attributes:
        wrong: what is wrong with an implementation, or None
        batch: images of the batch it was checked with
        value: deviation of its result, over the largest exact value
        gradient: the largest one of its gradients'
    """

    wrong: str | None
    batch: int
    value: float | None = None
    gradient: float | None = None


class Gate:
    """Checks implementations of one case; the reference runs once.

    Args:
        case: what will be timed
        full: check the case as it is and not with a reduced batch
    """

    def __init__(self, case: Case, full: bool = False) -> None:
        self._case = case
        self._checked = case if full else shrink(case, REDUCED_FLOPS)
        self._cache: dict[Case, tuple[dict[str, torch.Tensor], dict[str, float]]] = {}

    def check(self, implementation: Implementation) -> Verdict:
        """Compare with the reference. A plan that does not run the reduced batch is checked with the full one."""
        case = self._checked if implementation.refuses(self._checked) is None else self._case
        exact, bounds = self._exact(case)
        try:
            found = evaluate(implementation.function, case)
        except (RuntimeError, ValueError) as error:
            return Verdict(f"raised {type(error).__name__}: {error}", case.batch)
        for name, x in exact.items():
            if found[name].shape != x.shape:
                return Verdict(f"{name} has shape {list(found[name].shape)} and not {list(x.shape)}", case.batch)
        off = errors(found, exact)
        wrong = [
            f"{name} is off by {error:.1e} of the largest value (bound {bounds[name]:.1e})"
            for name, error in off.items()
            if not error <= bounds[name]
        ]
        return Verdict("; ".join(wrong) or None, case.batch, off.pop("out"), max(off.values()))

    def _exact(self, case: Case) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        if case not in self._cache:
            exact = evaluate(reference, case, torch.float64)
            if case.torch_dtype.itemsize < 4:
                bounds = {name: 2 * error for name, error in errors(evaluate(reference, case), exact).items()}
            else:
                bounds = {name: VALUE_BOUND if name == "out" else GRADIENT_BOUND for name in exact}
            self._cache[case] = exact, bounds
        return self._cache[case]
