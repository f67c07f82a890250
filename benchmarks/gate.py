"""No number without a gate: values and gradients against the float64 reference before anything is timed.

float32: 1e-5 for the result and 1e-4 for gradients, of the largest value; 2e-3 for both where operands may be cut to TF32.
bfloat16 and float16: at most twice the error of the reference in that precision, and one rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.implementations import Implementation
from benchmarks.suite import Case, Function, Inputs, Suite, as_they_are

VALUE_BOUND, GRADIENT_BOUND = 1e-5, 1e-4

TF32_BOUND = 2 * 2.0**-10
"""Two operands of every product may be cut to 10 bits."""

REDUCED_FLOPS = 1e9
"""A case is cut down to about this much arithmetic, seconds for the float64 reference on the largest ones."""


def reference(suite: Suite) -> Function:
    """The definition."""
    return lambda *call: suite.call(*call, suite.reference)


def evaluate(
    function: Function,
    case: Case,
    dtype: torch.dtype | None = None,
    arrange: Callable[..., Inputs] = as_they_are,
    own: Callable[[Case], list[torch.Tensor]] | None = None,
) -> dict[str, torch.Tensor]:
    """Result (``"out"``) and the gradients asked for, by name."""
    operands, cotangent = arrange(case.operands() if own is None else own(case), case.cotangent())
    leaves = [x.to(dtype or x.dtype).requires_grad_(need) for x, need in zip(operands, case.asked)]
    out = function(*leaves, case.static)
    grads = torch.autograd.grad(out, [x for x in leaves if x.requires_grad], cotangent.to(dtype or cotangent.dtype))
    names = (name for name, need in zip(case.OPERANDS, case.asked) if need)
    return {"out": out.detach(), **dict(zip(names, grads))}


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
        checked: how much was compared, in the suite's unit
        value: deviation of its result, over the largest exact value
        gradient: the largest one of its gradients'
    """

    wrong: str | None
    checked: int
    value: float | None = None
    gradient: float | None = None


class Gate:
    """Checks implementations of one case; the reference runs once.

    Args:
        suite: the benchmark
        case: what will be timed
        full: check the case as it is and not a reduced one
    """

    def __init__(self, suite: Suite, case: Case, full: bool = False) -> None:
        self._reference = reference(suite)
        self._case = case
        self._checked = case if full else case.shrink(REDUCED_FLOPS)
        self._cache: dict[Case, tuple[dict[str, torch.Tensor], dict[str, float]]] = {}

    def check(self, implementation: Implementation) -> Verdict:
        """Compare with the reference. A plan that does not run the reduced case is checked on the full one."""
        case = self._checked if implementation.refuses(self._checked) is None else self._case
        if implementation.own is not None:
            return self._runs(implementation, case)
        exact, bounds = self._exact(case)
        try:
            found = evaluate(implementation.function, case, arrange=implementation.arrange)
        except Exception as error:  # a compiler may raise anything; the others are measured all the same
            return Verdict(f"raised {type(error).__name__}: {error}", case.checked)
        for name, x in exact.items():
            if found[name].shape != x.shape:
                return Verdict(f"{name} has shape {list(found[name].shape)} and not {list(x.shape)}", case.checked)
        off = errors(found, exact)
        wrong = [
            f"{name} is off by {error:.1e} of the largest value (bound {bounds[name]:.1e})"
            for name, error in off.items()
            if not error <= bounds[name]
        ]
        return Verdict("; ".join(wrong) or None, case.checked, off.pop("out"), max(off.values()))

    def _runs(self, implementation: Implementation, case: Case) -> Verdict:
        """Of a way that computes something else: a result of the right shape and finite numbers, gradients that are not zero."""
        try:
            found = evaluate(implementation.function, case, arrange=implementation.arrange, own=implementation.own)
        except Exception as error:  # another package may raise anything
            return Verdict(f"raised {type(error).__name__}: {error}", case.checked)
        shape = case.cotangent().shape
        if found["out"].shape != shape:
            return Verdict(f"out has shape {list(found['out'].shape)} and not {list(shape)}", case.checked)
        wrong = [name for name, x in found.items() if not x.isfinite().all() or not x.any()]
        return Verdict(f"{', '.join(wrong)}: zero or not finite" if wrong else None, case.checked)

    def _exact(self, case: Case) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        if case not in self._cache:
            exact = evaluate(self._reference, case, torch.float64)
            if case.torch_dtype.itemsize < 4:
                rounding = torch.finfo(case.torch_dtype).eps / 2
                own = errors(evaluate(self._reference, case), exact)
                bounds = {name: 2 * error + rounding for name, error in own.items()}
            elif case.tf32:
                bounds = dict.fromkeys(exact, TF32_BOUND)
            else:
                bounds = {name: VALUE_BOUND if name == "out" else GRADIENT_BOUND for name in exact}
            self._cache[case] = exact, bounds
        return self._cache[case]
