"""What launches of Triton kernels depend on beside their operands: the device, and what its compiler offers."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def on_device(x: Tensor) -> contextlib.AbstractContextManager:
    """Kernels start on the current device; operands may lie on another."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def has_ptx(x: Tensor) -> bool:
    """Whether kernels for this tensor may contain NVIDIA's instructions; the interpreter, which takes CPU tensors, knows none."""
    return x.is_cuda and torch.version.hip is None


def precision(x: Tensor) -> str:
    """Of products of float32: three of TF32 on tensor cores, where only these are fast, else float32 itself."""
    return "tf32x3" if has_ptx(x) else "ieee"
