"""Convolution between arbitrary sets of group elements."""

from __future__ import annotations

import torch
from torch import Tensor

from pgconv import ops
from pgconv._shapes import check_floating, check_mask, check_same_device, check_shape
from pgconv.backends.lists import Lists
from pgconv.backends.reference import point_conv as contraction
from pgconv.functional._kernel import (
    KernelArgs,
    check_devices,
    check_dtypes,
    check_head,
    check_reduction,
    safe_reciprocal,
)
from pgconv.functional._lists import Examples, Neighbors, Offsets, neighbor_lists, ragged_lists
from pgconv.functional._unfused import Operands, contract
from pgconv.groups import Group
from pgconv.ops import dispatch


def point_conv(
    f: Tensor,
    v: Tensor,
    u: Tensor,
    net: torch.nn.Module,
    weight: Tensor,
    weight_bias: Tensor | None = None,
    *,
    group: str | Group,
    sample_weight: Tensor | None = None,
    out_gate: Tensor | None = None,
    mask: Tensor | None = None,
    neighbors: Neighbors | None = None,
    offsets: Offsets | None = None,
    form: str = "convolution",
    chart: str = "product",
    reduction: str = "mean",
    depthwise: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Monte Carlo group convolution on points.

    ``out[b,i,o] = s_i sum_j w_j sum_c psi(v_j^-1 u_i)[o,c] f[b,j,c]``,
    ``psi(g)[o,c] = sum_h W[o,c,h] phi_h(coordinates(g)) + b[o,c]``; form ``"correlation"`` evaluates psi at ``u_i^-1 v_j``.
    Depthwise: ``out[b,i,c] = s_i sum_j w_j psi(.)[c] f[b,j,c]``.

    Args:
        f: signal ``[B, Nv, C]``
        v: elements it lives on ``[B|1, Nv, e]``, float32 or float64
        u: elements of the output ``[B|1, Nu, e]``
        net: kernel net (``pgconv.kernel_nets``) with ``coord_dim = group.coord_dim_of(chart)``
        weight: head ``W [O, C, H]`` (depthwise ``[C, H]``)
        weight_bias: head bias ``b [O, C]`` (depthwise ``[C]``)
        group: name or ``Group``
        sample_weight: ``w [B|1, Nv]``
        out_gate: ``s [B|1, Nu]``
        mask: boolean ``[B, Nv]``, False for points that do not exist (whatever they hold counts as zero; of elements for all
            examples, those that no example has)
        neighbors: sum over these pairs only: an integer tensor ``[B|1, Nu, K]`` of input numbers padded with -1, or CSR
            ``(rowptr [Nu + 1], index [nnz])`` shared by the batch, or with ``rowptr [B Nu + 1]`` one row per example and
            output
        offsets: ragged batch: examples of any size one after the other on the points axis of ``f [1, Nv, C]``, example e from
            point ``offsets[e]`` to ``offsets[e + 1]`` (``[E + 1]`` integers; a pair of them where v and u differ); every
            output sums over its own example. From sorted numbers of examples: ``cat([0, bincount(number).cumsum(0)])``
        form, chart: see above and ``pgconv.groups``
        reduction: ``"mean"`` divides by the total weight of the points summed over (0 if that is 0), ``"sum"`` does not
        depthwise: one kernel value per channel
        backend: force a backend; None takes the best

    Returns:
        ``[B, Nu, O]`` (depthwise ``[B, Nu, C]``)

    Raises:
        ValueError: for a wrong shape, dtype, device, name, or values that are not group elements; the text names the argument,
            what was expected and received, and the way out

    Source: Finzi et al., "Generalizing Convolutional Neural Networks for Equivariance to Lie Groups" (2020).

    Example:
        >>> import torch, pgconv
        >>> group = pgconv.groups.get("SE(3)")
        >>> net = pgconv.kernel_nets.MLP(group.coord_dim, hidden=8)
        >>> v = group.sample(20, generator=torch.Generator().manual_seed(0))[None]
        >>> f, weight = torch.randn(2, 20, 3), torch.randn(5, 3, 8)
        >>> pgconv.functional.point_conv(f, v, v[:, :7], net, weight, group=group).shape
        torch.Size([2, 7, 5])
    """
    op = "point_conv"
    kernel = KernelArgs(op, group, net, chart, form, "all", backend)
    axes: dict = {}
    check_shape(op, "f", f, "B Nv C", axes)
    check_floating(op, "f", f)
    batch = f.shape[0]
    if mask is not None:
        f, v = _without_hidden(kernel, f, v, mask)
    kernel.check_elements("v", v, {"S": (1, batch), "Nv": f.shape[1]}, "S Nv e")
    kernel.check_elements("u", u, {"S": (1, batch)}, "S Nu e")
    check_head(op, net, weight, weight_bias, "C H" if depthwise else "O C H", {"C": f.shape[2]})
    check_dtypes(op, f=f, weight=weight, weight_bias=weight_bias)
    check_reduction(op, reduction)
    tensors = {"f": f, "v": v, "u": u, "weight": weight, "weight_bias": weight_bias}
    check_devices(op, net, **tensors, sample_weight=sample_weight, out_gate=out_gate, mask=mask)
    lists, examples = neighbor_lists(op, neighbors, batch, u.shape[1], f.shape[1], f.device), None
    if offsets is not None:
        if neighbors is not None:
            raise ValueError(
                f"{op}: offsets and neighbors both say what an output sums over, received both; pass the neighbours alone and keep "
                "them inside their examples"
            )
        lists, examples = ragged_lists(op, offsets, f, u.shape[1])
    share = _sample_share(op, f, sample_weight, mask)
    if share is not None:
        f = f * share[..., None]
    out = _contract(kernel, (f, v, u, weight, weight_bias), lists, depthwise)
    if reduction == "mean":
        out = out * _mean_factor(f, share, lists, examples, u.shape[1])[..., None].to(out.dtype)
    if out_gate is not None:
        check_shape(op, "out_gate", out_gate, "S Nu", {"S": (1, batch), "Nu": u.shape[1]})
        out = out * out_gate[..., None].to(out.dtype)
    return out


def _without_hidden(kernel: KernelArgs, f: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Features 0 and elements the identity where the mask is False: what they hold, NaN perhaps, times 0 need not be 0."""
    op, group, (batch, nv) = kernel.op, kernel.group, f.shape[:2]
    check_shape(op, "v", v, "S Nv e", {"S": (1, batch), "Nv": nv, "e": group.element_dim})
    check_mask(op, mask, "B Nv", {"B": batch, "Nv": nv})
    check_same_device(op, f=f, v=v, mask=mask)
    # An element for all examples stays one: it is hidden where no example has it.
    there = mask if len(v) == batch else mask.any(0, keepdim=True)
    v = torch.where(there[..., None], v, group.identity(v.dtype, v.device))
    return torch.where(mask[..., None], f, torch.zeros_like(f)), v


def _contract(kernel: KernelArgs, operands: Operands, lists: Lists, depthwise: bool) -> Tensor:
    spec = kernel.fused_spec()
    if spec is None:
        return contract(kernel, operands, lists, depthwise)
    f, v, u, weight, bias = operands
    v, u, params = kernel.operands(v, u)
    request = dispatch.request("point_conv", kernel.backend)
    return ops.point_conv(f, v, u, params, weight, bias, *lists, str(spec), depthwise, request)


def _sample_share(op: str, f: Tensor, sample_weight: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Weight of every input point ``[B|1, Nv]``: sample weight, zero where masked; None if all count one."""
    share = None
    if sample_weight is not None:
        check_shape(op, "sample_weight", sample_weight, "S Nv", {"S": (1, f.shape[0]), "Nv": f.shape[1]})
        share = sample_weight.to(f.dtype)
    if mask is not None:
        share = mask.to(f.dtype) if share is None else torch.where(mask, share, torch.zeros_like(share))
    return share


def _mean_factor(f: Tensor, share: Tensor | None, lists: Lists, examples: Examples | None, nu: int) -> Tensor:
    """One over the total weight each output sums, ``[B|1, Nu|1]``; 0 where that is 0."""
    if examples is not None:
        weights = f.new_ones(f.shape[1]) if share is None else share[0]
        total = f.new_zeros(examples.count).index_add(0, examples.of_v, weights)[None, examples.of_u]
    elif lists.dense:
        total = f.new_full((1, 1), f.shape[1]) if share is None else share.sum(-1, keepdim=True)
    else:
        weights = f.new_ones(1, f.shape[1], 1) if share is None else share[..., None]
        if not lists.shared(nu):
            weights = weights.expand(f.shape[0], -1, -1)
        total = contraction.sum_of_neighbors(weights, lists, nu).squeeze(-1)
    return safe_reciprocal(total)
