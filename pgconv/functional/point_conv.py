"""Convolution between arbitrary sets of group elements."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pgconv import ops
from pgconv._shapes import check_floating, check_shape, describe, require_tensor, values_can_be_read
from pgconv.backends.reference import point_conv as contraction
from pgconv.backends.reference.pieces import Piece, pieces
from pgconv.functional._kernel import (
    KernelArgs,
    check_devices,
    check_dtypes,
    check_head,
    check_reduction,
    safe_reciprocal,
)
from pgconv.ops import dispatch

Neighbors = Tensor | tuple[Tensor, Tensor]


def point_conv(
    f: Tensor,
    v: Tensor,
    u: Tensor,
    net: torch.nn.Module,
    weight: Tensor,
    weight_bias: Tensor | None = None,
    *,
    group: str,
    sample_weight: Tensor | None = None,
    out_gate: Tensor | None = None,
    mask: Tensor | None = None,
    neighbors: Neighbors | None = None,
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
        mask: boolean ``[B, Nv]``, False for points that do not exist (whatever they hold counts as zero)
        neighbors: sum over these pairs only: an integer tensor ``[B|1, Nu, K]`` of input numbers padded with -1, or CSR
            ``(rowptr [Nu + 1], index [nnz])`` shared by the batch, or with ``rowptr [B Nu + 1]`` one row per example and
            output
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
    kernel.check_elements("v", v, {"S": (1, batch), "Nv": f.shape[1]}, "S Nv e")
    kernel.check_elements("u", u, {"S": (1, batch)}, "S Nu e")
    check_head(op, net, weight, weight_bias, "C H" if depthwise else "O C H", {"C": f.shape[2]})
    check_dtypes(op, f=f, weight=weight, weight_bias=weight_bias)
    check_reduction(op, reduction)
    tensors = {"f": f, "v": v, "u": u, "weight": weight, "weight_bias": weight_bias}
    check_devices(op, net, **tensors, sample_weight=sample_weight, out_gate=out_gate, mask=mask)
    index, rowptr = _check_neighbors(op, neighbors, batch, u.shape[1], f.shape[1], f.device)
    share = _sample_share(op, f, sample_weight, mask)
    if mask is not None:
        f = torch.where(mask[..., None], f, torch.zeros_like(f))
    if share is not None:
        f = f * share[..., None]
    out = _contract(kernel, f, v, u, weight, weight_bias, index, rowptr, depthwise)
    if reduction == "mean":
        out = out * _mean_factor(f, share, index, rowptr, u.shape[1])[..., None].to(out.dtype)
    if out_gate is not None:
        check_shape(op, "out_gate", out_gate, "S Nu", {"S": (1, batch), "Nu": u.shape[1]})
        out = out * out_gate[..., None].to(out.dtype)
    return out


def _contract(
    kernel: KernelArgs,
    f: Tensor,
    v: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    index: Tensor | None,
    rowptr: Tensor | None,
    depthwise: bool,
) -> Tensor:
    spec = kernel.fused_spec()
    if spec is not None:
        v, u, params = kernel.operands(v, u)
        request = dispatch.request("point_conv", kernel.backend)
        return ops.point_conv(f, v, u, params, weight, bias, index, rowptr, str(spec), depthwise, request)
    # A user's own group or a net without a packed form: the definition, with features from PyTorch.
    dtype = weight.dtype

    def features(v: Tensor, u: Tensor) -> Tensor:
        return kernel.features_of_pairs(v, u).to(dtype)

    def contract(piece: Piece) -> Tensor:
        return contraction.sum_over_pairs(features, f, v, piece.u, weight, bias, piece.index, piece.rowptr, depthwise)

    parts = list(pieces(f, v, u, weight.shape[-1], index, rowptr))
    if len(parts) == 1:
        return contract(parts[0])
    if torch._C._functorch.is_functorch_wrapped_tensor(f):  # function transforms know no recomputation
        return torch.cat([contract(piece) for piece in parts], 1)
    # Features of a piece are computed again in the backward pass and never kept.
    options: dict = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.cat([checkpoint(contract, piece, **options) for piece in parts], 1)


def _sample_share(op: str, f: Tensor, sample_weight: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Weight of every input point ``[B|1, Nv]``: sample weight, zero where masked; None if all count one."""
    share = None
    if sample_weight is not None:
        check_shape(op, "sample_weight", sample_weight, "S Nv", {"S": (1, f.shape[0]), "Nv": f.shape[1]})
        share = sample_weight.to(f.dtype)
    if mask is not None:
        check_shape(op, "mask", mask, "B Nv", {"B": f.shape[0], "Nv": f.shape[1]})
        if mask.dtype != torch.bool:
            raise ValueError(f"{op}: mask must be boolean, received {describe(mask)}; compare it, e.g. mask > 0")
        share = mask.to(f.dtype) if share is None else torch.where(mask, share, torch.zeros_like(share))
    return share


