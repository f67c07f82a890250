"""``pgconv plot FOLDER ...``: learned ranges by layer, accuracy by epoch, the response to rotation, and a table of accuracies."""

from __future__ import annotations

import argparse
import csv
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from pgconv._curves import ACCENT, GREY, plot_curves, pyplot
from pgconv.demo.terminal import made
from pgconv.functional import move_images
from pgconv.train import finished
from pgconv.train.loop import Trainer

DEGREES = list(range(-180, 181, 10))
COLOURS = (ACCENT, "#1d4ed8", GREY, "#15803d", "#a21caf", "#b45309")


def main(arguments: list[str] | None = None) -> int:
    """Returns 0, or 2 for folders without finished runs."""
    parser = argparse.ArgumentParser(prog="pgconv plot", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of runs that have ended")
    parser.add_argument(
        "--root", type=Path, help="folder with the files of published data sets, for the response to rotation"
    )
    parser.add_argument("--out", type=Path, default=Path("plots"), help="where the plots go (plots)")
    chosen = parser.parse_args(arguments)
    try:
        results = [finished.result(folder) for folder in chosen.folders]
        made("plot: --out", chosen.out)
        written = [
            ranges(results, chosen.out),
            epochs(chosen.folders, results, chosen.out),
            accuracies(results, chosen.out),
        ]
        if all(found["name"].endswith("full") or "-180-" in found["name"] for found in results):
            trainers = [finished.load(folder, chosen.root) for folder in chosen.folders]
            written.append(response(trainers, labels(results), chosen.out))
        table = chosen.out / "accuracies.md"
        table.write_text(finished.accuracies(results), encoding="utf-8")
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(str(path) for path in [*written, table] if path is not None))
    return 0


def labels(results: list[dict[str, Any]]) -> list[str]:
    """Names of runs, with their seeds where there are several of one."""
    names = [finished.title(found) for found in results]
    return [name if names.count(name) == 1 else f"{name}, seed {found['seed']}" for name, found in zip(names, results)]


def ranges(results: list[dict[str, Any]], out: Path) -> Path | None:
    """What every layer has learned of the group, the lifting first, which has all: the band between ``-pi theta`` and ``pi theta``
    of an arc, the probability of every element of a subset, on the mean where it depends on the input."""
    every = [found["ranges"] | found["gates"] for found in results]
    chosen = [(label, own) for label, own in zip(labels(results), every) if own]
    if not chosen:
        return None
    columns = min(len(chosen), 3)
    rows = -(-len(chosen) // columns)
    figure, axes = pyplot().subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False)
    for axis in axes.flat[len(chosen) :]:
        axis.axis("off")
    for axis, (label, learned) in zip(axes.flat, chosen):
        layers = list(learned.values())
        (_subsets if "kept" in layers[0] else _arcs)(axis, layers)
        axis.set_title(label, fontsize=9)
        axis.set_xlabel("layer (0: lifting)")
        axis.set_xticks(range(len(layers) + 1))
    return _saved(figure, out / "ranges.png")


def _arcs(axis: Any, learned: list[dict[str, list[float]]]) -> None:
    upper = [math.pi, *(math.pi * layer["theta"][0] for layer in learned)]
    axis.fill_between(range(len(upper)), [-x for x in upper], upper, color=ACCENT, alpha=0.3, linewidth=0)
    for sign in (1, -1):
        axis.plot(range(len(upper)), [sign * x for x in upper], color=ACCENT, marker="o", markersize=4)
    for number, layer in enumerate(learned, 1):
        if "mirror" in layer:
            axis.annotate(f"m {layer['mirror'][0]:.2f}", (number, 0), ha="center", va="center", fontsize=8)
    axis.set_yticks([k * math.pi / 2 for k in range(-2, 3)], [r"$-\pi$", r"$-\pi/2$", "0", r"$\pi/2$", r"$\pi$"])
    axis.set_ylabel("learned angles")


def _subsets(axis: Any, learned: list[dict[str, list[float]]]) -> None:
    kept = [[1.0] * len(learned[0]["kept"]), *(layer["kept"] for layer in learned)]
    for number, layer in enumerate(kept):
        for element, probability in enumerate(layer):
            axis.scatter(number, element, s=260, color=ACCENT, alpha=probability, linewidth=0)
            axis.annotate(f"{probability:.2f}", (number, element), ha="center", va="center", fontsize=7)
    axis.set_ylim(-0.6, len(kept[0]) - 0.4)
    axis.set_yticks(range(len(kept[0])))
    axis.set_ylabel("element, chance to be kept")


def accuracies(results: list[dict[str, Any]], out: Path) -> Path:
    """Test accuracy of every run, a dot for each seed."""
    names = list(dict.fromkeys(finished.title(found) for found in results))
    figure, axis = pyplot().subplots(figsize=(6.2, 0.9 + 0.28 * len(names)))
    for found in results:
        place = names.index(finished.title(found))
        axis.plot(100 * found["test_accuracy"], place, marker="o", color=ACCENT, alpha=0.6, markeredgewidth=0)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="x", color="#e2e8f0")
    axis.set_xlabel("test accuracy in %, one dot for each seed")
    return _saved(figure, out / "accuracies.png")


def epochs(folders: list[Path], results: list[dict[str, Any]], out: Path) -> Path:
    """Accuracy on the images that models are selected by, epoch by epoch."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6.2, 3.4))
    for number, (folder, label) in enumerate(zip(folders, labels(results))):
        with open(folder / "epochs.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        x, y = ([float(row[name]) for row in rows] for name in ("epoch", "validation_accuracy"))
        axis.plot(x, [100 * value for value in y], label=label, color=COLOURS[number % len(COLOURS)])
    axis.set_xlabel("epoch")
    axis.set_ylabel("validation accuracy in %")
    axis.legend(frameon=False, fontsize=8)
    return _saved(figure, out / "epochs.png")


@torch.no_grad()
def response(trainers: list[Trainer], names: list[str], out: Path) -> Path:
    """Mean probability of the first class over its test images, turned by each angle."""
    curves = {}
    for name, trainer in zip(names, trainers):
        images, classes = trainer.task.test.tensors
        chosen, angles = images[classes == 0], torch.tensor([math.radians(x) for x in DEGREES])
        # What is beside an image is black, which normalised is another number.
        black = (-torch.tensor(trainer.task.mean) / torch.tensor(trainer.task.std))[:, None, None]
        turns = torch.cat([torch.zeros(len(angles), 2), angles[:, None]], 1)[None]
        trainer.network.eval()
        moved = move_images(chosen - black, turns, "SE(2)") + black
        curves[name] = [F.softmax(trainer.network(x), 1)[:, 0].mean().item() for x in moved.unbind(1)]
    path = out / "response.png"
    plot_curves(
        DEGREES,
        curves,
        path,
        colours={name: COLOURS[number % len(COLOURS)] for number, name in enumerate(curves)},
        level=0.5,
        words=("Response to rotation, test images", "rotation of the input", "probability of the first class"),
        limits=(-0.03, 1.03),
        legend={"loc": "best", "fontsize": 8},
    )
    return path


def _saved(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot().close(figure)
    return path


if __name__ == "__main__":
    sys.exit(main())
