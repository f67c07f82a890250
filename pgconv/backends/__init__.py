"""Backends, best first, imported on first use. ``available(device)`` lists the ones that can run here."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from pgconv.backends.base import Backend

NAMES = ("cuda", "triton", "cpp", "reference")
"""Every backend of this version, best first."""


def load(name: str) -> Backend:
    """The backend of that name; a ValueError lists the names."""
    if name not in NAMES:
        raise ValueError(
            f"backend must be one of {', '.join(map(repr, NAMES))} (or None for the best), received {name!r}"
        )
    return _load(name)


@cache
def _load(name: str) -> Backend:
    return import_module(f"pgconv.backends.{name}").BACKEND


def available(device: str = "cpu") -> list[str]:
    """Names of the backends that can run on a device type, best first.

    Example:
        >>> import pgconv
        >>> pgconv.backends.available("cpu")[-1]
        'reference'
    """
    return [name for name in NAMES if load(name).unavailable(device) is None]
