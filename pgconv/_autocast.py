"""Where torch autocasts."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

_TYPES = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia")
AUTOCAST_DEVICES = frozenset(device for device in _TYPES if torch.amp.is_autocast_available(device))
"""Device types with autocast; found out once, since compiled code cannot ask."""


def autocasts(x: torch.Tensor) -> bool:
    """Whether autocasting is on where a tensor is."""
    device = x.device.type
    return device in AUTOCAST_DEVICES and torch.is_autocast_enabled(device)


def dtype_of(x: torch.Tensor) -> torch.dtype:
    """In which an operator that autocasts takes a floating point tensor."""
    return torch.get_autocast_dtype(x.device.type) if x.dtype != torch.float64 and autocasts(x) else x.dtype


def as_now(x: torch.Tensor) -> AbstractContextManager:
    """What autocasting does now where a tensor is, for later."""
    device = x.device.type
    if device not in AUTOCAST_DEVICES:
        return nullcontext()
    return torch.autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Autocasting is off inside, so that it cannot lower a precision."""
    casts = device.type in AUTOCAST_DEVICES and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if casts else nullcontext()
