"""The release's three convolutions, computed by ``pgconv.functional``.

A layer stays the object it is and keeps all it has; its class becomes one that puts a class of this module before its own. So
hooks, optimisers, checkpoints and ``isinstance`` see the layer they saw, and what is not computed here its own class computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pgconv import functional
from pgconv.compat import kernel_nets, own_code
from pgconv.compat.entries import Entries
from pgconv.compat.release_group import ReleaseMotions
from pgconv.functional import _image_features as image_features
from pgconv.functional._kernel import KernelArgs
from pgconv.functional._taps import places
from pgconv.kernel_nets import KernelNet
from pgconv.spec import ConvGeometry

GROUPS = {"SE2": ReleaseMotions(mirror=False), "E2": ReleaseMotions(mirror=True)}
Head = tuple[KernelNet, Tensor, Tensor]


@dataclass
class Facts:
    """What was found out about a layer.

    Attributes:
        own: its class before
        group: of its samples
        eps: of the kernel net's norms, by number
        activation: of the kernel net, where it has no waves
        kernel_name: attribute under which the layer's own code keeps the kernel, or None
        sides: of the kernel by height and width of the image, where these decide
    """

    own: type
    group: ReleaseMotions
    eps: dict[int, float]
    activation: kernel_nets.Activation
    kernel_name: str | None = None
    sides: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)

    @property
    def folds_norms(self) -> bool:
        """Whether the net is the one that is computed in evaluation only."""
        return bool(self.eps)


class _LastCall:
    """Samples of the last call, for the kernel; no copy of the layer has them."""

    def __init__(self) -> None:
        self.samples: tuple[Tensor | None, Tensor, int | None] | None = None

    def __deepcopy__(self, memo: dict) -> _LastCall:
        return _LastCall()

    def __reduce__(self) -> tuple[type, tuple]:
        return _LastCall, ()


class FusedRelease:
    """What the three have in common: ``out[b,o,i,p] = bias[o] + sum_j sum_d sum_c K_oc(R(u_i)^-1 d / r, u_i^-1 v_j) f[b,c,j,p+d]``.

    d runs over the taps in the disc of radius r; a plain sum; the last layer's bias is masked, too.
    """

    PART = "all"

    _facts: Facts
    _last: _LastCall

    def _own(self, *args: Any) -> Any:
        return self._facts.own.forward(self, *args)

    def _draw(self, x: Tensor, v: Tensor | None) -> Any:
        """What the layer's own code returns for an image of one channel with next to no pixels."""
        facts: Facts = self._facts
        twin = own_code.shallow_twin(self, facts.own)  # type: ignore[arg-type]
        own_code.reduce_to_one_channel(twin)
        side = int(self.kernel_size) if self._is_numbered() and self.padding == "valid" else 1  # type: ignore[attr-defined]
        middle = () if v is None else (v.shape[1],)
        image = x.new_zeros(x.shape[0], 1, *middle, side, side)
        return facts.own.forward(twin, image if v is None else (image, v))

    def _is_numbered(self) -> bool:
        return str(self.kernel_size).isdecimal()  # type: ignore[attr-defined]

    def _side(self, x: Tensor, v: Tensor | None) -> int | None:
        """Of the kernel; None for one that this library has no convolution for."""
        if self._is_numbered():
            return int(self.kernel_size)  # type: ignore[attr-defined]
        size, sides = tuple(x.shape[-2:]), self._facts.sides
        if size not in sides:
            image = x.new_zeros(1, 1, *x.shape[2:])
            sides[size] = kernel_shape(self, self._facts.own, image, v)  # type: ignore[arg-type]
        height, width = sides[size]
        return width if height == width and width % 2 else None

    def _net(self) -> Head:
        """Kernel net and head on the layer's own tensors as they are now."""
        facts: Facts = self._facts
        body, (weight, bias) = kernel_nets.read_release(Entries.of_module(self), facts.eps)  # type: ignore[arg-type]
        channels = (self.out_channels, self.in_channels)  # type: ignore[attr-defined]
        return kernel_nets.view(body, facts.activation), weight.unflatten(0, channels), bias.unflatten(0, channels)

    def _options(self) -> dict[str, Any]:
        return {"group": self._facts.group, "chart": "release"}

    def _finish(self, y: Tensor, v: Tensor | None, u: Tensor, side: int | None) -> Tensor:
        if self._facts.kernel_name is not None:
            self._last.samples = (v, u, side)
        bias = self._parameters.get("bias")  # type: ignore[attr-defined]
        return y if bias is None else y + bias.reshape(-1, 1, 1, 1).to(y.dtype)

    def _left_to_own_code(self, *samples: Tensor | None) -> bool:
        """Norms that take their statistics from the call, and samples that are no motions: the mirror 0 some models use."""
        if self.training and self._facts.folds_norms:  # type: ignore[attr-defined]
            return True
        single = [g for g in samples if g is not None and g.dim() == 3 and g.shape[1] == 1]
        return any(bool((g[..., 1].abs() != 1).any()) for g in single)

    def _kernel(self) -> Tensor | None:
        """The kernel of the last call ``[S, Nu, O, C, Nv, k, k]``, 0 outside the disc; None before the first."""
        if self._last.samples is None:
            return None
        v, u, side = self._last.samples
        net, weight, bias = self._net()
        geometry = ConvGeometry.make("kernel", side or 1, 1, "same", 1, "disc")
        kernel = KernelArgs("kernel", self._facts.group, net, "release", "correlation", self.PART, None)
        if v is None:
            phi = image_features.of_lifting(kernel, u, geometry)
        elif side is None:
            phi = image_features.of_stabilizers(kernel, v, u)
        else:
            phi = image_features.of_pairs(kernel, v, u, geometry)
        taps = torch.einsum("och,suvth->suocvt", weight, phi.to(weight.dtype)) + bias[:, :, None, None]
        window = taps.new_zeros(*taps.shape[:-1], geometry.kernel_size**2)
        return window.index_copy(-1, places(geometry, u.device), taps).unflatten(-1, (geometry.kernel_size,) * 2)

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("_facts")  # not there yet while a copy is being filled
        if facts is not None and name == facts.kernel_name:
            return self._kernel()
        return super().__getattr__(name)  # type: ignore[misc]

    def __reduce__(self) -> tuple:
        return _restored, (self._facts.own,), self.__dict__


