"""Arguments of the search, checked, and brought into one form."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pgconv import groups
from pgconv._shapes import check_mask, check_same_device, describe, values_can_be_read
from pgconv.functional._kernel import check_elements
from pgconv.groups import Group
from pgconv.groups.base import FixedSequence

# An element is this far from itself, at most, by the rounding of v^-1 v.
TINY = 1e-14
# Squares of distances between smaller numbers are numbers, in float64.
HUGE = 1e150


class Metric(NamedTuple):
    """A group and the weight of the stabiliser's part in its distance."""

    group: Group
    stabilizer_weight: float

    def distance(self, v: Tensor, u: Tensor) -> Tensor:
        """``d(v, u)`` of broadcast elements in float64, infinite where it is not a number.

        Rounded to 32 significant bits, and to 0 below 1e-14: what differs by rounding alone is equal, so that ties and a radius
        met exactly are decided in the same way however the pairs are laid out and however the samples have been moved.
        """
        # Groups of a user's own may leave the weight out of their distance as long as none is asked for.
        weight = () if self.stabilizer_weight == 1 else (self.stabilizer_weight,)
        d = rounded(self.group.distance(v, u, *weight))
        return d.masked_fill(d < TINY, 0.0).nan_to_num(nan=torch.inf, posinf=torch.inf)


class Sets(NamedTuple):
    """Inputs ``v`` and outputs ``u`` ``[S|1, N, e]`` in float64, and which inputs are there, ``[S|1, Nv]``."""

    metric: Metric
    v: Tensor
    u: Tensor
    there: Tensor

    @property
    def examples(self) -> int:
        return broadcast_size(self.v, self.u, self.there)


def rounded(x: Tensor) -> Tensor:
    """``x`` to 32 significant bits."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 2.0**32), exponent - 32)


def broadcast_size(*tensors: object) -> int:
    """First size of those that is not 1, of the tensors that have one."""
    sizes = [t.shape[0] for t in tensors if isinstance(t, Tensor) and t.dim()]
    return next((n for n in sizes if n != 1), 1)


def check_sets(op: str, v: object, u: object, group: object, stabilizer_weight: object, mask: object) -> Sets:
    """Elements of one group with as many examples, or one for all; those that are masked or hold a NaN are not there."""
    metric = check_metric(op, group, stabilizer_weight)
    axes = {"S": (1, broadcast_size(v, u, mask))}
    elements = check_elements(op, metric.group, "v", v, dict(axes), "S Nv e")
    outputs = check_elements(op, metric.group, "u", u, dict(axes), "S Nu e")
    check_same_device(op, v=elements, u=outputs, mask=mask)
    there = present(op, mask, elements, "S Nv", axes | {"Nv": elements.shape[1]})
    check_size(op, "v", elements, there)
    check_size(op, "u", outputs)
    return Sets(metric, elements.detach().double(), outputs.detach().double(), there)


def check_metric(op: str, group: object, stabilizer_weight: object) -> Metric:
    """A group by name or as it is, and a weight that is not negative."""
    return Metric(groups.get(group), check_number(op, "stabilizer_weight", stabilizer_weight))


def present(op: str, mask: object, elements: Tensor, pattern: str, axes: dict) -> Tensor:
    """Which elements are there: those that are numbers and not masked."""
    there = elements.isfinite().all(-1)
    return there if mask is None else there & check_mask(op, mask, pattern, axes)


def check_size(op: str, name: str, elements: Tensor, there: Tensor | None = None) -> None:
    """No element that is there is so large that its distances overflow."""
    if elements.dtype != torch.float64 or not values_can_be_read(elements):
        return
    huge = elements.isfinite() & (elements.abs() > HUGE)
    if (huge if there is None else huge & there[..., None]).any():
        raise ValueError(
            f"{op}: {name} must have numbers up to {HUGE:.0e}, beyond which distances overflow, received "
            f"{elements[elements.isfinite()].abs().max():.3g}; scale the elements down"
        )


def check_number(op: str, name: str, value: object) -> float:
    """``value`` as a finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{op}: {name} must be a finite number >= 0, received {describe(value)}")
    return float(value)


def check_generator(op: str, generator: object) -> None:
    """None or what random numbers come from."""
    if generator is not None and not isinstance(generator, (torch.Generator, FixedSequence)):
        raise ValueError(f"{op}: generator must be a torch.Generator or None, received {describe(generator)}")
