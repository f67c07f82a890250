"""Samplers: elements, gradients of what is learned, reproducibility, unbiasedness, the release's behaviours."""

import copy
import math

import pytest
import torch
from torch import nn

from pgconv import groups, sampling
from pgconv.sampling import (
    FixedGrid,
    HaarUniform,
    IdentitySampler,
    JitteredGrid,
    LearnedInterval,
    LearnedProduct,
    LearnedSubset,
    Samples,
)
from pgconv.sampling.partial import _ClampUnit

PI, TWO_PI = math.pi, 2 * math.pi
SE2, E2 = groups.get("SE(2)"), groups.get("E(2)")
GRID_SIZE = {"T(1)": 1, "T(2)": 1, "T(3)": 1, "M(2)": 2, "SO(3)": 12, "SE(3)": 12}
CASES = [
    (name, group)
    for group in groups.names()
    for name in sampling.names()
    if not (name in ("learned", "subset") and group.startswith("T("))
]


def _make(name, group, **options):
    G = groups.get(group)
    return sampling.get(name, G, 1 if name == "identity" else GRID_SIZE.get(group, 8), **options)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _angles(samples, G=SE2):
    return samples.elements[..., G.translation_dim]


def _set_theta(sampler, value):
    with torch.no_grad():
        sampler.theta.fill_(value)
    return sampler


# Every sampler on every group


@pytest.mark.parametrize(("name", "group"), CASES)
def test_every_sampler_returns_elements_of_the_group(name, group):
    sampler, G = _make(name, group), groups.get(group)
    for mode in (True, False):
        samples = sampler.train(mode)(batch_size=3, generator=_seeded())
        assert isinstance(samples, Samples)
        assert samples.elements.shape == (1, sampler.n, G.element_dim) and samples.weights.shape == (1, sampler.n)
        assert samples.elements.dtype == samples.weights.dtype == torch.float32
        assert G.invalid(samples.elements) is None
        assert not samples.elements[..., : G.translation_dim].any()
        assert ((samples.weights == 0) | (samples.weights == 1)).all()


