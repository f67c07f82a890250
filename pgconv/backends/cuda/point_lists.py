"""The point convolution over neighbour lists on a GPU: moments by our own kernel, the head by the vendor's matrix product.

As in ``point_conv`` beside this file, whose number formats are these, too; what is made of the moments is in
``pgconv.backends.point_lists``. Sums of listed signals are moments of a feature that is 1 everywhere. Nothing is stored for pairs
but the lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pgconv.backends import native_features, point_lists
from pgconv.backends.cpp.library import ops
from pgconv.backends.cuda.layout import aligned, float16_parts, whole_granules
from pgconv.backends.lists import Lists
from pgconv.backends.point_lists import Part, lists_of, of_examples, parts
from pgconv.backends.reference.vjp import vjp
from pgconv.kernel_nets import packing
from pgconv.spec import FeatureSpec


def _sums(f: Tensor, v: Tensor, u: Tensor, lists: Lists, spec: FeatureSpec) -> Tensor:
    """Moments of ``relu(0 x + 1)``."""
    coords = int(spec.net.split(":")[1])
    params = torch.cat([torch.zeros(coords, device=f.device), torch.ones(1, device=f.device)])
    out = torch.empty(f.shape[0], u.shape[1], f.shape[2], device=f.device)
    for part, found in _numbers(f, v, u, params, lists, replace(spec, net=f"relu:{coords}:1:2")):
        out[part] = found[:, :, 0]
    return out


def _moments(
    f: Tensor, v: Tensor, u: Tensor, params: Tensor, lists: Lists, spec: FeatureSpec
) -> Iterator[tuple[Part, Tensor]]:
    """In the signal's dtype."""
    return ((part, found.to(f.dtype)) for part, found in _numbers(f, v, u, params, lists, spec))


def _numbers(
    f: Tensor, v: Tensor, u: Tensor, params: Tensor, lists: Lists, spec: FeatureSpec
) -> Iterator[tuple[Part, Tensor]]:
    """The same in float32."""
    channels, nu = f.shape[2], u.shape[1]
    signal, factor = whole_granules(f), None
    if f.dtype == torch.float32:
        signal, factor = float16_parts(signal)
        factor = factor[..., :channels]
    for part in parts(f.shape[0], nu, int(spec.net.split(":")[2]) * signal.shape[-1], lists):
        examples, rows = part
        own = aligned(signal[..., examples, :, :])
        elements = of_examples(v, examples).contiguous(), of_examples(u, examples)[:, rows].contiguous()
        call = own, *elements, params.contiguous(), *lists_of(lists, part, nu), *_text(spec)
        found = ops().point_list_moments(*call)[..., :channels]
        yield part, found if factor is None else found * factor[examples]


def _net_gradients(grad: Tensor, coords: Tensor, params: Tensor, net: str) -> tuple[Tensor, Tensor]:
    """Of coordinates and params, by the native kernel where it takes the net."""
    if not ops().cuda_why_not_net(net, 4):
        return native_features.kernel_net_backward(grad, coords, params, net)
    found = vjp(lambda *x: packing.features(net, x[1], x[0]), (coords, params), grad, (True, True))
    return found[0], found[1]


def _text(spec: FeatureSpec) -> tuple[str, str, str, str, str]:
    return spec.group, spec.chart, spec.part, spec.form, spec.net


KERNELS = point_lists.Kernels(_moments, _sums, _net_gradients)