def _mean_factor(f: Tensor, share: Tensor | None, index: Tensor | None, rowptr: Tensor | None, nu: int) -> Tensor:
    """One over the total weight each output sums, ``[B|1, Nu|1]``; 0 where that is 0."""
    if index is None:
        total = f.new_full((1, 1), f.shape[1]) if share is None else share.sum(-1, keepdim=True)
    else:
        weights = f.new_ones(1, f.shape[1], 1) if share is None else share[..., None]
        if rowptr is not None and rowptr.shape[0] != nu + 1:
            weights = weights.expand(f.shape[0], -1, -1)
        total = contraction.sum_of_neighbors(weights, index, rowptr, nu).squeeze(-1)
    return safe_reciprocal(total)


def _check_neighbors(
    op: str, neighbors: object, batch: int, nu: int, nv: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    if neighbors is None:
        return None, None
    way_out = "pass an integer tensor [B|1, Nu, K] padded with -1, or a CSR pair (rowptr, index)"
    if isinstance(neighbors, (tuple, list)):
        if len(neighbors) != 2:
            raise ValueError(f"{op}: neighbors has {len(neighbors)} parts; {way_out}")
        rowptr, index = (require_tensor(op, name, x) for name, x in zip(("neighbors[0]", "neighbors[1]"), neighbors))
        check_shape(op, "neighbors[1]", index, "nnz", {})
        check_shape(op, "neighbors[0]", rowptr, "rows+1", {"rows+1": (nu + 1, batch * nu + 1)})
    else:
        rowptr, index = None, require_tensor(op, "neighbors", neighbors)
        check_shape(op, "neighbors", index, "B|1 Nu K", {"B": batch, "Nu": nu})
    for tensor in (rowptr, index):
        if tensor is not None and tensor.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{op}: neighbors must be int32 or int64, received {describe(tensor)}; {way_out}")
        if tensor is not None and tensor.device != device:
            raise ValueError(
                f"{op}: neighbors is on {tensor.device} but f is on {device}; move one of them with .to(device)"
            )
    _check_neighbor_values(op, index, rowptr, nv)
    return index.long(), None if rowptr is None else rowptr.long()


def _check_neighbor_values(op: str, index: Tensor, rowptr: Tensor | None, nv: int) -> None:
    if not values_can_be_read(index):
        return
    low = 0 if rowptr is not None else -1
    if index.numel() and (int(index.min()) < low or int(index.max()) >= nv):
        raise ValueError(
            f"{op}: neighbors must hold input numbers from {low} to {nv - 1}, "
            f"received values from {int(index.min())} to {int(index.max())}"
        )
    if rowptr is not None and (
        int(rowptr[0]) != 0 or int(rowptr[-1]) != index.numel() or bool((rowptr.diff() < 0).any())
    ):
        raise ValueError(
            f"{op}: neighbors[0] (rowptr) must rise from 0 to the number of pairs {index.numel()}, received "
            f"{int(rowptr[0])} .. {int(rowptr[-1])}"
        )