@pytest.mark.parametrize(("name", "group"), CASES)
def test_train_repeats_under_a_generator_and_eval_always(name, group):
    sampler = _make(name, group)
    state = {key: value.clone() for key, value in sampler.state_dict().items()}
    a, b, c = (sampler(generator=_seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.elements, b.elements) and torch.equal(a.weights, b.weights)
    if name in ("jittered", "haar") and group not in GRID_SIZE:
        assert not torch.equal(a.elements, c.elements)
    global_state = torch.get_rng_state()
    sampler(generator=_seeded(3))
    assert torch.equal(torch.get_rng_state(), global_state)
    sampler.eval()
    first, second, other = sampler(), sampler(batch_size=5, generator=_seeded(9)), _make(name, group).eval()()
    for x in (second, other):
        assert torch.equal(first.elements, x.elements) and torch.equal(first.weights, x.weights)
    assert all(torch.equal(state[key], value) for key, value in sampler.state_dict().items())


@pytest.mark.parametrize("name", ["jittered", "haar", "learned", "subset"])
@pytest.mark.parametrize("group", ["SE(2)", "E(2)", "Sim(2)", "SE(3)"])
def test_per_example_draws_independent_sets(name, group):
    sampler = _make(name, group, per_example=True)
    if hasattr(sampler, "alpha"):
        with torch.no_grad():
            sampler.alpha.zero_()  # even odds, so that two sets rarely coincide
    samples = sampler(batch_size=64, generator=_seeded())
    assert samples.elements.shape[0] == samples.weights.shape[0] == 64
    both = torch.cat([samples.elements, samples.weights.unsqueeze(-1)], -1).flatten(1)
    assert both.unique(dim=0).shape[0] > 40
    assert sampler(batch_size=0).elements.shape == (0, sampler.n, groups.get(group).element_dim)
    assert sampler.eval()(batch_size=64).elements.shape[0] == 1


@pytest.mark.parametrize("name", ["fixed", "jittered", "haar", "learned", "subset"])
@pytest.mark.parametrize("group", ["SE(2)", "E(2)", "SE(3)"])
def test_casting_the_module_never_lowers_elements_below_fp32(name, group):
    reference = _make(name, group, dtype=torch.float64)
    exact = reference(generator=_seeded()).elements
    assert exact.dtype == torch.float64
    for cast in (lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.float(), lambda m: m.double().half()):
        low = cast(_make(name, group))
        for samples in (low(generator=_seeded()), low.eval()()):
            assert samples.elements.dtype == samples.weights.dtype == torch.float32
        assert torch.equal(low.train()(generator=_seeded()).elements, exact.float())
    high = _make(name, group).half().double()
    assert torch.equal(high(generator=_seeded()).elements, exact)
    assert torch.equal(high.eval()().elements, reference.eval()().elements)


@pytest.mark.parametrize(("name", "group"), CASES)
def test_full_graph_compile_and_meta(name, group):
    """No host synchronisation and no data-dependent shape: tracing as one graph and on fake data would fail."""
    sampler = _make(name, group)
    meta = copy.deepcopy(sampler).to("meta")
    assert meta().elements.shape == sampler().elements.shape and meta.eval()().elements.device.type == "meta"
    if group not in ("SE(2)", "E(2)", "SE(3)", "Sim(2)"):
        return
    torch._dynamo.reset()
    compiled = torch.compile(sampler, fullgraph=True, backend="aot_eager")
    samples = compiled(batch_size=2)
    if samples.elements.requires_grad:
        samples.elements.sum().backward()
    sampler.eval()
    assert torch.equal(compiled().elements, sampler().elements)


@pytest.mark.parametrize(("name", "group"), [("learned", "E(2)"), ("subset", "SE(3)"), ("haar", "SE(3)")])
def test_state_dict_deepcopy_and_default_device(name, group):
    sampler = _make(name, group)
    with torch.no_grad():
        for p in sampler.parameters():
            p.mul_(0.3)
    sampler.anneal(0.25)
    other = _make(name, group)
    other.load_state_dict(sampler.state_dict())
    for twin in (other, copy.deepcopy(sampler)):
        a, b = sampler(generator=_seeded()), twin(generator=_seeded())
        assert torch.equal(a.elements, b.elements) and torch.equal(a.weights, b.weights)
        if name != "haar":
            assert twin.temperature == sampler.temperature
    with torch.device("meta"):
        assert _make(name, group)().elements.device.type == "meta"


# Grids


def test_regular_grids():
    a = _angles(FixedGrid(SE2, 8)())
    torch.testing.assert_close(a, TWO_PI * torch.arange(8.0).unsqueeze(0) / 8)
    e = FixedGrid(E2, 8)().elements[0]
    assert e[:, 3].tolist() == [1.0] * 4 + [-1.0] * 4 and torch.equal(e[:4, 2], e[4:, 2])
    assert FixedGrid(groups.get("M(2)"), 2)().elements[0].tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
    for group in ("SE(2)", "E(2)", "Sim(2)", "SE(3)", "M(2)"):
        assert torch.equal(_make("fixed", group)().elements, _make("jittered", group).eval()().elements)
    for group in ("M(2)", "T(2)"):
        jittered = _make("jittered", group, per_example=True)
        assert torch.equal(_make("fixed", group)().elements, jittered(batch_size=4).elements)


@pytest.mark.parametrize("group", ["SE(2)", "SO(2)", "E(2)", "O(2)", "Sim(2)"])
def test_jitter_is_one_uniform_number_per_set(group):
    G = groups.get(group)
    sampler = JitteredGrid(G, 8, per_example=True, dtype=torch.float64)
    samples = sampler(batch_size=4000, generator=_seeded())
    a = _angles(samples, G)
    turns = 4 if group in ("E(2)", "O(2)") else 8
    eps = a[:, :turns] * turns / TWO_PI - torch.arange(turns)
    torch.testing.assert_close(eps, eps[:, :1].expand_as(eps), rtol=0, atol=1e-12)
    assert eps.min() >= 0 and eps.max() < 1
    assert abs(eps[:, 0].mean() - 0.5) < 0.02 and abs(eps[:, 0].var() - 1 / 12) < 0.005
    if turns == 4:
        mirror = samples.elements[..., G.translation_dim + 1]
        assert torch.equal(a[:, :4], a[:, 4:]) and (mirror[:, :4] == 1).all() and (mirror[:, 4:] == -1).all()
    if group == "Sim(2)":
        assert not samples.elements[..., 3].any()


def test_jittered_so3_is_the_grid_times_one_random_rotation():
    G = groups.get("SO(3)")
    sampler, grid = JitteredGrid(G, 24, dtype=torch.float64), G.grid(24, dtype=torch.float64)
    q = sampler(generator=_seeded()).elements[0]
    assert not torch.allclose(G.matrix(q), G.matrix(grid), atol=1e-3)
    relative = G.matrix(G.relative(q[:, None], q[None]))
    torch.testing.assert_close(relative, G.matrix(G.relative(grid[:, None], grid[None])), rtol=0, atol=1e-12)


def _arc_histogram(sampler, G, mirror, bins=20, draws=20000):
    samples = sampler(batch_size=draws, generator=_seeded())
    keep = samples.weights > 0
    if mirror is not None:
        keep &= samples.elements[..., 3] == mirror
    a = torch.remainder(_angles(samples, G)[keep].detach() + PI, TWO_PI) - PI
    theta = sampler.theta.item()
    counts = torch.histc(a.float(), bins, -PI * theta - 1e-6, PI * theta + 1e-6)
    assert counts.sum() == a.numel()  # nothing outside the arc
    return counts / counts.mean()


@pytest.mark.parametrize("theta", [1.0, 0.6, 0.25])
@pytest.mark.parametrize("group", ["SE(2)", "E(2)"])
def test_arc_coverage_is_flat(group, theta):
    G = groups.get(group)
    sampler = _set_theta(sampling.get("learned", G, 8, per_example=True), theta)
    for mirror in (None,) if group == "SE(2)" else (1, -1):
        histogram = _arc_histogram(sampler, G, mirror)
        assert (histogram - 1).abs().max() < 0.08


# Estimator: unbiased, variance


def _integrand(a):
    return torch.exp(torch.cos(a)) + torch.sin(3 * a + 0.4)


_INTEGRAL = 1.2660658777520084  # Bessel I_0(1), the Haar mean of exp(cos a)


@pytest.mark.parametrize("name", ["jittered", "haar", "learned"])
def test_estimate_is_unbiased(name):
    draws = 20000
    sampler = sampling.get(name, SE2, 4, per_example=True, dtype=torch.float64)
    estimate = _integrand(_angles(sampler(batch_size=draws, generator=_seeded()))).mean(-1)
    assert abs(estimate.mean().item() - _INTEGRAL) < 5 * estimate.std().item() / math.sqrt(draws) + 1e-12


def test_estimate_on_a_partial_arc_is_unbiased():
    theta, draws = 0.4, 20000
    sampler = _set_theta(LearnedInterval(SE2, 4, per_example=True, dtype=torch.float64), theta)
    estimate = torch.cos(_angles(sampler(batch_size=draws, generator=_seeded()))).mean(-1)
    error = abs(estimate.mean().item() - math.sin(PI * theta) / (PI * theta))
    assert error < 5 * estimate.std().item() / math.sqrt(draws)


@pytest.mark.parametrize(("name", "power"), [("haar", 1.0), ("jittered", 2.0)])
def test_variance_falls_at_least_as_one_over_n(name, power):
    variances = []
    for n in (2, 4, 8):
        sampler = sampling.get(name, SE2, n, per_example=True, dtype=torch.float64)
        a = _angles(sampler(batch_size=8000, generator=_seeded(n)))
        variances.append(torch.exp(torch.cos(a)).mean(-1).var().item())
    assert variances[1] < 1.1 * variances[0] / 2**power and variances[2] < 1.1 * variances[1] / 2**power
    if name == "haar":
        assert variances[2] == pytest.approx(variances[0] / 4, rel=0.1)


@pytest.mark.parametrize("name", ["jittered", "haar"])
def test_rotations_in_space_are_haar_uniform(name):
    """The mean matrix is 0, and the mean of m_ij^2 is 1/3."""
    G = groups.get("SO(3)")
    m = G.matrix(sampling.get(name, G, 12, per_example=True)(batch_size=4000, generator=_seeded()).elements)
    assert m.mean((0, 1)).abs().max() < 0.02
    assert (m[:, 0].square().mean(0) - 1 / 3).abs().max() < 0.03


def test_haar_o2_has_both_mirrors_equally_often():
    m = HaarUniform(E2, 10000)(generator=_seeded()).elements[0, :, 3]
    assert m.mean().abs() < 0.04


# Learned interval


@pytest.mark.parametrize("theta", [1.0, 0.7, 0.05])
@pytest.mark.parametrize("group", ["SE(2)", "Sim(2)", "E(2)"])
def test_pathwise_gradient_is_angle_over_theta(group, theta):
    G = groups.get(group)
    sampler = _set_theta(sampling.get("learned", G, 8, dtype=torch.float64), theta)
    for mode in (True, False):
        a = _angles(sampler.train(mode)(generator=_seeded()), G)[0]
        for i in range(8):
            (grad,) = torch.autograd.grad(a[i], sampler.theta, retain_graph=True)
            assert grad.item() == pytest.approx((a[i] / theta).item(), rel=1e-12)


def test_theta_gradient_matches_finite_differences_where_the_release_does_not():
    """Per set, a fixed jitter makes the loss a smooth function of theta; the default gradient is its derivative."""

    def loss(sampler, seed):
        samples = sampler(batch_size=1, generator=_seeded(seed))
        a = _angles(samples)
        return (torch.exp(torch.cos(a - 0.5)) * samples.weights).sum() / samples.weights.sum()

    pathwise, release, numeric = [], [], []
    for seed in range(60):
        for compat, out in ((None, pathwise), ("release", release)):
            sampler = _set_theta(LearnedInterval(SE2, 8, compat=compat, dtype=torch.float64), 0.6)
            out.append(torch.autograd.grad(loss(sampler, seed), sampler.theta)[0].item())
        sampler = LearnedInterval(SE2, 8, dtype=torch.float64)
        up, down = (loss(_set_theta(sampler, 0.6 + step), seed).item() for step in (1e-4, -1e-4))
        numeric.append((up - down) / 2e-4)
    p, r, f = (torch.tensor(x) for x in (pathwise, release, numeric))
    torch.testing.assert_close(p, f, rtol=1e-4, atol=1e-6)
    assert (r - f).abs().mean() > 0.1


@pytest.mark.parametrize(
    ("theta", "grad", "passed"),
    [(0.5, 1, 1), (0.5, -1, -1), (1.0, 1, 1), (1.0, -1, -1), (0.0, 1, 1), (0.0, -1, -1), (1.2, 1, 1), (1.2, -1, 0),
     (-0.2, 1, 0), (-0.2, -1, -1)],
)  # fmt: skip
def test_clamp_gradient(theta, grad, passed):
    t = torch.tensor([theta], dtype=torch.float64, requires_grad=True)
    out = _ClampUnit.apply(t)
    assert out.item() == min(max(theta, 0.0), 1.0)
    (got,) = torch.autograd.grad(out, t, torch.tensor([float(grad)], dtype=torch.float64))
    assert got.item() == passed


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("start", [1.0, 1.4, -0.3, 0.0])
def test_theta_never_gets_stuck(optimiser, start):
    """From any start theta reaches an interior optimum, and can be driven into a bound and come back."""
    sampler = _set_theta(LearnedInterval(SE2, 8), start)
    make = {"sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9), "adam": lambda p: torch.optim.Adam(p, lr=0.03)}
    optim, seeds = make[optimiser](sampler.parameters()), _seeded()
    for target in (0.5, 1.6, 0.5, -0.6, 0.5):
        for _ in range(200):
            optim.zero_grad()
            a = _angles(sampler(generator=seeds))
            width = (a[:, -1] - a[:, 0]).mean() / (TWO_PI * 7 / 8)  # linear in theta, the clamped one
            (width - target).square().backward()
            optim.step()
        assert sampler.theta_effective.item() == pytest.approx(min(max(target, 0.0), 1.0), abs=0.03)


def test_all_samples_stay_for_every_theta():
    for theta in (-1.0, 0.0, 0.1, 1.0, 3.0):
        sampler = _set_theta(LearnedInterval(SE2, 8), theta)
        samples = sampler(generator=_seeded())
        assert (samples.weights == 1).all()
        assert _angles(samples).abs().max() <= PI * min(max(theta, 0.0), 1.0) + 1e-6
        share = sampler.theta_effective.item()
        assert share == pytest.approx(min(max(theta, 0.0), 1.0))
        assert sampler.range().tolist() == pytest.approx([-PI * share, PI * share])


def test_eval_uses_midpoints():
    sampler = _set_theta(LearnedInterval(SE2, 4), 0.5).eval()
    expected = 0.5 * (-PI + TWO_PI * (torch.arange(4) + 0.5) / 4)
    torch.testing.assert_close(_angles(sampler())[0], expected)


# Gates


def test_gate_frequency_and_exact_values():
    sampler = LearnedSubset(SE2, 5, per_example=True)
    with torch.no_grad():
        sampler.alpha.copy_(torch.tensor([-1.0, 0.0, 0.5, 1.0]))
    for fraction in (0.0, 0.7, 1.0):  # the keep probability does not depend on the temperature
        sampler.anneal(fraction)
        w = sampler(batch_size=20000, generator=_seeded()).weights.detach()
        assert ((w == 0) | (w == 1)).all() and (w[:, 0] == 1).all()
        assert (w[:, 1:].mean(0) - torch.sigmoid(2 * sampler.alpha)).abs().max() < 0.015
    torch.testing.assert_close(sampler.range()[1:], torch.sigmoid(2 * sampler.alpha.detach()))
    assert sampler.range()[0] == 1 and sampler.theta_effective.shape == (1,)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.9])
