"""Samplers with compat="release": the behaviour of the method's public release, beside the default where it differs."""

import copy
import math

import pytest
import torch

from pgconv import groups, sampling
from pgconv.sampling import FixedGrid, JitteredGrid, LearnedInterval, LearnedProduct, LearnedSubset
from pgconv.sampling.base import from_release

PI, TWO_PI = math.pi, 2 * math.pi
SE2, E2 = groups.get("SE(2)"), groups.get("E(2)")


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _angles(samples):
    return samples.elements[..., 2]


def _set_theta(sampler, value):
    with torch.no_grad():
        sampler.theta.fill_(value)
    return sampler


def _stratum_filling(sampler, bins=8, draws=20000):
    """Histogram, mean 1, of the angles with m = +1 over the whole circle."""
    a = _angles(sampler(batch_size=draws, generator=_seeded()))[:, : sampler.n // 2].detach()
    counts = torch.histc((torch.remainder(a + PI, TWO_PI) - PI).float(), bins, -PI - 1e-6, PI + 1e-6)
    return counts / counts.mean()


@pytest.mark.parametrize("compat", ["SE(2) learned", "SE(2) subset", "E(2) learned", "E(2) subset"])
def test_release_samplers_trace_as_one_graph(compat):
    group, name = compat.split()
    sampler = sampling.get(name, groups.get(group), 8, compat="release")
    torch._dynamo.reset()
    samples = torch.compile(sampler, fullgraph=True, backend="aot_eager")()
    assert samples.elements.shape == (1, 8, groups.get(group).element_dim)
    copy.deepcopy(sampler).to("meta")()


@pytest.mark.parametrize(
    ("theta", "count"),
    [(0.1, 1), (0.25, 2), (0.26, 3), (0.5, 4), (0.74, 6), (0.75, 6), (0.76, 7), (0.876, 8), (1.0, 8), (1.7, 8),
     (-0.26, 3), (-2.0, 8), (0.0, 1)],
)  # fmt: skip
def test_release_number_of_samples(theta, count):
    sampler = _set_theta(LearnedInterval(SE2, 8, compat="release"), theta)
    for mode in (True, False):
        weights = sampler.train(mode)(generator=_seeded()).weights
        assert weights[0].tolist() == [1.0] * count + [0.0] * (8 - count)
    product = _set_theta(LearnedProduct(E2, 16, compat="release"), theta).eval()
    assert product().weights[0].tolist() == ([1.0] * count + [0.0] * (8 - count)) * 2


@pytest.mark.parametrize("theta", [0.6, 1.0, -0.6, 1.3])
def test_release_interval_angles_and_shared_derivative(theta):
    sampler = _set_theta(LearnedInterval(SE2, 8, compat="release", dtype=torch.float64), theta)
    samples = sampler(generator=_seeded(3))
    eps = torch.rand(1, 1, generator=_seeded(3), dtype=torch.float64).item()
    n = int(samples.weights.sum())
    a = -_angles(samples)[0]  # ours are counter-clockwise
    assert (a >= 0).all() and (a < TWO_PI).all()
    for i in range(n):
        expected = (-PI * sampler.theta.item() + TWO_PI * sampler.theta.item() * (i + eps) / n) % TWO_PI
        assert a[i].item() == pytest.approx(expected, abs=1e-12)
        (grad,) = torch.autograd.grad(a[i], sampler.theta, retain_graph=True)
        assert grad.item() == pytest.approx(-PI + TWO_PI * eps / n, abs=1e-12)


def test_release_product_covers_only_part_of_each_stratum():
    sampler = LearnedProduct(E2, 8, per_example=True, compat="release")
    histogram = _stratum_filling(sampler)
    assert (histogram == 0).sum() == 4  # half of the circle at theta = 1, N = 8
    narrow = _set_theta(LearnedProduct(E2, 16, per_example=True, compat="release"), 0.25)
    samples = narrow(batch_size=4000, generator=_seeded())
    a = torch.remainder(-_angles(samples)[:, :2].detach() + PI, TWO_PI) - PI
    # strata of width pi/4 from -pi/4 on; the jitter fills n_rot / N = 1/8 of each
    assert a[:, 0].min() >= -PI / 4 - 1e-6 and a[:, 0].max() <= -PI / 4 + PI / 4 / 8 + 1e-6
    fresh = _stratum_filling(LearnedProduct(E2, 8, per_example=True))
    assert (fresh > 0.9).all()


def test_release_elements_are_the_same_maps():
    """diag(1, m) R(a) on (row, col) equals the converted element's matrix in x = col, y = -row."""
    G = groups.get("O(2)")
    to_xy = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    for m in (1.0, -1.0):
        for a in torch.arange(0, 6.28, 0.3, dtype=torch.float64):
            R = torch.tensor([[a.cos(), a.sin()], [-a.sin(), a.cos()]], dtype=torch.float64)
            release = to_xy @ torch.diag(torch.tensor([1.0, m], dtype=torch.float64)) @ R @ to_xy.T
            mirror = torch.tensor(m, dtype=torch.float64)
            ours = G.matrix(torch.stack([from_release(a, mirror), mirror]))
            torch.testing.assert_close(ours, release, rtol=0, atol=1e-12)


def test_release_chart_recovers_the_release_angles():
    """u^-1 v in the chart "release" is the release's relative coordinate, computed with its own product."""
    sampler = LearnedProduct(E2, 8, compat="release", dtype=torch.float64)
    for s in (sampler, sampler.eval(), FixedGrid(E2, 8, compat="release", dtype=torch.float64)):
        g = s().elements[0].detach()
        m = g[:, 3]
        a_r = torch.where(m > 0, -g[:, 2], g[:, 2] - PI)
        relative = torch.remainder(a_r[None] - m[None] * m[:, None] * a_r[:, None], TWO_PI) / PI - 1
        got = E2.coordinates(E2.relative(g[:, None], g[None]), "release", "stabilizer")
        gap = (got[..., 0] - relative).abs()
        torch.testing.assert_close(torch.minimum(gap, 2 - gap), torch.zeros_like(gap), rtol=0, atol=1e-9)
        assert torch.equal(got[..., 1], m[:, None] * m[None])
        assert (torch.diagonal(got[..., 0]) == -1).all()


def test_release_full_grids_run_clockwise():
    a = _angles(JitteredGrid(SE2, 8, compat="release", dtype=torch.float64)(generator=_seeded()))[0]
    torch.testing.assert_close(a.diff(), torch.full((7,), -TWO_PI / 8, dtype=torch.float64))
    fixed = FixedGrid(E2, 8, compat="release")().elements[0]
    quarter = torch.arange(4) * PI / 2
    torch.testing.assert_close(fixed[:, 2], torch.cat([-quarter, PI + quarter]))
    assert torch.equal(fixed, JitteredGrid(E2, 8, compat="release").eval()().elements[0])


def test_release_se2_subset_keep_probability_and_gradient_path():
    sampler = LearnedSubset(SE2, 4, per_example=True, compat="release", dtype=torch.float64)
    with torch.no_grad():
        sampler.alpha.copy_(torch.tensor([-1000.0, 0.0, 1000.0]))
    samples = sampler(batch_size=20000, generator=_seeded())
    expected = torch.sigmoid(torch.sigmoid(2 * sampler.alpha.detach()))
    assert expected[0] == 0.5 and not samples.weights.requires_grad
    assert (samples.weights[:, 1:].mean(0) - expected).abs().max() < 0.015

    with torch.no_grad():
        sampler.alpha.fill_(0.2)
    samples = sampler(batch_size=2, generator=_seeded(1))
    u = torch.rand(2, 3, generator=_seeded(1), dtype=torch.float64)
    logit = torch.sigmoid(2 * sampler.alpha.detach())
    y = torch.sigmoid((logit + torch.log(u) - torch.log(1 - u)) / 0.5)
    dlogit = 2 * logit * (1 - logit)
    for b in range(2):
        for i in range(3):
            (grad,) = torch.autograd.grad(samples.elements[b, i + 1, 2], sampler.alpha, retain_graph=True)
            angle, z = TWO_PI * (i + 1) / 4, float(y[b, i] > 0.5)
            assert samples.weights[b, i + 1] == z
            assert samples.elements[b, i + 1, 2].item() == pytest.approx(-angle * z)
            assert grad[i].item() == pytest.approx((-angle * z * y[b, i] * (1 - y[b, i]) / 0.5 * dlogit[i]).item())


def test_release_e2_subset():
    sampler = LearnedSubset(E2, 8, per_example=True, compat="release", dtype=torch.float64)
    assert sampler.alpha.shape == (4,)
    with torch.no_grad():
        sampler.alpha.copy_(torch.tensor([-0.5, 0.0, 0.5, 0.2]))
    samples = sampler(batch_size=20000, generator=_seeded())
    keep = torch.sigmoid(2 * sampler.alpha.detach())
    w = samples.weights
    assert (w[:, 1:4].mean(0) - keep[:3]).abs().max() < 0.015 and (w[:, 0] == 1).all()
    mirror_kept = w[:, 4]
    assert abs(mirror_kept.mean() - keep[3]) < 0.015
    assert torch.equal(w[:, 4:], w[:, :4] * mirror_kept[:, None])
    torch.testing.assert_close(w.mean(0), sampler.range(), rtol=0, atol=0.02)
    m = samples.elements[..., 3]
    assert (m[:, :4] == 1).all() and (m[:, 4:] == -1).all()
    (grad,) = torch.autograd.grad(m[:, 4:].sum(), sampler.alpha, retain_graph=True)
    assert grad[3] < 0 and not grad[:3].any()
    dropped = m[mirror_kept == 0][:, 4:].sum()
    assert not torch.autograd.grad(dropped, sampler.alpha)[0].any()


def test_release_temperature_of_e2_subset_turns_negative():
    sampler = LearnedSubset(E2, 8, compat="release")
    sampler.anneal(0.25)
    assert sampler.temperature.item() == pytest.approx(0.5 - 0.5 * 0.4999)
    sampler.anneal(1.0)
    assert sampler.temperature.item() == pytest.approx(-0.4998)
    for other in (LearnedSubset(SE2, 8, compat="release"), LearnedProduct(E2, 8, compat="release")):
        other.anneal(1.0)
        assert other.temperature.item() == pytest.approx(1e-4)


def test_release_mirror_gate_of_product():
    sampler = LearnedProduct(E2, 4, per_example=True, compat="release", dtype=torch.float64)
    samples = sampler(batch_size=500, generator=_seeded())
    assert not samples.weights.requires_grad
    m, kept = samples.elements[..., 3], samples.weights[:, 2] == 1
    assert (m[:, 2:] == -1).all() and 0 < kept.sum() < 500
    (grad,) = torch.autograd.grad(m[kept][:, 2:].sum(), sampler.alpha_mirror, retain_graph=True)
    assert grad.item() < 0
    assert not torch.autograd.grad(m[~kept][:, 2:].sum(), sampler.alpha_mirror)[0].any()
