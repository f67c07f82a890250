"""Training: steps, epochs, the best network, and the way back after an end that was not planned.

Orders, group samples and dropout of a step are drawn from the seed and the step's number alone, so that a run that was resumed goes
the way it would have gone. All processes draw the same samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgconv.data import Split, Task
from pgconv.demo.terminal import made
from pgconv.models import gate_probabilities, learned_ranges, monotone_loss, parameter_groups
from pgconv.sampling import Sampler, anneal
from pgconv.train import checkpoint
from pgconv.train.config import Config
from pgconv.train.world import World

LAST_LR = 1e-6
"""Where the cosine ends."""
EVALUATED = 256
"""Images at a time, where nothing is learned."""
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
Progress = Callable[[int, int, float], None]
"""Called with the step, the number of steps of the run, and the loss."""


@dataclass
class Best:
    """The best network so far by accuracy, then by loss, on images that are not trained on."""

    accuracy: float = -1.0
    loss: float = math.inf
    epoch: int = -1
    network: dict[str, Tensor] = field(default_factory=dict)

    def beaten_by(self, accuracy: float, loss: float) -> bool:
        """Whether these are better."""
        return (accuracy, -loss) > (self.accuracy, -self.loss)


class Trainer:
    """A run in a folder; with the folder of one that was not finished it goes on there.

    Args:
        config: what is done
        task: its data
        world: the processes
        folder: where checkpoints and tables are written; None: nowhere
        compiled: whether the network runs under ``torch.compile``
    """

    def __init__(
        self, config: Config, task: Task, world: World, folder: Path | None = None, compiled: bool = False
    ) -> None:
        if config.batch_size % world.size:
            raise ValueError(
                f"train: batch_size must be a multiple of the {world.size} processes, received {config.batch_size}"
            )
        self.config, self.task, self.world, self.folder = config, task, world, folder
        torch.manual_seed(config.seed)
        self.network = config.make_network(task).to(world.device)
        own = parameter_groups(self.network, config.lr, config.range_lr, config.omega_lr)
        self.rates = [group["lr"] for group in own]
        self.optimizer = torch.optim.Adam(own)
        run = torch.compile(self.network) if compiled else self.network
        self._run = world.wrap(run)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=config.precision == "float16")
        self.batch_size = min(config.batch_size, len(task.train) - len(task.train) % world.size)
        self.epoch, self.best, self.history = 0, Best(), []
        self.validation = task.validation if len(task.validation) else task.test
        if folder is not None:
            made("train: folder (--out)", folder)
            if (folder / checkpoint.LAST).exists():
                self._resume(checkpoint.load(folder / checkpoint.LAST, world.device))

    @property
    def steps(self) -> int:
        """Of an epoch, whose last, incomplete batch is left out."""
        return max(1, len(self.task.train) // self.batch_size)

    @property
    def over(self) -> bool:
        """Whether all epochs were run, or nothing got better for long."""
        return self.epoch >= self.config.epochs or self.epoch - 1 - self.best.epoch >= self.config.patience

    def fit(self, progress: Progress | None = None, finished: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Train to the end and leave the best network; ``finished`` is called with a row of the table after each epoch."""
        while not self.over:
            begin = time.perf_counter()
            loss, accuracy = self._epoch(progress)
            own = self.evaluate(self.validation)
            row = {
                "epoch": self.epoch,
                "loss": loss,
                "accuracy": accuracy,
                "validation_loss": own[1],
                "validation_accuracy": own[0],
            }
            row["seconds"] = time.perf_counter() - begin
            for name, learned in learned_ranges(self.network).items():
                row[f"theta {name}"] = learned["theta"][0]
            self.history.append(row)
            better = self.best.beaten_by(*own)
            if better:
                copies = {name: x.detach().cpu().clone() for name, x in self.network.state_dict().items()}
                self.best = Best(*own, self.epoch, copies)
            self.epoch += 1
            self._write(better)
            if finished is not None:
                finished(row)
        if self.best.network:
            self.network.load_state_dict(self.best.network)

    def _epoch(self, progress: Progress | None) -> tuple[float, float]:
        self.network.train()
        order = torch.randperm(
            len(self.task.train), generator=torch.Generator().manual_seed(_mixed(self.config.seed, self.epoch))
        )
        total = torch.zeros(3, dtype=torch.float64, device=self.world.device)
        for number in range(self.steps):
            rows = self.world.share(order[number * self.batch_size : (number + 1) * self.batch_size])
            images, labels = (x.to(self.world.device) for x in self.task.train[rows])
            step = self.epoch * self.steps + number
            loss, right = self.step(step, images, labels)
            total += torch.stack([loss.double(), right.double(), right.new_tensor(len(labels)).double()])
            if progress is not None:
                # Waits for the device now and then, not in each step.
                progress(step + 1, self.config.epochs * self.steps, float(loss) if number % 10 == 0 else math.nan)
        loss, right, count = self.world.sum(total).tolist()
        return loss / (self.steps * self.world.size), right / count

    def step(self, step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the optimiser. Returns the loss and the number of right answers."""
        config = self.config
        torch.manual_seed(_mixed(config.seed + 1, step))
        anneal(self.network, step / (config.epochs * self.steps))
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = self.rate(step, rate)
        factors = (config.weight_penalty, config.gate_penalty)
        penalised = any(factors)
        with self._cast():
            found = self._run(images, with_penalty=True) if penalised else self._run(images)
        logits, penalties = found if penalised else (found, ())
        loss = F.cross_entropy(logits.float(), labels)
        for factor, penalty in zip(factors, penalties):
            if factor:
                loss = loss + factor * penalty
        if config.monotone:
            loss = loss + config.monotone * monotone_loss(self.network)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if config.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def rate(self, step: int, rate: float) -> float:
        """The learning rate of a step, for a group with this one."""
        config = self.config
        if config.schedule == "constant":
            return rate
        # Lengths count the incomplete batch that is left out, as the published runs do.
        steps = -(-len(self.task.train) // self.batch_size)
        warm = config.warmup_epochs * steps
        if step < warm:
            return rate * step / warm
        done = min(1.0, (step - warm) / max(1, (config.epochs - config.warmup_epochs) * steps))
        return LAST_LR + (rate - LAST_LR) * 0.5 * (1 + math.cos(math.pi * done))

    @torch.no_grad()
    def evaluate(self, split: Split, draws: bool = False) -> tuple[float, float]:
        """Share of right answers and mean loss, on the fixed grids of samples, or with ``draws`` on random ones as in training."""
        self.network.eval()
        for module in self.network.modules():
            if draws and isinstance(module, Sampler):
                module.train()
        rows = self.world.share(torch.arange(len(split)))
        total = torch.zeros(3, dtype=torch.float64, device=self.world.device)
        for part in rows.split(EVALUATED):
            images, labels = (x.to(self.world.device) for x in split[part])
            with self._cast():
                logits = self.network(images)
            loss = F.cross_entropy(logits.float(), labels, reduction="sum")
            total += torch.stack(
                [(logits.argmax(1) == labels).sum().double(), loss.double(), loss.new_tensor(len(labels)).double()]
            )
        right, loss, count = self.world.sum(total).tolist()
        return right / count, loss / count

    def test(self, draws: int = 10) -> dict[str, float]:
        """Accuracy on the test images: on the fixed grids, and mean and spread over random draws of all samples: predictions
        are made from the largest response over samples, so they depend on these."""
        found = {"accuracy": self.evaluate(self.task.test)[0]}
        torch.manual_seed(_mixed(self.config.seed + 2, 0))
        drawn = torch.tensor([self.evaluate(self.task.test, draws=True)[0] for _ in range(draws)], dtype=torch.float64)
        if draws:
            found |= {"mean": drawn.mean().item(), "std": drawn.std(correction=0).item(), "draws": draws}
        return found

    def gates(self) -> dict[str, dict[str, list[float]]]:
        """By sampler whose gates depend on the input, the mean over the first test images of each element's probability to be kept,
        and its spread between images."""
        found = gate_probabilities(self.network, self.task.test[torch.arange(min(EVALUATED, len(self.task.test)))][0])
        return {
            name: {"kept": p.mean(0).tolist(), "spread": p.std(0, correction=0).tolist()} for name, p in found.items()
        }

    def _cast(self) -> AbstractContextManager:
        half = HALVES.get(self.config.precision)
        return nullcontext() if half is None else torch.autocast(self.world.device.type, half)

    def _write(self, better: bool) -> None:
        if self.folder is None or not self.world.first:
            return
        checkpoint.save(
            self.folder / checkpoint.LAST,
            {
                "config": asdict(self.config),
                "epoch": self.epoch,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "best": asdict(self.best),
                "history": self.history,
            },
        )
        if better:
            checkpoint.save(
                self.folder / checkpoint.BEST, {"config": asdict(self.config), "network": self.best.network}
            )
        checkpoint.write_table(self.folder / "epochs.csv", self.history)

    def _resume(self, state: dict[str, Any]) -> None:
        own = asdict(self.config)
        differ = sorted(key for key in own if key != "epochs" and _plain(own[key]) != _plain(state["config"].get(key)))
        if differ:
            raise ValueError(
                f"train: {self.folder} has a run with other settings ({', '.join(differ)}); choose another folder, or the same "
                "settings"
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.history = state["epoch"], state["history"]
        best = state["best"]
        self.best = Best(
            best["accuracy"], best["loss"], best["epoch"], {k: x.cpu() for k, x in best["network"].items()}
        )


def _plain(value: Any) -> Any:
    """Lists and tuples alike, as files do not keep them apart."""
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    return [_plain(x) for x in value] if isinstance(value, (list, tuple)) else value


def _mixed(seed: int, number: int) -> int:
    """A seed for a part of a run."""
    return (seed * 1_000_003 + number * 7919 + 12345) % (1 << 62)
