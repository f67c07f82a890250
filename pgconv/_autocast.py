"""Where torch autocasts."""

from __future__ import annotations

import torch

_TYPES = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia")
AUTOCAST_DEVICES = frozenset(device for device in _TYPES if torch.amp.is_autocast_available(device))
"""Device types with autocast; found out once, since compiled code cannot ask."""
