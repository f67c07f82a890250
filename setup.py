"""Builds the native libraries with CMake and ninja and puts them into ``pgconv/_lib``. Sources and flags: CMakeLists.txt.

Where there is no C++ compiler the package is built without them: everything runs, in plain PyTorch and Triton. ``PGCONV_NATIVE=0``
asks for that, ``PGCONV_NATIVE=1`` for an error instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """One pseudo-extension stands for the whole CMake project."""

    def build_extension(self, ext: Extension) -> None:
        # An editable install uses the source tree, a wheel its own build folder.
        package = ROOT / "pgconv" if self.inplace or self.editable_mode else Path(self.build_lib).resolve() / "pgconv"
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            _tool("cmake"),
            "-G",
            "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DPGCONV_LIB_DIR={package / '_lib'}",
            # The test module is tied to one Python; a wheel is not.
            f"-DPGCONV_BUILD_TESTING={'ON' if self.inplace or self.editable_mode else 'OFF'}",
            "-B",
            str(build),
            "-S",
            str(ROOT),
        ]
        subprocess.run(configure, check=True)
        subprocess.run([_tool("cmake"), "--build", str(build)], check=True)

    def get_outputs(self) -> list[str]:
        return []

    def copy_extensions_to_source(self) -> None:
        """Nothing to copy: CMake has put the libraries where they belong."""


class AnyPythonWheel(bdist_wheel):
    """The native library uses no Python API: one wheel per platform serves every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


def _builds_native() -> bool:
    asked = os.environ.get("PGCONV_NATIVE", "")
    if asked not in ("", "0", "1"):
        raise SystemExit(f"pgconv: PGCONV_NATIVE must be 0 or 1, received {asked!r}")
    compilers = [os.environ.get("CXX", "").split(" ")[0], "c++", "g++", "clang++", "cl"]
    if asked:
        return asked == "1"
    if any(shutil.which(name) for name in compilers if name):
        return True
    print(
        "pgconv: no C++ compiler was found, so the native library is left out: layers run in plain PyTorch. "
        "Install one (or set CXX) and install pgconv again.",
        file=sys.stderr,
    )
    return False


def _tool(name: str) -> str:
    """The program beside this interpreter (installed by pip), else on the path."""
    beside = shutil.which(name, path=os.path.dirname(sys.executable))
    found = beside or shutil.which(name)
    if found is None:
        raise SystemExit(f"pgconv: building needs {name}; pip install {name}")
    return found


native = _builds_native()
setup(
    ext_modules=[Extension("pgconv._lib.native", sources=[])] if native else [],
    cmdclass={"build_ext": CMakeBuild} | ({"bdist_wheel": AnyPythonWheel} if native else {}),
)
