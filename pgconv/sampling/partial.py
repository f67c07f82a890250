"""Samplers that learn which part of the stabiliser a layer is equivariant to.

``compat="release"`` repeats what the method's public release computes, defects included, for its trained nets; the
default is the method itself. The release's elements (clockwise angle, mirror) are converted to this library's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pgconv.sampling.base import TWO_PI, Sampler, from_release, planar
from pgconv.sampling.gates import GatedSampler, SubsetSampler, straight_through
from pgconv.sampling.types import Samples


class _ClampUnit(torch.autograd.Function):
    """clamp to [0, 1] whose gradient vanishes only where a descent step would lead further out.

    With the ordinary clamp a parameter that an optimiser's momentum carried past a bound has no gradient any more and
    stays there; here a gradient that leads back passes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(theta: Tensor) -> Tensor:
        return theta.clamp(0.0, 1.0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (theta,) = ctx.saved_tensors
        # Descent moves against the gradient: above 1 a positive gradient leads back, below 0 a negative one.
        outward = ((theta > 1) & (grad < 0)) | ((theta < 0) & (grad > 0))
        return torch.where(outward, torch.zeros_like(grad), grad)


class _ClampUnitInBothModes(_ClampUnit):
    """The same with a derivative in forward mode. Compilers take no function that has one."""

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> Tensor:
        # Which way leads out, a gradient says and no tangent: all pass, as gradients that lead back do.
        return tangent.clone()


def _clamped(theta: Tensor) -> Tensor:
    return (_ClampUnit if torch.compiler.is_compiling() else _ClampUnitInBothModes).apply(theta)


def interval_angles(theta: Tensor, eps: Tensor, count: int) -> Tensor:
    """``a_i = theta (-pi + 2 pi (i + eps) / count)``: theta [1], eps [S, 1] -> [S, count].

    One sample per stratum of the arc [-pi theta, pi theta), all moved by the same eps; d a_i / d theta = a_i / theta.
    """
    index = torch.arange(count, dtype=theta.dtype, device=theta.device)
    return theta * (-math.pi + TWO_PI * (index + eps) / count)


def release_interval(theta: Tensor, eps: Tensor, count: int, jitter_count: int | None = None) -> tuple[Tensor, Tensor]:
    """The release's clockwise angles [S, count] in [0, 2 pi) and which of them exist (0 or 1), [1, count].

    ``n = max(1, min(count, ceil(count |theta|)))`` samples exist, ``a_i = -pi theta + 2 pi theta i / n + 2 pi theta eps
    / n`` with theta detached in the middle term, so each has the derivative -pi + 2 pi eps / n. ``jitter_count``
    replaces n in the jitter term (the release does that for E(2)).
    """
    value = theta.detach()
    n = torch.ceil(count * value.abs()).clamp(1, count)
    index = torch.arange(count, dtype=theta.dtype, device=theta.device)
    jitter = TWO_PI * theta * eps / (n if jitter_count is None else jitter_count)
    angle = -math.pi * theta + TWO_PI * value * index / n + jitter
    return torch.remainder(angle, TWO_PI), (index < n).to(theta.dtype).unsqueeze(0)


class _WithTheta:
    """The learned half-width theta of an arc, in units of pi; mixed into a Sampler."""

    def _init_theta(self, dtype: torch.dtype) -> None:
        self.theta = nn.Parameter(torch.ones(1, dtype=dtype))

    def _used_theta(self) -> Tensor:
        theta = self.theta.to(torch.float64)
        return theta if self.compat == "release" else _clamped(theta)

    def _eps(self, sets: int, generator: torch.Generator | None) -> Tensor:
        if self.training:
            return self._uniform(sets, 1, generator=generator)
        return torch.full((1, 1), 0.5, dtype=torch.float64, device=self.theta.device)

    @property
    def theta_effective(self) -> Tensor:
        """Share of the rotations that the arc covers, [1], detached, in [0, 1]."""
        theta = self.theta.detach()
        return (theta.abs() if self.compat == "release" else theta).clamp(0, 1)

    def range(self) -> Tensor:
        """(lower, upper) end of the arc in radians, [2], detached."""
        return math.pi * torch.cat([-self.theta_effective, self.theta_effective])


class LearnedInterval(_WithTheta, Sampler):
    """Angles uniform on the learned arc [-pi theta, pi theta): ``a_i = -pi theta + 2 pi theta (i + eps) / n``.

    ``eps ~ U[0, 1)``, one per set, 1/2 in eval mode. elements [S, n, e], weights ones, always n samples; S =
    batch_size with ``per_example`` in training, else 1. ``theta`` (1,) starts at 1 (the whole circle) and is used
    clamped to [0, 1], with a gradient that never gets stuck at a bound. The gradient is pathwise,
    ``d a_i / d theta = a_i / theta``. For SE(2), SO(2) and, with log s = 0, Sim(2), R+xSO(2); other groups raise
    ``ValueError``.

    ``compat="release"``: theta is not clamped, ``max(1, min(n, ceil(n |theta|)))`` samples exist (the others have
    weight 0), and all share the derivative of the first one.

    Source: Romero & Lohit 2022, equations for continuous groups.

    >>> from pgconv import groups
    >>> sampler = LearnedInterval(groups.get("SE(2)"), 4)
    >>> _ = sampler.theta.data.fill_(0.5)
    >>> sampler.eval()().elements[0, :, 2].detach()
    tensor([-1.1781, -0.3927,  0.3927,  1.1781])
    """

    def __init__(self, group, n: int, per_example: bool = False, compat: str | None = None, dtype=torch.float32):
        super().__init__(group, n, per_example, compat, dtype)
        if self.kind != "rotation":
            raise ValueError(
                f"LearnedInterval: needs a group whose stabiliser is the plane rotations, got {group.name}; "
                "use LearnedProduct for E(2), O(2) and LearnedSubset for finite grids"
            )
        self._init_theta(dtype)

    def forward(self, batch_size: int = 1, generator: torch.Generator | None = None) -> Samples:
        theta, eps = self._used_theta(), self._eps(self._num_sets(batch_size), generator)
        if self.compat == "release":
            angle, present = release_interval(theta, eps, self.n)
            return self._samples(planar(self.group, from_release(angle, torch.ones_like(angle))), present)
        return self._samples(planar(self.group, interval_angles(theta, eps, self.n)))


class LearnedProduct(_WithTheta, GatedSampler):
    """O(2) and E(2): a learned arc of rotations times a learned chance of the mirrored coset.

    n/2 rotations as in ``LearnedInterval``; order: all with m = +1, then the same rotations with m = -1. elements
    [S, n, e], weights (1, .., 1, g, .., g) with the gate g in {0, 1} of probability sigmoid(2 alpha_mirror) and a
    straight-through gradient (see ``GatedSampler``); ``theta`` (1,) and ``alpha_mirror`` (1,) start at 1. In eval mode
    eps = 1/2 and g = 1[alpha_mirror > 0]. Raises ``ValueError`` for another group or an odd n.

    ``compat="release"``: the arc as in ``LearnedInterval`` with the jitter divided by n instead of by the number of
    rotations, and the gate's gradient goes through the mirror component instead of the weights.

    Source: Romero & Lohit 2022.

    >>> from pgconv import groups
    >>> sampler = LearnedProduct(groups.get("E(2)"), 4).eval()
    >>> sampler().elements[0, :, 2:].detach()
    tensor([[-1.5708,  1.0000],
            [ 1.5708,  1.0000],
            [-1.5708, -1.0000],
            [ 1.5708, -1.0000]])
    """

    def __init__(self, group, n: int, per_example: bool = False, compat: str | None = None, dtype=torch.float32):
        super().__init__(group, n, per_example, compat, dtype)
        if self.kind != "rotation+mirror" or getattr(group.stabilizer, "scale", False):
            raise ValueError(
                f"LearnedProduct: group must be E(2) or O(2), got {group.name}; use LearnedInterval or LearnedSubset"
            )
        if n % 2:
            raise ValueError(f"LearnedProduct: n must be even (rotations come in mirrored pairs), got {n}")
        self._init_theta(dtype)
        self.alpha_mirror = nn.Parameter(torch.ones(1, dtype=dtype))

    @property
    def mirror_probability(self) -> Tensor:
        """Chance that the mirrored coset is kept, [1], detached."""
        return torch.sigmoid(2 * self.alpha_mirror.detach())

    def forward(self, batch_size: int = 1, generator: torch.Generator | None = None) -> Samples:
        sets, half = self._num_sets(batch_size), self.n // 2
        theta, eps = self._used_theta(), self._eps(sets, generator)
        z, y = self._gates(2 * self.alpha_mirror.to(torch.float64), sets, generator)
        if self.compat == "release":
            angle, present = release_interval(theta, eps, half, jitter_count=self.n)
            return _release_cosets(self, angle, present.expand_as(angle), z, y)
        angle = interval_angles(theta, eps, half)
        ones = torch.ones_like(angle)
        elements = planar(self.group, angle.repeat(1, 2), torch.cat([ones, -ones], dim=1))
        return self._samples(elements, torch.cat([ones, ones * straight_through(z, y)], dim=1))


class LearnedSubset(SubsetSampler):
    """A learned subset of the regular grid: the identity, and element i with probability ``sigmoid(2 alpha_i)``.

    elements [1, n, e], the regular grid; weights [S, n] exactly 0 or 1, straight-through gradients (see
    ``GatedSampler``), 1 at the identity; S = batch_size with ``per_example`` in training, else 1 (elements follow).
    ``alpha`` (n - 1,), one per non-identity grid element in grid order, starts at 1. In eval mode the weights are
    1[alpha > 0]. Any group with a regular grid of n >= 2 elements, else ``ValueError``.

    ``compat="release"``: on SE(2) the keep probability is sigmoid(sigmoid(2 alpha)), never below 1/2; on E(2) there are
    n/2 - 1 rotation alphas and one for the mirror (last), and the temperature falls twice as fast, below zero in the
    second half; the weights carry no gradient, it reaches alpha through the angle times gate and the mirror component.

    Source: Romero & Lohit 2022, equations for discrete groups.

    >>> from pgconv import groups
    >>> sampler = LearnedSubset(groups.get("SE(2)"), 4)
    >>> _ = sampler.alpha.data.copy_(torch.tensor([2.0, -2.0, 2.0]))
    >>> sampler.eval()().weights.detach()
    tensor([[1., 1., 0., 1.]])
    """

    def __init__(self, group, n: int, per_example: bool = False, compat: str | None = None, dtype=torch.float32):
        super().__init__(group, n, per_example, compat, dtype)
        if compat and self.kind not in ("rotation", "rotation+mirror"):
            raise ValueError(f"LearnedSubset: compat='release' exists for SE(2) and E(2) only, got {group.name}")
        self._add_table("_grid", lambda: group.stabilizer.grid(n, dtype=torch.float64))
        product = compat == "release" and self.kind == "rotation+mirror"
        self.anneal_speed = 2 if product else 1
        self.alpha = nn.Parameter(torch.ones(n // 2 if product else n - 1, dtype=dtype))

    @property
    def _logits(self) -> Tensor:
        logits = 2 * self.alpha.to(torch.float64)
        return torch.sigmoid(logits) if self.compat == "release" and self.kind == "rotation" else logits

    @property
    def theta_effective(self) -> Tensor:
        """Expected share of the grid that is kept, [1], detached, in (0, 1]."""
        return self.range().mean().reshape(1)

    def range(self) -> Tensor:
        """Keep probability of every grid element, [n], detached; 1 at the identity."""
        keep = torch.sigmoid(self._logits.detach()).to(self.dtype)
        if self.compat == "release" and self.kind == "rotation+mirror":
            rotations = self._with_identity(keep[:-1])
            return torch.cat([rotations, rotations * keep[-1]])
        return self._with_identity(keep)

    def forward(self, batch_size: int = 1, generator: torch.Generator | None = None) -> Samples:
        z, y = self._gates(self._logits, self._num_sets(batch_size), generator)
        if self.compat is None:
            weights = self._with_identity(straight_through(z, y))
            return self._samples(self._grid.expand(weights.shape[0], -1, -1), weights)
        turns = self.n if self.kind == "rotation" else self.n // 2
        present = self._with_identity(z[:, : turns - 1])
        relaxed = self._with_identity(y[:, : turns - 1])
        # present times (1 + 0 with the gradient of the relaxation): an element that is left out gives no gradient.
        angle = TWO_PI * self._index(turns) / turns * present * (1 + (relaxed - relaxed.detach()))
        if self.kind == "rotation":
            return self._samples(planar(self.group, from_release(angle, torch.ones_like(angle))), present)
        return _release_cosets(self, angle, present, z[:, -1:], y[:, -1:])


def _release_cosets(sampler: Sampler, angle: Tensor, present: Tensor, z: Tensor, y: Tensor) -> Samples:
    """The release's rotations [S, k] with m = +1, then with m = -z: Samples with 2 k elements.

    The mirror component keeps the value -1, also for z = 0 where the weight is 0, so that every row is an element of
    the group; its gradient is that of -y where the coset is present.
    """
    plus = torch.ones_like(angle)
    minus = -plus * (1 + z * (y - y.detach()))
    mirror = torch.cat([plus, minus], dim=1)
    elements = planar(sampler.group, from_release(angle.repeat(1, 2), mirror), mirror)
    return sampler._samples(elements, torch.cat([present, present * z], dim=1))