class FusedLifting(FusedRelease):
    """``x [B, C, H, W] -> (y [B, O, N, H, W], samples)``."""

    PART = "translation"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve at samples that the layer's own code draws."""
        side = self._side(x, None)
        if side is None or self._left_to_own_code():
            return self._own(x)
        u = self._draw(x, None)[1]
        elements = self._facts.group.from_release(u)
        net, weight, bias = self._net()
        y = functional.lifting_conv2d(
            x, elements, net, weight, bias, kernel_size=side, padding=self.padding, **self._options()
        )
        return self._finish(y, None, elements, side), u


class FusedGroup(FusedRelease):
    """``(x [B, C, N, H, W], samples) -> (y [B, O, N', H, W], samples)``, one argument."""

    def forward(self, pair: tuple[Tensor, Tensor] | list[Tensor]) -> tuple[Tensor, Tensor]:
        """Convolve from the given samples to those that the layer's own code draws."""
        x, v = pair
        side = self._side(x, v)
        if side is None or self._left_to_own_code(v):
            return self._own(pair)
        u = self._draw(x, v)[1]
        group = self._facts.group
        elements = group.from_release(v), group.from_release(u)
        y = functional.group_conv2d(
            x,
            *elements,
            *self._net(),
            kernel_size=side,
            padding=self.padding,
            form="correlation",
            reduction="sum",
            **self._options(),
        )
        return self._finish(y, *elements, side), u


class FusedPointwise(FusedRelease):
    """``(x [B, C, N, H, W], samples, new samples) -> (y [B, O, N', H, W], new samples)``."""

    PART = "stabilizer"

    def forward(self, x: Tensor, in_elems: Tensor, out_elems: Tensor) -> tuple[Tensor, Tensor]:
        """Map from the first samples to the second ones."""
        if self._left_to_own_code(in_elems, out_elems):
            return self._own(x, in_elems, out_elems)
        group = self._facts.group
        elements = group.from_release(in_elems), group.from_release(out_elems)
        y = functional.pointwise_group_conv(
            x, *elements, *self._net(), form="correlation", reduction="sum", **self._options()
        )
        return self._finish(y, *elements, None), out_elems


LAYERS: dict[str, type[FusedRelease]] = {
    "LiftingConv": FusedLifting,
    "GroupConv": FusedGroup,
    "PointwiseGroupConv": FusedPointwise,
}
_classes: dict[type, type] = {}


def fused_class(own: type) -> type:
    """The class ``own`` with this module's computation before its own."""
    if own not in _classes:
        base = next(LAYERS[c.__name__] for c in own.__mro__ if c.__name__ in LAYERS)
        _classes[own] = type("Fused" + own.__name__, (base, own), {"__module__": __name__, "__doc__": base.__doc__})
    return _classes[own]


def _restored(own: type) -> nn.Module:
    return object.__new__(fused_class(own))


def kernel_shape(layer: nn.Module, own: type, image: Tensor, v: Tensor | None) -> tuple[int, ...]:
    """Height and width of the kernel that the layer's own code makes for an image, found without a trace."""
    twin = own_code.free_twin(layer, own)
    stand_in = own_code.reduce_to_one_channel(twin)
    with own_code.same_draws(layer), torch.no_grad():
        own.forward(twin, image if v is None else (image, v[:1]))
    return stand_in.shape[-2:]
