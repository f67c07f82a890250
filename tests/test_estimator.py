"""The Monte Carlo estimate against the Haar integral: unbiased, variance 1/N, grids better. Statistical, with fixed seeds."""

from __future__ import annotations

import math

import pytest
import torch

from pgconv import groups, kernel_nets, sampling
from pgconv.functional import group_conv2d, point_conv
from pgconv.nn import GroupConv2d
from pgconv.sampling import Samples

DRAWS = 3000
FINE = 4096  # points of the grid that stands for the integral: its error is far below the Monte Carlo errors here
SIGMAS = 4.5


class Problem:
    """``u -> integral of psi(v^-1 u) f(v) dv`` over SO(2) with an arbitrary smooth f and an arbitrary kernel net."""

    def __init__(self, op, chart):
        torch.manual_seed(0)
        self.op, self.chart = op, chart
        self.group = groups.get("SO(2)" if op == "point" else "SE(2)")
        self.net = kernel_nets.MLP(self.group.coord_dim_of(chart), hidden=6, activation="tanh").double()
        for weight in self.net.weights:
            weight.data.mul_(2)
        self.net.requires_grad_(False)
        self.weight, self.bias = torch.randn(2, 2, 6).double(), torch.randn(2, 2).double()
        self.u = torch.cat([self.group.identity(torch.float64)[:-1], torch.tensor([0.7]).double()]).reshape(1, 1, -1)
        self.image = torch.randn(2, 3, 3).double()

    def signal(self, v):
        """A function of the sample's angle, ``[B, N]`` angles -> values ``[B, N, 2]``."""
        a = v[..., -1]
        return torch.stack([torch.cos(a) + 0.5, torch.sin(2 * a) - 0.3 * torch.cos(a)], -1)

    def estimate(self, v, weights=None):
        """One estimate for each sample set ``v [S, N, e]``: ``[S, 2]``."""
        f, u = self.signal(v), self.u.expand(v.shape[0], -1, -1)
        options = {"group": self.group, "chart": self.chart, "sample_weight": weights}
        if self.op == "point":
            return point_conv(f, v, u, self.net, self.weight, self.bias, **options)[:, 0]
        maps = f.transpose(1, 2)[..., None, None] * self.image[:, None]
        out = group_conv2d(maps, v, u, self.net, self.weight, self.bias, kernel_size=3, padding="valid", **options)
        return out[:, :, 0, 0, 0]

    def grid(self, n, shift=0.0):
        v = self.group.grid(n, dtype=torch.float64)[None].clone()
        v[..., -1] += shift
        return v

    def exact(self):
        # Half a step away from the kernel's cut, so that the cut costs a whole number of cells.
        return self.estimate(self.grid(FINE, 0.7 + math.pi / FINE))[0]

    def draws(self, name, n, count=DRAWS):
        sampler = sampling.get(name, self.group, n, per_example=True, dtype=torch.float64)
        samples = sampler(count, generator=torch.Generator().manual_seed(n))
        return self.estimate(samples.elements, samples.weights)


PROBLEMS = pytest.mark.parametrize("op,chart", [("point", "product"), ("point", "embed"), ("image", "product")])


@PROBLEMS
@pytest.mark.parametrize("sampler", ["haar", "jittered"])
@pytest.mark.parametrize("n", [1, 4])
def test_estimate_is_unbiased(op, chart, sampler, n):
    problem = Problem(op, chart)
    values = problem.draws(sampler, n)
    error = values.mean(0) - problem.exact()
    assert (error.abs() <= SIGMAS * values.std(0) / math.sqrt(DRAWS) + 1e-12).all()
    assert (values.std(0) > 1e-3).all()


@PROBLEMS
def test_variance_falls_as_one_over_n(op, chart):
    problem = Problem(op, chart)
    variances = {n: problem.draws("haar", n).var(0) for n in (2, 8, 32)}
    # A variance estimated from M draws is off by about sqrt(2/M) relative, a ratio by sqrt(2) times that.
    slack = SIGMAS * 2 / math.sqrt(DRAWS)
    for n in (8, 32):
        ratio = variances[2] / variances[n] * 2 / n
        assert ((ratio - 1).abs() < slack).all(), ratio


@PROBLEMS
def test_jittered_grids_vary_less_than_independent_samples(op, chart):
    problem = Problem(op, chart)
    for n in (4, 16):
        assert (problem.draws("jittered", n).var(0) < 0.5 * problem.draws("haar", n).var(0)).all()


