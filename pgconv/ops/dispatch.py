"""From a request ("this backend", "this order", "whatever is best") to the function that runs a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from pgconv import backends
from pgconv._env import default_backend
from pgconv._shapes import check_choice
from pgconv.ops import plan as planner
from pgconv.ops import rates
from pgconv.spec import ORDERS, Facts, Plan

_active: list[tuple[str | None, str | None]] = []
_recorders: list[Callable[[Facts, Plan, Plan], None]] = []


@contextmanager
def use_backend(name: str | None, order: str | None = None) -> Iterator[None]:
    """Run every call inside the block on one backend; ``None`` means the best one for each call.

    A named backend that cannot run a call raises a ``ValueError`` with its reason instead of falling back. The choice is for all
    threads of the process, of which autograd has its own; of several open blocks the latest holds.

    Args:
        name: ``"cuda"``, ``"triton"``, ``"cpp"``, ``"reference"`` or None
        order: evaluation order for the image convolutions inside the block, e.g. ``"materialize"`` for what plain
            PyTorch does; ``plan=`` of a function goes before

    Raises:
        ValueError: for an unknown name or order

    Example:
        >>> import torch, pgconv
        >>> conv = pgconv.nn.LiftingConv2d(1, 4, kernel_size=3, group="SE(2)", num_samples=4).eval()
        >>> x = torch.ones(1, 1, 5, 5)
        >>> with pgconv.use_backend("reference"):
        ...     y, samples = conv(x)
        >>> torch.allclose(y, conv(x)[0], atol=1e-6)
        True
    """
    if name is not None:
        backends.load(name)
    if order is not None:
        check_choice("use_backend", "order", order, ORDERS)
    entry = name, order
    _active.append(entry)
    try:
        yield
    finally:
        # Not the latest where blocks end in another order, as in threads.
        for place in reversed(range(len(_active))):
            if _active[place] == entry:
                del _active[place]
                break


def request(op: str, backend: str | None = None, order: str | None = None) -> str:
    """Text of the plan asked for: the argument, else ``use_backend``, else ``PGCONV_BACKEND``, else automatic."""
    active_name, active_order = _active[-1] if _active else (default_backend(), None)
    name = active_name if backend is None else backend
    if order is None and op == "group_conv2d":
        order = active_order
    # A compiler follows no imports; what it takes part of here is looked at when the operator runs.
    if name is not None and not torch.compiler.is_compiling():
        known = backends.load(name).orders(op)
        if order is not None and order not in known:
            raise ValueError(
                f"{op}: plan must be one of {', '.join(map(repr, known))} on backend {name!r} "
                f"(or None for the best), received {order!r}"
            )
    return str(Plan(name or "auto", order or "auto"))


@lru_cache(maxsize=4096)
def resolve(facts: Facts, asked: Plan, direction: str = "forward") -> Plan:
    """The plan taken in a direction. Pure: the same facts, request and rates give the same plan."""
    if asked.backend != "auto":
        backend = backends.load(asked.backend)
        reason = backend.unavailable(facts.device)
        orders = backend.orders(facts.op) if asked.order == "auto" else (asked.order,)
        refusals, runnable = [], []
        for order in orders if reason is None else ():
            refusal = backend.why_not(facts, order)
            if refusal is None:
                runnable.append(Plan(backend.name, order))
            else:
                refusals.append(refusal)
        if runnable:
            runnable = runnable if backend.planned else runnable[:1]
            return planner.cheapest(facts, runnable, rates.current(facts.device), direction)
        reason = reason or "; ".join(refusals) or f"it has no implementation of {facts.op}"
        raise ValueError(
            f"{facts.op}: backend {backend.name!r} cannot run this call: {reason}. Use backend=None for one that can"
        )
    # In turn, and no further than needed: some backends take a while to load.
    for name in backends.NAMES:
        if facts.device in backends.load(name).only_by_name:
            continue
        orders = (plan for plan, why in _candidates(facts, name) if why is None)
        plans = [plan for plan in orders if asked.order in ("auto", plan.order)]
        if plans:
            return planner.cheapest(facts, plans, rates.current(facts.device), direction)
    raise ValueError(f"{facts.op}: no backend evaluates the order {asked.order!r} for this call; use plan=None")


@lru_cache(maxsize=4096)
def bias_apart(facts: Facts, asked: Plan) -> bool:
    """Whether a call of the image convolution on a GPU and a small convolution for the head's bias take less, forward and
    backward, than the call with one more feature."""
    wider = replace(facts, sizes=tuple((name, size + (name == "Hb")) for name, size in facts.sizes))
    machine, saved = rates.current(facts.device), 0.0
    for direction in planner.DIRECTIONS:
        try:
            inside, apart = (resolve(call, asked, direction) for call in (wider, facts))
        except ValueError:
            return False  # The call itself will say why.
        if {inside.backend, apart.backend} not in ({"cuda"}, {"triton"}):
            return False
        saved += planner.seconds(wider, inside, machine, direction) - planner.seconds(facts, apart, machine, direction)
        saved -= planner.bias_seconds(facts, machine, direction)
    return saved > 0


def candidates(facts: Facts) -> list[tuple[Plan, str | None]]:
    """Every backend and order with the reason why it cannot run the call, or None; best backend first."""
    return [found for name in backends.NAMES for found in _candidates(facts, name)]


def _candidates(facts: Facts, name: str) -> list[tuple[Plan, str | None]]:
    backend = backends.load(name)
    missing = backend.unavailable(facts.device)
    return [(Plan(name, order), missing or backend.why_not(facts, order)) for order in backend.orders(facts.op)]


@contextmanager
def recording(recorder: Callable[[Facts, Plan, Plan], None]) -> Iterator[None]:
    """Tell ``recorder`` the facts, the plan asked for and the plan taken of every forward call inside the block."""
    _recorders.append(recorder)
    try:
        yield
    finally:
        _recorders.remove(recorder)


def run(op: str, facts: Facts, asked: Plan, args: Sequence[Any]) -> torch.Tensor:
    """Run the forward of an operation."""
    plan = resolve(facts, asked)
    for recorder in _recorders:
        recorder(facts, asked, plan)
    return backends.load(plan.backend).function(op)(plan.order, *args)


def run_backward(
    op: str, facts: Facts, asked: Plan, needs: Sequence[bool], grad: torch.Tensor, args: Sequence[Any]
) -> Sequence[torch.Tensor | None]:
    """Run the backward of an operation: one gradient (or None) for each differentiable tensor.

    Its order is chosen for itself: every order gives the same derivative.
    """
    plan = resolve(facts, asked, "backward")
    return backends.load(plan.backend).function(f"{op}_backward")(plan.order, tuple(needs), grad, *args)
