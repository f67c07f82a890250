"""Features of the image convolutions' kernels, ``phi [S, Nu, Nv, T, H]``: at pairs of samples and at every tap."""

from __future__ import annotations

from torch import Tensor

from pgconv.functional._kernel import KernelArgs
from pgconv.functional._taps import at_taps, scaled
from pgconv.ops import transforms
from pgconv.spec import ConvGeometry


def of_pairs(kernel: KernelArgs, v: Tensor, u: Tensor, geometry: ConvGeometry) -> Tensor:
    """At ``v^-1 u`` with u at pixel 0 and v at pixel t: every tap becomes one more input element."""
    v, u = one_set(v), one_set(u)
    phi = kernel.features(at_taps(v, geometry), scaled(u, geometry))
    return phi.reshape(*phi.shape[:2], v.shape[1], len(geometry.taps()), phi.shape[-1])


def of_lifting(kernel: KernelArgs, u: Tensor, geometry: ConvGeometry) -> Tensor:
    """At ``h_u^-1 t``, relative to plain translations by the taps; Nv = 1."""
    origin = kernel.group.identity(dtype=u.dtype, device=u.device).reshape(1, 1, -1)
    return kernel.features(at_taps(origin, geometry), scaled(one_set(u), geometry)).unsqueeze(2)


def of_stabilizers(kernel: KernelArgs, v: Tensor, u: Tensor) -> Tensor:
    """At ``h_v^-1 h_u``; T = 1."""
    return kernel.features(one_set(v), one_set(u)).unsqueeze(3)


def one_set(elements: Tensor) -> Tensor:
    """Elements that all examples share as the single set they are, also where they were expanded over the batch because weights are
    not shared: one kernel serves the batch. Where a derivative in each copy may be wanted, they stay."""
    expanded = elements.shape[0] > 1 and elements.stride(0) == 0
    return elements[:1] if expanded and not elements.requires_grad and not transforms.are_active() else elements
