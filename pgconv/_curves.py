"""Curves over the angle by which the input is turned."""

from __future__ import annotations

from pathlib import Path

ACCENT, GREY = "#c2410c", "#7a8794"


def pyplot():
    """Matplotlib without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def plot_curves(
    degrees: list[float],
    curves: dict[str, list[float]],
    path: Path,
    *,
    colours: dict[str, str],
    level: float,
    words: tuple[str, str, str],
    limits: tuple[float, float],
    legend: dict,
) -> None:
    """One line for each name, over a thin line at ``level``; ``words`` are the title and what the axes show."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6.2, 3.4))
    for name, curve in curves.items():
        axis.plot(degrees, curve, label=name, color=colours[name], linewidth=2)
    axis.axhline(level, color="#cbd5e1", linewidth=0.8, zorder=0)
    title, across, up = words
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(f"{across} (degrees, counter-clockwise)")
    axis.set_ylabel(up)
    first, last = round(degrees[0]), round(degrees[-1])
    axis.set_xticks(range(first, last + 1, 45))
    axis.set_xlim(first, last)
    axis.set_ylim(*limits)
    axis.legend(frameon=False, **legend)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
