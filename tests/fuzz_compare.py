"""Results of random calls against the float64 reference. See ``fuzzing``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv.diagnostics.self_check import GRADIENT_FACTOR, VALUE_TOLERANCE
from pgconv.spec import ConvGeometry


class Mismatch(AssertionError):
    """A result that is not that of the reference."""


def compare(found: dict[str, Tensor | None], want: dict[str, Tensor | None], scales: dict[str, float], dtype) -> None:
    """Within the bounds of a dtype, of the largest value the same sums have without cancellation: nothing else is certain."""
    for name, exact in want.items():
        x = found[name]
        if exact is None or x is None:
            if exact is not x:
                raise Mismatch(f"{name}: one of the two is missing")
            continue
        if x.shape != exact.shape:
            raise Mismatch(f"{name}: shape {list(x.shape)}, expected {list(exact.shape)}")
        if not x.numel():
            continue
        bound = VALUE_TOLERANCE[dtype] * (1 if name == "out" else GRADIENT_FACTOR)
        # Products of denormal numbers lose digits, whatever their sum.
        floor = 1e-300 if dtype == torch.float64 else 1e-34
        error = (x.double() - exact).abs().max().item()
        if not error <= bound * scales[name] + floor:
            raise Mismatch(f"{name}: error {error:.2e} of {scales[name]:.2e}, bound {bound:.0e}")


def with_gradients(
    function: Callable[..., Tensor], tensors: dict[str, Tensor | None], grad: Tensor | None
) -> dict[str, Tensor | None]:
    """Value ("out") and gradients of a function of named tensors, in the dtype they have."""
    leaves = {name: None if x is None else x.detach().clone().requires_grad_() for name, x in tensors.items()}
    out = function(*leaves.values())
    result = {"out": out.detach()}
    given = {name: x for name, x in leaves.items() if x is not None}
    grads = [torch.zeros_like(x) for x in given.values()]
    if grad is not None and out.requires_grad:
        grads = torch.autograd.grad(out, given.values(), grad, allow_unused=True, materialize_grads=True)
    return result | dict.fromkeys(tensors) | dict(zip(given, grads))


def largest(results: dict[str, Tensor | None]) -> dict[str, float]:
    """The scale of each."""
    return {name: x.abs().max().item() if x is not None and x.numel() else 0.0 for name, x in results.items()}


def double(tensors: dict[str, Tensor | None], absolute: bool = False) -> dict[str, Tensor | None]:
    """In float64; a clone first, for views that are negated when they are read."""
    wide = {name: None if x is None else x.clone().double() for name, x in tensors.items()}
    return {name: x.abs() if absolute and x is not None else x for name, x in wide.items()}


def image_convolution(f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """The reference's sum in two products over all taps at once: its loops over them take most of the time of small calls."""
    (top, left), out = geometry.padding, geometry.out_size(*f.shape[-2:])
    padded = F.pad(f, (left, left, top, top))
    taps = torch.tensor(geometry.taps()) + geometry.radius
    y, x = (
        taps[:, i, None] * geometry.dilation[i] + torch.arange(out[i]) * geometry.stride[i] for i in (0, 1)
    )  # [T,Ho], [T,Wo]
    places = (y[:, :, None] * padded.shape[-1] + x[:, None]).flatten()
    windows = padded.flatten(-2)[..., places].unflatten(-1, (len(taps), out[0] * out[1]))
    kernel = torch.einsum("och,buvth->boucvt", weight, phi)
    result = torch.einsum("boucvt,bcvtp->boup", kernel.expand(f.shape[0], *kernel.shape[1:]), windows)
    return result.unflatten(-1, out)


def compare_with_reference(found, results, tensors, needed, grad, dtype) -> None:
    """As ``compare``; the reference's results are ``results(tensors, cotangent)``. Where one is off, also by what the reference
    changes when its operands do by a rounding or two: angles and some activations jump, and charts have points near which few
    digits are left."""
    exact, upward = double(tensors), double({"": grad})[""]
    want = results(exact, upward)
    for name in set(tensors) - set(needed):
        want[name] = None
    # What vanishes by cancellation has no scale of its own; data are of order one.
    scales = largest(want)
    least = 1e-2 * max(1.0, *scales.values())
    scales = {name: max(scale, least) for name, scale in scales.items()}
    try:
        return compare(found, want, scales, dtype)
    except Mismatch:
        if dtype == torch.float64:
            raise
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        moved = {
            name: x if x is None else x * (1 + 4e-7 * torch.randn(x.shape, generator=generator, dtype=x.dtype))
            for name, x in exact.items()
        }
        for name, x in results(moved, upward).items():
            if want[name] is not None and x.numel():
                change = (x - want[name]).abs().max().item() / VALUE_TOLERANCE[dtype]
                scales[name] = max(scales[name], 2 * change)
    compare(found, want, scales, dtype)


def text(**parts: object) -> str:
    """What a call is, on one line."""

    def short(x: object) -> str:
        if isinstance(x, Tensor):
            return f"{list(x.shape)}/{list(x.stride())}" + "-" * x.is_neg()
        return str(x).removeprefix("torch.").replace(" ", "")

    return " ".join(f"{name}={short(x)}" for name, x in parts.items() if x is not None)
