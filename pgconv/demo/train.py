"""Training and evaluation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pgconv
from pgconv.demo.data import Digits, batch, rotate, to_input
from pgconv.sampling import Sampler, anneal


def parameter_groups(net: nn.Module, lr: float, range_lr: float, gate_lr: float) -> list[dict]:
    """Weights, learned arcs and learned gates have learning rates of their own: all layers hang on the few of the latter."""
    arcs, gates = [], []
    for module in net.modules():
        if isinstance(module, Sampler):
            for name, parameter in module.named_parameters(recurse=False):
                (arcs if name == "theta" else gates).append(parameter)
    special = {id(p) for p in (*arcs, *gates)}
    rest = [p for p in net.parameters() if id(p) not in special]
    return [{"params": group, "lr": rate} for group, rate in ((rest, lr), (arcs, range_lr), (gates, gate_lr)) if group]


def fit(
    net: nn.Module,
    digits: Digits,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    range_lr: float,
    gate_lr: float,
    rotation: float,
    seed: int,
    progress: Callable[[float], None],
) -> list[float]:
    """Train, turning images at random within ``rotation`` degrees before they are transformed; returns the losses."""
    generator = torch.Generator().manual_seed(seed)
    steps_per_epoch = max(1, len(digits.train) // (batch_size // 2))
    total = epochs * steps_per_epoch
    optimizer = torch.optim.Adam(parameter_groups(net, lr, range_lr, gate_lr))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in optimizer.param_groups], total_steps=total, pct_start=0.1
    )
    losses = []
    net.train()
    for step in range(total):
        if step % steps_per_epoch == 0:
            order = torch.randperm(len(digits.train), generator=generator)
        start = (step % steps_per_epoch) * (batch_size // 2)
        chosen = digits.train[order[start : start + batch_size // 2]]
        degrees = (2 * torch.rand(len(chosen), generator=generator) - 1) * rotation
        images, labels = batch(digits.task, chosen, degrees)
        anneal(net, step / total)
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        progress(losses[-1])
    return losses


@torch.no_grad()
def accuracy(net: nn.Module, digits: Digits) -> float:
    """Share of right answers on the held-out digits, upright and transformed."""
    net.eval()
    images, labels = batch(digits.task, digits.test)
    return (net(images).argmax(1) == labels).double().mean().item()


@torch.no_grad()
def probability_of_six(net: nn.Module, fine: Tensor, degrees: list[float]) -> Tensor:
    """Mean probability of the untransformed class for held-out digits turned by each angle."""
    net.eval()
    return torch.stack([F.softmax(net(to_input(rotate(fine, d))), 1)[:, 0].mean() for d in degrees])


@torch.no_grad()
def class_difference(net: nn.Module, digits: Digits) -> float:
    """Largest difference of logits between an image and its transformed self, relative to the largest logit."""
    net.eval()
    images, _ = batch(digits.task, digits.test)
    a, b = net(images).chunk(2)
    return ((a - b).abs().max() / a.abs().max()).item()


def time_steps(
    net: nn.Module, digits: Digits, batch_size: int, ways: list[tuple[str | None, str | None]], rounds: int
) -> list[float]:
    """Median milliseconds of a training step for each backend and evaluation order, rounds interleaved."""
    images, labels = batch(digits.task, digits.train[: batch_size // 2])
    net.train()
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds + 1):
        for slot, way in zip(times, ways):
            with pgconv.use_backend(*way):
                begin = time.perf_counter()
                F.cross_entropy(net(images), labels).backward()
                elapsed = time.perf_counter() - begin
            net.zero_grad(set_to_none=True)
            if turn > 0:
                slot.append(1e3 * elapsed)
    return [statistics.median(slot) for slot in times]