def test_gate_gradient(fraction):
    sampler = LearnedSubset(SE2, 9, dtype=torch.float64)
    sampler.anneal(fraction)
    tau = 0.5 - fraction * (0.5 - 1e-4)
    assert sampler.temperature.item() == pytest.approx(tau)
    w = sampler(generator=_seeded(4)).weights[0, 1:]
    u = torch.rand(1, 8, generator=_seeded(4), dtype=torch.float64)[0]
    y = torch.sigmoid((2 * sampler.alpha.detach() + torch.log(u) - torch.log(1 - u)) / tau)
    assert torch.equal(w.detach(), (y > 0.5).double())
    (grad,) = torch.autograd.grad(w.sum(), sampler.alpha)
    torch.testing.assert_close(grad, 2 * y * (1 - y) / tau, rtol=1e-9, atol=1e-12)


def test_product_gate():
    sampler = LearnedProduct(E2, 8, per_example=True, dtype=torch.float64)
    with torch.no_grad():
        sampler.alpha_mirror.fill_(0.3)
    samples = sampler(batch_size=20000, generator=_seeded())
    w = samples.weights
    assert (w[:, :4] == 1).all() and torch.equal(w[:, 4:], w[:, 4:5].expand(-1, 4))
    assert abs(w[:, 4].mean().item() - sampler.mirror_probability.item()) < 0.015
    assert (samples.elements[..., 3] == torch.tensor([1.0] * 4 + [-1.0] * 4)).all()
    (grad,) = torch.autograd.grad(w[:, 4:].sum(), sampler.alpha_mirror)
    assert grad.item() > 0
    for alpha, gate in ((0.2, 1.0), (-0.2, 0.0)):
        with torch.no_grad():
            sampler.alpha_mirror.fill_(alpha)
        assert sampler.eval()().weights[0].tolist() == [1.0] * 4 + [gate] * 4


