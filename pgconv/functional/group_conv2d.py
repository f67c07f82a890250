"""Group convolution, lifting and pointwise convolution on images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv import groups, ops
from pgconv._shapes import check_choice, check_floating, check_shape, require_tensor
from pgconv.functional import _head_bias as head_bias
from pgconv.functional import _image_features as image_features
from pgconv.functional._kernel import (
    KernelArgs,
    check_devices,
    check_dtypes,
    check_head,
    check_reduction,
    safe_reciprocal,
)
from pgconv.functional._taps import places
from pgconv.groups import Group
from pgconv.ops import dispatch
from pgconv.spec import ORDERS, ConvGeometry


def group_conv2d(
    f: Tensor,
    v: Tensor,
    u: Tensor,
    net: torch.nn.Module,
    weight: Tensor,
    weight_bias: Tensor | None = None,
    *,
    group: str | Group,
    kernel_size: int,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = "same",
    dilation: int | tuple[int, int] = 1,
    support: str = "disc",
    sample_weight: Tensor | None = None,
    out_gate: Tensor | None = None,
    form: str = "convolution",
    chart: str = "product",
    reduction: str = "mean",
    backend: str | None = None,
    plan: str | None = None,
) -> Tensor:
    """Monte Carlo group convolution on an image grid.

    ``out[b,o,u,p] = s_u sum_v w_v sum_t sum_c psi(offset(u,v,t))[o,c] f[b,c,v,p+t]``,
    ``psi(g)[o,c] = sum_h W[o,c,h] phi_h(coordinates(g)) + b[o,c]``, with ``t`` over the taps of the k x k window inside
    the inscribed disc. A pixel (row, col) stands at x = col, y = -row and offsets are divided by ``(k-1)/2``. Form
    ``"convolution"`` evaluates psi at ``v^-1 u``, ``"correlation"`` at ``u^-1 v``.

    Args:
        f: signal ``[B, C, Nv, H, W]``
        v: input elements ``[S, Nv, e]``, S = 1 (shared) or B (per example), float32 or float64. Their translation part is in
            pixels and adds to the pixel grid (normally zero)
        u: output elements ``[S, Nu, e]``
        net: kernel net (``pgconv.kernel_nets``) with ``coord_dim = group.coord_dim_of(chart)``
        weight: head ``W [O, C, H]``
        weight_bias: head bias ``b [O, C]``
        group: name or group acting on the plane with translations, e.g. ``"SE(2)"``
        kernel_size: odd k
        stride, padding, dilation: as in a convolution; padding also ``"same"`` (at stride 1 the size is kept) or ``"valid"``
        support: ``"disc"`` or ``"square"``
        sample_weight: ``w [S, Nv]``
        out_gate: ``s [S, Nu]``
        form, chart: see above and ``pgconv.groups``
        reduction: ``"mean"`` divides by the total sample weight (0 if that is 0), ``"sum"`` does not
        backend, plan: force a backend or an evaluation order; None takes the best

    Returns:
        ``[B, O, Nu, Ho, Wo]``

    Raises:
        ValueError: for a wrong shape, dtype, device, name, even kernel size, or values that are not group elements; the
            text names the argument, what was expected and received, and the way out

    Source: Romero & Lohit, "Learning Partial Equivariances From Data" (2022); estimator of Finzi et al. (2020).

    Example:
        >>> import torch, pgconv
        >>> group = pgconv.groups.get("SE(2)")
        >>> net = pgconv.kernel_nets.SIREN(group.coord_dim, hidden=8)
        >>> u = group.grid(4)[None]
        >>> f, weight = torch.randn(2, 3, 4, 9, 9), torch.randn(5, 3, 8)
        >>> pgconv.functional.group_conv2d(f, u, u, net, weight, group=group, kernel_size=5).shape
        torch.Size([2, 5, 4, 9, 9])
    """
    op = "group_conv2d"
    _check_planar(op, groups.get(group))
    kernel = KernelArgs(op, group, net, chart, form, "all", backend)
    geometry = ConvGeometry.make(op, kernel_size, stride, padding, dilation, support)
    axes: dict = {}
    check_shape(op, "f", f, "B C Nv H W", axes)
    kernel.check_elements("v", v, axes | {"S": (1, f.shape[0])}, "S Nv e")
    kernel.check_elements("u", u, {"S": (1, f.shape[0])}, "S Nu e")
    check_devices(
        op, net, f=f, v=v, u=u, weight=weight, weight_bias=weight_bias, sample_weight=sample_weight, out_gate=out_gate
    )
    phi = image_features.of_pairs(kernel, v, u, geometry)
    return _convolve(op, kernel, f, phi, weight, weight_bias, sample_weight, out_gate, reduction, geometry, plan)


def lifting_conv2d(
    f: Tensor,
    u: Tensor,
    net: torch.nn.Module,
    weight: Tensor,
    weight_bias: Tensor | None = None,
    *,
    group: str | Group,
    kernel_size: int,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = "same",
    dilation: int | tuple[int, int] = 1,
    support: str = "disc",
    out_gate: Tensor | None = None,
    chart: str = "product",
    backend: str | None = None,
    plan: str | None = None,
) -> Tensor:
    """Lifting convolution from the plane to the group: ``out[b,o,u,p] = s_u sum_t sum_c psi(h_u^-1 t)[o,c] f[b,c,p+t]``.

    Arguments as in ``group_conv2d``, except that ``f`` is ``[B, C, H, W]`` and the net reads only the translation part,
    ``coord_dim = group.coord_dim_of(chart, "translation")`` (= 2).

    Returns:
        ``[B, O, Nu, Ho, Wo]``

    Raises:
        ValueError: as ``group_conv2d``

    Example:
        >>> import torch, pgconv
        >>> group = pgconv.groups.get("SE(2)")
        >>> net = pgconv.kernel_nets.SIREN(2, hidden=8)
        >>> f, weight = torch.randn(2, 3, 9, 9), torch.randn(5, 3, 8)
        >>> pgconv.functional.lifting_conv2d(f, group.grid(4)[None], net, weight, group=group, kernel_size=5).shape
        torch.Size([2, 5, 4, 9, 9])
    """
    op = "lifting_conv2d"
    _check_planar(op, groups.get(group))
    kernel = KernelArgs(op, group, net, chart, "correlation", "translation", backend)
    geometry = ConvGeometry.make(op, kernel_size, stride, padding, dilation, support)
    check_shape(op, "f", f, "B C H W", {})
    kernel.check_elements("u", u, {"S": (1, f.shape[0])}, "S Nu e")
    check_devices(op, net, f=f, u=u, weight=weight, weight_bias=weight_bias, out_gate=out_gate)
    phi = image_features.of_lifting(kernel, u, geometry)
    return _convolve(op, kernel, f.unsqueeze(2), phi, weight, weight_bias, None, out_gate, "sum", geometry, plan)


def depthwise_lifting_conv2d(
    f: Tensor,
    u: Tensor,
    net: torch.nn.Module,
    weight: Tensor,
    weight_bias: Tensor | None = None,
    *,
    group: str | Group,
    kernel_size: int,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = "same",
    dilation: int | tuple[int, int] = 1,
    support: str = "disc",
    chart: str = "product",
    backend: str | None = None,
) -> Tensor:
    """One spatial filter for each channel and sample: ``out[b,c,u,p] = sum_t psi(h_u^-1 t)[c] f[b,c,u,p+t]``.

    The spatial half of a separable group convolution. ``f [B, C, Nu, H, W]``, ``weight [C, H]``, ``weight_bias [C]``; the
    other arguments are those of ``lifting_conv2d``. The C x Nu filters are small, so they are built and handed to the
    vendor's depthwise convolution.

    Returns:
        ``[B, C, Nu, Ho, Wo]``

    Raises:
        ValueError: as ``group_conv2d``

    Example:
        >>> import torch, pgconv
        >>> group = pgconv.groups.get("SE(2)")
        >>> net = pgconv.kernel_nets.SIREN(2, hidden=8)
        >>> f, weight = torch.randn(2, 3, 4, 9, 9), torch.randn(3, 8)
        >>> F = pgconv.functional.depthwise_lifting_conv2d
        >>> F(f, group.grid(4)[None], net, weight, group=group, kernel_size=5).shape
        torch.Size([2, 3, 4, 9, 9])
    """
    op = "depthwise_lifting_conv2d"
    _check_planar(op, groups.get(group))
    kernel = KernelArgs(op, group, net, chart, "correlation", "translation", backend)
    geometry = ConvGeometry.make(op, kernel_size, stride, padding, dilation, support)
    axes: dict = {}
    check_shape(op, "f", f, "B C Nu H W", axes)
    kernel.check_elements("u", u, {"S": (1, f.shape[0]), "Nu": f.shape[2]}, "S Nu e")
    check_head(op, net, weight, weight_bias, "C H", axes)
    check_devices(op, net, f=f, u=u, weight=weight, weight_bias=weight_bias)
    check_dtypes(op, f=f, weight=weight, weight_bias=weight_bias)
    _check_fits(op, f, geometry)
    phi = _at_least_one_set(image_features.of_lifting(kernel, u, geometry).squeeze(2).to(weight.dtype))
    taps = torch.einsum("ch,suth->scut", weight, phi)
    if weight_bias is not None:
        taps = taps + weight_bias[:, None, None]
    k = geometry.kernel_size
    window = taps.new_zeros(*taps.shape[:-1], k * k)
    window = window.index_copy(-1, places(geometry, f.device), taps)
    batch, channels, nu = f.shape[:3]
    sets = phi.shape[0] if phi.shape[0] == batch and batch > 1 else 1
    out = F.conv2d(
        f.reshape(batch // sets, sets * channels * nu, *f.shape[3:]),
        window.reshape(sets * channels * nu, 1, k, k),
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        sets * channels * nu,
    )
    return out.reshape(batch, channels, nu, *out.shape[-2:])


def pointwise_group_conv(
    f: Tensor,
    v: Tensor,
    u: Tensor,
    net: torch.nn.Module,
    weight: Tensor,
    weight_bias: Tensor | None = None,
    *,
    group: str | Group,
    stride: int | tuple[int, int] = 1,
    sample_weight: Tensor | None = None,
    out_gate: Tensor | None = None,
    form: str = "convolution",
    chart: str = "product",
    reduction: str = "mean",
    backend: str | None = None,
    plan: str | None = None,
) -> Tensor:
    """Convolution over the stabiliser alone, 1 x 1 in space.

    ``out[b,o,u,p] = s_u sum_v w_v sum_c psi(h_v^-1 h_u)[o,c] f[b,c,v,p]``

    Arguments as in ``group_conv2d``; the net reads only the stabiliser part, ``coord_dim = group.coord_dim_of(chart,
    "stabilizer")``.

    Returns:
        ``[B, O, Nu, Ho, Wo]``

    Raises:
        ValueError: as ``group_conv2d``

    Example:
        >>> import torch, pgconv
        >>> group = pgconv.groups.get("SE(2)")
        >>> net = pgconv.kernel_nets.SIREN(1, hidden=8)
        >>> f, weight, u = torch.randn(2, 3, 4, 9, 9), torch.randn(5, 3, 8), group.grid(4)[None]
        >>> pgconv.functional.pointwise_group_conv(f, u, u, net, weight, group=group).shape
        torch.Size([2, 5, 4, 9, 9])
    """
    op = "pointwise_group_conv"
    _check_planar(op, groups.get(group))
    kernel = KernelArgs(op, group, net, chart, form, "stabilizer", backend)
    geometry = ConvGeometry.make(op, 1, stride, 0, 1, "disc")
    axes: dict = {}
    check_shape(op, "f", f, "B C Nv H W", axes)
    kernel.check_elements("v", v, axes | {"S": (1, f.shape[0])}, "S Nv e")
    kernel.check_elements("u", u, {"S": (1, f.shape[0])}, "S Nu e")
    check_devices(
        op, net, f=f, v=v, u=u, weight=weight, weight_bias=weight_bias, sample_weight=sample_weight, out_gate=out_gate
    )
    phi = image_features.of_stabilizers(kernel, v, u)
    return _convolve(op, kernel, f, phi, weight, weight_bias, sample_weight, out_gate, reduction, geometry, plan)


def _convolve(
    op: str,
    kernel: KernelArgs,
    f: Tensor,
    phi: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sample_weight: Tensor | None,
    out_gate: Tensor | None,
    reduction: str,
    geometry: ConvGeometry,
    plan: str | None,
) -> Tensor:
    """Fold weights, gate and mean into the small operand, then the trilinear operator."""
    batch, channels, nv = f.shape[:3]
    check_floating(op, "f", require_tensor(op, "f", f))
    check_head(op, kernel.net, weight, bias, "O C H", {"C": channels})
    check_dtypes(op, f=f, weight=weight, weight_bias=bias)
    check_reduction(op, reduction)
    if plan is not None:
        check_choice(op, "plan", plan, ORDERS)
    _check_fits(op, f, geometry)
    phi = _at_least_one_set(phi.to(torch.promote_types(weight.dtype, torch.float32)))
    request = dispatch.request("group_conv2d", kernel.backend, plan)
    apart = bias is not None and ops.bias_apart(f, phi, weight, geometry, request)
    if bias is not None and not apart:
        phi, weight = head_bias.as_feature(phi, weight, bias)
    gate: Tensor | None = None
    if out_gate is not None:
        check_shape(op, "out_gate", out_gate, "S Nu", {"S": (1, batch), "Nu": phi.shape[1]})
        gate = _at_least_one_set(out_gate.to(phi.dtype))
    share: Tensor | None = None
    if sample_weight is not None:
        check_shape(op, "sample_weight", sample_weight, "S Nv", {"S": (1, batch), "Nv": nv})
        share = _at_least_one_set(sample_weight.to(phi.dtype))
        if reduction == "mean":
            share = share * safe_reciprocal(share.sum(-1, keepdim=True))
    elif reduction == "mean":
        phi = phi / nv
    signal = f
    # Per-example weights with shared features go to the signal and the output: that keeps one kernel for the batch.
    if share is not None:
        if share.shape[0] <= phi.shape[0]:
            phi = phi * share[:, None, :, None, None]
        else:
            f = f * share[:, None, :, None, None].to(f.dtype)
    late_gate = None
    if gate is not None:
        if gate.shape[0] <= phi.shape[0]:
            phi = phi * gate[:, :, None, None, None]
        else:
            late_gate = gate[:, None, :, None, None].to(f.dtype)
    out = ops.group_conv2d(f, phi.to(weight.dtype), weight, str(geometry), request)
    if late_gate is not None:
        out = out * late_gate.to(out.dtype)
    return out + head_bias.term(signal, bias, share, reduction, gate, geometry) if apart else out


def _at_least_one_set(x: Tensor) -> Tensor:
    # Per-example sets of an empty batch: a convolution needs a kernel all the same, and a sum over no set makes one.
    return x.sum(0, keepdim=True) if x.shape[0] == 0 else x


def _check_planar(op: str, group: Group) -> None:
    if group.translation_dim != 2:
        raise ValueError(
            f"{op}: group must contain the translations of the plane (T(2), M(2), SE(2), E(2), Sim(2)), received "
            f"{group.name}; for points use point_conv"
        )


def _check_fits(op: str, f: Tensor, geometry: ConvGeometry) -> None:
    height, width = geometry.out_size(f.shape[-2], f.shape[-1])
    if torch.compiler.is_compiling():
        return
    if height < 1 or width < 1:
        raise ValueError(
            f"{op}: kernel_size={geometry.kernel_size} with padding {geometry.padding} and dilation {geometry.dilation} "
            f"does not fit an image of {f.shape[-2]} x {f.shape[-1]}; pad the input or use padding='same'"
        )
