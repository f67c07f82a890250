"""The image convolution on a GPU: the order ``aggregate`` by our own kernel, ``materialize`` by the vendor's convolution.

The kernels read samples last, in octets (signals.py), and features in octets (conv_operands.py); results have the layout of the
signal. float32 is scaled to float16 where convolutions may take it in TF32 (scaled.py). The gradient of the signal is the same
kernel on the adjoint problem (adjoint.py). Those of features and head have their own, or go through the gradient of the kernel they
make (kernel_gradient.py), whichever takes less; what they do not take is the vendor's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from pgconv._layout import empty_as
from pgconv.backends import vendor_conv
from pgconv.backends.cpp.library import ops
from pgconv.backends.cuda import adjoint, kernel_gradient, scaled
from pgconv.backends.cuda.conv_gradients import OfFeatures, OfHead, OfSignal, ThroughKernel
from pgconv.backends.cuda.conv_operands import Chain, Walk, packed_features, packed_head
from pgconv.backends.cuda.layout import OCTET, feature_octets, whole_octets
from pgconv.backends.cuda.scaled import Scale, halves
from pgconv.backends.cuda.signals import samples_last, together
from pgconv.spec import ConvGeometry, Facts

HALVES = ("float16", "bfloat16")
ORDERS = ("materialize", "aggregate")
MOST_OCTETS = 8
MOST_TAPS = 128


def why_not(facts: Facts, order: str) -> str | None:
    """The reason why a call cannot run in an order, or None."""
    if len(set(facts.dtypes)) > 1:
        return f"one dtype is needed for all operands, received {', '.join(facts.dtypes)}"
    if min(facts.size("Ho"), facts.size("Wo")) < 1:
        return "the kernel does not fit the padded image"
    if order == "materialize":
        return None
    if facts.dtypes[0] not in HALVES and not (facts.dtypes[0] == "float32" and facts.tf32):
        return (
            f"the kernel takes {' or '.join(HALVES)}, and float32 where convolutions may take it in TF32 "
            f"(torch.backends.cudnn.allow_tf32), received {facts.dtypes[0]}"
        )
    if facts.size("Hb") > MOST_OCTETS * OCTET:
        return f"the kernel takes up to {MOST_OCTETS * OCTET} features, received {facts.size('Hb')}"
    if facts.size("T") > MOST_TAPS:
        return f"the kernel takes up to {MOST_TAPS} taps, received {facts.size('T')}"
    walk = Walk.of(facts.geometry, (facts.size("Ho"), facts.size("Wo")))
    return _refusal("chain", facts.size("Nv"), facts.size("Hb"), facts.size("O"), walk)


def forward(order: str, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """``[B,O,Nu,Ho,Wo]``."""
    if order == "materialize":
        return vendor_conv.forward(f, phi, weight, geometry)
    size = geometry.out_size(*f.shape[-2:])
    of_f, of_phi, of_weight = scales = _scales(f, phi, weight)
    features, head = packed_features(halves(phi, of_phi)), packed_head(halves(weight, of_weight))
    chain = Chain(features, head, Walk.of(geometry, size), scaled.back(*scales))
    out = empty_as(f, f.shape[0], weight.shape[0], phi.shape[1], *size)
    for images in together((f, of_f)):
        chain.write(out[images], images, samples_last(f[images], of_f))
    return out


def backward(
    order: str, grad: Tensor, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry, needs: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients of f, phi and weight (None where not needed)."""
    operands = f, phi, weight
    if not all(x.numel() for x in (grad, *operands)):  # Sums of nothing.
        return [torch.zeros_like(x) if need else None for x, need in zip(operands, needs)]
    own = _gradients(grad, f, phi, weight, geometry, needs) if order == "aggregate" else [None] * 3
    left = tuple(need and x is None for need, x in zip(needs, own))
    vendors = vendor_conv.backward(grad, f, phi, weight, geometry, left) if any(left) else own
    return [x if y is None else y for x, y in zip(vendors, own)]