@pytest.mark.parametrize("group", ["SE(2)", "E(2)", "M(2)", "SE(3)"])
def test_subset_keeps_the_grid_in_eval(group):
    sampler = _make("subset", group).eval()
    with torch.no_grad():
        sampler.alpha[::2] = -1.0
    samples = sampler()
    assert torch.equal(samples.elements, _make("fixed", group)().elements)
    assert samples.weights[0].tolist() == [1.0] + [float(a > 0) for a in sampler.alpha]


def test_anneal_reaches_every_sampler_and_temperature_stays_positive():
    model = nn.ModuleDict(
        {"a": LearnedSubset(SE2, 4), "b": nn.Sequential(LearnedProduct(E2, 4)), "c": FixedGrid(SE2, 4)}
    )
    for fraction in (-3.0, 0.0, 0.5, 1.0, 7.0, math.inf, torch.tensor(0.25)):
        sampling.anneal(model, fraction)
        for sampler in (model["a"], model["b"][0]):
            tau = sampler.temperature.item()
            assert 1e-4 - 1e-12 <= tau <= 0.5
    assert model["a"].temperature.item() == pytest.approx(0.5 - 0.25 * 0.4999)
    before = model["a"].temperature
    for _ in range(5):
        model["a"]()
    assert model["a"].temperature == before
    # Half precision must not round the temperature.
    assert model["a"].half().temperature == before


