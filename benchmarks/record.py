"""``python -m benchmarks record``: what was seen on a GPU, as one small file beside the results.

GPU, versions, digest of the sources its kernels were built from, outcome of the tests, and the times of the benchmarks' CSVs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

import pgconv

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SOURCES = ("csrc/cuda", "csrc/common", "pgconv/backends/triton")
_TIMES = ("case", "direction", "implementation", "plan", "rounds", "median_ms", "percent_of_peak", "extra_mb", "error")


def digest(root: Path = ROOT) -> str:
    """Of all files the GPU kernels are made of, names included."""
    total = hashlib.sha256()
    for path in sorted(
        p for folder in SOURCES for p in (root / folder).rglob("*") if p.is_file() and p.suffix != ".pyc"
    ):
        total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def outcome(junit: Path) -> dict[str, int]:
    """Numbers of tests by how they ended, from pytest's ``--junitxml``; empty without that file."""
    if not junit.exists():
        return {}
    suites = ElementTree.parse(junit).getroot().iter("testsuite")
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in suites:
        for name in counts:
            counts[name] += int(suite.get(name, 0))
    return counts


def times(table: Path) -> list[dict[str, str]]:
    """What was timed, from the CSV of a benchmark."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["median_ms"]]
    return [{name: row[name] for name in _TIMES} for row in rows]


def record(gpu: str, junit: Path, tables: Sequence[Path]) -> dict[str, Any]:
    """All of it.

    Args:
        gpu: name of the GPU
        junit: outcome of the tests
        tables: CSVs of benchmarks, by whose names the times are found
    """
    return {
        "gpu": gpu,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "pgconv": pgconv.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "sources": digest(),
        "tests": outcome(junit),
        "times": {table.stem: times(table) for table in tables},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write the record and a copy of every CSV into the results, named after the GPU. What is missing is said and left out: the
    rest was seen all the same."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks record", description=__doc__)
    parser.add_argument("--junit", type=Path, required=True, metavar="FILE", help="outcome of the tests, of --junitxml")
    parser.add_argument(
        "--csv", type=Path, required=True, nargs="+", metavar="FILE", help="rows of benchmarks on the GPU"
    )
    parser.add_argument("--gpu", help="its name (default: what torch says)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="where to (default %(default)s)")
    chosen = parser.parse_args(argv)
    if chosen.gpu is None and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --gpu names one for a rehearsal")
    gpu = chosen.gpu or torch.cuda.get_device_name()
    stem = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    chosen.out.mkdir(parents=True, exist_ok=True)
    tables = [table for table in chosen.csv if table.exists()]
    for path in (chosen.junit, *chosen.csv):
        if not path.exists():
            print(f"not there: {path}")
    found = record(gpu, chosen.junit, tables)
    (chosen.out / f"{stem}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for table in tables:
        (chosen.out / f"{stem}-{table.name}").write_bytes(table.read_bytes())
    counts = {name: len(rows) for name, rows in found["times"].items()}
    print(f"{chosen.out / stem}.json: tests {found['tests']}, rows timed {counts}")
    return 0
