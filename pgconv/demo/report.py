"""Words and plots of the demo."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from pgconv._curves import ACCENT, GREY, plot_curves, pyplot
from pgconv.sampling import Sampler

_COLOURS = {"G-CNN": GREY, "Partial G-CNN": ACCENT}


def learned_ranges(net: nn.Module) -> list[tuple[str, Sampler]]:
    """Samplers of the group convolutions in order, by layer name."""
    return [
        (name.removesuffix(".sampler"), module)
        for name, module in net.named_modules()
        if isinstance(module, Sampler) and any(True for _ in module.parameters())
    ]


def describe_range(sampler: Sampler) -> str:
    """Learned range in words: half-width of the arc, probability of the mirrored half, or that of each element."""
    parts = []
    if hasattr(sampler, "theta"):
        theta = float(sampler.theta_effective)
        parts.append(f"theta {theta:.3f} (arc +-{180 * theta:.0f} deg)")
    if hasattr(sampler, "mirror_probability"):
        parts.append(f"mirror kept with probability {float(sampler.mirror_probability):.3f}")
    if not parts:
        kept = ", ".join(f"{p:.2f}" for p in sampler.range().tolist())
        parts.append(f"elements kept with probability {kept}")
    return ", ".join(parts)


def plot_ranges(net: nn.Module, path: Path) -> None:
    """The learned subset of every layer: an arc of angles, its mirrored copy shaded by its probability."""
    plt = pyplot()
    layers: list[tuple[str, Sampler | None]] = [("lift", None), *learned_ranges(net)]
    figure, axes = plt.subplots(1, len(layers), figsize=(2.7 * len(layers), 3.4), subplot_kw={"projection": "polar"})
    for axis, (name, sampler) in zip(axes, layers):
        theta, mirror = _arc(sampler)
        angles = torch.linspace(-math.pi * theta, math.pi * theta, 200).tolist()
        axis.fill_between(angles, 0.72, 1.0, color=_COLOURS["Partial G-CNN"], alpha=0.85, linewidth=0)
        title = f"{name}\n$\\pm${180 * theta:.0f}$^\\circ$"
        if mirror is not None:
            axis.fill_between(angles, 0.38, 0.66, color="#1d4ed8", alpha=max(0.04, 0.85 * mirror), linewidth=0)
            title += f", mirror {mirror:.2f}"
        axis.set_title(title, fontsize=10, pad=10)
        axis.set_ylim(0, 1)
        axis.set_yticks([])
        axis.set_xticks([i * math.pi / 2 for i in range(4)], ["0", r"$\pi/2$", r"$\pm\pi$", r"$-\pi/2$"], fontsize=8)
    figure.suptitle("Learned part of the group, layer by layer", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_response(degrees: list[float], curves: dict[str, list[float]], task: str, path: Path) -> None:
    """Mean probability of "6" over held-out digits against the rotation of the input."""
    plot_curves(
        degrees,
        curves,
        path,
        colours=_COLOURS,
        level=0.5,
        words=(f"Response to rotation, held-out digits, task {task}", "rotation of the input", 'probability of "6"'),
        limits=(-0.03, 1.03),
        legend={"loc": "upper right", "bbox_to_anchor": (1.0, 0.93)},
    )


def _arc(sampler: Sampler | None) -> tuple[float, float | None]:
    if sampler is None:
        return 1.0, None
    if hasattr(sampler, "theta"):
        mirror = float(sampler.mirror_probability) if hasattr(sampler, "mirror_probability") else None
        return float(sampler.theta_effective), mirror
    return 0.02, float(sampler.range()[-1])
