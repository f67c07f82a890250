"""The image convolution on a GPU: the order ``aggregate`` by our own kernel, ``materialize`` by the vendor's convolution.

The kernels read samples last, in octets, and features in octets (csrc/cuda/conv_chain.h); operands are brought into that form here,
and results have the layout of the signal. float32 is scaled to float16 where convolutions may take it in TF32 (scaled.py).
The gradient of the signal is the same kernel on the adjoint problem. Those of features and head have their own, or go through the
gradient of the kernel they make (kernel_gradient.py), whichever takes less; what they do not take is the vendor's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv._layout import BACK, LAST, is_group_last
from pgconv.backends import vendor_conv
from pgconv.backends.cpp.library import ops
from pgconv.backends.cuda import kernel_gradient, scaled
from pgconv.backends.cuda.layout import OCTET, aligned, feature_octets, whole_octets
from pgconv.backends.cuda.scaled import Scale, halves
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
    walk = *_walk(facts.geometry), facts.size("Ho"), facts.size("Wo")
    return _refusal("chain", facts.size("Nv"), facts.size("Hb"), facts.size("O"), _taps(facts.geometry), walk)


def forward(order: str, f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """``[B,O,Nu,Ho,Wo]``."""
    if order == "materialize":
        return vendor_conv.forward(f, phi, weight, geometry)
    walk = *_walk(geometry), *geometry.out_size(*f.shape[-2:])
    of_f, of_phi, of_weight = scales = _scales(f, phi, weight)
    factors = halves(phi, of_phi), halves(weight, of_weight)
    return _chain(_samples_last(f, of_f), *factors, _taps(geometry), walk, is_group_last(f), scaled.back(*scales))


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
    taps, walk = _taps(geometry), (*_walk(geometry), *geometry.out_size(*f.shape[-2:]))
    sizes = f.shape[2], phi.shape[4], weight.shape[0], taps, walk
    adjoint = _adjoint(geometry, *f.shape[-2:])
    of_signal = needs[0] and adjoint and not _refusal("chain", phi.shape[1], phi.shape[4], f.shape[1], *adjoint)
    n = _sizes(f, phi, weight, geometry)
    through = kernel_gradient.wanted(n, needs[1] + needs[2]) and not why_not_kernel_gradient(n, geometry)
    asked = (
        of_signal,
        not through and needs[1] and not _refusal("feature_gradient", *sizes),
        not through and needs[2] and not _refusal("head_gradient", *sizes),
    )
    found: list[Tensor | None] = [None] * 3
    if not (through or any(asked)):
        return found
    of_f, of_phi, of_weight = _scales(f, phi, weight)
    of_grad = None if of_f is None else scaled.scale(grad, _room(phi, weight).signal)
    grad = _samples_last(grad.to(f.dtype), of_grad)
    if any(asked):
        features, head = halves(phi, of_phi), halves(weight, of_weight)
    if through or asked[1] or asked[2]:
        window = _samples_last(f, of_f)
    if asked[0]:
        back = scaled.back(of_grad, of_phi, of_weight)
        found[0] = _chain(grad, features.transpose(1, 2), head.transpose(0, 1), *adjoint, is_group_last(f), back)
    if through:
        of_kernel = scaled.times(ops().conv_kernel_gradient(grad, window, taps, walk), scaled.back(of_grad, of_f))
        found[1:] = kernel_gradient.of_factors(of_kernel, phi, weight, needs[1:])
    if asked[1]:
        sums = ops().conv_feature_gradient(grad, window, _head(head), *phi.shape[:2], taps, walk)
        found[1] = _from_features(scaled.times(sums, scaled.back(of_grad, of_f, of_weight)), phi)
    if asked[2]:
        sums = ops().conv_head_gradient(grad, window, _features(features), taps, walk)
        sums = scaled.times(sums, scaled.back(of_grad, of_f, of_phi))
        found[2] = sums.permute(2, 0, 1)[..., : weight.shape[2]].to(weight.dtype).contiguous()
    return found


def _sizes(f: Tensor, phi: Tensor, weight: Tensor, geometry: ConvGeometry) -> dict[str, int]:
    height, width = geometry.out_size(*f.shape[-2:])
    names = ("S", "Nu", "Nv", "T", "Hb")
    own = {"B": f.shape[0], "C": f.shape[1], "O": weight.shape[0], "Ho": height, "Wo": width}
    return own | dict(zip(names, phi.shape))


def _scales(f: Tensor, phi: Tensor, weight: Tensor) -> tuple[Scale | None, ...]:
    """Of the three operands in float32; operands of 16 bits are taken as they are."""
    if f.dtype != torch.float32:
        return None, None, None
    return tuple(scaled.scale(x, room) for x, room in zip((f, phi, weight), _room(phi, weight)))


def _room(phi: Tensor, weight: Tensor) -> scaled.Room:
    return scaled.room(max(phi.shape[1:3]) * phi.shape[3], weight.shape[0])


def _adjoint(geometry: ConvGeometry, height: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Taps and walk of the convolution that is the signal's gradient: pixel ``q`` of the signal meets output ``q + padding - tap``,
    so the taps come from behind. None at other strides than 1, where outputs have gaps."""
    if geometry.stride != (1, 1):
        return None
    reach = [d * (geometry.kernel_size - 1) for d in geometry.dilation]
    taps = tuple(reach[k % 2] - tap for k, tap in enumerate(_taps(geometry)))
    return taps, (1, 1, *(r - p for r, p in zip(reach, geometry.padding)), height, width)