def test_identity_sampler():
    assert IdentitySampler(E2)().elements.tolist() == [[[0.0, 0.0, 0.0, 1.0]]]
    assert IdentitySampler(E2, compat="release")().elements.tolist() == [[[0.0, 0.0, 0.0, 0.0]]]
    assert IdentitySampler(SE2, compat="release")().elements.tolist() == [[[0.0, 0.0, 0.0]]]


# A group of one's own, representation, errors


class _Cyclic(groups.Group):
    """Integers modulo 4 acting on the line as (-1)^k; grid of all elements, the identity last."""

    name, element_dim, coord_dim, spatial_dim = "Z4", 1, 1, 1

    def identity(self, dtype=None, device=None):
        return torch.zeros(1, dtype=dtype, device=device)

    def product(self, a, b):
        return torch.remainder(a + b, 4)

    def inverse(self, a):
        return torch.remainder(-a, 4)

    def act(self, g, x):
        return x * (1 - 2 * torch.remainder(g, 2))

    def coordinates(self, g, chart="product", part="all"):
        self.check_chart(chart, part)
        return g

    def grid(self, n, dtype=None, device=None):
        if n != 4:
            raise ValueError("grid: n must be 4")
        return torch.tensor([[1.0], [2.0], [3.0], [0.0]], dtype=dtype, device=device)

    def sample(self, n, generator=None, dtype=None, device=None):
        return torch.randint(4, (n, 1), generator=generator).to(dtype=dtype, device=device)


