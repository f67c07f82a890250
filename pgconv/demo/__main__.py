"""Command line of the demo: ``python -m pgconv.demo``."""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import torch

import pgconv
from pgconv.demo import data, model, report, train
from pgconv.demo.terminal import extra_is_missing, made, positive, real, seed, table, training_bar, whole


def parser() -> argparse.ArgumentParser:
    """Options of the demo."""
    p = argparse.ArgumentParser(
        prog="python -m pgconv.demo",
        description="Train a G-CNN and a Partial G-CNN to tell a handwritten 6 from the same 6 turned by 180 degrees "
        "(or mirrored), and report accuracy, the learned part of the group in each layer, and time per training step.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument(
        "--task", choices=("6-180", "6-M"), default="6-180", help="other class: turned by 180 degrees, or mirrored"
    )
    p.add_argument("--group", choices=("SE(2)", "M(2)", "E(2)"), default="SE(2)", help="group of both networks")
    p.add_argument("--epochs", type=positive, default=60)
    p.add_argument("--seed", type=seed, default=0, help="of the split, the initialisation and the training")
    p.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for the plots and results.csv")
    p.add_argument("--width", type=positive, default=12, help="channels of every layer")
    p.add_argument("--samples", type=positive, help="group elements per layer (default: 8; 2 for M(2))")
    p.add_argument("--batch-size", type=whole(2), default=32)
    p.add_argument("--lr", type=real(), default=1e-2, help="peak learning rate")
    p.add_argument("--range-lr", type=real(), default=1e-2, help="peak learning rate of the learned arcs")
    p.add_argument("--gate-lr", type=real(), default=5e-2, help="peak learning rate of the learned gates (mirror)")
    p.add_argument(
        "--rotation",
        type=real(zero=True),
        default=45.0,
        help="each training image is first turned at random up to this angle (degrees)",
    )
    p.add_argument("--rounds", type=positive, default=12, help="timed training steps per backend")
    p.add_argument("--threads", type=positive, help="CPU threads (default: torch's)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    command = parser()
    options = command.parse_args(argv)
    if extra_is_missing("pgconv.demo"):
        return 1
    if options.threads:
        torch.set_num_threads(options.threads)
    names = {"G-CNN": False, "Partial G-CNN": True}
    try:
        for partial in names.values():
            _network(options, partial)
        made("argument --output:", options.output)
    except ValueError as error:
        command.error(str(error))
    digits = data.load(options.task, options.seed)
    print(pgconv.show_config())
    print(
        f"\nTask {options.task} on {options.group}: {len(digits.train)} sixes for training, "
        f"{len(digits.test)} held out; each is shown as it is "
        "and transformed.\n"
    )
    nets, seconds = {}, {}
    for name, partial in names.items():
        net = nets[name] = _network(options, partial)
        steps = options.epochs * max(1, len(digits.train) // (options.batch_size // 2))
        begin = time.perf_counter()
        with training_bar(f"{name:<13}", steps) as progress:
            train.fit(
                net,
                digits,
                epochs=options.epochs,
                batch_size=options.batch_size,
                lr=options.lr,
                range_lr=options.range_lr,
                gate_lr=options.gate_lr,
                rotation=options.rotation,
                seed=options.seed,
                progress=progress,
            )
        seconds[name] = time.perf_counter() - begin

    accuracies = {name: train.accuracy(net, digits) for name, net in nets.items()}
    degrees = [float(d) for d in range(-180, 181, 5)]
    curves = {name: train.probability_of_six(net, digits.test, degrees).tolist() for name, net in nets.items()}
    near = {name: _mean([p for d, p in zip(degrees, curve) if abs(d) <= 45]) for name, curve in curves.items()}
    far = {name: _mean([p for d, p in zip(degrees, curve) if abs(d) >= 135]) for name, curve in curves.items()}
    rows = [("network", "test accuracy", '"6" within 45 deg of upright', "of upside down", "training")]
    rows += [
        (name, f"{100 * accuracies[name]:.1f} %", f"{near[name]:.3f}", f"{far[name]:.3f}", f"{seconds[name]:.0f} s")
        for name in nets
    ]
    print("\n" + table(rows))

    same = train.class_difference(nets["G-CNN"], digits)
    verdict = "it cannot tell them apart" if same < 1e-4 else "this group does not contain the transformation"
    print(f"\nG-CNN: logits of an image and of the transformed image differ by {same:.1e} of the largest: {verdict}.")
    print("Partial G-CNN, learned part of the group:")
    for layer, sampler in report.learned_ranges(nets["Partial G-CNN"]):
        print(f"  {layer}: {report.describe_range(sampler)}")

    ways = {
        "fused convolutions": (None, None),
        "materialised convolutions": (None, "materialize"),
        "reference": ("reference", None),
    }
    times = train.time_steps(nets["Partial G-CNN"], digits, options.batch_size, list(ways.values()), options.rounds)
    rows = [("training step (forward + backward)", "time", "ratio")]
    rows += [(name, f"{time_:.1f} ms", f"{time_ / times[0]:.2f}") for name, time_ in zip(ways, times)]
    print("\n" + table(rows))

    report.plot_ranges(nets["Partial G-CNN"], options.output / "learned_subsets.png")
    report.plot_response(degrees, curves, options.task, options.output / "rotation_response.png")
    with open(options.output / "results.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "group", "seed", "network", "test_accuracy", "p6_upright", "p6_upside_down"])
        writer.writerows([options.task, options.group, options.seed, n, accuracies[n], near[n], far[n]] for n in nets)
    print(f"\nPlots and results.csv are in {options.output}/")
    return 0


def _network(options: argparse.Namespace, partial: bool) -> model.DigitNet:
    """With initial weights of the seed, from which training goes on drawing."""
    samples = options.samples or (2 if options.group == "M(2)" else 8)
    torch.manual_seed(options.seed)
    try:
        return model.DigitNet(options.group, partial, options.width, samples)
    except ValueError as error:
        raise ValueError(f"argument --samples: received {samples}: {error}") from error


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    raise SystemExit(main())
