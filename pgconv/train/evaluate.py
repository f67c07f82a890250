"""``pgconv evaluate FOLDER``: the test of a trained network again, with as many draws of the samples as wanted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pgconv.demo.terminal import whole
from pgconv.train import finished
from pgconv.train.__main__ import summary
from pgconv.train.world import check_device


def main(arguments: list[str] | None = None) -> int:
    """Returns 0, or 2 for a folder without a run."""
    parser = argparse.ArgumentParser(prog="pgconv evaluate", description=__doc__)
    parser.add_argument("folder", type=Path, help="of a run")
    parser.add_argument("--root", type=Path, help="folder with the files of published data sets")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--draws", type=whole(0), default=10, help="random draws of the group samples (10); 0: none")
    chosen = parser.parse_args(arguments)
    try:
        check_device(chosen.device)
        trainer = finished.load(chosen.folder, chosen.root, chosen.device)
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    print(summary(trainer, trainer.test(chosen.draws)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