def test_group_of_ones_own():
    G = _Cyclic()
    subset = sampling.get("learned", G, 4)
    with torch.no_grad():
        subset.alpha.copy_(torch.tensor([-1.0, 1.0, -1.0]))
    assert isinstance(subset, LearnedSubset) and subset.eval()().weights.tolist() == [[0.0, 1.0, 0.0, 1.0]]
    jittered = JitteredGrid(G, 4, per_example=True)(batch_size=30, generator=_seeded()).elements[..., 0]
    assert (
        torch.equal(jittered.sort(1).values, torch.arange(4.0).expand(30, 4)) and jittered.unique(dim=0).shape[0] == 4
    )
    assert HaarUniform(G, 3, per_example=True)(batch_size=2).elements.shape == (2, 3, 1)


def test_representation():
    assert repr(LearnedInterval(SE2, 8, per_example=True, compat="release")) == (
        "LearnedInterval(SE(2), n=8, per_example=True, compat='release')"
    )
    assert repr(FixedGrid(E2, 4)) == "FixedGrid(E(2), n=4)"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: FixedGrid("SE(2)", 4), r"group must be a group object, got 'SE\(2\)'; use pgconv.groups.get"),
        (lambda: FixedGrid(SE2, 0), "n must be an integer >= 1"),
        (lambda: HaarUniform(SE2, 2.0), "n must be an integer >= 1"),
        (lambda: FixedGrid(SE2, 4, dtype=torch.float16), "dtype must be torch.float32 or torch.float64"),
        (lambda: JitteredGrid(SE2, 4, compat="old"), "compat must be None or 'release', got 'old'"),
        (lambda: JitteredGrid(groups.get("SE(3)"), 12, compat="release"), r"only, got SE\(3\)"),
        (lambda: LearnedInterval(groups.get("Sim(2)"), 4, compat="release"), r"only, got Sim\(2\)"),
        (lambda: FixedGrid(E2, 3), "n = 3"),
        (lambda: FixedGrid(groups.get("SE(3)"), 13), "n = 13"),
        (lambda: JitteredGrid(E2, 1), "n must be even"),
        (lambda: LearnedInterval(E2, 4), r"stabiliser is the plane rotations, got E\(2\); use LearnedProduct"),
        (lambda: LearnedProduct(SE2, 4), r"group must be E\(2\) or O\(2\), got SE\(2\)"),
        (lambda: LearnedProduct(E2, 5), "n must be even .*, got 5"),
        (lambda: LearnedSubset(SE2, 1), "n must be >= 2"),
        (lambda: LearnedSubset(groups.get("M(2)"), 2, compat="release"), r"SE\(2\) and E\(2\) only, got M\(2\)"),
        (lambda: sampling.get("learned", groups.get("T(2)"), 1), r"T\(2\) has none; use 'fixed' with n=1"),
        (lambda: sampling.get("regular", SE2, 4), "unknown sampler 'regular'; choose one of fixed, jittered"),
        (lambda: sampling.get("identity", SE2, 8), "has one element but n is 8; pass n=1"),
        (lambda: sampling.get("learned", "SE(2)", 8), "group must be a group object"),
        (lambda: sampling.get("haar", SE2, 8, compat="release"), "no compat mode"),
        (lambda: LearnedSubset(SE2, 4).anneal(float("nan")), "got nan; pass step / total_steps"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
