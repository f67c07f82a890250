"""``python -m benchmarks NAME [options]``; ``python -m benchmarks NAME --help`` lists the options of one benchmark."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

BENCHMARKS = {
    "group_conv2d": "the image convolution against other people's ways in PyTorch",
    "point_conv": "the convolution on points against other people's ways in PyTorch",
    "features": "kernel-net features, the native library against plain PyTorch",
    "training": "a training step of the published networks, fused against the materialised convolution",
    "overhead": "import, first call, and what operators and layers cost beside their arithmetic",
    "compare": "the working tree against a revision, or one stored result against another",
    "plot": "roofline, and speed against size, from stored results",
    "record": "what was seen on a GPU, tests and times, as one file beside the results",
}


LISTED = ("group_conv2d", "point_conv", "features", "training", "overhead")
"""Those that have cases of their own; ``compare`` has those of the first two."""


class _List(argparse.Action):
    """Every benchmark with its cases."""

    def __call__(self, parser: argparse.ArgumentParser, *others: object) -> None:
        for name, what in BENCHMARKS.items():
            print(f"{name}: {what}")
            if name in LISTED:
                import_module(f"benchmarks.{name}").main(["--list"])
            print()
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark named first with the remaining arguments."""
    lines = "\n".join(f"  {name:<14} {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks:\n{lines}\n\nwith pytest-benchmark: pytest --benchmark-only benchmarks/bench_pytest.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action=_List, nargs=0, help="every benchmark with its cases")
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME", help="which benchmark")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="its options")
    chosen = parser.parse_args(argv)
    return import_module(f"benchmarks.{chosen.name}").main(chosen.options)


if __name__ == "__main__":
    sys.exit(main())
