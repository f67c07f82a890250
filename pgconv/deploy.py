"""``freeze``: networks for deployment, whose group convolutions are plain ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pgconv._shapes import describe
from pgconv.backends import vendor_conv
from pgconv.nn import GroupConv2d, LiftingConv2d, PointGroupConv, PointwiseGroupConv2d, SeparableGroupConv2d
from pgconv.ops.dispatch import use_backend
from pgconv.sampling import Samples
from pgconv.spec import ConvGeometry

IMAGE_LAYERS = (LiftingConv2d, GroupConv2d, PointwiseGroupConv2d, SeparableGroupConv2d)


def freeze(module: nn.Module, *inputs: Any, tolerance: float = 1e-4) -> nn.Module:
    """A copy of a module, in eval mode, whose group convolutions on images are ``torch.nn.Conv2d`` with the kernel baked in.

    In eval mode layers take fixed samples, so the kernel ``K[u,o,c,v,t] = w_v psi(offset(u,v,t))[o,c]`` is a constant, and what is
    left is a convolution from ``C Nv`` to ``O Nu`` channels: for ONNX and wherever there is no pgconv. It takes more memory and
    arithmetic than the fused layer, and neither kernel net nor ranges can be trained on. All other modules stay as they are.

    Args:
        module: a layer or a network; it is not changed
        inputs: of one call, of any batch size: samples are those that layers take in it
        tolerance: to which outputs of the copy agree with those of the module on these inputs, relative to the largest

    Returns:
        the copy. Its layers take the arguments they took, and do not look at samples passed to them

    Raises:
        ValueError: where a layer's kernel is not constant (samples that differ between examples or calls, gates that depend on the
            input), is not used, or lies on points, and for modules without group convolutions; the text names the layer
        RuntimeError: where the copy does not compute what the module does

    Example:
        >>> import torch, pgconv
        >>> model = pgconv.models.CKResNet(1, 10, num_samples=4, width=4, kernel_size=3, partial=True).eval()
        >>> x = torch.randn(2, 1, 16, 16)
        >>> plain = pgconv.freeze(model, x)
        >>> any(isinstance(layer, pgconv.nn.GroupConv2d) for layer in plain.modules())
        False
        >>> bool((plain(x) - model(x)).abs().max() < 1e-4)
        True
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"freeze: module must be a torch.nn.Module, received {describe(module)}")
    source = copy.deepcopy(module).eval()
    layers = _layers(source)
    calls = {layer: _Calls(name, layer) for name, layer in layers.items()}
    with torch.no_grad(), use_backend("reference"):
        # Twice, to see whether samples stay.
        source(*inputs)
        expected = source(*inputs)
    frozen = {layer: found.frozen() for layer, found in calls.items()}
    for name, layer in list(source.named_modules(remove_duplicate=False)):
        if layer in frozen:
            source = _replaced(source, name, frozen[layer])
    _check_outputs(expected, source, inputs, tolerance)
    return source


class FrozenConv2d(nn.Module):
    """A group convolution with fixed samples: ``convs`` from ``C Nv`` to ``O Nu`` channels, one or, of a separable layer, two.

    Shapes: ``x [B, C, Nv, H, W]``, of a lifting layer ``[B, C, H, W]`` -> ``(y [B, O, Nu, Ho, Wo], Samples [1, Nu])``
    """

    elements: Tensor
    weights: Tensor

    def __init__(self, convs: list[nn.Conv2d], samples: Samples, group: Any) -> None:
        super().__init__()
        self.convs = nn.Sequential(*convs)
        self.group = group
        self.register_buffer("elements", samples.elements)
        self.register_buffer("weights", samples.weights)
        self.weighs = not bool((samples.weights == 1).all())

    def forward(self, x: Tensor, samples: Any = None, out_samples: Any = None, generator: Any = None) -> Any:
        """Convolve; what stands behind ``x`` is there for the signature alone, which a layer with samples has."""
        y = self.convs(x.flatten(1, 2) if x.dim() == 5 else x)
        return y.unflatten(1, (-1, self.weights.shape[1])), Samples(self.elements, self.weights)


