"""Whether Triton is here and what it runs on. Imported by name only where kernels are wanted: it takes a while."""

from __future__ import annotations

from functools import cache

import torch

from pgconv._env import triton_interpreted

OLDEST = (3, 5)
OLDEST_CAPABILITY = (8, 0)


@cache
def interpreted() -> bool:
    """Whether kernels are interpreted, on tensors of any device, instead of compiled. Asked once: kernels are made for either."""
    return triton_interpreted()


def unavailable(device: str) -> str | None:
    """Why there are no kernels for a device type, or None."""
    if device == "cpu" and not interpreted():
        return "Triton has kernels for GPUs; on cpu tensors they run in its interpreter only (TRITON_INTERPRET=1)"
    if device not in ("cpu", "cuda"):
        return f"the Triton kernels do not run on {device} tensors"
    return _load_error() or (_no_device() if device == "cuda" else None)


def version() -> str:
    """That of Triton, or why there is none."""
    return _load_error() or f"Triton {_triton().__version__}{', interpreted' if interpreted() else ''}"


def architecture() -> str:
    """The class of GPUs that the current one belongs to, by what a block may hold; see ``conv_tiles``."""
    if interpreted():
        return "interpreter"
    if torch.version.hip is not None:
        return "amd"
    major, minor = torch.cuda.get_device_capability()
    if major in (9, 10):
        return "hopper"
    return "ampere" if (major, minor) in ((8, 0), (8, 7)) else "small"


@cache
def _load_error() -> str | None:
    try:
        found = _triton().__version__
    except ImportError as error:
        return f"Triton is not installed or does not load: {error}"
    if tuple(int(x) for x in found.split(".")[:2]) < OLDEST:
        return f"Triton {found} is too old, the kernels need {'.'.join(map(str, OLDEST))}"
    return None


@cache
def _no_device() -> str | None:
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    if torch.version.hip is not None or torch.cuda.get_device_capability() >= OLDEST_CAPABILITY:
        return None
    oldest = ".".join(map(str, OLDEST_CAPABILITY))
    return f"the Triton kernels need compute capability {oldest}, which {torch.cuda.get_device_name()} does not have"


def _triton():
    import triton

    return triton
