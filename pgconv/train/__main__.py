"""``python -m pgconv.train RUN [key=value ...]``, also ``pgconv train``."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from pgconv import data
from pgconv.demo.terminal import whole
from pgconv.models import learned_ranges
from pgconv.ops.dispatch import use_backend
from pgconv.spec import ORDERS
from pgconv.train import configs
from pgconv.train.loop import Progress, Trainer
from pgconv.train.progress import bar
from pgconv.train.world import World, joined

ABOUT = """Train a network of the published experiments, or change it with key=value: epochs=20, batch_size=32, lr=1e-3, seed=1,
precision=bfloat16, network.width=16, network.num_samples=4, task.validation=0.2, ... A run that ended early goes on where its
folder ends when the same command is given again. torchrun --nproc-per-node 2 -m pgconv.train ... trains with several processes."""


def main(arguments: list[str] | None = None) -> int:
    """Returns 0, or 2 for a command that cannot be run."""
    parser = argparse.ArgumentParser(prog="pgconv train", description=ABOUT)
    parser.add_argument("run", nargs="?", help="name of a run, see --list")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="what is different")
    parser.add_argument("--list", action="store_true", help="all runs, with the published test accuracy")
    parser.add_argument("--root", type=Path, help="folder with the files of published data sets (docs/data.md)")
    parser.add_argument("--out", type=Path, help="folder of the run; runs/NAME-SEED by default")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU where there is one, by default")
    parser.add_argument(
        "--order",
        choices=ORDERS,
        help="one evaluation order for all convolutions, such as materialize, the one of plain PyTorch; planned by default",
    )
    parser.add_argument("--compile", action="store_true", help="under torch.compile")
    parser.add_argument(
        "--deterministic", action="store_true", help="only algorithms that give the same bits every time"
    )
    parser.add_argument(
        "--draws", type=whole(0), default=10, help="random draws of the group samples in the final test (10); 0: none"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard's events beside the table")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    chosen = parser.parse_intermixed_args(arguments)
    if chosen.list:
        print(listing())
        return 0
    if chosen.run is None:
        parser.error("name a run, or --list")
    try:
        config = configs.get(chosen.run).changed(chosen.settings)
        task = config.make_task(chosen.root)
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    torch.use_deterministic_algorithms(chosen.deterministic)
    folder = chosen.out or Path("runs") / f"{config.name}-{config.seed}"
    try:
        with joined(chosen.device) as world, use_backend(None, chosen.order) if chosen.order else nullcontext():
            # The trainer is gone before the processes part.
            train(Trainer(config, task, world, folder, chosen.compile), world, chosen)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def train(trainer: Trainer, world: World, chosen: argparse.Namespace) -> None:
    """To the end, with a bar; then the test, and what was learned."""
    config, folder = trainer.config, trainer.folder
    if world.first and trainer.epoch:
        print(f"{folder}: going on after {trainer.epoch} epochs")
    with (
        shown(trainer, world.first and not chosen.quiet) as progress,
        events(folder, chosen.tensorboard and world.first) as log,
    ):
        trainer.fit(progress, log)
    found = trainer.test(chosen.draws)
    if not world.first:
        return
    print(
        f"best epoch {trainer.best.epoch} of {trainer.epoch}: {100 * trainer.best.accuracy:.2f} % where it was chosen"
    )
    print(summary(trainer, found))
    seconds = [row["seconds"] for row in trainer.history]
    result = {"name": config.name, "seed": config.seed, "epochs": trainer.epoch, "best_epoch": trainer.best.epoch}
    result |= {
        "settings": chosen.settings,
        "order": chosen.order,
        "seconds": sum(seconds),
        "epoch_seconds": statistics.median(seconds),
        "published": config.published,
        "validation_accuracy": trainer.best.accuracy,
        **{f"test_{key}": value for key, value in found.items()},
    }
    result |= {"ranges": learned_ranges(trainer.network), "gates": trainer.gates()}
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def summary(trainer: Trainer, found: dict[str, float]) -> str:
    """Of a trained network and its test, as text."""
    config = trainer.config
    lines = [f"{config.name}, seed {config.seed}: test accuracy {100 * found['accuracy']:.2f} % on fixed samples"]
    if "draws" in found:
        lines[-1] += (
            f", {100 * found['mean']:.2f} +- {100 * found['std']:.2f} % over {found['draws']:.0f} draws of them"
        )
    if config.published is not None:
        lines.append(f"published: {config.published:.2f} %")
    lines += [f"note: {config.note}"] if config.note else []
    for name, learned in learned_ranges(trainer.network).items():
        mirror = f", mirror {learned['mirror'][0]:.2f}" if "mirror" in learned else ""
        lines.append(f"{name}: theta {learned['theta'][0]:.3f}{mirror}")
    return "\n".join(lines)


def listing() -> str:
    """Names of all runs, where their data comes from, and published accuracies."""
    found = [configs.get(name) for name in configs.names()]
    width = max(len(config.name) for config in found)
    lines = [f"{'run':<{width}}  published  data"]
    for config in found:
        published = "" if config.published is None else f"{config.published:.2f} %"
        source = "files" if data.files(config.task) else "scikit-learn"
        lines.append(f"{config.name:<{width}}  {published:>9}  {config.task} ({source})")
    return "\n".join(lines)


@contextmanager
def shown(trainer: Trainer, wanted: bool) -> Iterator[Progress | None]:
    """What shows the steps of a run, with the loss and the best accuracy so far."""
    total, initial = trainer.config.epochs * trainer.steps, trainer.epoch * trainer.steps
    with bar(wanted, total=total, initial=initial, desc=trainer.config.name, unit="step") as line:

        def step(number: int, _: int, loss: float) -> None:
            if not math.isnan(loss):
                best = "" if trainer.best.epoch < 0 else f"{100 * trainer.best.accuracy:.1f}%"
                line.set_postfix(epoch=trainer.epoch, loss=f"{loss:.3f}", best=best, refresh=False)
            line.update(number - line.n)

        yield None if line is None else step


@contextmanager
def events(folder: Path, wanted: bool) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """TensorBoard's file of the rows of the table."""
    if not wanted:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(f"--tensorboard needs TensorBoard: pip install tensorboard ({error})") from error
    with SummaryWriter(str(folder)) as writer:

        def finished(row: dict[str, Any]) -> None:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name.replace(" ", "/"), value, row["epoch"])

        yield finished


if __name__ == "__main__":
    sys.exit(main())
