"""The plot of the example."""

from __future__ import annotations

from pathlib import Path

from pgconv._curves import ACCENT, GREY, plot_curves


def plot_accuracy(degrees: list[int], curves: dict[str, list[float]], path: Path) -> None:
    """Accuracy of the networks trained on upright digits against the rotation of the digits they are shown; the thin line is
    chance."""
    plot_curves(
        degrees,
        {name: [100 * share for share in curve] for name, curve in curves.items()},
        path,
        colours={"SE(2)": ACCENT, "T(2)": GREY},
        level=10,
        words=("Trained on upright digits only", "rotation of the digits shown", "accuracy (%)"),
        limits=(0, 103),
        legend={"loc": "center", "bbox_to_anchor": (0.5, 0.7)},
    )
