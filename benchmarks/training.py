"""``python -m benchmarks training``: a training step of a published network, fused against the materialised convolution.

``fused`` is the library as it is; ``materialize`` its own order that builds the kernel and calls the vendor's convolution;
``pytorch`` the same sum in PyTorch's operators alone, as it is usually written. Networks, losses and optimisers are those of
``pgconv.train``; the images are noise of the right size. Times of all ways are taken in turn, memory in a process of its own beyond
what is there between steps: ``extra_mb`` as it comes, with the holes that the C library's heap has then, and ``live_mb`` of what is
allocated at the same time, with a heap that gives large blocks back at once. ``--losses`` trains each way, and ``fused`` in
float64, from the same weights on the same images: what the losses differ by is what rounding makes of them. Learning rates rise
slowly, as configured for an epoch of 45,000 images; with ``--settings schedule=constant`` they are whole from the first step, and
every rounding grows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType

import torch

import pgconv
from benchmarks import machine, memory, options, report, timing
from benchmarks.group_conv2d import baselines
from pgconv.data import Split, Task
from pgconv.spec import ConvGeometry
from pgconv.train import Trainer, configs
from pgconv.train.world import World

RUNS = ("cifar10-ckresnet-se2-8-full", "cifar10-gcnn13-se2-8-full", "rotated-digits-se2-full")
SHAPES = {"CIFAR10": (3, 32, 10), "CIFAR100": (3, 32, 100), "RotMNIST": (1, 28, 10), "rotated-digits": (1, 16, 10)}
"""Channels, pixels to a side and classes of tasks."""
IMAGES, EPOCH = 64, 45_000
"""Different ones, and of an epoch."""
NO_HOLES = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
"""For glibc: blocks of a megabyte and more are mapped, and gone once they are free."""
COLUMNS = (
    "case",
    "batch",
    "threads",
    "implementation",
    "median_ms",
    "q20_ms",
    "q80_ms",
    "rounds",
    "over_materialize",
    "over_pytorch",
)
COLUMNS += ("extra_mb", "live_mb", "peak_probe", "allocator", "pgconv", "torch", "isa", "cpu", "gpu", "date")


@contextmanager
def _pytorch() -> Iterator[None]:
    """Features by plain PyTorch, convolutions by the baseline, whose intermediate results autograd keeps."""

    def convolve(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: str, _: str) -> torch.Tensor:
        return baselines.materialised(f, phi, weight, ConvGeometry.parse(geometry))

    own = pgconv.ops.group_conv2d
    pgconv.ops.group_conv2d = convolve
    try:
        with pgconv.use_backend("reference"):
            yield
    finally:
        pgconv.ops.group_conv2d = own


WAYS = {"fused": nullcontext, "materialize": lambda: pgconv.use_backend(None, "materialize"), "pytorch": _pytorch}


def task(name: str) -> Task:
    """Noise in its shape; of a toy task in that of digits."""
    channels, size, classes = SHAPES.get(name, (1, 16, 2))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, channels, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, classes, (IMAGES,), generator=generator)
    part = Split(pixels, labels, torch.arange(EPOCH) % IMAGES, (0.5,) * channels, (0.25,) * channels)
    return Task(name, classes, (channels, size, size), (0.5,), (0.25,), part, part, part)


def stepper(
    run: str, batch: int, way: str, dtype: torch.dtype = torch.float32, settings: Sequence[str] = ()
) -> Callable[[], float]:
    """Takes the next step of a run at every call and returns the loss."""
    config = configs.get(run).changed(["batch_size=16", *settings])
    data = task(config.task)
    trainer = Trainer(config, data, World(0, 1, torch.device("cpu")))
    trainer.network.to(dtype).train()
    done = 0

    def step() -> float:
        nonlocal done
        images, labels = data.train[torch.arange(done * batch, (done + 1) * batch) % EPOCH]
        with WAYS[way]():
            loss = trainer.step(done, images.to(dtype), labels)[0]
        done += 1
        return loss.item()

    return step


def times(run: str, batch: int, rounds: int) -> list[report.Row]:
    """A row for each way."""
    calls = {way: stepper(run, batch, way) for way in WAYS}
    for call in calls.values():
        call()
    found = timing.interleave({way: timing.once(call) for way, call in calls.items()}, rounds, machine.peak)
    medians = {way: found.quantiles(way)[1] for way in WAYS}
    rows: list[report.Row] = []
    for way in WAYS:
        low, middle, high = (1e3 * x for x in found.quantiles(way))
        row: report.Row = {
            "case": run,
            "batch": batch,
            "threads": torch.get_num_threads(),
            "implementation": way,
            "rounds": rounds,
        }
        row |= {"median_ms": middle, "q20_ms": low, "q80_ms": high, "peak_probe": machine.peak_probe()}
        row |= {f"over_{other}": medians[other] / medians[way] for other in ("materialize", "pytorch")}
        row |= {"extra_mb": extra(run, batch, way) / 1e6, "live_mb": extra(run, batch, way, NO_HOLES) / 1e6}
        rows.append(row | machine.describe())
    return rows


def extra(run: str, batch: int, way: str, environment: Mapping[str, str] = MappingProxyType({})) -> float:
    """Bytes of a step beyond what is there before and after, in a process of its own, in which these variables are set, too."""
    command = [sys.executable, "-m", "benchmarks.training", json.dumps([run, batch, way, torch.get_num_threads()])]
    done = subprocess.run(
        command, cwd=memory.ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def losses(run: str, batch: int, steps: int, settings: Sequence[str]) -> Iterator[report.Row]:
    """A row for each step: the loss of each way."""
    ways = {way: stepper(run, batch, way, settings=settings) for way in WAYS}
    ways["float64"] = stepper(run, batch, "fused", torch.float64, settings)
    for number in range(steps):
        yield {"case": run, "batch": batch, "step": number} | {way: step() for way, step in ways.items()}


def differences(rows: Sequence[report.Row]) -> str:
    """Of losses, in words: the largest from those of float64, and between two ways."""

    def largest(one: str, two: str) -> float:
        return max(abs(row[one] - row[two]) for row in rows)  # type: ignore[operator]

    pairs = [(way, "float64") for way in WAYS] + [("fused", "materialize"), ("pytorch", "materialize")]
    first, last = rows[0]["float64"], rows[-1]["float64"]
    text = ", ".join(f"{one} - {two} {largest(one, two):.1e}" for one, two in pairs)
    return f"{rows[0]['case']}: {len(rows)} losses from {first:.4f} to {last:.4f}; largest difference {text}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = options.parser("training", __doc__)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), metavar="RUN", help="of python -m pgconv.train --list")
    parser.add_argument(
        "--batch", type=options.positive, default=16, help="images in a step that is timed (%(default)s)"
    )
    parser.add_argument("--losses", type=int, default=0, metavar="STEPS", help="compare so many losses (%(default)s)")
    parser.add_argument(
        "--losses-batch", type=options.positive, default=2, help="images in a step of these (%(default)s)"
    )
    parser.add_argument("--settings", nargs="+", default=[], metavar="key=value", help="what is different there")
    parser.add_argument("--losses-csv", type=Path, metavar="FILE", help="write them here")
    parser.set_defaults(rounds=3)
    chosen = parser.parse_args(argv)
    runs = [run for run in chosen.runs if options.matches(run, chosen.filter)]
    if chosen.list:
        print("\n".join(runs))
        return 0
    print(pgconv.show_config())
    rows: list[report.Row] = []
    for threads in chosen.threads:
        with machine.threads(threads):
            for run in runs:
                rows += _shown(times(run, chosen.batch, chosen.rounds))
    if chosen.csv:
        with report.CsvWriter(chosen.csv, COLUMNS) as writer:
            writer.write(rows)
    compared = (
        [list(losses(run, chosen.losses_batch, chosen.losses, chosen.settings)) for run in runs]
        if chosen.losses
        else []
    )
    print("\n".join(map(differences, compared)))
    if chosen.losses_csv and compared:
        with report.CsvWriter(chosen.losses_csv, list(compared[0][0])) as writer:
            writer.write(row for found in compared for row in found)
    return 0


def _shown(rows: list[report.Row]) -> list[report.Row]:
    for row in rows:
        print(
            f"{row['case']} B={row['batch']} {row['implementation']:<12} {row['median_ms']:9.0f} ms, fused is "
            f"{rows[0]['over_' + str(row['implementation'])] if row is not rows[0] else 1:.2f}x as fast; "
            f"{row['extra_mb']:.0f} MB, live {row['live_mb']:.0f} MB",
            flush=True,
        )
    return rows


def _measure(request: str) -> None:
    run, batch, way, threads = json.loads(request)
    with machine.threads(threads):
        step = stepper(run, batch, way)
        step()
        print(json.dumps(memory.peak_beyond(step)))


if __name__ == "__main__":
    _measure(sys.argv[1])
