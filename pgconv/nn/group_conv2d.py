"""Group convolutions on images: full, pointwise (1 x 1 in space) and separable."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgconv import functional, groups
from pgconv._shapes import check_choice
from pgconv.groups import Group
from pgconv.nn._conv import ImageConv, SampledConv, check_maps, check_samples, element_dtype, make_sampler, sampler_of
from pgconv.sampling import EncodedGates, Samples
from pgconv.spec import ConvGeometry


class _GroupConv(ImageConv):
    """Output samples of a group convolution: those of the input, or a sampler's."""

    def _set_sampler(
        self, sampling: str | nn.Module | None, partial: bool | str, num_samples: int, samples_per_example: bool
    ) -> None:
        name = type(self).__name__
        if isinstance(partial, str):
            check_choice(name, "partial", partial, (False, True, "input"))  # type: ignore[arg-type]
        self.partial = partial if isinstance(partial, str) else bool(partial)
        if self.partial and sampling is not None:
            raise ValueError(
                f"{name}: partial={self.partial!r} chooses the learned sampler itself; leave sampling=None or pass partial=False"
            )
        chosen = "learned" if self.partial else sampling or "same"
        if self.partial == "input":
            self.sampler = self._input_sampler(num_samples, samples_per_example)
        elif chosen == "same":
            if samples_per_example:
                raise ValueError(
                    f"{name}: samples_per_example needs a sampler of this layer's own; pass sampling='jittered' or partial=True"
                )
            self.sampler = None
        else:
            self.sampler = make_sampler(self, chosen, num_samples, samples_per_example)

    def _input_sampler(self, num_samples: int, per_example: bool) -> EncodedGates:
        if self.compat is not None:
            raise ValueError(
                f"{type(self).__name__}: partial='input' has no compat mode, got compat={self.compat!r}; use partial=True"
            )
        options = {"per_example": per_example, "dtype": element_dtype(self)}
        with sampler_of(type(self).__name__, "partial='input'", self.group, num_samples):
            return EncodedGates(self.group, num_samples, self.in_channels, **options).to(self.weight.device)

    def _out_samples(
        self, x: Tensor, samples: Samples, out_samples: Samples | None, generator: torch.Generator | None
    ) -> Samples:
        if out_samples is not None:
            return check_samples(type(self).__name__, "out_samples", out_samples)
        if self.sampler is None:
            return samples
        seen = {"x": x, "samples": samples} if getattr(self.sampler, "sees_input", False) else {}
        return self.sampler(x.shape[0], generator=generator, **seen)

    def _group_options(self, samples: Samples) -> dict:
        return {
            "sample_weight": samples.weights,
            "form": self.form,
            "reduction": self.reduction,
            **self._kernel_options(),
        }


class GroupConv2d(_GroupConv):
    """Group convolution ``y[b,o,u,p] = bias[o] + sum_v w_v sum_t sum_c psi(offset(u,v,t))[o,c] x[b,c,v,p+t]``.

    The input elements ``v`` and their weights ``w`` are those the previous layer returned; the output elements ``u`` are, by
    ``sampling``: None or ``"same"`` (the input's: one grid for the whole network), ``"jittered"``, ``"fixed"``, ``"haar"``, or a
    sampler module. ``partial=True`` learns from the data over which part of the group the outputs spread (an interval of
    angles, a subset of the mirror coset, or both): partial equivariance. ``partial="input"`` asks an encoder of ``x`` which outputs
    an example has (``sampling.EncodedGates``; S = B). Gates are not multiplied into ``y``; they travel in the returned ``Samples``
    as the weights of the next layer's sum (with ``reduction="mean"`` a mean over the outputs that are there), norms and pooling.
    A sampler module whose ``sees_input`` is true is called with ``x`` and ``samples``, too.

    Args:
        in_channels, out_channels: C and O
        kernel_size: odd k
        group, num_samples, kernel_net, hidden, layers, omega0, stride, padding, dilation, support, compat: see ``LiftingConv2d``
        partial: True learns the range of output samples, ``"input"`` one for each example
        sampling: see above
        samples_per_example: draw one sample set per example (S = B) in training
        form, chart, reduction: see ``functional.group_conv2d``

    Shapes: ``x [B, C, Nv, H, W]``, ``Samples [S, Nv]`` -> ``(y [B, O, N, Ho, Wo], Samples [S, N])``

    Raises:
        ValueError: for arguments out of range, a group without anything to learn, maps that do not fit the samples

    Source: Romero & Lohit, "Learning Partial Equivariances From Data" (2022); Kim et al. (2024) for ``"input"``.

    Example:
        >>> import torch, pgconv
        >>> lift = pgconv.nn.LiftingConv2d(1, 4, kernel_size=3, group="SE(2)", num_samples=4)
        >>> conv = pgconv.nn.GroupConv2d(4, 6, kernel_size=3, group="SE(2)", num_samples=8, partial=True)
        >>> y, samples = conv(*lift(torch.randn(2, 1, 9, 9)))
        >>> y.shape, samples.elements.shape
        (torch.Size([2, 6, 8, 9, 9]), torch.Size([1, 8, 3]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        group: str | Group = "SE(2)",
        num_samples: int = 8,
        *,
        partial: bool | str = False,
        sampling: str | nn.Module | None = None,
        samples_per_example: bool = False,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = "same",
        dilation: int | tuple[int, int] = 1,
        support: str = "disc",
        **options,
    ) -> None:
        super().__init__(in_channels, out_channels, group, **options)
        self.geometry = ConvGeometry.make("GroupConv2d", kernel_size, stride, padding, dilation, support)
        self.kernel_size = kernel_size
        self._set_sampler(sampling, partial, num_samples, samples_per_example)

    def forward(
        self,
        x: Tensor,
        samples: Samples,
        out_samples: Samples | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Samples]:
        """Convolve ``x`` on ``samples``; ``out_samples`` overrides the layer's own sampler."""
        samples = check_samples("GroupConv2d", "samples", samples)
        check_maps(self, x, samples)
        out = self._out_samples(x, samples, out_samples, generator)
        g = self.geometry
        y = functional.group_conv2d(
            x,
            samples.elements,
            out.elements,
            self.net,
            self.weight,
            self.weight_bias,
            kernel_size=g.kernel_size,
            stride=g.stride,
            padding=g.padding,
            dilation=g.dilation,
            support=g.support,
            **self._group_options(samples),
        )
        return self._add_bias(y), out

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kernel_size={self.kernel_size}, partial={self.partial!r}"


