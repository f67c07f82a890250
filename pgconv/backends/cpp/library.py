"""Finds and loads ``libpgconv_cpu`` on first use; a missing or broken library is a reason, never an import failure."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from pgconv._env import cpu_isa

PATH = Path(__file__).resolve().parents[2] / "_lib" / "libpgconv_cpu.so"


@cache
def load_error() -> str | None:
    """Why the native CPU library cannot be used, or None once it is loaded."""
    if not PATH.exists():
        return "the native library was not built; install pgconv with a C++17 compiler at hand"
    try:
        torch.ops.load_library(str(PATH))
    except OSError as error:
        return f"the native library does not load: {error}"
    asked = cpu_isa()
    if asked is not None and asked != torch.ops.pgconv_C.cpu_isa():
        raise ValueError(
            f"PGCONV_CPU_ISA must be one of {torch.ops.pgconv_C.cpu_isa_supported()} on this machine, received {asked!r}; "
            "unset it for the best one"
        )
    return None


def ops() -> torch._ops._OpNamespace:
    """The raw operators; a RuntimeError says why there are none."""
    reason = load_error()
    if reason is not None:
        raise RuntimeError(f"pgconv: {reason}")
    return torch.ops.pgconv_C


def isa() -> str:
    """Instruction set in use: ``base``, ``avx2``, ``avx512`` or ``avx512bf16``."""
    return ops().cpu_isa()


def supported_isas() -> list[str]:
    """Instruction sets this machine can run, slowest first."""
    return ops().cpu_isa_supported().split(",")


def set_isa(level: str) -> None:
    """Use another instruction set from now on (for tests; ``PGCONV_CPU_ISA`` sets it for a process)."""
    ops().set_cpu_isa(level)
