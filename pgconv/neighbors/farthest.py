"""Subsampling that covers a set of elements evenly."""

from __future__ import annotations

import torch
from torch import Tensor

from pgconv._shapes import check_positive_int, check_same_device
from pgconv.functional._kernel import check_elements
from pgconv.groups import Group
from pgconv.groups.base import uniforms
from pgconv.neighbors._arguments import broadcast_size, check_generator, check_metric, check_size, present


def farthest_points(
    x: Tensor,
    group: str | Group,
    count: int,
    *,
    start: int = 0,
    stabilizer_weight: float = 1.0,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Farthest-point sampling: every next one maximises the distance to those chosen, ``i_k = argmax_i min_(l<k) d(x_il, x_i)``.

    ``d(v, u) = |t| + stabilizer_weight |log h|`` with ``(t, h) = v^-1 u``; of equally far elements the one with the smaller number.

    Args:
        x: elements ``[S, N, e]``, float32 or float64
        group: name or ``Group``
        count: from 1 to N
        start: which of the elements that are there comes first, from 0 to N - 1 (the last one, if they are fewer)
        stabilizer_weight: how much the stabiliser's part counts
        mask: boolean ``[S|1, N]``, False for elements that are not there; those and elements with a NaN are chosen last, by number,
            where fewer than ``count`` are there
        generator: draws the first element of every example uniformly; ``start`` is then not used

    Returns:
        numbers of the chosen elements ``[S, count]``, in the order of choice, no number twice

    Raises:
        ValueError: for a wrong shape, dtype, device or number, and values that are not group elements or whose distances overflow

    Time is proportional to ``N count``, memory to ``N + count``. No gradient flows through the choice.

    Source: Eldar et al., "The farthest point strategy for progressive image sampling" (1997).

    Example:
        >>> import torch, pgconv
        >>> x = torch.tensor([[[0.0], [1.0], [4.0], [6.0]]])
        >>> pgconv.neighbors.farthest_points(x, "T(1)", 3)
        tensor([[0, 3, 2]])
    """
    op = "farthest_points"
    count = check_positive_int(op, "count", count)
    start = check_positive_int(op, "start", start, minimum=0)
    check_generator(op, generator)
    metric = check_metric(op, group, stabilizer_weight)
    axes: dict = {"S": (1, broadcast_size(x, mask))}
    elements = check_elements(op, metric.group, "x", x, dict(axes), "S N e")
    check_same_device(op, x=x, mask=mask)
    n, device = x.shape[1], x.device
    there = present(op, mask, elements, "S N", axes | {"N": n})
    check_size(op, "x", elements, there)
    for name, value, last in (("count", count, n), ("start", start, n - 1)):
        if value > last:
            raise ValueError(f"{op}: {name} must be at most {last} for the {n} elements of x, received {value}")
    # Those that are not there stand at the identity, so that their distances are numbers; nothing reads them.
    elements = torch.where(there[..., None], elements.detach().double(), metric.group.identity(torch.float64, device))
    s = broadcast_size(x, mask)
    there = there.expand(s, -1)
    # Distance to those chosen: infinite at first, -1 where nothing is, -inf once chosen.
    gap = torch.full((s, n), torch.inf, dtype=torch.float64, device=device).masked_fill(~there, -1.0)
    example, number = torch.arange(s, device=device), torch.arange(n, device=device)
    chosen = torch.empty(s, count, dtype=torch.long, device=device)
    chosen[:, 0] = _first(there, start, generator)
    for k in range(count):
        if k > 0:
            chosen[:, k] = torch.where(gap == gap.amax(-1, keepdim=True), number, n).amin(-1)
        last = chosen[:, k]
        gap = torch.minimum(gap, metric.distance(elements[example, last][:, None], elements))
        gap[example, last] = -torch.inf
    return chosen


def _first(there: Tensor, start: int, generator: torch.Generator | None) -> Tensor:
    """The element of that rank among those that are there, or one at random, ``[S]``; 0 where nothing is."""
    size = there.sum(-1)
    rank = torch.full_like(size, start)
    if generator is not None:
        rank = (uniforms(len(size), 1, generator)[:, 0].to(size.device) * size).long()
    rank = torch.minimum(rank, (size - 1).clamp(min=0))
    return (there.cumsum(-1) <= rank[:, None]).sum(-1) % there.shape[-1]
