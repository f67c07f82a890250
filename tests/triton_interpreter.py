"""Triton kernels on CPU tensors: modules of kernels loaded for Triton's interpreter, for as long as a test runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import torch
import triton
import triton.language as tl
from pytest import MonkeyPatch
from triton.runtime import interpreter


@contextmanager
def interpreted(*names: str) -> Iterator[None]:
    """These modules, imported anew in the interpreter's mode, stand in the place of those for GPUs, which come back afterwards.
    Those that others import come first. Device functions are called as they are: the kernel has prepared the language."""
    before = {name: sys.modules.pop(name, None) for name in names}
    mode = triton.knobs.runtime.interpret
    with MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", _with_scalars_as_indices)
        patch.setattr(interpreter.InterpreterBuilder, "create_dot", _dot_of_bfloat16)
        patch.setattr(interpreter.InterpreterBuilder, "cast_impl", _rounded)
        patch.setattr(
            interpreter.InterpretedFunction, "__call__", lambda self, *args, **kwargs: self.rewrite()(*args, **kwargs)
        )
        try:
            triton.knobs.runtime.interpret = True
            try:
                for name in names:
                    importlib.import_module(name)
            finally:
                triton.knobs.runtime.interpret = mode
            yield
        finally:
            for name, module in before.items():
                _put(name, module)


def _put(name: str, module: ModuleType | None) -> None:
    """A module, or none, under a name and in the package that names it."""
    sys.modules.pop(name, None)
    package, _, own = name.rpartition(".")
    if hasattr(sys.modules.get(package), own):
        delattr(sys.modules[package], own)
    if module is not None:
        sys.modules[name] = module
        setattr(sys.modules[package], own, module)


_patch_lang_tensor = interpreter._patch_lang_tensor
_create_dot, _cast = interpreter.InterpreterBuilder.create_dot, interpreter.InterpreterBuilder.cast_impl


def _with_scalars_as_indices(tensor, scope) -> None:
    """The interpreter holds a scalar as an array of one number, which recent numpy does not take for a bound of a loop."""
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


def _dot_of_bfloat16(self, a, b, *args):
    """The interpreter holds bfloat16 as its 16 bits, and would multiply these."""
    return _create_dot(self, *(_wide(x) for x in (a, b)), *args)


def _wide(x):
    if x.dtype.scalar != tl.bfloat16:
        return x
    return interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _rounded(self, src, dst_type):
    """It would cut numbers off for bfloat16, where GPUs round to the nearest."""
    if (src.dtype.scalar, dst_type.scalar) == (tl.float32, tl.bfloat16):
        near = torch.from_numpy(np.ascontiguousarray(src.data)).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return interpreter.TensorHandle(near, dst_type.scalar)
    return _cast(self, src, dst_type)
