"""A process in which Triton interprets kernels: that is decided when Triton is imported, for the whole process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

from pytest import MonkeyPatch


@contextmanager
def interpreting() -> Iterator[Callable[..., Any]]:
    """``call(function, *args, **options)`` runs a function of a module there; what it raises is raised here."""
    with ProcessPoolExecutor(1, get_context("spawn"), _begin) as process:
        yield lambda function, *args, **options: process.submit(function, *args, **options).result()


def with_values(device: str, values: dict[str, Any], function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """``function(device, *args, **options)`` with other values of what is named by a dotted path, where kernels run."""
    with MonkeyPatch.context() as patch:
        for path, value in values.items():
            patch.setattr(path, value)
        return function(device, *args, **options)


def _begin() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    torch.set_num_threads(1)
    patch_language, patched = interpreter._patch_lang, set()

    def once(function: Any) -> Any:
        # Every call of a function would exchange the whole language again, which takes most of the time.
        if id(function.__globals__) not in patched:
            patched.add(id(function.__globals__))
            patch_language(function)
            # A scalar is an array of one number there, which numpy from 2.4 on takes for no bound of a loop; Triton 3.7 knows.
            tl.tensor.__index__ = lambda self: self.handle.data.item()
        return SimpleNamespace(restore=lambda: None)  # what versions from 3.6 on give back

    interpreter._patch_lang = once
    # Sums of integers would be formed a second time in 64 bits, for a comparison that nobody sees.
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)
    _teach_bfloat16(interpreter)
    _watch_addresses(interpreter)


def _watch_addresses(interpreter: Any) -> None:
    """What is read or written at a time has to lie in one operand of the launch; the interpreter would take any address."""
    import numpy as np

    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    begin, load, store = executor._init_args_hst, builder.create_masked_load, builder.create_masked_store
    bounds: list[tuple[int, int]] = []

    def init(self: Any, args: Any, kwargs: Any) -> Any:
        found = begin(self, args, kwargs)
        tensors = [x for x in (*found[0], *found[1].values()) if hasattr(x, "data_ptr")]
        bounds[:] = [(x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()) for x in tensors]
        return found

    def check(pointers: Any, mask: Any) -> None:
        at = np.broadcast_to(pointers.data, mask.data.shape)[mask.data.astype(bool)]
        if not at.size:
            return
        first, last = int(at.min()), int(at.max())
        if not any(low <= first and last < high for low, high in bounds):
            raise IndexError(f"{at.size} addresses from {first} to {last} lie in no operand: {bounds}")

    def masked_load(self: Any, pointers: Any, mask: Any, *others: Any) -> Any:
        check(pointers, mask)
        return load(self, pointers, mask, *others)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
        check(pointers, mask)
        return store(self, pointers, value, mask, *others)

    executor._init_args_hst = init
    builder.create_masked_load, builder.create_masked_store = masked_load, masked_store


def _teach_bfloat16(interpreter: Any) -> None:
    """The interpreter holds bfloat16 as its 16 bits: it multiplies these, and cuts float32 off where GPUs round."""
    import numpy as np
    import torch
    import triton.language as tl

    builder = interpreter.InterpreterBuilder
    dot, cast = builder.create_dot, builder.cast_impl

    def wide(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return dot(self, wide(a), wide(b), *others)

    def cast_impl(self: Any, x: Any, to: Any) -> Any:
        if (x.dtype.scalar, to.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, x, to)
        near = torch.from_numpy(np.ascontiguousarray(x.data)).bfloat16().view(torch.int16).numpy()
        return interpreter.TensorHandle(near.view(np.uint16), tl.bfloat16)

    builder.create_dot, builder.cast_impl = create_dot, cast_impl
