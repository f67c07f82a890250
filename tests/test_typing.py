"""What a type checker says of code that uses the library: nothing of right code, and something of wrong code."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RIGHT = """
import torch
from torch import Tensor, nn

import pgconv
from pgconv.sampling import Samples


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift = pgconv.nn.LiftingConv2d(1, 4, kernel_size=3, group="SE(2)", num_samples=4)
        self.conv = pgconv.nn.GroupConv2d(4, 4, kernel_size=3, group=pgconv.groups.get("SE(2)"), partial="input")
        self.norm, self.pool = pgconv.nn.GroupBatchNorm2d(4), pgconv.nn.GlobalGroupPool("mean")

    def forward(self, x: Tensor) -> Tensor:
        y, samples = self.lift(x)
        return self.pool(y, samples)


group: pgconv.groups.Group = pgconv.groups.get("SE(3)")
elements: Tensor = group.product(group.identity(), group.inverse(group.sample(5, generator=torch.Generator())))
net = pgconv.kernel_nets.SIREN(group.coord_dim, hidden=8)
f, v, weight = torch.randn(1, 5, 3), elements[None], torch.randn(2, 3, 8)
out: Tensor = pgconv.functional.point_conv(f, v, v, net, weight, group=group)
samples = Samples(elements[None], torch.ones(1, 5))
first: Tensor = samples.elements
report = pgconv.self_check(Network(), torch.randn(1, 1, 8, 8))
verdict: bool = report.ok
frozen: nn.Module = pgconv.freeze(Network(), torch.randn(1, 1, 8, 8))
text: str = pgconv.show_config()
names: list[str] = pgconv.backends.available("cpu")
with pgconv.use_backend("reference"):
    errors: Tensor = pgconv.diagnostics.equivariance_error(Network(), torch.randn(1, 1, 8, 8), group="SE(2)")
"""
WRONG = {
    "channels": ("pgconv.nn.LiftingConv2d('1', 4, kernel_size=3)", "arg-type"),
    "missing": ("pgconv.nn.GroupConv2d(1, 4)", "call-arg"),
    "backend": ("pgconv.use_backend(3)", "arg-type"),
    "element": ("pgconv.groups.get('SE(2)').inverse('e')", "arg-type"),
    "report": ("pgconv.self_check(torch.nn.Linear(1, 1), torch.ones(1, 1)).right", "attr-defined"),
    "name": ("pgconv.nn.GroupConv3d", "attr-defined"),
}


def test_what_a_type_checker_says(tmp_path):
    # One test: processes that share the tests would each wait for the checker.
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("needs mypy")
    (tmp_path / "right.py").write_text(RIGHT, encoding="utf-8")
    for name, (line, _) in WRONG.items():
        (tmp_path / f"{name}.py").write_text(f"import torch\nimport pgconv\n{line}\n", encoding="utf-8")
    # As an installed package: what is inside is its own business.
    options = ["--follow-imports=silent", "--no-error-summary", "--config-file=", f"--cache-dir={tmp_path}/cache"]
    files = sorted(path.name for path in tmp_path.glob("*.py"))
    command = [sys.executable, "-m", "mypy", *options, *files]
    environment = {"MYPYPATH": str(ROOT), "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    said = {name: [x for x in done.stdout.splitlines() if x.startswith(f"{name}.py")] for name in ["right", *WRONG]}
    assert said.pop("right") == []
    for name, (_, kind) in WRONG.items():
        assert any(f"[{kind}]" in line for line in said[name]), (name, said[name])
