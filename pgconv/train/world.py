"""The processes that train together."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pgconv._env import launched


@dataclass(frozen=True)
class World:
    """Number of this process, how many there are, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """Every ``size``-th of a batch's rows, from the own on."""
        return rows[self.rank :: self.size]

    def wrap(self, network: nn.Module) -> nn.Module:
        """A network whose gradients are the mean over all processes."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.device] if self.device.type == "cuda" else None)

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values


def check_device(kind: str) -> None:
    """Refuses a GPU where there is none."""
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device must be 'cpu' where PyTorch finds no GPU, received 'cuda'")


@contextmanager
def joined(device: str | None = None) -> Iterator[World]:
    """The world that ``torchrun`` describes in the environment, or a single process: gloo on CPUs, NCCL on GPUs."""
    rank, size, local = launched()
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(kind)
    own = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if size == 1:
        yield World(0, 1, own)
        return
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo", rank=rank, world_size=size)
    try:
        yield World(rank, size, own)
        # Work of networks that are gone is over, and nobody takes connections away that others still close.
        gc.collect()
        distributed.barrier()
    finally:
        distributed.destroy_process_group()
