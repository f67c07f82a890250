"""Group convolution between sets of points lifted to group elements."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgconv import functional, groups
from pgconv._shapes import (
    check_choice,
    check_floating,
    check_mask,
    check_positive_int,
    check_same_device,
    check_shape,
    values_can_be_read,
)
from pgconv.groups import Group, Orbits
from pgconv.groups.base import FixedSequence
from pgconv.neighbors import Neighborhood
from pgconv.nn._conv import SampledConv, check_input, check_samples, sampler_of
from pgconv.nn._neighborhood import check_downsample, check_neighborhood, farthest_samples, repeated_draws
from pgconv.sampling import Samples


class PointLift(nn.Module):
    """Lift points of space to group elements: every point ``x`` becomes the n elements ``g_x h_k``, which all send the same
    reference point to x.

    ``g_x`` is ``group.lift(x)``: the translation to x, or in a group without translations the rotation (and scale) that takes the
    reference point to x. The ``h_k`` are the regular grid of the elements that leave the reference point where it is: of all
    stabiliser elements for SE(n), E(n), ..., the turns about an axis for SO(3), the identity and a mirror for O(2), only the
    identity for T(n), SO(2), R+xSO(2).

    With ``turns="random"`` each point's grid is moved by a random such element of its own, so that relative elements take all
    values: by fresh ones in training, in ``eval()`` by the same ones every time and for every example, so predictions repeat.
    With ``turns="aligned"`` all points have the same grid: relative elements are those of the grid only, and turning the points
    by an element of the grid leaves a network exactly as it is, while turns between are never seen.

    Rotations about the origin do not take every point to every other one: with SO(2), O(2), SO(3) the elements
    carry the radius as an orbit coordinate, and what follows is built with ``lift.group`` (named ``"SO(2)/1"`` etc.).

    Args:
        group: ``"T(3)"``, ``"SE(2)"``, ``"SO(3)"``, ...; a group of your own that defines ``lift`` and ``isotropy``
        num_samples: n elements per point
        turns: ``"random"`` or ``"aligned"``

    Shapes: ``x [B, P, d]``, ``f [B, P, C]`` -> ``(f [B, P n, C], Samples(elements [B, P n, e], weights [B, P n]))``; element
    ``p n + k`` belongs to point p. A boolean ``mask [B, P]`` becomes zero weights; whatever points hold where it is
    False, they stand at the identity and have no features.

    Raises:
        ValueError: for a group that cannot lift points, a number of samples that has no regular grid, wrong shapes, and points no
            element reaches (the origin, where a group scales but does not translate)

    Source: Finzi et al. (2020), sections 4.2 and 4.3.

    Example:
        >>> import torch, pgconv
        >>> lift = pgconv.nn.PointLift("SE(2)", num_samples=4).eval()
        >>> f, samples = lift(torch.randn(2, 5, 2), torch.randn(2, 5, 3))
        >>> f.shape, samples.elements.shape
        (torch.Size([2, 20, 3]), torch.Size([2, 20, 3]))
        >>> pgconv.nn.PointLift("SO(2)").group              # an angle, and a radius behind it
        Orbits('SO(2)/1')
    """

    def __init__(self, group: str | Group, num_samples: int = 1, turns: str = "random") -> None:
        super().__init__()
        group = groups.get(group)
        check_choice("PointLift", "turns", turns, ("random", "aligned"))
        self.turns = turns
        self.num_samples = check_positive_int("PointLift", "num_samples", num_samples)
        self._plain = group.base if isinstance(group, Orbits) else group
        try:
            with sampler_of("PointLift", "a grid", group, self.num_samples):
                self._plain.isotropy(self.num_samples)
        except NotImplementedError as error:
            raise ValueError(
                f"PointLift: group {group.name} has no lift, which names an element for every point ({error}); choose one of "
                "T(n), SE(n), E(2), SO(n), O(2), R+xSO(2), Sim(2), or build the elements yourself and call PointGroupConv"
            ) from None
        self.group = Orbits(self._plain, self._plain.orbit_dim) if self._plain.orbit_dim else self._plain
        if group != self._plain and group != self.group:
            raise ValueError(
                f"PointLift: group must be {self._plain.name}, whose orbits have {self._plain.orbit_dim} coordinates, "
                f"received {group.name}"
            )

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
        weights = x.new_ones(x.shape[:2])
        if mask is not None:
            check_mask("PointLift", mask, "B P", {"B": x.shape[0], "P": x.shape[1]})
            weights, f = mask.to(x.dtype), torch.where(mask[..., None], f, torch.zeros_like(f))
        elements, n = self._elements(x, mask, generator), self.num_samples
        return f.repeat_interleave(n, 1), Samples(elements, weights.repeat_interleave(n, 1))

    def _elements(self, x: Tensor, mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        plain, n = self._plain, self.num_samples
        like = {"dtype": x.dtype, "device": x.device}
        g, orbits = self._lifted(x, mask).split([plain.element_dim, plain.orbit_dim], -1)
        if values_can_be_read(g):
            reason = plain.invalid(g)
            if reason is not None:
                raise ValueError(
                    f"PointLift: x has a point that no element of {plain.name} reaches ({reason}); move it or leave it out"
                )
        h = plain.isotropy(n, **like)
        if self.turns == "random":
            h = plain.product(self._moves(x, generator)[:, :, None], h)
        elements = plain.product(g[:, :, None], h)
        if plain.orbit_dim:
            elements = torch.cat([elements, orbits[:, :, None].expand(-1, -1, n, -1)], -1)
        return elements.flatten(1, 2)

    def _lifted(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """An element and its orbit coordinates for every point, ``[B, P, e]``; of points that are hidden those of the identity."""
        if mask is None:
            return self._plain.lift(x)
        # Values come from behind the lifting, whatever it makes of zeros, and gradients stop before it.
        lifted = self._plain.lift(torch.where(mask[..., None], x, torch.zeros_like(x)))
        return torch.where(mask[..., None], lifted, self.group.identity(x.dtype, x.device))

    def _moves(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """A random element for every point, ``[B|1, P, e]``."""
        sets, count = x.shape[0] if self.training else 1, x.shape[1]
        if not self.training:
            generator = FixedSequence() if groups.is_builtin(self._plain) else torch.Generator().manual_seed(0)
        moves = self._plain.sample_isotropy(sets * count, generator=generator, dtype=x.dtype, device=x.device)
        return moves.reshape(sets, count, self._plain.element_dim)

    def extra_repr(self) -> str:
        return f"group={self.group.name!r}, num_samples={self.num_samples}, turns={self.turns!r}"


class PointGroupConv(SampledConv):
    """Group convolution on points ``y[b,i,o] = bias[o] + sum_j w_j sum_c psi(v_j^-1 u_i)[o,c] f[b,j,c]``.

    Args:
        in_channels, out_channels: C and O (equal when depthwise)
        group: any group
        kernel_net, hidden, layers, omega0: name of the kernel net and its sizes, or a function ``coord_dim -> KernelNet``
        form, chart, reduction, depthwise: see ``functional.point_conv``
        neighborhood: the sum runs over the neighbours it finds: ``pgconv.neighbors.Nearest``, ``Within`` or ``Ball``, or any
            function ``(v, u, group, mask=, generator=) -> neighbors``; None sums over all
        downsample: share of the input elements, in (0, 1] and rounded up, on which the output lives where no ``out_samples`` are
            given: farthest points in the neighbourhood's distance

    Elements of weight 0 are nobody's neighbours, and kept only where too few others exist. In ``eval()`` the farthest points
    begin with the first element and a `Ball` draws the same neighbours every time; in training both are random.

    Shapes: ``f [B, Nv, C]``, ``Samples [S, Nv]`` -> ``(y [B, Nu, O], Samples [S, Nu])``; the output lives on ``out_samples``
    (default: the input's, or some of them), ``neighbors`` restricts the sum as in ``functional.point_conv`` in place of the
    neighbourhood, ``offsets`` are those of its ragged batches

    Raises:
        ValueError: for arguments out of range, shapes that do not fit, and ``offsets`` in a layer that looks for neighbours or
            downsamples

    Source: Finzi et al. (2020).

    Example:
        >>> import torch, pgconv
        >>> lift = pgconv.nn.PointLift("SE(3)", num_samples=1)
        >>> near = pgconv.neighbors.Nearest(4, stabilizer_weight=0.5)
        >>> conv = pgconv.nn.PointGroupConv(3, 8, group="SE(3)", neighborhood=near, downsample=0.5)
        >>> y, samples = conv(*lift(torch.randn(2, 10, 3), torch.randn(2, 10, 3)))
        >>> y.shape, samples.elements.shape
        (torch.Size([2, 5, 8]), torch.Size([2, 5, 7]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        group: str | Group,
        *,
        depthwise: bool = False,
        neighborhood: Neighborhood | None = None,
        downsample: float = 1.0,
        **options,
    ) -> None:
        if depthwise and in_channels != out_channels:
            raise ValueError(
                f"PointGroupConv: depthwise keeps the channels, so out_channels must be in_channels={in_channels}, "
                f"received {out_channels}"
            )
        super().__init__(in_channels, out_channels, group, depthwise=depthwise, **options)
        self.depthwise = depthwise
        self.neighborhood, self.downsample = check_neighborhood(neighborhood), check_downsample(downsample)

    def forward(
        self,
        f: Tensor,
        samples: Samples,
        out_samples: Samples | None = None,
        neighbors: functional.Neighbors | None = None,
        offsets: functional.Offsets | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Samples]:
        """Convolve ``f`` on ``samples``."""
        samples = check_samples("PointGroupConv", "samples", samples)
        check_shape("PointGroupConv", "f", f, "B Nv C", {"C": self.in_channels, "Nv": samples.elements.shape[-2]})
        check_input(self, "f", f)
        if offsets is not None:
            self._refuse_offsets()
        if generator is None:
            generator = torch.default_generator
        if out_samples is not None:
            out = check_samples("PointGroupConv", "out_samples", out_samples)
        else:
            out = self._kept(samples, generator)
        if neighbors is None and self.neighborhood is not None:
            draws = generator if self.training else repeated_draws(self.neighborhood)
            there = samples.weights != 0
            neighbors = self.neighborhood(samples.elements, out.elements, self.group, mask=there, generator=draws)
        y = functional.point_conv(
            f,
            samples.elements,
            out.elements,
            self.net,
            self.weight,
            self.weight_bias,
            sample_weight=samples.weights,
            neighbors=neighbors,
            offsets=offsets,
            form=self.form,
            reduction=self.reduction,
            depthwise=self.depthwise,
            **self._kernel_options(),
        )
        return y if self.bias is None else y + self.bias, out

    def _kept(self, samples: Samples, generator: torch.Generator) -> Samples:
        if self.downsample == 1:
            return samples
        return farthest_samples(
            samples,
            self.group,
            self.downsample,
            getattr(self.neighborhood, "stabilizer_weight", 1.0),
            generator if self.training else None,
        )

    def _refuse_offsets(self) -> None:
        for option, value, without in (("neighborhood", self.neighborhood, None), ("downsample", self.downsample, 1.0)):
            if value != without:
                raise ValueError(
                    f"PointGroupConv: offsets must not be passed to a layer with {option}={value!r}, which does not know where "
                    f"examples end, received both; build the layer with {option}={without}, or pad the examples and give "
                    "the padding weight 0"
                )

    def extra_repr(self) -> str:
        text = super().extra_repr()
        text += f", neighborhood={self.neighborhood!r}" if self.neighborhood is not None else ""
        return text + (f", downsample={self.downsample}" if self.downsample != 1 else "")
