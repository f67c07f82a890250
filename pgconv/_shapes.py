"""Argument checks that name the argument, the expected shape, the received shape and the way out."""

from __future__ import annotations

from functools import cache

import torch


@cache
def dtype_name(dtype: torch.dtype) -> str:
    """``"float32"`` of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def dtype_names(*tensors: torch.Tensor) -> tuple[str, ...]:
    """Of each."""
    return tuple(dtype_name(x.dtype) for x in tensors)


def describe(value: object) -> str:
    """Short text of what was received: shape and dtype of a tensor, the value and type of anything else."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)} and dtype {dtype_name(value.dtype)}"
    return f"{value!r} ({type(value).__name__})"


def require_tensor(op: str, name: str, value: object) -> torch.Tensor:
    """``value`` itself if it is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{op}: {name} must be a tensor, received {describe(value)}")
    return value


def check_shape(op: str, name: str, value: object, pattern: str, axes: dict[str, int | tuple[int, ...]]) -> None:
    """Match ``value.shape`` against ``pattern``, binding axis names in ``axes``.

    ``pattern`` is a space separated list of axis names (``"B C Nv H W"``). A name already in ``axes`` must agree with
    the bound size (a tuple lists the allowed sizes); an unbound name is bound. ``name|1`` also accepts size 1 and
    binds nothing when it meets 1.
    """
    tensor, names = require_tensor(op, name, value), _names(pattern)
    shape = tensor.shape
    if len(shape) != len(names):
        raise ValueError(
            f"{op}: {name} must have {len(names)} dimensions {_render(pattern, axes)}, received {describe(tensor)}"
        )
    for axis, ((base, alternative), size) in enumerate(zip(names, shape)):
        known = axes.get(base)
        if known == size or size == alternative:
            continue
        if known is None:
            axes[base] = size
            continue
        allowed = known if isinstance(known, tuple) else (known,)
        if size not in allowed:
            expected = " or ".join(str(a) for a in (*allowed, *([] if alternative is None else [alternative])))
            raise ValueError(
                f"{op}: {name} must be {_render(pattern, axes)}: axis {axis} ({base}) should be {expected} to match the other "
                f"arguments, received {describe(tensor)}"
            )


@cache
def _names(pattern: str) -> tuple[tuple[str, int | None], ...]:
    """Of the axes, each with the other size it may have."""
    parts = (symbol.partition("|") for symbol in pattern.split())
    return tuple((base, int(other) if other else None) for base, _, other in parts)


def _render(pattern: str, axes: dict[str, int | tuple[int, ...]]) -> str:
    def one(symbol: str) -> str:
        known = axes.get(symbol.partition("|")[0])
        return f"{symbol}={known}" if isinstance(known, int) else symbol

    return "[" + ", ".join(one(s) for s in pattern.split()) + "]"


def check_choice(op: str, name: str, value: object, options: tuple[str, ...]) -> None:
    """``value`` must be one of ``options``."""
    if value not in options:
        raise ValueError(f"{op}: {name} must be one of {', '.join(map(repr, options))}, received {describe(value)}")


def check_floating(op: str, name: str, value: torch.Tensor, allowed: tuple[torch.dtype, ...] | None = None) -> None:
    """``value`` must be floating point, and of one of ``allowed`` where given."""
    if not value.is_floating_point() or (allowed is not None and value.dtype not in allowed):
        options = "a floating point dtype" if allowed is None else " or ".join(map(dtype_name, allowed))
        raise ValueError(
            f"{op}: {name} must have {options}, received {describe(value)}; convert it with {name}.to(dtype)"
        )


def check_mask(op: str, value: object, pattern: str, axes: dict[str, int | tuple[int, ...]]) -> torch.Tensor:
    """A boolean mask of that shape."""
    check_shape(op, "mask", value, pattern, axes)
    mask = require_tensor(op, "mask", value)
    if mask.dtype != torch.bool:
        raise ValueError(f"{op}: mask must be boolean, received {describe(mask)}; compare it, e.g. mask > 0")
    return mask


def check_same_device(op: str, **tensors: torch.Tensor | None) -> None:
    """All tensors that are not None must live on one device."""
    first: tuple[str, torch.device] | None = None
    for name, value in tensors.items():
        if value is None:
            continue
        tensor = require_tensor(op, name, value)
        if first is None:
            first = (name, tensor.device)
        elif tensor.device != first[1]:
            raise ValueError(
                f"{op}: {name} is on {tensor.device} but {first[0]} is on {first[1]}; move one of them with .to(device)"
            )


def check_positive_int(op: str, name: str, value: object, minimum: int = 1) -> int:
    """``value`` as an int that is at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{op}: {name} must be an integer >= {minimum}, received {describe(value)}")
    return value


def values_can_be_read(tensor: torch.Tensor) -> bool:
    """Whether looking at values is possible without tracing trouble and without making the host wait for a device."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )
