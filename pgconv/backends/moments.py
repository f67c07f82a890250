"""What point convolutions make of the moments ``M[b,i,h,c]`` of their features, which backends form some outputs at a time.

The gradients of signal and head come from the moments of the adjoint problem, in which inputs and outputs change places:
``P[b,j,h,o] = sum_i phi_h(v_j^-1 u_i) grad[b,i,o]``, ``df[b,j,c] = sum_{o,h} W[o,c,h] P``, ``dW[o,c,h] = sum_{b,j} f P``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pgconv.spec import Facts, FeatureSpec

Parts = Iterable[tuple[Any, Tensor]]
"""Which examples and outputs, and their moments ``[examples,rows,H,C]`` in the signal's dtype."""

Moments = Callable[[Tensor, Tensor, Tensor, Tensor, FeatureSpec], Iterable[tuple[slice, Tensor]]]
"""Of f, v, u, params and spec: rows and their moments ``[B,rows,H,C]``."""


MOST_INPUTS = {"float16": 1 << 14}
"""Sums over more inputs, and the factor that makes them means, leave the range of the type."""


def why_not_inputs(facts: Facts) -> str | None:
    """The reason why a call sums over too many inputs, or None."""
    signal, outputs = facts.dtypes[0], max(1, facts.size("B") * facts.size("Nu"))
    inputs = -(-facts.size("pairs") // outputs)  # of an output; all, where nothing is known of the lists
    if inputs > MOST_INPUTS.get(signal, inputs):
        return f"sums over {inputs} inputs leave the range of {signal}; bfloat16 has it"
    return None


def weighed(parts: Parts, out: Tensor, weight: Tensor, depthwise: bool) -> Tensor:
    """``out[b,i,o] = sum_{c,h} W[o,c,h] M[b,i,h,c]``."""
    for part, moments in parts:
        out[part] = _weighed(moments, weight, depthwise)
    return out


def signal_and_head(
    need_f: bool, need_weight: bool, parts: Parts, f: Tensor, weight: Tensor, depthwise: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients, from the parts of the adjoint problem."""
    turned = weight if depthwise else weight.transpose(0, 1)
    grad_f = torch.empty_like(f) if need_f else None
    total = torch.zeros(turned.shape, device=f.device) if need_weight else None
    for part, moments in parts if need_f or need_weight else ():
        if grad_f is not None:
            grad_f[part] = _weighed(moments, turned, depthwise)
        if total is None:
            continue
        if depthwise:
            total += (moments * f[part][:, :, None]).sum((0, 1), dtype=torch.float32).t()
        else:
            columns = f[part].flatten(0, 1).t() @ moments.flatten(2).flatten(0, 1)
            total += columns.unflatten(1, moments.shape[2:]).transpose(1, 2)
    return grad_f, total if depthwise or total is None else total.transpose(0, 1)


def value(parts: Iterable, sums: Callable[[], Tensor], operands: Sequence[Tensor | None], depthwise: bool) -> Tensor:
    """``[B,Nu,O]`` from the moments of some outputs at a time; ``sums`` gives the sums of the signal that belong to the bias."""
    f, _, u, _, weight, bias = operands
    out = f.new_empty(f.shape[0], u.shape[1], weight.shape[0])
    weighed(parts, out, weight, depthwise)
    if bias is not None:
        out += sums() * bias if depthwise else sums() @ bias.t()
    return out


def all_inputs(moments: Moments, operands: Sequence[Tensor | None], spec: FeatureSpec, depthwise: bool) -> Tensor:
    """Where outputs sum over all inputs: so does the bias, alike for all."""
    f, *call, _, _ = operands
    return value(_all_examples(moments(f, *call, spec)), lambda: f.sum(1, keepdim=True), operands, depthwise)


def all_inputs_gradients(
    needs: Sequence[bool],
    moments: Moments,
    grad: Tensor,
    operands: Sequence[Tensor | None],
    spec: FeatureSpec,
    depthwise: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of f, weight and bias."""
    f, v, u, params, weight, bias = operands
    parts = _all_examples(moments(grad, u, v, params, spec.adjoint))
    grad_f, grad_weight = signal_and_head(needs[0], needs[4], parts, f, weight, depthwise)
    if bias is None:
        return grad_f, grad_weight, None
    total, sums = grad.sum(1), f.sum(1)
    if grad_f is not None:
        grad_f += (total * bias if depthwise else total @ bias)[:, None]
    return grad_f, grad_weight, (total * sums).sum(0) if depthwise else total.t() @ sums


def _all_examples(rows: Iterable[tuple[slice, Tensor]]) -> Parts:
    return (((slice(None), own), moments) for own, moments in rows)


def _weighed(moments: Tensor, weight: Tensor, depthwise: bool) -> Tensor:
    if depthwise:
        return (moments * weight.t()).sum(-2)
    return moments.flatten(2) @ weight.transpose(1, 2).flatten(1).t()