def _taps(geometry: ConvGeometry) -> tuple[int, ...]:
    """Rows and columns in turn, counted from the window's first pixel."""
    r, (dy, dx) = geometry.radius, geometry.dilation
    return tuple(x for row, col in geometry.taps() for x in (dy * (row + r), dx * (col + r)))


def _walk(geometry: ConvGeometry) -> tuple[int, ...]:
    return *geometry.stride, *geometry.padding


def _refusal(
    kernel: str, nv: int, hidden: int, outputs: int, taps: tuple[int, ...], walk: tuple[int, ...]
) -> str | None:
    return _refusal_on(kernel, whole_octets(nv), feature_octets(hidden), outputs, taps, walk, _capability())


def why_not_kernel_gradient(n: Mapping[str, int], geometry: ConvGeometry) -> str | None:
    """The reason why gradients of features and head cannot go through that of their kernel, for a call of these sizes, or None."""
    walk = *_walk(geometry), n["Ho"], n["Wo"]
    sizes = whole_octets(n["Nv"]), n["B"], n["C"], n["O"]
    return _refusal_on("kernel_gradient", *sizes, _taps(geometry), walk, _capability())


def _capability() -> int:
    return ops().cuda_capability(torch.cuda.current_device())


@lru_cache(maxsize=1024)
def _refusal_on(kernel: str, *sizes) -> str | None:
    return getattr(ops(), f"cuda_why_not_{kernel}")(*sizes) or None


def _chain(
    window: Tensor,
    phi: Tensor,
    weight: Tensor,
    taps: tuple[int, ...],
    walk: tuple[int, ...],
    samples_last: bool,
    factor: Tensor | None,
) -> Tensor:
    out = ops().conv_chain(window, _features(phi), _head(weight), taps, walk, samples_last, factor)
    return out.permute(BACK) if samples_last else out


def _samples_last(x: Tensor, scale: Scale | None = None) -> Tensor:
    """``[B,C,N,H,W] -> [B,C,H,W,octets of N]``, scaled to float16 where a scale is given."""
    last, tail = x.permute(LAST), -x.shape[2] % OCTET
    if is_group_last(x) or (last.is_contiguous() and not tail):
        return aligned(F.pad(halves(last, scale), (0, tail)))
    return ops().group_last(x.contiguous(), None if scale is None else scale.factor)


def _head(weight: Tensor) -> Tensor:
    """``[O,C,H] -> [O,C,octets of H]``."""
    return aligned(F.pad(weight, (0, OCTET * feature_octets(weight.shape[2]) - weight.shape[2])))


def _features(phi: Tensor) -> Tensor:
    """``[S,Nu,Nv,T,H] -> [S,Nu,octets of H,granules,8 of H,8 of Nv]``, an even number of granules (tap, octet of Nv)."""
    sets, nu, nv, count, hidden = phi.shape
    vectors, octets = whole_octets(nv), feature_octets(hidden)
    phi = F.pad(phi, (0, OCTET * octets - hidden, 0, 0, 0, OCTET * vectors - nv))
    phi = phi.view(sets, nu, vectors, OCTET, count, octets, OCTET).permute(0, 1, 5, 4, 2, 6, 3)
    phi = phi.reshape(sets, nu, octets, count * vectors, OCTET, OCTET)
    return aligned(F.pad(phi, (0, 0, 0, 0, 0, count * vectors % 2)))


def _from_features(x: Tensor, like: Tensor) -> Tensor:
    """Back from the granules that there are to ``[S,Nu,Nv,T,H]``."""
    sets, nu, nv, count, hidden = like.shape
    vectors, octets = whole_octets(nv), feature_octets(hidden)
    x = x.view(sets, nu, octets, count, vectors, OCTET, OCTET).permute(0, 1, 4, 6, 3, 2, 5)
    x = x.reshape(sets, nu, OCTET * vectors, count, OCTET * octets)
    return x[:, :, :nv, :, :hidden].to(like.dtype).contiguous()
