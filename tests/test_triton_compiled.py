"""What the Triton kernels are compiled to for three GPUs, none of which is needed: what they take of a GPU, and that they use what
it has."""

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)

import fcntl

import triton
from triton_ahead import CASES, TARGETS, Image, Listed, Points

VERSION = ".".join(triton.__version__.split(".")[:2])
KNOWN = VERSION == "3.6"
"""The version that block sizes were chosen with. Others spill a few registers here and there, and order loops differently."""
# Bytes of stack, stores and loads. 3.5 spills 44 registers of one kernel.
SPILLS = {"3.5": 3 * 4 * 44, "3.6": 0}.get(VERSION, 256)
ROOT = Path(__file__).resolve().parent.parent
IMAGES, POINTS, LISTS = (
    [name for name, case in CASES.items() if isinstance(case, kind)] for kind in (Image, Points, Listed)
)
OF_IMAGES = ("chain", "direct", "head_gradient", "feature_gradient")
KERNELS = [(case, kernel) for case in IMAGES for kernel in OF_IMAGES]
KERNELS += [(case, kernel) for case in POINTS for kernel in ("moments", "gradients")]
KERNELS += [(case, kernel) for case in POINTS if CASES[case].alone for kernel in ("net_values", "net_gradients")]
KERNELS += [(case, "list_moments") for case in LISTS]
NVIDIA = [name for name in TARGETS if name.startswith("sm")]


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """``rows(target)`` by case and kernel. Compiled in a process of its own, whose kernels are no interpreter's."""
    folder = tmp_path_factory.getbasetemp()
    # Workers that run tests side by side have one parent, and each kind of GPU is one worker's to compile for.
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, ROOT / "tests" / "triton_ahead.py"]

    @cache
    def of(target):
        with open(folder / f"triton-{target}.jsonl", "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not file.seek(0, os.SEEK_END):
                done = subprocess.run([*command, target], capture_output=True, text=True, env=environment)
                assert done.returncode == 0, done.stderr[-3000:]
                file.write(done.stdout)
            file.seek(0)
            found = [json.loads(line) for line in file]
        return {(row["case"], row["kernel"]): row for row in found}

    return of


@pytest.mark.parametrize("target", TARGETS)
def test_everything_compiles(rows, target):
    assert set(rows(target)) == {*KERNELS, ("probe", "slow_sine")}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("case", "kernel"), KERNELS)
def test_registers_suffice_and_products_are_matrix_instructions(rows, target, case, kernel):
    row = rows(target)[case, kernel]
    assert row["spills"] <= SPILLS, row
    assert row["registers"] <= TARGETS[target].registers, row
    assert row["shared"] <= TARGETS[target].shared, row
    assert sum(row["matrix"].values()) >= 2, row


def test_warpgroups_multiply_on_compute_capability_9(rows):
    """The first product and the second, of all kernels of the plain layer."""
    for kernel in OF_IMAGES:
        assert rows("sm_90")["gcnn", kernel]["matrix"]["wgmma"] >= 2


@pytest.mark.skipif(not KNOWN, reason="another version of Triton than block sizes were chosen with")
@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize(("case", "ways"), [("gcnn", 1), ("ckresnet", 2)])
def test_moments_go_through_shared_memory_once(rows, target, case, ways):
    """Their rows are pixels and channels, and become pixels and samples, once in each round of the loop. Operands are copied there
    without passing registers, but for the head where another loop runs over the products."""
    row = rows(target)[case, "chain"]
    assert row["conversions"] + row["stores"] == ways, row


@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize(("case", "kernel"), [x for x in KERNELS if x[0] in POINTS + LISTS])
def test_sines_are_instructions_or_polynomials(rows, target, case, kernel):
    """No kernel has the library's sine, with its table for large arguments; in 16 bits the instruction computes it."""
    assert rows(target)["probe", "slow_sine"]["slow_sines"] > 0
    row, described = rows(target)[case, kernel], getattr(CASES[case], "points", CASES[case])
    assert row["slow_sines"] == 0, row
    assert (row["sines"] > 0) == (described.net.startswith("sin") and described.dtype != "float32"), row
