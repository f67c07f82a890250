"""A line that says how far something is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(wanted: bool, **options: Any) -> Iterator[Any]:
    """tqdm's bar on the standard error, with rate and time left; None where it is not wanted, or tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        wanted = False
    if not wanted:
        yield None
        return
    with tqdm(mininterval=0.5, **options) as line:
        yield line
