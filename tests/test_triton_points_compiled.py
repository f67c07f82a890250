"""Triton kernels of nets and point convolutions at real sizes, compiled ahead of time for GPUs that need not be there: what they
take of a GPU, and that they use what it has."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)

TARGETS = ("sm_80", "sm_90", "gfx942")
SHARED = {"sm_80": 101376, "sm_90": 232448, "gfx942": 65536}
"""Bytes of shared memory of a block; the first so that capability 8.6 can run it, too."""
REGISTERS = {"sm_80": 255, "sm_90": 255, "gfx942": 512}


@pytest.fixture(scope="module", params=TARGETS)
def compiled(request, tmp_path_factory):
    """Kernels for a target, compiled in a process of its own so that nothing of it stays here."""
    here = Path(__file__).resolve().parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    environment |= {
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
        "PYTHONPATH": str(here.parent),
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, str(here / "triton_ahead.py"), request.param], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    return request.param, kernels[:-1], kernels[-1]


def test_every_kernel_is_compiled(compiled):
    _, kernels, _ = compiled
    names = [kernel["kernel"] for kernel in kernels]
    assert {name: names.count(name) for name in names} == {
        "moments": 5,
        "gradients": 5,
        "list_moments": 6,
        "net_values": 1,
        "net_gradients": 1,
    }


def test_registers_hold_everything(compiled):
    target, kernels, _ = compiled
    for kernel in kernels:
        assert kernel["spills"] == kernel["stack"] == 0, kernel
        assert kernel["registers"] <= REGISTERS[target], kernel


def test_shared_memory_is_there(compiled):
    target, kernels, _ = compiled
    for kernel in kernels:
        assert kernel["shared"] <= SHARED[target], kernel


def test_products_are_matrix_instructions(compiled):
    _, kernels, _ = compiled
    for kernel in kernels:
        assert kernel["products"] > 0, kernel


def test_sines_are_instructions_or_polynomials(compiled):
    """No kernel has the library's sine, with its table for large arguments; in 16 bits the instruction computes it."""
    target, kernels, probe = compiled
    if target == "gfx942":
        pytest.skip("the instruction is NVIDIA's")
    assert probe["slow_sines"] > 0
    for kernel in kernels:
        dtype, _, net, *_ = kernel["case"]
        assert kernel["slow_sines"] == 0, kernel
        assert (kernel["sines"] > 0) == (net.startswith("sin") and dtype != "float32"), kernel
