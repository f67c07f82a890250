"""The archive of the sources has all that is needed to build, and a wheel without a compiler runs."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BACKEND = "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def tracked():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("needs the repository")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def built(kind, source, out, **environment):
    """Path of what the build backend makes of a source tree."""
    out.mkdir()
    command = [sys.executable, "-c", BACKEND, f"build_{kind}", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The archive's folder, unpacked; made of a copy in which a library lies that somebody built."""
    top = tmp_path_factory.mktemp("sources")
    for name in tracked():
        (top / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, top / "tree" / name)
    (top / "tree" / "pgconv" / "_lib" / "libpgconv_cpu.so").write_bytes(b"not a library")
    archive = built("sdist", top / "tree", top / "dist")
    with tarfile.open(archive) as file:
        file.extractall(top / "unpacked", filter="data")
    return next((top / "unpacked").iterdir())


def test_the_archive_has_every_file_that_is_needed(sources):
    found = {str(path.relative_to(sources)) for path in sources.rglob("*") if path.is_file()}
    needed = {
        name
        for name in tracked()
        if name.split("/")[0] in ("pgconv", "csrc", "tests", "docs", "benchmarks", "examples")
    }
    needed |= {"setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md"}
    assert needed <= found, sorted(needed - found)[:10]
    assert not [name for name in found if name.endswith((".so", ".o", ".pyc"))]


def without_compiler():
    """A PATH on which there is none."""
    return {"PATH": str(Path(sys.executable).parent), "PGCONV_NATIVE": "", "CXX": ""}


@pytest.mark.parametrize("environment", [{"PGCONV_NATIVE": "0"}, without_compiler()], ids=["asked", "no-compiler"])
def test_without_a_compiler_the_package_is_pure_and_runs(environment, sources, tmp_path):
    wheel = built("wheel", sources, tmp_path / "dist", **environment)
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        file.extractall(tmp_path / "site")
    assert "pgconv/py.typed" in names and not [name for name in names if name.endswith(".so")]
    assert not [name for name in names if re.match(r"(tests|benchmarks|docs|examples|csrc)/", name)]
    code = """
import torch, pgconv
lift = pgconv.nn.LiftingConv2d(1, 2, kernel_size=3, num_samples=4)
lift(torch.randn(1, 1, 5, 5))[0].sum().backward()
print(pgconv.__file__, pgconv.backends.available("cpu"))
print(pgconv.show_config())
"""
    own = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=own)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout.splitlines()[0] and "cpp" not in done.stdout.splitlines()[0]
    assert re.search("backend cpp: cpu: .*not", done.stdout), done.stdout


def test_one_version():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', text, re.M).group(1)
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
