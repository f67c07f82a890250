"""Finds and loads ``libpgconv_cuda`` on first use, after the library of the CPU, which defines the operators. A machine without
CUDA never maps it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from pgconv.backends.cpp import library as cpu

PATH = Path(__file__).resolve().parents[2] / "_lib" / "libpgconv_cuda.so"
OLDEST = (8, 0)
"""Compute capability of the oldest GPUs there are kernels for."""


@cache
def load_error() -> str | None:
    """Why the native CUDA library cannot be used, or None once it is loaded."""
    if torch.version.cuda is None:
        return "torch was built without CUDA"
    missing = cpu.load_error()
    if missing is not None:
        return missing
    if not PATH.exists():
        return "the CUDA library was not built; install pgconv with nvcc at hand"
    try:
        torch.ops.load_library(str(PATH))
    except OSError as error:
        return f"the CUDA library does not load: {error}"
    return torch.ops.pgconv_C.cuda_why_not_driver() or _old_device()


def _old_device() -> str | None:
    if not torch.cuda.is_available():
        return None
    capability = torch.cuda.get_device_capability()
    if capability >= OLDEST:
        return None
    name, found, oldest = torch.cuda.get_device_name(), ".".join(map(str, capability)), ".".join(map(str, OLDEST))
    return f"{name} has compute capability {found}; the CUDA kernels need {oldest}"


def architectures() -> str:
    """GPU architectures inside the library, for example ``80, 90a``."""
    return torch.ops.pgconv_C.cuda_architectures()
