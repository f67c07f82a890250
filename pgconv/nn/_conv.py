"""What all convolution layers share: the kernel net, the head the layer owns, the samplers and the argument defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pgconv import backends, functional, groups, kernel_nets, sampling
from pgconv._shapes import check_choice, check_floating, check_positive_int, check_same_device, check_shape, describe
from pgconv.groups import Group
from pgconv.kernel_nets import KernelNet
from pgconv.sampling import Samples
from pgconv.sampling.base import leave_meta
from pgconv.sampling.gates import GatedSampler
from pgconv.spec import CHARTS, FORMS, REDUCTIONS

NetFactory = str | Callable[[int], KernelNet]


class SampledConv(nn.Module):
    """Base of the convolution layers.

    Owns the kernel net ``net``, the head ``weight [O, C, H]`` and ``weight_bias [O, C]``, and the output bias ``bias [O]``
    that is added once per output. ``compat="release"`` selects the conventions of the method's public release: form
    "correlation", chart "release", reduction "sum", and its samplers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        group: str | Group,
        *,
        part: str = "all",
        kernel_net: NetFactory = "siren",
        hidden: int = 32,
        layers: int = 3,
        omega0: float = 10.0,
        form: str | None = None,
        chart: str | None = None,
        reduction: str | None = None,
        bias: bool = True,
        weight_bias: bool = True,
        depthwise: bool = False,
        compat: str | None = None,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.in_channels = check_positive_int(name, "in_channels", in_channels)
        self.out_channels = check_positive_int(name, "out_channels", out_channels)
        self.group = groups.get(group)
        check_choice(name, "compat", compat, (None, "release"))  # type: ignore[arg-type]
        self.compat = compat
        release = compat == "release"
        self.form = form or ("correlation" if release else "convolution")
        self.chart = chart or ("release" if release else "product")
        self.reduction = reduction or ("sum" if release else "mean")
        for option, value, options in (
            ("form", self.form, FORMS),
            ("chart", self.chart, CHARTS),
            ("reduction", self.reduction, REDUCTIONS),
        ):
            check_choice(name, option, value, options)
        if backend is not None:
            backends.load(backend)
        self.backend = backend
        self.net = _build_net(name, kernel_net, self.group.coord_dim_of(self.chart, part), hidden, layers, omega0)
        head = (out_channels,) if depthwise else (out_channels, in_channels)
        self.weight = nn.Parameter(torch.empty(*head, self.net.hidden))
        self.weight_bias = nn.Parameter(torch.empty(head)) if weight_bias else None
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()
        self.to(device=device, dtype=dtype)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise the head by the kernel net's rule and the output bias with zeros."""
        self.net.reset_head_(self.weight, self.weight_bias)
        if self.bias is not None:
            self.bias.zero_()

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        leave_meta(self, self.weight.device)

    def _kernel_options(self) -> dict:
        return {"group": self.group, "chart": self.chart, "backend": self.backend}

    def _add_bias(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + self.bias.reshape(-1, *[1] * (y.dim() - 2)).to(y.dtype)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, group={self.group.name!r}, form={self.form!r}, chart={self.chart!r}"
        return text + (f", compat={self.compat!r}" if self.compat else "")


class ImageConv(SampledConv):
    """Base of those on images."""

    sampler: nn.Module | None

    @property
    def weighs(self) -> bool:
        """Whether samples it returns may count differently, so that norms and pooling have to know their weights."""
        sampler = getattr(self, "sampler", None)
        return isinstance(sampler, GatedSampler) or getattr(sampler, "compat", None) is not None

    def kernel_norm(self, samples: Samples | None, out: Samples) -> Tensor:
        """Frobenius norm of the kernel from ``samples`` (None: from the plane) to ``out``; see ``functional.kernel_norm``."""
        geometry = getattr(self, "geometry", None)
        return functional.kernel_norm(
            None if samples is None else samples.elements,
            out.elements,
            self.net,
            self.weight,
            self.weight_bias,
            kernel_size=None if geometry is None else geometry.kernel_size,
            support="disc" if geometry is None else geometry.support,
            sample_weight=None if samples is None else samples.weights,
            out_gate=out.weights,
            form=self.form,
            **self._kernel_options(),
        )


def make_sampler(conv: SampledConv, name: str | nn.Module, num_samples: int, per_example: bool) -> nn.Module:
    """A sampler by name on the layer's device, or the module itself.

    The release's chart jumps at relative angle 0, which regular grids hit: in float64 (as the release keeps angles) the
    multiples of pi/4 add up exactly and land on the right side, in float32 they do not.
    """
    if isinstance(name, nn.Module):
        return name
    check_positive_int(type(conv).__name__, "num_samples", num_samples)
    options = {"per_example": per_example, "dtype": element_dtype(conv)}
    asked = "partial=True" if getattr(conv, "partial", False) else f"sampling={name!r}"
    with sampler_of(type(conv).__name__, asked, conv.group, num_samples):
        return sampling.get(name, conv.group, num_samples, compat=conv.compat, **options).to(conv.weight.device)


@contextmanager
def sampler_of(owner: str, asked: str, group: Group, num_samples: int) -> Iterator[None]:
    """Errors of a sampler name its own arguments; here they get those of the layer, which often are defaults."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{owner}: {asked} does not fit group={group.name!r} with num_samples={num_samples} (n): {error}"
        ) from error


def element_dtype(conv: SampledConv) -> torch.dtype:
    """Of a sampler that the layer builds."""
    return torch.float64 if conv.compat == "release" or conv.weight.dtype == torch.float64 else torch.float32


def check_samples(layer: str, name: str, samples: object) -> Samples:
    """``samples`` as the pair (elements, weights) that the previous layer returned."""
    if not (isinstance(samples, tuple) and len(samples) == 2 and all(isinstance(t, Tensor) for t in samples)):
        raise ValueError(
            f"{layer}: {name} must be the Samples(elements, weights) that the previous layer returned, received {describe(samples)}"
        )
    axes: dict = {}
    check_shape(layer, f"{name}.elements", samples[0], "S N e", axes)
    # Weights may differ between examples that share the elements.
    check_shape(layer, f"{name}.weights", samples[1], "B N" if axes["S"] == 1 else "S|1 N", axes)
    return Samples(*samples)


def check_maps(conv: SampledConv, x: Tensor, samples: Samples) -> None:
    """Feature maps ``[B, C, N, H, W]`` that fit the layer and their samples."""
    axes: dict = {"C": conv.in_channels, "N": samples.elements.shape[-2]}
    check_shape(type(conv).__name__, "x", x, "B C N H W", axes)
    check_input(conv, "x", x)


def check_input(conv: SampledConv, name: str, x: Tensor) -> None:
    """A floating point input on the layer's device."""
    layer = type(conv).__name__
    check_floating(layer, name, x)
    check_same_device(layer, **{name: x, "weight": conv.weight})


def _build_net(layer: str, factory: object, coord_dim: int, hidden: int, layers: int, omega0: float) -> KernelNet:
    if isinstance(factory, str):
        options = {"omega0": omega0} if factory == "siren" else {}
        return kernel_nets.get(factory, coord_dim, hidden=hidden, layers=layers, **options)
    net = factory if isinstance(factory, nn.Module) or not callable(factory) else factory(coord_dim)
    if not isinstance(net, KernelNet):
        raise ValueError(
            f"{layer}: kernel_net must be a name ({', '.join(kernel_nets.names())}), a KernelNet, or a function from coord_dim to "
            f"one, received {describe(net)}"
        )
    if net.coord_dim != coord_dim:
        raise ValueError(
            f"{layer}: kernel_net must have coord_dim={coord_dim} for this group and chart, received {net.coord_dim}"
        )
    return net
