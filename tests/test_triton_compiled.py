"""What the Triton kernels of image convolutions are compiled to for three GPUs, none of which is needed."""

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)

KNOWN = version("triton").startswith("3.6.")
"""The version that block sizes were chosen with. Others spill a few registers here and there, and order loops differently."""
ROOT = Path(__file__).resolve().parent.parent
# Shared memory of a block: of "sm_80" kernels that which compute capability 8.6 and 12.0 have as well.
SHARED = {"sm_80": 99 << 10, "sm_90": 227 << 10, "gfx942": 64 << 10}
TARGETS = pytest.mark.parametrize("target", SHARED)
CALLS = ("gcnn", "ckresnet", "odd", "lifting", "gcnn_float32", "large")
KERNELS = ("chain", "direct", "head_gradient", "feature_gradient")


@cache
def rows(target):
    """By call and kernel. Compiled in a process of its own, whose kernels are no interpreter's."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "CUDA_VISIBLE_DEVICES": ""}
    script = ROOT / "tests" / "triton_compile.py"
    done = subprocess.run([sys.executable, script, target], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {(row["call"], row["kernel"]): row for row in found}


@TARGETS
def test_everything_compiles(target):
    assert set(rows(target)) == {(call, kernel) for call in CALLS for kernel in KERNELS}


@TARGETS
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_registers_suffice_and_products_are_matrix_instructions(target, kernel, call):
    row = rows(target)[call, kernel]
    assert row["spills"] <= (0 if KNOWN else 256), row
    assert row["shared"] <= SHARED[target], row
    assert sum(row["matrix"].values()) >= 2, row


def test_warpgroups_multiply_on_compute_capability_9():
    """The first product and the second, of all kernels of the plain layer."""
    for kernel in KERNELS:
        assert rows("sm_90")["gcnn", kernel]["matrix"]["wgmma"] >= 2


@pytest.mark.skipif(not KNOWN, reason="another version of Triton than block sizes were chosen with")
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("call", "ways"), [("gcnn", 1), ("ckresnet", 2)])
def test_moments_go_through_shared_memory_once(target, call, ways):
    """Their rows are pixels and channels, and become pixels and samples, once in each round of the loop. Operands are copied there
    without passing registers, but for the head where another loop runs over the products."""
    row = rows(target)[call, "chain"]
    assert row["conversions"] + row["stores"] == ways, row
