"""Importing pgconv is free, and works where the native library is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pgconv

ROOT = Path(__file__).resolve().parent.parent


def run(code, root=ROOT, **environment):
    """Output of a fresh process on the sources in root, which must end well and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_import_is_free():
    """No device, no compiler, no optional package, no native library, no output."""
    out = run(
        "import sys, torch\n"
        "before, threads = set(sys.modules), torch.get_num_threads()\n"
        "libraries = set(torch.ops.loaded_libraries)\n"
        "import pgconv\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "heavy = {'triton', 'sklearn', 'h5py', 'torchvision', 'matplotlib', 'tqdm', 'scipy', 'pybind11', 'mpmath', 'pytest'}\n"
        "assert not loaded & heavy, loaded & heavy\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'pgconv.demo' not in sys.modules\n"
        "assert set(torch.ops.loaded_libraries) == libraries, 'import loads a native library'\n"
        "assert torch.get_num_threads() == threads\n"
        "assert torch.get_default_dtype() == torch.float32\n"
    )
    assert out == ""


def test_triton_waits_for_a_gpu():
    """Neither its backend nor a call on a CPU loads it."""
    run(
        "import sys, torch, pgconv, pgconv.backends.triton\n"
        "conv = pgconv.nn.LiftingConv2d(1, 2, kernel_size=3, group='SE(2)', num_samples=4)\n"
        "conv(torch.zeros(1, 1, 5, 5))\n"
        "assert 'triton' not in pgconv.backends.available('cpu')\n"
        "assert 'triton' not in sys.modules\n"
    )


def test_import_leaves_the_random_state_alone():
    run("import torch\ns = torch.get_rng_state()\nimport pgconv\nassert torch.equal(s, torch.get_rng_state())")


@pytest.fixture(scope="module")
def crippled(tmp_path_factory):
    """A copy of the Python sources without anything compiled."""
    root = tmp_path_factory.mktemp("sources")
    skip = shutil.ignore_patterns("*.so", "*.dll", "*.dylib", "__pycache__")
    shutil.copytree(ROOT / "pgconv", root / "pgconv", ignore=skip)
    return root


def test_missing_native_library_is_reported_and_the_reference_runs(crippled):
    out = run(
        "import torch, pgconv\n"
        "print(pgconv.__file__)\n"
        "print(pgconv.backends.available('cpu'))\n"
        "conv = pgconv.nn.LiftingConv2d(1, 2, kernel_size=3, group='SE(2)', num_samples=4)\n"
        "print(tuple(conv(torch.zeros(1, 1, 5, 5))[0].shape))\n"
        "print(pgconv.show_config())\n",
        root=crippled,
    )
    where, available, shape, *config = out.splitlines()
    assert Path(where).is_relative_to(crippled)
    assert available == "['reference']" and shape == "(1, 2, 4, 5, 5)"
    (line,) = [text for text in config if text.startswith("backend cpp:")]
    reason = line.removeprefix("backend cpp: cpu: ")
    assert reason != "available" and len(reason) > 10, line


def test_missing_native_library_asked_for_by_name_raises_the_same_reason(crippled):
    out = run(
        "import torch, pgconv\n"
        "reason = pgconv.backends.load('cpp').unavailable('cpu')\n"
        "conv = pgconv.nn.LiftingConv2d(1, 2, kernel_size=3, group='SE(2)', num_samples=4)\n"
        "try:\n"
        "    with pgconv.use_backend('cpp'):\n"
        "        conv(torch.zeros(1, 1, 5, 5))\n"
        "except ValueError as error:\n"
        "    assert reason in str(error), str(error)\n"
        "    print('raised')\n",
        root=crippled,
    )
    assert out == "raised\n"


def test_backend_environment_variable():
    code = (
        "import torch, pgconv\n"
        "conv = pgconv.nn.LiftingConv2d(1, 2, kernel_size=3, group='SE(2)', num_samples=4)\n"
        "print({step.plan.backend for step in pgconv.explain(conv, torch.zeros(1, 1, 5, 5)).steps})"
    )
    assert run(code, PGCONV_BACKEND="reference") == "{'reference'}\n"
    with pytest.raises(AssertionError, match=r"backend must be one of .*'nonsense'"):
        run(code, PGCONV_BACKEND="nonsense")


def test_version_is_that_of_the_project():
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M).group(1)
    assert pgconv.__version__ == declared


def test_public_names_exist_and_are_sorted():
    for name in ("data", "groups", "kernel_nets", "sampling", "functional", "neighbors", "nn", "diagnostics"):
        module = getattr(pgconv, name)
        assert all(hasattr(module, public) for public in module.__all__), name
    assert all(hasattr(pgconv, name) for name in pgconv.__all__)
    assert (Path(pgconv.__file__).parent / "py.typed").exists()


def test_config_is_text_about_every_backend():
    text = pgconv.show_config()
    assert text.startswith(f"pgconv {pgconv.__version__}, torch ")
    for name in pgconv.backends.NAMES:
        assert f"backend {name}:" in text