class _Calls:
    """What a layer computed with, at every call."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        self.name, self.layer = name or type(layer).__name__, layer
        self.made: list[tuple[list[nn.Conv2d], Samples]] = []
        forward = layer.forward

        def watched(*args: Any, **options: Any) -> Any:
            with _Convolutions() as found:
                y, out = forward(*args, **options)
            self.made.append((self._convs(found.seen), self._one_set(out)))
            return y, out

        layer.forward = watched  # type: ignore[method-assign]

    def frozen(self) -> FrozenConv2d:
        """The layer as it was at all calls."""
        if not self.made:
            raise ValueError(f"freeze: layer {self.name!r} was not called for these inputs; remove it, or pass others")
        convs, samples = self.made[0]
        for others, other in self.made[1:]:
            same = all(torch.equal(a.weight, b.weight) for a, b in zip(convs, others, strict=True))
            if not same or not all(torch.equal(a, b) for a, b in zip(samples, other)):
                raise ValueError(
                    f"freeze: layer {self.name!r} takes other samples at other calls, so its kernel is not constant; give it a "
                    "sampler that repeats in eval mode"
                )
        return FrozenConv2d(convs, samples, self.layer.group).eval()

    def _convs(self, seen: list[tuple[Tensor, tuple, tuple, tuple, int]]) -> list[nn.Conv2d]:
        parts = (self.layer.over_group, self.layer.over_space) if len(seen) == 2 else (self.layer,)
        made = []
        for part, (kernel, stride, padding, dilation, groups) in zip(parts, seen, strict=True):
            out, inputs, *size = kernel.shape
            options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
            with torch.device("meta"):
                conv = nn.Conv2d(inputs * groups, out, tuple(size), bias=part.bias is not None, **options)
            conv.weight = nn.Parameter(kernel, requires_grad=False)
            if part.bias is not None:
                each = part.bias.detach().repeat_interleave(out // len(part.bias))
                conv.bias = nn.Parameter(each, requires_grad=False)
            made.append(conv)
        return made

    def _one_set(self, samples: Samples) -> Samples:
        sampler = getattr(getattr(self.layer, "over_group", self.layer), "sampler", None)
        if getattr(sampler, "sees_input", False):
            raise ValueError(
                f"freeze: layer {self.name!r} chooses its samples by the input, so its kernel is not constant; freeze a network "
                "with partial=True, or export it as it is"
            )
        for x in samples:
            if not torch.equal(x, x[:1].expand_as(x)):
                raise ValueError(
                    f"freeze: layer {self.name!r} has other samples for each example, so its kernel is not constant; build it with "
                    "samples_per_example=False"
                )
        return Samples(*(x[:1].detach().clone() for x in samples))


class _Convolutions(TorchDispatchMode):
    """Kernel, stride, padding, dilation and groups of every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, tuple, tuple, tuple, int]] = []

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.pgconv.group_conv2d.default:
            _, phi, weight, text, _ = args
            geometry = ConvGeometry.parse(text)
            kernel = vendor_conv.kernel(phi[:1], weight, geometry)[0]
            self.seen.append(
                (kernel.flatten(2, 3).flatten(0, 1), geometry.stride, geometry.padding, geometry.dilation, 1)
            )
        elif func is torch.ops.aten.convolution.default:
            _, kernel, _, stride, padding, dilation, _, _, groups = args
            self.seen.append((kernel.clone(), tuple(stride), tuple(padding), tuple(dilation), groups))
        return func(*args, **(kwargs or {}))


def _layers(source: nn.Module) -> dict[str, nn.Module]:
    """Those to be replaced, by name; not the parts of one that is replaced as a whole."""
    found: dict[str, nn.Module] = {}
    for name, layer in source.named_modules():
        if isinstance(layer, PointGroupConv):
            raise ValueError(
                f"freeze: layer {name or type(layer).__name__!r} lies on points, whose kernel depends on where they are; export it "
                "as it is"
            )
        inside = any(name.startswith(f"{other}.") or other == "" for other in found)
        if isinstance(layer, IMAGE_LAYERS) and not inside:
            found[name] = layer
    if not found:
        raise ValueError("freeze: module has no group convolution on images, so there is nothing to freeze")
    return found


def _replaced(source: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    if not name:
        return layer
    owner, _, own = name.rpartition(".")
    setattr(source.get_submodule(owner), own, layer)
    return source


def _check_outputs(expected: Any, frozen: nn.Module, inputs: tuple, tolerance: float) -> None:
    with torch.no_grad():
        found = frozen(*inputs)
    leaves = torch.utils._pytree.tree_leaves
    for want, have in zip(leaves(expected), leaves(found), strict=True):
        if isinstance(want, Tensor) and want.is_floating_point() and want.numel():
            error = (have - want).abs().max().item() / (want.abs().max().item() or 1.0)
            if not error <= tolerance:
                raise RuntimeError(
                    f"freeze: outputs of the copy differ by {error:.1e} of the largest, more than tolerance={tolerance:.0e}: the "
                    "module does something else with its layers than calling them, or is less precise than that"
                )
