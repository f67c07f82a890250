"""Group convolution between sets of points lifted to group elements."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgconv import functional, groups
from pgconv._shapes import check_floating, check_positive_int, check_same_device, check_shape, describe
from pgconv.groups import Group
from pgconv.nn._conv import SampledConv, check_input, check_samples
from pgconv.sampling import Samples


class PointLift(nn.Module):
    """Lift points of space to group elements: every point ``x`` becomes the n elements ``(x, h_k)``, all sending the origin to x.

    The ``h_k`` are the regular grid of the stabiliser; in training each point's grid is moved by one Haar-random stabiliser
    element, in ``eval()`` it is fixed, so predictions repeat. Groups whose stabiliser is trivial need n = 1.

    Args:
        group: a group with translations, e.g. ``"T(3)"``, ``"SE(2)"``, ``"SE(3)"`` (without them the action on space is not
            transitive, and a point is not enough to name an element)
        num_samples: n elements per point

    Shapes: ``x [B, P, d]``, ``f [B, P, C]`` -> ``(f [B, P n, C], Samples(elements [B, P n, e], weights [B, P n]))``; element
    ``p n + k`` belongs to point p. A boolean ``mask [B, P]`` becomes zero weights.

    Raises:
        ValueError: for a group without translations, a number of samples that has no regular grid, wrong shapes

    Source: Finzi et al. (2020), section "Lifting".

    Example:
        >>> import torch, pgconv
        >>> lift = pgconv.nn.PointLift("SE(2)", num_samples=4).eval()
        >>> f, samples = lift(torch.randn(2, 5, 2), torch.randn(2, 5, 3))
        >>> f.shape, samples.elements.shape
        (torch.Size([2, 20, 3]), torch.Size([2, 20, 3]))
    """

    def __init__(self, group: str | Group, num_samples: int = 1) -> None:
        super().__init__()
        self.group = groups.get(group)
        self.num_samples = check_positive_int("PointLift", "num_samples", num_samples)
        if self.group.translation_dim == 0:
            raise ValueError(
                f"PointLift: group {self.group.name} has no translations, so it does not act transitively on space; choose "
                "one that has them (T(n), SE(n), ...), or build the elements yourself and call PointGroupConv"
            )
        self.group.grid(self.num_samples)

    def forward(
        self, x: Tensor, f: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Samples]:
        """Lift positions ``x`` with features ``f``."""
        axes: dict = {"d": self.group.spatial_dim}
        check_shape("PointLift", "x", x, "B P d", axes)
        check_floating("PointLift", "x", x, (torch.float32, torch.float64))
        check_shape("PointLift", "f", f, "B P C", axes)
        check_floating("PointLift", "f", f)
        check_same_device("PointLift", x=x, f=f, mask=mask)
        batch, points, n = x.shape[0], x.shape[1], self.num_samples
        stabilizer = self.group.stabilizer
        h = stabilizer.grid(n, dtype=x.dtype, device=x.device).expand(batch, points, n, -1)
        if self.training and stabilizer.element_dim > 0:
            count = batch * points
            shift = stabilizer.sample(count, generator=generator, dtype=x.dtype, device=x.device)
            h = stabilizer.product(shift.reshape(batch, points, 1, stabilizer.element_dim), h)
        elements = torch.cat([x[:, :, None].expand(-1, -1, n, -1), h], -1).reshape(
            batch, points * n, self.group.element_dim
        )
        weights = x.new_ones(batch, points)
        if mask is not None:
            check_shape("PointLift", "mask", mask, "B P", {"B": batch, "P": points})
            if mask.dtype != torch.bool:
                raise ValueError(
                    f"PointLift: mask must be boolean, received {describe(mask)}; compare it, e.g. mask > 0"
                )
            weights = mask.to(x.dtype)
        return f.repeat_interleave(n, 1), Samples(elements, weights.repeat_interleave(n, 1))


class PointGroupConv(SampledConv):
    """Group convolution on points ``y[b,i,o] = bias[o] + sum_j w_j sum_c psi(v_j^-1 u_i)[o,c] f[b,j,c]``.

    Args:
        in_channels, out_channels: C and O (equal when depthwise)
        group: any group
        kernel_net, hidden, layers, omega0: name of the kernel net and its sizes, or a function ``coord_dim -> KernelNet``
        form, chart, reduction, depthwise: see ``functional.point_conv``

    Shapes: ``f [B, Nv, C]``, ``Samples [S, Nv]`` -> ``(y [B, Nu, O], Samples [S, Nu])``; the output lives on ``out_samples``
    (default: the input's), ``neighbors`` restricts the sum as in ``functional.point_conv``

    Raises:
        ValueError: for arguments out of range and shapes that do not fit

    Source: Finzi et al. (2020).

    Example:
        >>> import torch, pgconv
        >>> lift = pgconv.nn.PointLift("SE(3)", num_samples=1)
        >>> conv = pgconv.nn.PointGroupConv(3, 8, group="SE(3)")
        >>> conv(*lift(torch.randn(2, 10, 3), torch.randn(2, 10, 3)))[0].shape
        torch.Size([2, 10, 8])
    """

    def __init__(
        self, in_channels: int, out_channels: int, group: str | Group, *, depthwise: bool = False, **options
    ) -> None:
        if depthwise and in_channels != out_channels:
            raise ValueError(
                f"PointGroupConv: depthwise keeps the channels, so out_channels must be in_channels={in_channels}, "
                f"received {out_channels}"
            )
        super().__init__(in_channels, out_channels, group, depthwise=depthwise, **options)
        self.depthwise = depthwise

    def forward(
        self,
        f: Tensor,
        samples: Samples,
        out_samples: Samples | None = None,
        neighbors: functional.Neighbors | None = None,
    ) -> tuple[Tensor, Samples]:
        """Convolve ``f`` on ``samples``."""
        samples = check_samples("PointGroupConv", "samples", samples)
        check_shape("PointGroupConv", "f", f, "B Nv C", {"C": self.in_channels, "Nv": samples.elements.shape[-2]})
        check_input(self, "f", f)
        out = samples if out_samples is None else check_samples("PointGroupConv", "out_samples", out_samples)
        y = functional.point_conv(
            f,
            samples.elements,
            out.elements,
            self.net,
            self.weight,
            self.weight_bias,
            sample_weight=samples.weights,
            neighbors=neighbors,
            form=self.form,
            reduction=self.reduction,
            depthwise=self.depthwise,
            **self._kernel_options(),
        )
        return y if self.bias is None else y + self.bias, out
