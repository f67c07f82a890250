"""Triton kernels on CPU tensors: modules of kernels loaded for Triton's interpreter, for as long as a test runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import triton
from triton.runtime import interpreter


@contextmanager
def interpreted(*names: str) -> Iterator[None]:
    """These modules, imported anew in the interpreter's mode, stand in the place of those for GPUs, which come back afterwards. The
    first must not import the others' kernels."""
    before = {name: sys.modules.pop(name, None) for name in names}
    index, mode = interpreter._patch_lang_tensor, triton.knobs.runtime.interpret
    interpreter._patch_lang_tensor = _with_scalars_as_indices
    try:
        triton.knobs.runtime.interpret = True
        try:
            for name in names:
                importlib.import_module(name)
        finally:
            triton.knobs.runtime.interpret = mode
        yield
    finally:
        interpreter._patch_lang_tensor = index
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
            # The package names its modules, too.
            package, _, own = name.rpartition(".")
            if hasattr(sys.modules.get(package), own):
                delattr(sys.modules[package], own)
            if module is not None:
                setattr(sys.modules[package], own, module)


_patch_lang_tensor = interpreter._patch_lang_tensor


def _with_scalars_as_indices(tensor, scope) -> None:
    """The interpreter holds a scalar as an array of one number, which recent numpy does not take for a bound of a loop."""
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
