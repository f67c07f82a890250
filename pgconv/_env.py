"""Every environment variable, read in one place.

| variable | meaning |
|---|---|
| ``PGCONV_BACKEND`` | backend used when neither ``backend=`` nor ``use_backend`` names one |
| ``PGCONV_CPU_ISA`` | the native CPU library's: ``base``, ``avx2``, ``avx512``, ``avx512bf16`` (read by the library itself) |
| ``PGCONV_RATES`` | file of measured rates (``pgconv.calibrate``), by default in the user's cache folder; ``shipped``: use none |
| ``PGCONV_TILES`` | likewise of block sizes of Triton kernels (``pgconv.warmup``) |
| ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` | ``torchrun``'s: which of the processes that train together this one is |
| ``TRITON_INTERPRET`` | Triton's own: its kernels are interpreted, on CPU tensors too |
"""

from __future__ import annotations

import os
from pathlib import Path


def default_backend() -> str | None:
    """Backend named by ``PGCONV_BACKEND``, or None."""
    return os.environ.get("PGCONV_BACKEND") or None


def cpu_isa() -> str | None:
    """Instruction set asked for by ``PGCONV_CPU_ISA``, or None."""
    return os.environ.get("PGCONV_CPU_ISA") or None


def rates_file() -> Path | None:
    """File that holds measured rates, or None where only the shipped ones are wanted."""
    return _kept_file("PGCONV_RATES", "rates.json")


def tiles_file() -> Path | None:
    """File that holds block sizes found by trying, or None where only the shipped ones are wanted."""
    return _kept_file("PGCONV_TILES", "tiles.json")


def _kept_file(variable: str, name: str) -> Path | None:
    named = os.environ.get(variable)
    if named == "shipped":
        return None
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(cache) / "pgconv" / name


def triton_interpreted() -> bool:
    """Whether Triton interprets kernels, by ``TRITON_INTERPRET``."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def launched() -> tuple[int, int, int]:
    """Number of this process, how many there are, and its number on this machine, as ``torchrun`` says; 0, 1, 0 without it."""
    return tuple(
        int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )  # type: ignore[return-value]


def with_threads(count: int) -> dict[str, str]:
    """The environment of a process of its own that computes with so many threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(count)}
