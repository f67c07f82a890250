"""Command line of the example: ``python -m examples.digits_as_points``."""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import torch

from examples.digits_as_points import data, model, report, train
from pgconv.demo.terminal import extra_is_missing, positive, table, training_bar

NETWORKS = ("SE(2)", "T(2)")


def parser() -> argparse.ArgumentParser:
    """Options of the example."""
    p = argparse.ArgumentParser(
        prog="python -m examples.digits_as_points",
        description="Train an SE(2) and a T(2) network on handwritten digits as point sets, upright or turned by any angle, and "
        "report how well they read upright and turned digits they have not seen.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--epochs", type=positive, default=15, help="passes over the training digits")
    p.add_argument("--points", type=_pixels, default=32, help="brightest pixels of a digit that are kept, at most 64")
    p.add_argument("--angles", type=positive, default=4, help="group elements per point of the SE(2) network")
    p.add_argument("--width", type=positive, default=24, help="channels of every layer")
    p.add_argument("--batch-size", type=positive, default=64, help="digits per training step")
    p.add_argument("--lr", type=float, default=2e-2, help="peak learning rate")
    p.add_argument("--train-digits", type=positive, default=1200, help="digits trained on, at most 1200")
    p.add_argument("--validate", action="store_true", help="to choose options: hold out a sixth of the training digits")
    p.add_argument("--seed", type=int, default=0, help="of the split, the initialisation, the training and the angles")
    p.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="CPU threads")
    p.add_argument(
        "--output", type=Path, default=Path("demo-output/points"), help="folder for results.csv and the plot"
    )
    p.add_argument("--no-plot", action="store_true", help="leave out the plot and the accuracies it needs")
    return p


def _pixels(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 64:
        raise argparse.ArgumentTypeError(f"must be from 1 to 64, the pixels of a digit, received {value}")
    return value


def main(argv: list[str] | None = None) -> int:
    """Run the example; returns the exit status."""
    options = parser().parse_args(argv)
    if extra_is_missing("This example"):
        return 1
    torch.set_num_threads(options.threads)
    digits, held_out = data.load(options.points, options.seed, options.validate)
    digits = digits[: options.train_digits]
    turned = held_out.rotated(data.random_angles(len(held_out), options.seed))
    kind = "validation" if options.validate else "test"
    print(f"{len(digits)} training and {len(held_out)} {kind} digits of at most {options.points} points.")

    nets, rows = {}, []
    for group in NETWORKS:
        row = {"network": group}
        for way in ("upright", "rotated"):
            torch.manual_seed(options.seed)
            net = model.PointNet(group, angles=options.angles, width=options.width)
            row["parameters"] = sum(p.numel() for p in net.parameters())
            steps = options.epochs * train.steps_per_epoch(digits, options.batch_size)
            begin = time.perf_counter()
            with training_bar(f"{group:<5} {way}", steps) as progress:
                fit = {"epochs": options.epochs, "batch_size": options.batch_size, "lr": options.lr}
                train.fit(net, digits, rotated=way == "rotated", seed=options.seed, progress=progress, **fit)
            row["seconds"] = row.get("seconds", 0.0) + time.perf_counter() - begin
            if way == "upright":
                nets[group] = net
                row["upright_upright"] = train.accuracy(net, held_out)
            row[f"{way}_rotated"] = train.accuracy(net, turned)
        rows.append(row)

    heading = ("network", "parameters", "upright -> upright", "upright -> rotated", "rotated -> rotated", "training")
    shares = ("upright_upright", "upright_rotated", "rotated_rotated")
    lines = [
        (r["network"], str(r["parameters"]), *(f"{100 * r[s]:.1f} %" for s in shares), f"{r['seconds']:.0f} s")
        for r in rows
    ]
    print(f"\nAccuracy, digits trained on -> {kind} digits:\n\n" + table([heading, *lines]))
    print("\nTurned by any angle, a 6 can look like a 9: 100 % is out of reach without knowing which way is up.")

    options.output.mkdir(parents=True, exist_ok=True)
    with open(options.output / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["seed", "network", "parameters", *shares, "seconds"])
        writer.writeheader()
        writer.writerows({"seed": options.seed, **row} for row in rows)
    if not options.no_plot:
        degrees = list(range(0, 361, 15))
        curves = {name: train.accuracy_by_angle(net, held_out, degrees) for name, net in nets.items()}
        report.plot_accuracy(degrees, curves, options.output / "accuracy_by_rotation.png")
    print(f"\n{'results.csv is' if options.no_plot else 'The plot and results.csv are'} in {options.output}/")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