def _gradients(
    grad: Tensor, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry, needs: tuple[bool, ...]
) -> list[Tensor | None]:
    """Those of f, phi and weight that there are kernels for, and that are needed."""
    found: list[Tensor | None] = [None] * 3
    asked = _asked(f, phi, weight, geometry, needs)
    if not any(asked):
        return found
    of_f, of_phi, of_weight = _scales(f, phi, weight)
    of_grad = None if of_f is None else scaled.scale(grad, _room(phi, weight).signal)
    grad = grad.to(f.dtype)
    parts, walk = adjoint.adjoints(geometry, *f.shape[-2:]), Walk.of(geometry, grad.shape[-2:])
    features, head = halves(phi, of_phi), halves(weight, of_weight)
    signal, by_features, by_head, by_kernel = asked
    kernels = []
    if signal:
        kernels += [OfSignal(f, features, head, parts, scaled.back(of_grad, of_phi, of_weight))]
    if by_features:
        kernels += [OfFeatures(phi, head, walk, scaled.back(of_grad, of_f, of_weight))]
    if by_head:
        kernels += [OfHead(weight, features, walk, scaled.back(of_grad, of_f, of_phi))]
    if by_kernel:
        kernels += [ThroughKernel(phi, weight, needs[1:], walk, scaled.back(of_grad, of_f))]
    for images in together((grad, of_grad), (f, of_f)):
        out = samples_last(grad[images], of_grad)
        window = samples_last(f[images], of_f) if any(kernel.reads for kernel in kernels) else None
        for kernel in kernels:
            kernel.add(images, out, window)
    for kernel in kernels:
        for place, gradient in zip(kernel.places, kernel.result()):
            found[place] = gradient
    return found


def _asked(f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry, needs: tuple[bool, ...]) -> tuple[bool, ...]:
    """Which of the kernels for gradients take the call, and are needed: of the signal, the features, the head, and of both of these
    through their kernel."""
    height, width = geometry.out_size(*f.shape[-2:])
    n = {"B": f.shape[0], "C": f.shape[1], "H": f.shape[3], "W": f.shape[4], "O": weight.shape[0]}
    n |= {"Ho": height, "Wo": width} | dict(zip(("S", "Nu", "Nv", "T", "Hb"), phi.shape))
    through = kernel_gradient.wanted(n, needs[1] + needs[2]) and not why_not_kernel_gradient(n, geometry)
    call = n["Nv"], n["Hb"], n["O"], Walk.of(geometry, (height, width))
    signal = needs[0] and adjoint.pays(n, geometry)
    parts = adjoint.adjoints(geometry, n["H"], n["W"]) if signal else ()
    return (
        signal and not any(_refusal("chain", n["Nu"], n["Hb"], n["C"], part.walk) for part in parts),
        not through and needs[1] and not _refusal("feature_gradient", *call),
        not through and needs[2] and not _refusal("head_gradient", *call),
        through,
    )


def _scales(f: Tensor, phi: Tensor, weight: Tensor) -> tuple[Scale | None, ...]:
    """Of the three operands in float32; operands of 16 bits are taken as they are."""
    if f.dtype != torch.float32:
        return None, None, None
    return tuple(scaled.scale(x, room) for x, room in zip((f, phi, weight), _room(phi, weight)))


def _room(phi: Tensor, weight: Tensor) -> scaled.Room:
    return scaled.room(max(phi.shape[1:3]) * phi.shape[3], weight.shape[0])


def _refusal(kernel: str, nv: int, hidden: int, outputs: int, walk: Walk) -> str | None:
    return _refusal_on(kernel, whole_octets(nv), feature_octets(hidden), outputs, *walk, _capability())


def why_not_kernel_gradient(n: Mapping[str, int], geometry: ConvGeometry) -> str | None:
    """The reason why gradients of features and head cannot go through that of their kernel, for a call of these sizes, or None."""
    sizes = whole_octets(n["Nv"]), n["B"], n["C"], n["O"]
    return _refusal_on("kernel_gradient", *sizes, *Walk.of(geometry, (n["Ho"], n["Wo"])), _capability())


def _capability() -> int:
    return ops().cuda_capability(torch.cuda.current_device())


@lru_cache(maxsize=1024)
def _refusal_on(kernel: str, *sizes) -> str | None:
    return getattr(ops(), f"cuda_why_not_{kernel}")(*sizes) or None
