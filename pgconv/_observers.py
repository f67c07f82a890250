"""Who looks at the operations of a call beside autograd."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def are_there() -> bool:
    """Modes, tracers, transformations of functions, profilers, forward derivatives. Not to be asked in compiled code."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or torch.autograd._profiler_enabled()
        or forward_ad._current_level >= 0
    )
