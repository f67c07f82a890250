"""A process in which Triton interprets kernels: that is decided when Triton is imported, for the whole process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any


@contextmanager
def interpreting() -> Iterator[Callable[..., Any]]:
    """``call(function, *args)`` runs a function of a module there; what it raises is raised here."""
    with ProcessPoolExecutor(1, get_context("spawn"), _begin) as process:
        yield lambda function, *args: process.submit(function, *args).result()


def _begin() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    import torch
    from triton.runtime import interpreter

    torch.set_num_threads(1)
    patch_tensor, patch_language, patched = interpreter._patch_lang_tensor, interpreter._patch_lang, set()

    def with_index(tensor: Any, scope: Any) -> None:
        # A scalar is an array of one number there, which numpy from 2.4 on takes for no bound of a loop; Triton 3.7 knows.
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def once(function: Any) -> Any:
        # Every call of a function would exchange the whole language again, which takes most of the time.
        if id(function.__globals__) not in patched:
            patched.add(id(function.__globals__))
            patch_language(function)
        return interpreter._LangPatchScope()

    interpreter._patch_lang_tensor, interpreter._patch_lang = with_index, once
    _teach_bfloat16(interpreter)
    _watch_addresses(interpreter)


def _watch_addresses(interpreter: Any) -> None:
    """What is read or written has to lie in an operand of the launch; the interpreter would take any address."""
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
        at = np.broadcast_to(pointers.data, mask.data.shape)[mask.data.astype(bool)].astype(np.int64)
        inside = np.zeros(at.shape, bool)
        for low, high in bounds:
            inside |= (at >= low) & (at < high)
        if not inside.all():
            raise IndexError(f"{(~inside).sum()} of {at.size} addresses lie in no operand")

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
