"""Every ``PGCONV_*`` environment variable, read in one place.

| variable | meaning |
|---|---|
| ``PGCONV_BACKEND`` | backend used when neither ``backend=`` nor ``use_backend`` names one |
| ``PGCONV_CPU_ISA`` | instruction set of the native CPU library: ``base``, ``avx2`` or ``avx512`` (read by the library itself) |
"""

from __future__ import annotations

import os


def default_backend() -> str | None:
    """Backend named by ``PGCONV_BACKEND``, or None."""
    return os.environ.get("PGCONV_BACKEND") or None


def cpu_isa() -> str | None:
    """Instruction set asked for by ``PGCONV_CPU_ISA``, or None."""
    return os.environ.get("PGCONV_CPU_ISA") or None
