"""What all convolutions share: checks of elements, kernel net and head, and the choice of how features are evaluated."""

from __future__ import annotations

import torch
from torch import Tensor

from pgconv import groups
from pgconv._autocast import autocasts
from pgconv._shapes import (
    check_choice,
    check_floating,
    check_same_device,
    check_shape,
    describe,
    dtype_name,
    require_tensor,
    values_can_be_read,
)
from pgconv.groups import Group
from pgconv.ops import dispatch, kernel_net, relative_features
from pgconv.spec import CHARTS, FORMS, REDUCTIONS, FeatureSpec

_ELEMENT_DTYPES = (torch.float32, torch.float64)


class KernelArgs:
    """Group, chart, form and net of one call, checked; knows how to evaluate features at relative offsets."""

    def __init__(
        self, op: str, group: object, net: object, chart: str, form: str, part: str, backend: str | None
    ) -> None:
        self.op = op
        self.group: Group = groups.get(group)
        check_choice(op, "chart", chart, CHARTS)
        check_choice(op, "form", form, FORMS)
        self.chart, self.form, self.part = chart, form, part
        self.backend = backend
        for attribute in ("features", "hidden", "coord_dim"):
            if not hasattr(net, attribute):
                raise ValueError(
                    f"{op}: net must be a kernel net with coord_dim, hidden and features(coords) (see pgconv.kernel_nets), "
                    f"received {describe(net)}"
                )
        self.net = net
        needed = self.group.coord_dim_of(chart, part)
        if net.coord_dim != needed:
            raise ValueError(
                f"{op}: net reads coord_dim={net.coord_dim} coordinates, but chart {chart!r} of {self.group.name} ({part} part) "
                f"has {needed}; build the net with coord_dim={needed}"
            )

    def check_elements(self, name: str, value: object, axes: dict, pattern: str) -> Tensor:
        """As the function of that name."""
        return check_elements(self.op, self.group, name, value, axes, pattern)

    def features(self, v: Tensor, u: Tensor) -> Tensor:
        """``phi [S,Nu,Nv,H]`` of all pairs, in the dtype the net computes in (at least float32)."""
        spec, request = self.fused_spec(), dispatch.request("relative_features", self.backend)
        if spec is not None:
            v, u, params = self.operands(v, u)
            return relative_features(v, u, params, str(spec), request)
        return self.features_of_pairs(v[:, None, :, :], u[:, :, None, :])

    def features_of_pairs(self, v: Tensor, u: Tensor) -> Tensor:
        """Features of broadcast pairs ``[...,e]``, offsets computed in PyTorch: any group, any net."""
        offset = self.group.relative(v, u) if self.form == "convolution" else self.group.relative(u, v)
        coords = self.group.coordinates(offset, self.chart, self.part)
        if self.net.net_spec is None:
            return self.net.features(coords)
        params = self.net.pack()
        request = dispatch.request("kernel_net", self.backend)
        return kernel_net(coords.to(params.dtype), params, self.net.net_spec, request)

    def fused_spec(self) -> FeatureSpec | None:
        """Text description for the fused operators, or None for a user's group or a net without a packed form."""
        if getattr(self.net, "net_spec", None) is None or not groups.is_builtin(self.group):
            return None
        return FeatureSpec(self.group.name, self.chart, self.part, self.form, self.net.net_spec)

    def parameters(self) -> dict[str, Tensor]:
        """Those of the net by name."""
        return dict(self.net.named_parameters()) if isinstance(self.net, torch.nn.Module) else {}

    def operands(self, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Elements raised to the parameters' precision (exact), and the packed parameters."""
        params = self.net.pack()
        dtype = torch.promote_types(torch.promote_types(v.dtype, u.dtype), params.dtype)
        return v.to(dtype), u.to(dtype), params


def check_elements(op: str, group: Group, name: str, value: object, axes: dict, pattern: str) -> Tensor:
    """A tensor of elements of the group, at least one, fp32 or fp64; invalid values are refused."""
    axes = axes if "e" in axes else axes | {"e": group.element_dim}
    check_shape(op, name, value, pattern, axes)
    tensor = require_tensor(op, name, value)
    check_floating(op, name, tensor, _ELEMENT_DTYPES)
    if tensor.shape[-2] == 0:
        raise ValueError(f"{op}: {name} has zero samples, received {describe(tensor)}; pass at least one element")
    if values_can_be_read(tensor):
        reason = group.invalid(tensor)
        if reason is not None:
            raise ValueError(f"{op}: {name} holds values that are not elements of {group.name}: {reason}")
    return tensor


def check_head(op: str, net: object, weight: object, bias: object, pattern: str, axes: dict) -> None:
    """Shapes of the head: ``weight`` by pattern with H bound to the net's width, ``bias`` the same without H."""
    axes = axes | {"H": net.hidden}  # type: ignore[attr-defined]
    check_shape(op, "weight", weight, pattern, axes)
    check_floating(op, "weight", require_tensor(op, "weight", weight))
    if bias is not None:
        check_shape(op, "weight_bias", bias, pattern.removesuffix(" H"), axes)


def check_devices(op: str, net: object, **tensors: Tensor | None) -> None:
    """Everything a call reads lives on one device, the kernel net's parameters included."""
    check_same_device(op, **tensors)
    name, first = next((n, t) for n, t in tensors.items() if t is not None)
    parameter = next(net.parameters(), None) if isinstance(net, torch.nn.Module) else None
    if parameter is not None and parameter.device != first.device:
        raise ValueError(
            f"{op}: net is on {parameter.device} but {name} is on {first.device}; move one of them with .to(device)"
        )


def check_dtypes(op: str, **tensors: Tensor | None) -> None:
    """One floating dtype for signal and head (autocast, where on, casts them itself)."""
    present = {name: t for name, t in tensors.items() if t is not None}
    first, reference = next(iter(present.items()))
    if autocasts(reference):
        return
    for name, tensor in present.items():
        if tensor.dtype != reference.dtype:
            raise ValueError(
                f"{op}: {name} is {dtype_name(tensor.dtype)} but {first} is "
                f"{dtype_name(reference.dtype)}; convert one of them with .to(dtype), or use torch.autocast"
            )


def check_reduction(op: str, reduction: object) -> None:
    """``"mean"`` or ``"sum"``."""
    check_choice(op, "reduction", reduction, REDUCTIONS)


def safe_reciprocal(total: Tensor) -> Tensor:
    """``1/total``, and 0 where the total is 0 (nothing to average); no NaN in the gradient either."""
    return total.masked_fill(total == 0, torch.inf).reciprocal()
