"""The ``materialize`` order: build the kernel ``K[o,u,c,v,tap]`` and call the vendor's convolution. Shared by backends.

Costs 4 S O Nu C Nv k^2 bytes for the kernel and the dense convolution's arithmetic; wins on tiny feature maps and
wherever no fused kernel exists.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pgconv.spec import ConvGeometry


def kernel(phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """``K [S,O,Nu,C,Nv,k,k]``, zero outside the support."""
    s, nu, nv, t, h = phi.shape
    o, c, _ = weight.shape
    k = geometry.kernel_size
    values = weight.reshape(1, o * c, h) @ phi.reshape(s * nu, nv * t, h).transpose(1, 2)
    values = values.reshape(s, nu, o, c, nv, t).transpose(1, 2)
    return _window(values, geometry).reshape(s, o, nu, c, nv, k, k)


def forward(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """``[B,O,Nu,Ho,Wo]``; per-example kernels (S = B) run as one grouped convolution."""
    b, c, nv, height, width = f.shape
    s, nu, o = phi.shape[0], phi.shape[1], weight.shape[0]
    groups = _groups(s, b)
    out = F.conv2d(
        f.reshape(b // groups, groups * c * nv, height, width),
        kernel(phi, weight, geometry).reshape(groups * o * nu, c * nv, geometry.kernel_size, geometry.kernel_size),
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        groups,
    )
    return out.reshape(b, o, nu, *out.shape[-2:])


def backward(
    grad: torch.Tensor,
    f: torch.Tensor,
    phi: torch.Tensor,
    weight: torch.Tensor,
    geometry: ConvGeometry,
    needs: tuple[bool, bool, bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of f, phi and weight (None where not needed)."""
    b, c, nv, height, width = f.shape
    s, nu, _, t, h = phi.shape
    o, k = weight.shape[0], geometry.kernel_size
    groups = _groups(s, b)
    grad_f, grad_kernel, _ = torch.ops.aten.convolution_backward(
        grad.reshape(b // groups, groups * o * nu, *grad.shape[-2:]),
        f.reshape(b // groups, groups * c * nv, height, width),
        kernel(phi, weight, geometry).reshape(groups * o * nu, c * nv, k, k),
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        False,
        (0, 0),
        groups,
        (needs[0], needs[1] or needs[2], False),
    )
    if needs[0]:
        grad_f = grad_f.reshape(f.shape)
    grad_phi = grad_weight = None
    if needs[1] or needs[2]:
        grad_kernel = _taps(grad_kernel.reshape(s, o, nu, c, nv, k * k), geometry)
        grad_kernel = grad_kernel.transpose(1, 2).reshape(s * nu, o * c, nv * t)
        if needs[1]:
            grad_phi = (grad_kernel.transpose(1, 2) @ weight.reshape(1, o * c, h)).reshape(phi.shape)
        if needs[2]:
            columns = grad_kernel.transpose(0, 1).reshape(o * c, s * nu * nv * t)
            grad_weight = (columns @ phi.reshape(s * nu * nv * t, h)).reshape(weight.shape)
    return grad_f, grad_phi, grad_weight


def _groups(s: int, b: int) -> int:
    # One example is one group either way; S = B = 0 cannot be a group count.
    return s if s == b and b > 1 else 1


# Slices rather than indices: an index tensor would have to be brought to the device at every call, for which the host waits and
# which no CUDA graph can hold.


def _runs(geometry: ConvGeometry) -> list[tuple[int, int]]:
    """Where in the row-major window the taps of a row of the support begin and end: a row has no gaps."""
    r, k = geometry.radius, geometry.kernel_size
    rows: dict[int, list[int]] = {}
    for row, column in geometry.taps():
        rows.setdefault(row, []).append((row + r) * k + column + r)
    return [(places[0], places[-1] + 1) for places in rows.values()]


def _window(values: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """``[..,T] -> [..,k*k]``, zero outside the support."""
    size = geometry.kernel_size**2
    if values.shape[-1] == size:
        return values
    zeros = values.new_zeros(()).expand(*values.shape[:-1], size)
    parts, at, tap = [], 0, 0
    for begin, end in _runs(geometry):
        parts += [zeros[..., at:begin], values[..., tap : tap + end - begin]]
        at, tap = end, tap + end - begin
    return torch.cat([*parts, zeros[..., at:]], -1)


def _taps(window: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """``[..,k*k] -> [..,T]``."""
    if window.shape[-1] == len(geometry.taps()):
        return window
    return torch.cat([window[..., begin:end] for begin, end in _runs(geometry)], -1)