class PointwiseGroupConv2d(_GroupConv):
    """Convolution over the stabiliser, 1 x 1 in space: ``y[b,o,u,p] = bias[o] + sum_v w_v sum_c psi(h_v^-1 h_u)[o,c] x[b,c,v,p]``.

    Used as the shortcut of residual blocks, where it maps one sample set to another. Arguments as in ``GroupConv2d``.

    Shapes: ``x [B, C, Nv, H, W]`` -> ``(y [B, O, N, Ho, Wo], Samples [S, N])``

    Example:
        >>> import torch, pgconv
        >>> lift = pgconv.nn.LiftingConv2d(1, 4, kernel_size=3, group="SE(2)", num_samples=4)
        >>> x, samples = lift(torch.randn(2, 1, 9, 9))
        >>> pgconv.nn.PointwiseGroupConv2d(4, 6, group="SE(2)")(x, samples)[0].shape
        torch.Size([2, 6, 4, 9, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        group: str | Group = "SE(2)",
        num_samples: int = 8,
        *,
        partial: bool | str = False,
        sampling: str | nn.Module | None = None,
        samples_per_example: bool = False,
        stride: int | tuple[int, int] = 1,
        **options,
    ) -> None:
        super().__init__(in_channels, out_channels, group, part="stabilizer", **options)
        self.stride = ConvGeometry.make("PointwiseGroupConv2d", 1, stride, 0, 1, "disc").stride
        self._set_sampler(sampling, partial, num_samples, samples_per_example)

    def forward(
        self,
        x: Tensor,
        samples: Samples,
        out_samples: Samples | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Samples]:
        """Map ``x`` on ``samples`` to ``out_samples`` (or the layer's own sampler's, or the same)."""
        samples = check_samples("PointwiseGroupConv2d", "samples", samples)
        check_maps(self, x, samples)
        out = self._out_samples(x, samples, out_samples, generator)
        y = functional.pointwise_group_conv(
            x,
            samples.elements,
            out.elements,
            self.net,
            self.weight,
            self.weight_bias,
            stride=self.stride,
            **self._group_options(samples),
        )
        return self._add_bias(y), out


class SeparableGroupConv2d(nn.Module):
    """Separable group convolution: over the stabiliser with channel mixing, then a spatial filter per channel and sample.

    The kernel is restricted to ``psi(x, h)[o,c] = psi_H(h)[o,c] psi_X(x)[o]``, so

    ``y[b,o,u,p] = bias[o] + sum_t psi_X(h_u^-1 t)[o] sum_v w_v sum_c psi_H(h_v^-1 h_u)[o,c] x[b,c,v,p+t]``.

    Far cheaper than ``GroupConv2d`` (no k^2 times Nv), and less expressive. Arguments as in ``GroupConv2d``.

    Shapes: ``x [B, C, Nv, H, W]`` -> ``(y [B, O, N, Ho, Wo], Samples [S, N])``

    Source: Knigge, Romero & Bekkers, "Exploiting Redundancy: Separable Group Convolutional Networks on Lie Groups" (2022).

    Example:
        >>> import torch, pgconv
        >>> lift = pgconv.nn.LiftingConv2d(1, 4, kernel_size=3, group="SE(2)", num_samples=4)
        >>> conv = pgconv.nn.SeparableGroupConv2d(4, 6, kernel_size=5, group="SE(2)")
        >>> conv(*lift(torch.randn(2, 1, 9, 9)))[0].shape
        torch.Size([2, 6, 4, 9, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        group: str | Group = "SE(2)",
        num_samples: int = 8,
        *,
        partial: bool | str = False,
        sampling: str | nn.Module | None = None,
        samples_per_example: bool = False,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = "same",
        dilation: int | tuple[int, int] = 1,
        support: str = "disc",
        bias: bool = True,
        **options,
    ) -> None:
        super().__init__()
        self.group = groups.get(group)
        self.geometry = ConvGeometry.make("SeparableGroupConv2d", kernel_size, stride, padding, dilation, support)
        self.over_group = PointwiseGroupConv2d(
            in_channels,
            out_channels,
            group,
            num_samples,
            partial=partial,
            sampling=sampling,
            samples_per_example=samples_per_example,
            bias=False,
            **options,
        )
        self.over_space = SampledConv(
            out_channels, out_channels, group, part="translation", depthwise=True, bias=bias, **options
        )

    def forward(
        self,
        x: Tensor,
        samples: Samples,
        out_samples: Samples | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Samples]:
        """Convolve ``x`` on ``samples``; ``out_samples`` overrides the layer's own sampler."""
        y, out = self.over_group(x, samples, out_samples, generator)
        space, g = self.over_space, self.geometry
        y = functional.depthwise_lifting_conv2d(
            y,
            out.elements,
            space.net,
            space.weight,
            space.weight_bias,
            kernel_size=g.kernel_size,
            stride=g.stride,
            padding=g.padding,
            dilation=g.dilation,
            support=g.support,
            **space._kernel_options(),
        )
        return space._add_bias(y), out
