"""Kernel-net features: the native library against plain PyTorch, forward and backward, interleaved in one run.

Per pair and with L hidden layers of width H on D coordinates the forward takes ``2 H (D + (L-1) H)`` FLOPs and L H activations and
writes 4 H bytes; the backward three times the FLOPs. Times are medians over rounds; the peak is measured in every round. Run
on a quiet machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

if not __package__:
    # Run as a file: only its own folder is on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pgconv
from benchmarks import machine, options, report, timing
from pgconv.spec import FeatureSpec


@dataclass(frozen=True)
class Case:
    """Sizes of one benchmark; its name is made of them."""

    group: str
    batch: int
    nu: int
    nv: int
    activation: str = "sin"
    hidden: int = 32
    layers: int = 3
    chart: str = "product"

    @property
    def name(self) -> str:
        return f"{self.group}-{self.chart}-{self.activation}-H{self.hidden}-L{self.layers}-S{self.batch}-{self.nu}x{self.nv}"


# 256 x 256 pairs write 8 MB, which stays in cache as the chunks of point_conv do; at 1024 x 1024 the allocator's page faults
# for 134 MB weigh as much as the arithmetic.
CASES = (
    Case("T(3)", 1, 256, 256),
    Case("T(3)", 1, 256, 256, "silu"),
    Case("SE(2)", 1, 256, 256),
    Case("SE(2)", 1, 1024, 1024),
    Case("SE(2)", 64, 8, 8 * 29),
    Case("SE(3)", 16, 80, 80, chart="lie"),
    Case("E(2)", 1, 8, 8 * 5, hidden=8),
)

COLUMNS = (
    "case",
    "threads",
    "forward_ns_per_pair",
    "both_ns_per_pair",
    "forward_percent_of_peak",
    "both_percent_of_peak",
    "forward_ratio",
    "both_ratio",
)


def build(case: Case) -> tuple[str, list[torch.Tensor]]:
    """Feature spec and operands of a case, the same at every call."""
    group = pgconv.groups.get(case.group)
    dim = group.coord_dim_of(case.chart)
    torch.manual_seed(0)
    net = (
        pgconv.kernel_nets.SIREN(dim, case.hidden, case.layers)
        if case.activation == "sin"
        else pgconv.kernel_nets.MLP(dim, case.hidden, case.layers, activation=case.activation)
    )
    generator = torch.Generator().manual_seed(1)
    v, u = (
        group.sample(case.batch * n, generator=generator).reshape(case.batch, n, group.element_dim)
        for n in (case.nv, case.nu)
    )
    spec = FeatureSpec(case.group, case.chart, "all", "convolution", net.net_spec)
    return str(spec), [v, u, net.pack().detach()]


def steps(spec: str, operands: list[torch.Tensor], backend: str) -> dict[str, Callable[[], object]]:
    """Forward alone, and forward with backward."""

    def features(*leaves: torch.Tensor) -> torch.Tensor:
        return pgconv.ops.relative_features(*leaves, spec, backend)

    with torch.no_grad():
        grad = torch.ones_like(features(*operands))
    return timing.steps(features, operands, [True] * len(operands), grad)


def measure(case: Case, rounds: int, threads: int) -> dict[str, str | float]:
    """Columns of one case."""
    spec, operands = build(case)
    calls = {
        (backend, direction): timing.prepare(call)
        for backend in ("cpp", "reference")
        for direction, call in steps(spec, operands, backend).items()
    }
    times = timing.interleave(calls, rounds, machine.peak)
    pairs = case.batch * case.nu * case.nv
    dim = pgconv.groups.get(case.group).coord_dim_of(case.chart)
    flops = 2.0 * case.hidden * (dim + (case.layers - 2) * case.hidden) * pairs
    row: dict[str, str | float] = {"case": case.name, "threads": threads}
    for short, direction, factor in zip(("forward", "both"), timing.DIRECTIONS, (1, 4)):
        ours, theirs = (times.quantiles((backend, direction))[1] for backend in ("cpp", "reference"))
        row[f"{short}_ns_per_pair"] = 1e9 * ours / pairs * threads
        row[f"{short}_percent_of_peak"] = 100 * factor * flops / ours / times.peak
        row[f"{short}_ratio"] = theirs / ours
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    chosen = options.parser("features", __doc__).parse_args(argv)
    cases = [case for case in CASES if options.matches(case.name, chosen.filter)]
    if chosen.list:
        print("\n".join(case.name for case in cases))
        return 0
    print(pgconv.show_config())
    print(f"peak by {machine.peak_probe()}; medians of {chosen.rounds} rounds\n")
    rows = []
    for threads in chosen.threads:
        with machine.threads(threads):
            rows += [_shown(measure(case, chosen.rounds, threads)) for case in cases]
    if chosen.csv:
        with report.CsvWriter(chosen.csv, COLUMNS) as writer:
            writer.write(rows)
    return 0


def _shown(row: dict[str, str | float]) -> dict[str, str | float]:
    print(
        f"{row['case']:<40} {row['threads']} thread(s) forward {row['forward_ns_per_pair']:7.2f} ns/pair "
        f"{row['forward_percent_of_peak']:4.0f} % of peak {row['forward_ratio']:6.1f}x | with backward "
        f"{row['both_ns_per_pair']:7.2f} ns/pair {row['both_percent_of_peak']:4.0f} % {row['both_ratio']:6.1f}x",
        flush=True,
    )
    return row


if __name__ == "__main__":
    sys.exit(main())
