"""Lifting convolution: image to functions on the group."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgconv import functional
from pgconv._shapes import check_shape
from pgconv.groups import Group
from pgconv.nn._conv import ImageConv, check_input, make_sampler
from pgconv.sampling import Samples
from pgconv.spec import ConvGeometry


class LiftingConv2d(ImageConv):
    """Lifting convolution ``y[b,o,u,p] = bias[o] + sum_t sum_c psi(h_u^-1 t)[o,c] x[b,c,p+t]`` at sampled elements ``u``.

    Args:
        in_channels, out_channels: C and O
        kernel_size: odd k
        group: acts on the plane: ``"T(2)"``, ``"M(2)"``, ``"SE(2)"``, ``"E(2)"``, ``"Sim(2)"``
        num_samples: N, elements of the stabiliser
        sampling: ``"jittered"`` (regular grid with a random rotation in training), ``"fixed"``, ``"haar"``, or a sampler module.
            Always the whole group: learned ranges start at the first group convolution
        samples_per_example: draw one sample set per example (S = B) in training
        kernel_net, hidden, layers, omega0: name of the kernel net and its sizes, or a function ``coord_dim -> KernelNet``
        stride, padding, dilation, support: see ``functional.lifting_conv2d``
        compat: ``"release"`` for the conventions of the method's public release

    Shapes: ``x [B, C, H, W]`` -> ``(y [B, O, N, Ho, Wo], Samples(elements [S, N, e], weights [S, N]))``

    Raises:
        ValueError: for arguments out of range, at construction or call

    Source: Romero & Lohit (2022).

    Example:
        >>> import torch, pgconv
        >>> lift = pgconv.nn.LiftingConv2d(3, 8, kernel_size=5, group="SE(2)", num_samples=4)
        >>> y, samples = lift(torch.randn(2, 3, 16, 16))
        >>> y.shape, samples.elements.shape
        (torch.Size([2, 8, 4, 16, 16]), torch.Size([1, 4, 3]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        group: str | Group = "SE(2)",
        num_samples: int = 8,
        *,
        sampling: str | nn.Module = "jittered",
        samples_per_example: bool = False,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = "same",
        dilation: int | tuple[int, int] = 1,
        support: str = "disc",
        **options,
    ) -> None:
        super().__init__(in_channels, out_channels, group, part="translation", **options)
        geometry = ConvGeometry.make("LiftingConv2d", kernel_size, stride, padding, dilation, support)
        self.kernel_size, self.geometry = kernel_size, geometry
        self.sampler = make_sampler(self, sampling, num_samples, samples_per_example)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Samples]:
        """Draw samples (a fixed grid in ``eval()``) and convolve."""
        check_shape("LiftingConv2d", "x", x, "B C H W", {"C": self.in_channels})
        check_input(self, "x", x)
        samples = self.sampler(x.shape[0], generator=generator)
        return self.at(x, samples), samples

    def at(self, x: Tensor, samples: Samples) -> Tensor:
        """The convolution at given samples."""
        g = self.geometry
        y = functional.lifting_conv2d(
            x,
            samples.elements,
            self.net,
            self.weight,
            self.weight_bias,
            kernel_size=g.kernel_size,
            stride=g.stride,
            padding=g.padding,
            dilation=g.dilation,
            support=g.support,
            **self._kernel_options(),
        )
        return self._add_bias(y)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kernel_size={self.kernel_size}"