def test_grids_of_a_continuous_kernel_converge_faster_than_any_power():
    problem = Problem("point", "embed")
    exact = problem.exact()
    errors = [(problem.estimate(problem.grid(n, 0.1))[0] - exact).norm() for n in (8, 16, 32)]
    assert errors[0] < 1e-2 and errors[1] < 1e-4 and errors[2] < 1e-8, errors


def test_grids_of_a_kernel_with_a_cut_converge_as_one_over_n():
    """Of the order of one cell, so the spread over shifts falls as 1/N; Monte Carlo: as 1/sqrt(N)."""
    problem = Problem("point", "product")
    spreads = {name: [problem.draws(name, n).std(0).norm() for n in (8, 64)] for name in ("jittered", "haar")}
    assert spreads["jittered"][0] / spreads["jittered"][1] == pytest.approx(8, rel=0.15)
    assert spreads["haar"][0] / spreads["haar"][1] == pytest.approx(8**0.5, rel=0.15)


def test_sum_over_twice_the_samples_is_twice_as_large():
    problem = Problem("point", "embed")
    options = {"group": "SO(2)", "chart": "embed", "reduction": "sum"}

    def total(n):
        v = problem.grid(n)
        return point_conv(problem.signal(v), v, problem.u, problem.net, problem.weight, **options)

    assert torch.allclose(total(128), 2 * total(64), rtol=1e-9)


def test_weights_are_a_quadrature():
    """Uneven samples with the right weights: trapezoid cells of an irregular grid."""
    problem = Problem("point", "embed")
    edges = torch.sort(2 * math.pi * torch.rand(400, generator=torch.Generator().manual_seed(1)).double()).values
    ahead, behind = edges.roll(-1), edges.roll(1)
    ahead[-1] += 2 * math.pi
    behind[0] -= 2 * math.pi
    value = problem.estimate(edges[None, :, None], ((ahead - behind) / 2)[None])
    plain = problem.estimate(edges[None, :, None])
    exact = problem.exact()
    assert (value - exact).norm() < 1e-2 * exact.norm() < 3 * (plain - exact).norm()


@pytest.mark.parametrize("theta", [1.0, 0.9, 0.6])
@pytest.mark.parametrize("turns", [1, 2])
def test_pooled_partial_layer_stays_within_the_bound(theta, turns):
    """``|pool(L_w f) - pool(f)| <= 2 sup|out| mu(S \\ wS) / mu(S)`` for an arc S of half-width pi theta, input fully equivariant.

    ``mu(S \\ wS) / mu(S) = min(|w|, 2 pi theta, 2 pi (1 - theta)) / (2 pi theta)``.
    """
    torch.manual_seed(0)
    n, size = 64, 7
    group = groups.get("SE(2)")
    conv = GroupConv2d(1, 3, 5, num_samples=n, partial=True, dtype=torch.float64, bias=False).eval()
    conv.sampler.theta.data.fill_(theta)
    grid = Samples(group.grid(n, torch.float64)[None], torch.ones(1, n).double())
    angle = grid.elements[0, :, 2]
    # A smooth function on the group, and the same moved by w: (L_w f)(h, p) = f(w^-1 h, w^-1 p).
    images = torch.randn(2, size, size).double()

    def signal(shift, move):
        a = (angle - shift)[:, None, None]
        return (torch.cos(a) * move(images[0]) + torch.sin(a) * move(images[1]))[None, None]

    w = turns * math.pi / 2
    plain = signal(0.0, lambda t: t)
    moved = signal(w, lambda t: torch.rot90(t, turns, (-2, -1)))
    with torch.no_grad():
        difference = (conv(moved, grid)[0] - conv(plain, grid)[0]).mean((2, 3, 4)).abs()
        everywhere = conv(plain, grid, Samples(group.grid(512, torch.float64)[None], torch.ones(1, 512).double()))[0]
    sup = everywhere.mean((3, 4)).abs().amax(2)
    share = min(w, 2 * math.pi * theta, 2 * math.pi * (1 - theta)) / (2 * math.pi * theta)
    rounding = 1e-12 if theta == 1.0 else 2 / n  # an arc is sampled by n cells, of which its two ends cut one each
    assert (difference <= 2 * sup * (share + rounding) + 1e-12).all()
    assert theta == 1.0 or difference.max() > 1e-4
