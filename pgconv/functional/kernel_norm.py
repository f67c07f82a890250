"""Norms of the kernels of image convolutions, without the kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv.functional import _image_features as image_features
from pgconv.functional._kernel import KernelArgs, check_devices, check_head
from pgconv.groups import Group
from pgconv.spec import ConvGeometry


def kernel_norm(
    v: Tensor | None,
    u: Tensor,
    net: torch.nn.Module,
    weight: Tensor,
    weight_bias: Tensor | None = None,
    *,
    group: str | Group,
    kernel_size: int | None,
    support: str = "disc",
    sample_weight: Tensor | None = None,
    out_gate: Tensor | None = None,
    form: str = "convolution",
    chart: str = "product",
    backend: str | None = None,
) -> Tensor:
    """Frobenius norm of the sampled kernel of ``group_conv2d``, ``K[u,o,c,v,t] = psi(offset(u,v,t))[o,c]``.

    ``||K||^2 = sum_oc w_oc^T G w_oc`` with ``w_oc = [W[o,c,:], b[o,c]]`` and the Gram matrix of the features
    ``G = sum_{u,v,t} s_u w_v [phi; 1] [phi; 1]^T``, ``[H + 1, H + 1]``: no kernel is stored. Weights and gates say which samples
    are there; the mean of ``reduction`` is not part of it. Of per-example samples it is the root of the mean square.

    Args:
        v: input elements ``[S, Nv, e]``; None for the kernel of ``lifting_conv2d``
        u: output elements ``[S, Nu, e]``
        net, weight, weight_bias: kernel net and head ``[O, C, H]``, ``[O, C]``
        group, support, form, chart, backend: as in ``group_conv2d``
        kernel_size: odd k; None for the kernel of ``pointwise_group_conv``
        sample_weight, out_gate: ``[S, Nv]``, ``[S, Nu]``

    Returns:
        a scalar, with gradients to everything

    Raises:
        ValueError: as ``group_conv2d``

    Source: the regulariser of Romero & Lohit's experiments (2022), which stores the kernel.

    Example:
        >>> import torch, pgconv
        >>> group, u = pgconv.groups.get("SE(2)"), pgconv.groups.get("SE(2)").grid(4)[None]
        >>> net = pgconv.kernel_nets.SIREN(group.coord_dim, hidden=8)
        >>> pgconv.functional.kernel_norm(u, u, net, torch.ones(5, 3, 8), group=group, kernel_size=5).shape
        torch.Size([])
    """
    op = "kernel_norm"
    part = "translation" if v is None else "stabilizer" if kernel_size is None else "all"
    kernel = KernelArgs(op, group, net, chart, "correlation" if v is None else form, part, backend)
    check_head(op, net, weight, weight_bias, "O C H", {})
    kernel.check_elements("u", u, {}, "S Nu e")
    if v is not None:
        kernel.check_elements("v", v, {}, "S Nv e")
    check_devices(
        op, net, v=v, u=u, weight=weight, weight_bias=weight_bias, sample_weight=sample_weight, out_gate=out_gate
    )
    if kernel_size is None and v is not None:
        phi = image_features.of_stabilizers(kernel, v, u)
    else:
        geometry = ConvGeometry.make(op, kernel_size, 1, "same", 1, support)
        phi = (
            image_features.of_lifting(kernel, u, geometry)
            if v is None
            else image_features.of_pairs(kernel, v, u, geometry)
        )
    counts = phi.new_ones(1, *phi.shape[1:3], 1)
    for factor, axis in ((out_gate, 2), (sample_weight, 1)):
        if factor is not None:
            counts = counts * factor.to(phi.dtype).unsqueeze(axis)[..., None]
    if phi.shape[0] == 1 < counts.shape[0]:
        counts = counts.mean(0, keepdim=True)
    if weight_bias is None:
        head = weight.to(phi.dtype)
    else:
        phi, head = F.pad(phi, (0, 1), value=1.0), torch.cat([weight, weight_bias[..., None]], -1).to(phi.dtype)
    sets, rows = max(phi.shape[0], counts.shape[0]), phi.flatten(1, 3)
    weighted = (phi * counts[..., None]).flatten(1, 3)
    gram = (rows.transpose(1, 2) @ weighted).sum(0) / max(1, sets)
    square = ((head.flatten(0, 1) @ gram) * head.flatten(0, 1)).sum().clamp(min=0)
    # No infinite gradient of a kernel that is zero.
    return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
