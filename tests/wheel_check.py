"""``python tests/wheel_check.py WHEEL PYTHON ...``: a wheel in a fresh environment of each Python: installed and tried."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

TRIAL = """
import sys, torch, pgconv
assert "site-packages" in pgconv.__file__, pgconv.__file__
assert "cpp" in pgconv.backends.available("cpu"), pgconv.show_config()
torch.manual_seed(0)
lift = pgconv.nn.LiftingConv2d(1, 4, kernel_size=3, group="SE(2)", num_samples=4)
conv = pgconv.nn.GroupConv2d(4, 4, kernel_size=3, group="SE(2)", num_samples=4, partial=True)

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lift, self.conv = lift, conv
    def forward(self, x):
        return self.conv(*self.lift(x))[0]

network = Network()
with torch.no_grad():
    # A fresh SIREN is odd: opposite angles cancel, and relative errors of what is 0 say nothing.
    for p in network.parameters():
        p.add_(0.1 * torch.randn_like(p))
report = pgconv.self_check(network, torch.randn(2, 1, 8, 8))
assert report.ok, report
group = pgconv.groups.get("SE(3)")
points = pgconv.nn.PointGroupConv(3, 4, group="SE(3)")
elements = group.sample(9)[None]
samples = pgconv.sampling.Samples(elements, torch.ones(1, 9))
assert pgconv.self_check(points, torch.randn(2, 9, 3), samples).ok
print(f"pgconv {pgconv.__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}: native, exact")
"""


def check(wheel: Path, python: str, torch: str) -> None:
    """Raises ``CalledProcessError`` where something does not work."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", f"{folder}/env"], check=True)
        own = f"{folder}/env/bin/python"
        subprocess.run([own, "-m", "pip", "install", "--quiet", torch, str(wheel.resolve())], check=True)
        subprocess.run([own, "-m", "pip", "check"], check=True)
        subprocess.run([own, "-c", TRIAL], cwd=folder, check=True)
        subprocess.run([f"{folder}/env/bin/pgconv", "--help"], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("python", nargs="+", help="interpreters of different versions")
    parser.add_argument("--torch", default="torch", help="what pip is to install beside it")
    chosen = parser.parse_args()
    for python in chosen.python:
        check(chosen.wheel, python, chosen.torch)


if __name__ == "__main__":
    main()
