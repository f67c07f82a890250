"""Kernel-net features: the native library against plain PyTorch, forward and backward, interleaved in one run.

Per pair and with L hidden layers of width H on D coordinates the forward takes ``2 H (D + (L-1) H)`` FLOPs and L H activations and
writes 4 H bytes; the backward three times the FLOPs. Times are medians over rounds; the peak is measured by a large matrix
product in the same process. Run on a quiet machine: ``python benchmarks/features.py --help``.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import pgconv
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


def steps(spec: str, operands: list[torch.Tensor], backend: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward alone, and forward with backward."""
    leaves = [x.clone().requires_grad_() for x in operands]
    with torch.no_grad():
        grad = torch.ones_like(pgconv.ops.relative_features(*operands, spec, backend))

    def forward() -> object:
        with torch.no_grad():
            return pgconv.ops.relative_features(*operands, spec, backend)

    def both() -> object:
        return torch.autograd.grad(pgconv.ops.relative_features(*leaves, spec, backend), leaves, grad)

    return forward, both


def peak_flops(size: int = 1536, rounds: int = 7) -> float:
    """FLOP/s of a large float32 matrix product, the best of a few."""
    a = torch.randn(size, size)
    best = min(_seconds(lambda: a @ a) for _ in range(rounds))
    return 2 * size**3 / best


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", default="", help="only cases whose name contains this text")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds per case")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="write the table here as well")
    options = parser.parse_args()
    cases = [case for case in CASES if options.filter in case.name]
    if options.list:
        print("\n".join(case.name for case in cases))
        return
    torch.set_num_threads(options.threads)
    peak = peak_flops()
    print(pgconv.show_config())
    print(
        f"measured matrix peak {peak / 1e9:.0f} GFLOP/s on {options.threads} thread(s); medians of {options.rounds} rounds\n"
    )
    rows = []
    for case in cases:
        spec, operands = build(case)
        calls = {
            (backend, i): call
            for backend in ("cpp", "reference")
            for i, call in enumerate(steps(spec, operands, backend))
        }
        times: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
        for turn in range(options.rounds + 1):
            for key, call in calls.items():
                elapsed = _seconds(call)
                if turn:
                    times[key].append(elapsed)
        middle = {key: statistics.median(t) for key, t in times.items()}
        pairs = case.batch * case.nu * case.nv
        dim = pgconv.groups.get(case.group).coord_dim_of(case.chart)
        flops = 2.0 * case.hidden * (dim + (case.layers - 2) * case.hidden) * pairs
        row = {
            "case": case.name,
            "forward_ns_per_pair": 1e9 * middle["cpp", 0] / pairs * options.threads,
            "both_ns_per_pair": 1e9 * middle["cpp", 1] / pairs * options.threads,
            "forward_percent_of_peak": 100 * flops / middle["cpp", 0] / peak,
            "both_percent_of_peak": 100 * 4 * flops / middle["cpp", 1] / peak,
            "forward_ratio": middle["reference", 0] / middle["cpp", 0],
            "both_ratio": middle["reference", 1] / middle["cpp", 1],
        }
        rows.append(row)
        print(
            f"{case.name:<40} forward {row['forward_ns_per_pair']:7.2f} ns/pair {row['forward_percent_of_peak']:4.0f} % of peak "
            f"{row['forward_ratio']:6.1f}x | with backward {row['both_ns_per_pair']:7.2f} ns/pair "
            f"{row['both_percent_of_peak']:4.0f} % {row['both_ratio']:6.1f}x"
        )
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
