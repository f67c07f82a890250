"""Other people's way: the same sum in PyTorch's own operators, each with the operands ``f [B,C,Nv,H,W]``,
``phi [S,Nu,Nv,T,Hb]``, ``weight [O,C,Hb]`` and a geometry, and a result ``[B,O,Nu,Ho,Wo]``, contiguous but for
``channels-last``.

``materialised`` builds the k x k kernel and calls the vendor's convolution, which is what the method's release does;
``compiled`` is the same under ``torch.compile``; ``channels-last`` the same in a network that keeps all maps in the layout
GPUs' convolutions are made for, so that only its kernel is brought into it; ``factored`` convolves with the features and then
multiplies with the head, through an intermediate with H features; ``disc`` gathers only the taps inside the disc and makes one
matrix product. Nothing here is shared with pgconv's own orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.group_conv2d.cases import Case, Walk
from benchmarks.suite import Baseline, Inputs
from pgconv.ops.plan import costs
from pgconv.spec import ConvGeometry

MEMORY_LIMIT = {"cpu": 6e9, "cuda": 16e9}
"""Bytes a baseline's largest intermediate may have; more and it is not run."""


def materialised(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """Kernel with zeros outside the disc, one dense convolution; a grouped one where every image has its kernel."""
    return _dense(f, phi, weight, _positions(geometry, phi.device), *_walk(geometry))


def _dense(
    f: torch.Tensor,
    phi: torch.Tensor,
    weight: torch.Tensor,
    positions: torch.Tensor,
    kernel: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> torch.Tensor:
    phi = _fill(phi, positions, kernel)
    b, c, nv, height, width = f.shape
    s, nu, _, t, h = phi.shape
    o = weight.shape[0]
    # [1,O*C,H] @ [S*Nu,H,Nv*k*k]: a product for each output sample, then the one copy into the convolution's layout.
    values = weight.reshape(1, o * c, h) @ phi.reshape(s * nu, nv * t, h).transpose(1, 2)
    values = values.reshape(s, nu, o, c * nv * t).transpose(1, 2).reshape(s * o * nu, c * nv, kernel, kernel)
    signal = f.reshape(b // s, s * c * nv, height, width)
    out = F.conv2d(signal, values, None, stride, padding, dilation, s)
    return out.reshape(b, o, nu, *out.shape[-2:])


class Compiled:
    """``materialised`` under ``torch.compile``; compiled anew for every shape, as static shapes give the best code."""

    def __init__(self, backend: str = "inductor") -> None:
        self._dense: Callable[..., torch.Tensor] = torch.compile(_dense, dynamic=False, fullgraph=True, backend=backend)

    def __call__(
        self, f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry
    ) -> torch.Tensor:
        return self._dense(f, phi, weight, _positions(geometry, phi.device), *_walk(geometry))


def channels_last(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """``materialised`` for one set of samples; signal and result have all channels and samples of a pixel side by side."""
    b, c, nv, height, width = f.shape
    nu, o, h = phi.shape[1], weight.shape[0], weight.shape[2]
    kernel, *walk = _walk(geometry)
    window = _fill(phi, _positions(geometry, phi.device), kernel).reshape(nu, nv * kernel**2, h)
    values = (weight.reshape(1, o * c, h) @ window.transpose(1, 2)).reshape(nu, o, c, nv, kernel, kernel)
    # The one copy, as in _dense.
    values = values.permute(1, 0, 4, 5, 2, 3).reshape(o * nu, kernel, kernel, c * nv).permute(0, 3, 1, 2)
    out = F.conv2d(f.reshape(b, c * nv, height, width), values, None, *walk)
    return out.reshape(b, o, nu, *out.shape[-2:])


def _arrange(operands: Sequence[torch.Tensor], cotangent: torch.Tensor) -> Inputs:
    """Signal and cotangent with channels and samples last in memory."""
    f, *others = operands
    # Pixels before channels and samples; the same permutation brings the names back to their places.
    f, cotangent = (x.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) for x in (f, cotangent))
    return [f, *others], cotangent


def factored(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """``A[b,c,h,u] = sum_{v,t} phi f`` by a convolution that sees every channel as an image, then a product with the head."""
    b, c, nv, height, width = f.shape
    s, nu, _, _, h = phi.shape
    o = weight.shape[0]
    kernel, *walk = _walk(geometry)
    window = _fill(phi, _positions(geometry, phi.device), kernel)
    filters = window.permute(0, 4, 1, 2, 3).reshape(s * h * nu, nv, kernel, kernel)
    if s == 1:
        moments = F.conv2d(f.reshape(b * c, nv, height, width), filters, None, *walk)
    else:
        # Images become groups, channels the batch.
        signal = f.transpose(0, 1).reshape(c, b * nv, height, width)
        moments = F.conv2d(signal, filters, None, *walk, groups=b)
        moments = moments.reshape(c, b, h * nu, *moments.shape[-2:]).transpose(0, 1)
    rows, columns = moments.shape[-2:]
    out = _product(weight.reshape(1, o, c * h), moments.reshape(b, c * h, nu * rows * columns))
    return out.reshape(b, o, nu, rows, columns)


def disc(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """Windows of the taps in the disc side by side, then a matrix product with the kernel's values."""
    b, c, nv, height, width = f.shape
    s, nu, _, t, h = phi.shape
    o = weight.shape[0]
    rows, columns = geometry.out_size(height, width)
    (ph, pw), (sh, sw), (dh, dw) = geometry.padding, geometry.stride, geometry.dilation
    padded = F.pad(f, (pw, pw, ph, ph))
    corners = [(dh * (row + geometry.radius), dw * (column + geometry.radius)) for row, column in geometry.taps()]
    windows = torch.stack(
        [
            padded[..., top : top + sh * (rows - 1) + 1 : sh, left : left + sw * (columns - 1) + 1 : sw]
            for top, left in corners
        ],
        3,
    )
    values = weight.reshape(1, o * c, h) @ phi.reshape(s * nu, nv * t, h).transpose(1, 2)
    values = values.reshape(s, nu, o, c * nv * t).transpose(1, 2).reshape(s, o * nu, c * nv * t)
    return _product(values, windows.reshape(b, c * nv * t, rows * columns)).reshape(b, o, nu, rows, columns)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``[1|B,M,K] @ [B,K,P]``. Of the ways to write it (matmul, 1x1 convolution, a loop over images) these are the fastest
    forward and backward."""
    if left.shape[0] == 1 and right.shape[2] == 1:
        return F.linear(right[:, :, 0], left[0])[:, :, None]
    return torch.bmm(left.expand(right.shape[0], -1, -1), right)


@lru_cache(maxsize=64)
def _positions(geometry: ConvGeometry, device: torch.device) -> torch.Tensor:
    """Place of every tap in the row-major k x k window; brought to the device once, as the host waits for it."""
    k, r = geometry.kernel_size, geometry.radius
    return torch.tensor([(row + r) * k + column + r for row, column in geometry.taps()], device=device)


def _fill(phi: torch.Tensor, positions: torch.Tensor, kernel: int) -> torch.Tensor:
    """Features on the whole window, zero outside the disc: small, so the large kernel needs no masking."""
    s, nu, nv, _, h = phi.shape
    return phi.new_zeros(s, nu, nv, kernel**2, h).index_copy(3, positions, phi)


def _walk(geometry: ConvGeometry) -> tuple[Any, ...]:
    return geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation


def _flops(order: str, window: bool) -> Callable[[Case], float]:
    """Of the order whose arithmetic a way has, over the k x k window or over the taps in the disc."""

    def flops(case: Case) -> float:
        facts = case.facts()
        if window:
            sizes = dict(facts.sizes) | {"T": case.kernel**2}
            facts = replace(facts, sizes=tuple(sizes.items()))
        return costs(facts)[order].flops

    return flops


def _refuses(elements: Callable[[Case], int]) -> Callable[[Case], str | None]:
    """Reason of a way whose largest intermediate has so many elements."""

    def refuses(case: Case) -> str | None:
        size, limit = elements(case) * case.torch_dtype.itemsize, MEMORY_LIMIT[case.device]
        if size > limit:
            return f"its intermediate of {size / 1e9:.1f} GB is above the limit of {limit / 1e9:.0f} GB"
        asked = case.device == "cpu" and case.dtype == "bfloat16"
        if asked and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return "the vendor's convolution has no bfloat16 on this CPU"
        return None

    return refuses


def _kernel_elements(case: Case) -> int:
    return case.sets * case.outputs * case.nu * case.inputs * case.nv * case.kernel**2


def _pixels(case: Case) -> int:
    rows, columns = case.geometry.out_size(case.height, case.width)
    return case.batch * rows * columns


def _moment_elements(case: Case) -> int:
    return _pixels(case) * case.inputs * (case.hidden + case.bias) * case.nu


def _window_elements(case: Case) -> int:
    """Windows, or in the backward pass the kernel's gradient image by image."""
    columns = case.inputs * case.nv * case.shapes[1][3]
    return max(_pixels(case) * columns, case.batch * case.outputs * case.nu * columns)


def _refuses_channels_last(case: Case) -> str | None:
    if case.device == "cpu":
        return "a layout for GPUs"
    return "images as groups of one convolution have no such layout" if case.sets > 1 else _DENSE[1](case)


_DENSE = _flops("materialize", True), _refuses(_kernel_elements)


def _with_bias(make: Callable[..., Callable[..., torch.Tensor]]) -> Callable[..., Callable[..., torch.Tensor]]:
    """The same ways for heads with a bias: it has a feature, constantly 1."""

    def made(*options: Any) -> Callable[..., torch.Tensor]:
        function = make(*options)

        def call(f: torch.Tensor, phi: torch.Tensor, weight: torch.Tensor, walk: Walk) -> torch.Tensor:
            if walk.bias:
                phi = torch.cat([phi, torch.ones_like(phi[..., :1])], -1)
            return function(f, phi, weight, walk)

        return call

    return made


BASELINES: tuple[Baseline, ...] = (
    Baseline("materialised", _with_bias(lambda: materialised), *_DENSE),
    Baseline("compiled", _with_bias(Compiled), *_DENSE, compiled=True),
    Baseline("channels-last", _with_bias(lambda: channels_last), _DENSE[0], _refuses_channels_last, arrange=_arrange),
    Baseline("factored", _with_bias(lambda: factored), _flops("aggregate", True), _refuses(_moment_elements)),
    Baseline("disc", _with_bias(lambda: disc), _flops("direct", False), _refuses(_window_elements)),
)
