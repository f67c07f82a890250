"""Training and evaluation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.digits_as_points.data import Points


def steps_per_epoch(digits: Points, batch_size: int) -> int:
    """Batches of an epoch; the last, smaller one is left out unless it is the only one."""
    return max(1, len(digits) // batch_size)


def fit(
    net: nn.Module,
    digits: Points,
    *,
    rotated: bool,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    progress: Callable[[float], None],
) -> None:
    """Train on the digits as they are, or each turned by a random angle every time it is seen."""
    torch.manual_seed(seed)  # of the order, the angles, and the elements that the lift draws
    steps = steps_per_epoch(digits, batch_size)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps, pct_start=0.2)
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(digits))
        for step in range(steps):
            batch = digits[order[step * batch_size : (step + 1) * batch_size]]
            if rotated:
                batch = batch.rotated(360 * torch.rand(len(batch)))
            loss = F.cross_entropy(net(batch.x, batch.f, batch.mask), batch.labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            progress(loss.item())


@torch.no_grad()
def predict(net: nn.Module, digits: Points, batch_size: int = 128) -> Tensor:
    """Class of every digit ``[n]``."""
    net.eval()
    parts = [digits[i : i + batch_size] for i in range(0, len(digits), batch_size)]
    return torch.cat([net(part.x, part.f, part.mask).argmax(1) for part in parts])


def accuracy(net: nn.Module, digits: Points) -> float:
    """Share of right answers."""
    return (predict(net, digits) == digits.labels).double().mean().item()


def accuracy_by_angle(net: nn.Module, digits: Points, degrees: list[int]) -> list[float]:
    """Accuracy on the digits turned by each angle; one turn later is the same."""
    known: dict[int, float] = {}
    for d in degrees:
        if d % 360 not in known:
            known[d % 360] = accuracy(net, digits.rotated(float(d)))
    return [known[d % 360] for d in degrees]
