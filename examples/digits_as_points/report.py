"""The plot of the example."""

from __future__ import annotations

from pathlib import Path

_COLOURS = {"SE(2)": "#c2410c", "T(2)": "#7a8794"}


def plot_accuracy(degrees: list[int], curves: dict[str, list[float]], path: Path) -> None:
    """Accuracy of the networks trained on upright digits against the rotation of the digits they are shown."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.2, 3.4))
    for name, curve in curves.items():
        axis.plot(degrees, [100 * share for share in curve], label=name, color=_COLOURS[name], linewidth=2)
    axis.axhline(10, color="#cbd5e1", linewidth=0.8, zorder=0)
    axis.text(4, 11, "chance", fontsize=8, color="#94a3b8")
    axis.set_xlabel("rotation of the digits shown (degrees, counter-clockwise)")
    axis.set_ylabel("accuracy (%)")
    axis.set_xticks(range(0, 361, 45))
    axis.set_xlim(0, 360)
    axis.set_ylim(0, 103)
    axis.set_title("Trained on upright digits only", fontsize=11)
    axis.legend(loc="center", frameon=False, bbox_to_anchor=(0.5, 0.7))
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
