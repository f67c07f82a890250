"""Coordinates given to the kernel net: formulas, invariance, smoothness, gradients, and behaviour at the cuts."""

import math

import mpmath
import pytest
import torch

from pgconv import groups
from pgconv.groups import numerics

STANDARD = [groups.get(name) for name in groups.names()]
CHARTS = [pytest.param(G, chart, id=f"{G.name}-{chart}") for G in STANDARD for chart in G.charts]
every_chart = pytest.mark.parametrize("G, chart", CHARTS)
double = torch.float64


def draw(G, n=64, seed=0, dtype=double):
    return G.sample(n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@every_chart
def test_coordinates_of_relative_elements_are_left_invariant(G, chart):
    v, u, w = draw(G, 200, 1), draw(G, 200, 2), draw(G, 200, 3)
    moved = G.coordinates(G.relative(G.product(w, v), G.product(w, u)), chart)
    torch.testing.assert_close(moved, G.coordinates(G.relative(v, u), chart), rtol=0, atol=1e-11)


@every_chart
def test_parts_and_sizes(G, chart):
    g = draw(G, 5)
    parts = {part: G.coordinates(g, chart, part) for part in ("all", "translation", "stabilizer")}
    for part, value in parts.items():
        assert value.shape == (5, G.coord_dim_of(chart, part))
    assert G.coord_dim_of(chart, "translation") == G.translation_dim
    assert G.coord_dim_of("product") == G.coord_dim
    t, h = G.split(g)
    assert torch.equal(parts["stabilizer"], G.stabilizer.coordinates(h, chart))
    if chart == "lie":
        # The translation alone is the plain one: V needs the stabiliser.
        assert torch.equal(parts["translation"], t)
        if "mirror" not in G.name:
            torch.testing.assert_close(parts["all"], G.log(g))
    else:
        assert torch.equal(torch.cat([parts["translation"], parts["stabilizer"]], -1), parts["all"])


def test_layout_of_every_chart():
    a, s = 0.6, 0.2
    e2 = torch.tensor([1.0, 2.0, a, -1.0], dtype=double)
    sim = torch.tensor([1.0, 2.0, a, s], dtype=double)

    def check(name, g, chart, expected):
        torch.testing.assert_close(groups.get(name).coordinates(g, chart), torch.tensor(expected, dtype=double))

    check("E(2)", e2, "product", [1, 2, a / math.pi, -1])
    check("E(2)", e2, "embed", [1, 2, math.cos(a), math.sin(a), -1])
    check("E(2)", e2, "release", [-2, 1, (a - math.pi + 2 * math.pi) / math.pi - 1, -1])
    check("Sim(2)", sim, "product", [1, 2, a / math.pi, s])
    check("Sim(2)", sim, "embed", [1, 2, math.cos(a), math.sin(a), s])
    check("T(2)", e2[:2], "release", [-2, 1])
    check("M(2)", e2[[0, 1, 3]], "release", [-2, 1, -1])
    q = groups.get("SO(3)").exp(torch.tensor([0.1, -0.2, 0.3], dtype=double))
    check("SO(3)", q, "product", [0.1 / math.pi, -0.2 / math.pi, 0.3 / math.pi])
    check("SO(3)", -q, "lie", [0.1, -0.2, 0.3])
    generator = torch.tensor([[0, -0.3, -0.2], [0.3, 0, -0.1], [0.2, 0.1, 0]], dtype=double)
    torch.testing.assert_close(
        groups.get("SO(3)").coordinates(q, "embed").reshape(3, 3), torch.linalg.matrix_exp(generator)
    )


@pytest.mark.parametrize("name", ["T(1)", "T(3)", "SO(3)", "SE(3)", "R+xSO(2)", "Sim(2)"])
def test_groups_without_release_chart(name):
    G = groups.get(name)
    with pytest.raises(ValueError, match=r"release.*choose from product, embed, lie"):
        G.coordinates(G.identity(), "release")


def homogeneous(matrix, t):
    """[[matrix, t], [0, 1]]"""
    d = t.shape[-1]
    full = torch.zeros(*t.shape[:-1], d + 1, d + 1, dtype=double)
    full[..., :d, :d], full[..., :d, d], full[..., d, d] = matrix, t, 1
    return full


def algebra_matrix(G, xi):
    d = G.spatial_dim
    full = torch.zeros(*xi.shape[:-1], d + 1, d + 1, dtype=double)
    full[..., :d, d] = xi[..., :d]
    if d == 3:
        for k, (i, j) in enumerate([(2, 1), (0, 2), (1, 0)]):
            full[..., i, j], full[..., j, i] = xi[..., 3 + k], -xi[..., 3 + k]
    else:
        full[..., 1, 0], full[..., 0, 1] = xi[..., 2], -xi[..., 2]
        if G.name == "Sim(2)":
            full[..., 0, 0] = full[..., 1, 1] = xi[..., 3]
    return full


@pytest.mark.parametrize("size", [1e-9, 1e-3, 0.1, 1.0])
@pytest.mark.parametrize("name", ["SE(2)", "E(2)", "Sim(2)", "SE(3)"])
def test_exp_is_the_matrix_exponential(name, size):
    G = groups.get(name)
    g = draw(G)
    xi = G.log(g)
    mirror = torch.ones(64, dtype=double)
    if name == "E(2)":
        mirror = xi[:, 3].clone()
    xi = size * xi
    if name == "E(2)":
        xi[:, 3] = mirror
    expected = torch.linalg.matrix_exp(algebra_matrix(G, xi))
    if G.spatial_dim == 2:
        # A mirrored element is exp(xi) followed on the right by the mirror.
        expected = expected @ torch.diag_embed(torch.stack([mirror * 0 + 1, mirror, mirror * 0 + 1], -1))
    h = G.exp(xi)
    torch.testing.assert_close(homogeneous(G.matrix(h), G.split(h)[0]), expected, rtol=1e-12, atol=1e-13)


@every_chart
def test_gradcheck(G, chart):
    if G.element_dim == 0:
        return
    v, u = (draw(G, 4, seed).requires_grad_() for seed in (11, 12))
    assert torch.autograd.gradcheck(lambda v, u: G.coordinates(G.relative(v, u), chart), (v, u))


@every_chart
@pytest.mark.parametrize("dtype", [torch.float32, double])
def test_gradients_are_finite_everywhere(G, chart, dtype):
    e = G.identity(dtype=dtype).expand(8, -1)
    some = draw(G, 8, dtype=dtype)
    grid = G.grid({"SO(3)": 12, "SE(3)": 12}.get(G.name, 1 if G.stabilizer.element_dim == 0 else 2), dtype=dtype)
    half_turns = grid[:8].repeat(8, 1)[:8]
    for a, b in ((e, e), (some, some), (e, half_turns), (some, G.product(some, half_turns)), (e, some)):
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        (first,) = torch.autograd.grad(G.coordinates(G.relative(a, b), chart).square().sum(), a, create_graph=True)
        (first.sum() + G.distance(a, b).sum() + G.coordinates(a, chart).sum()).backward()
        assert first.isfinite().all() and a.grad.isfinite().all() and b.grad.isfinite().all()


@pytest.mark.parametrize("G, chart", [p for p in CHARTS if p.values[1] != "release"])
def test_smooth_at_the_identity(G, chart):
    origin = G.log(G.identity(dtype=double))
    direction = torch.randn(origin.shape, generator=torch.Generator().manual_seed(1), dtype=double)
    H = G.stabilizer
    if getattr(H, "mirror", False):
        direction[G.translation_dim + int(H.rotation)] = 0

    def coords(xi):
        return G.coordinates(G.exp(xi), chart)

    slope = torch.func.jacrev(coords)(origin) @ direction
    for step in (1e-6, -1e-6, 1e-9):
        difference = (coords(origin + step * direction) - coords(origin)) / step
        torch.testing.assert_close(difference, slope, rtol=0, atol=1e-5 if abs(step) > 1e-8 else 1e-6)


@pytest.mark.parametrize("name", ["SO(3)", "SE(3)", "SE(2)", "Sim(2)"])
def test_derivative_of_log_after_exp_is_the_identity(name):
    # Sizes on both sides of every threshold between series and closed form.
    G = groups.get(name)
    full = G.log(draw(G, 1, seed=8))[0]
    for size in (0.0, 1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0):
        jacobian = torch.func.jacrev(lambda xi: G.log(G.exp(xi)))(size * full)
        torch.testing.assert_close(jacobian, torch.eye(len(full), dtype=double), rtol=0, atol=1e-13)


def test_rotation_vector_agrees_with_high_precision():
    H = groups.get("SO(3)")
    axis = torch.tensor([2.0, -3.0, 6.0], dtype=double) / 7
    for angle in [10.0**-k for k in range(13)] + [0.0199, 0.0201, 2.0, 3.0, math.pi - 1e-4]:
        with mpmath.workdps(40):
            w, r = float(mpmath.cos(mpmath.mpf(angle) / 2)), mpmath.sin(mpmath.mpf(angle) / 2)
            q = torch.tensor([w] + [float(r * mpmath.mpf(c)) for c in axis.tolist()], dtype=double)
        torch.testing.assert_close(H.log(q), angle * axis, rtol=2e-15, atol=0)
        torch.testing.assert_close(H.exp(angle * axis), q, rtol=2e-15, atol=1e-15)


def test_power_series_join_the_closed_forms():
    # Either side of every threshold, and at 0; 30 ulp covers the cancellation just above the thresholds.
    values = [0.0, 1e-12, 1e-5, 0.05, 0.0999, 0.1001, 0.3161, 0.3163, 0.4999, 0.5001, 0.707, 0.708, 1.5, 3.1]
    tol = dict(rtol=30 * 2.3e-16, atol=30 * 2.3e-16)
    with mpmath.workdps(50):

        def mp_mean(z):
            return mpmath.mpf(1) if z == 0 else (mpmath.exp(z) - 1) / z

        def mp_rotation(t):
            return (
                ((1 - mpmath.cos(t)) / t**2, (t - mpmath.sin(t)) / t**3, (1 - t / 2 * mpmath.cot(t / 2)) / t**2)
                if t
                else (mpmath.mpf(1) / 2, mpmath.mpf(1) / 6, mpmath.mpf(1) / 12)
            )

        for value in values:
            for re, im in ((value, 0.0), (-value, 0.0), (0.0, value), (0.6 * value, -0.8 * value)):
                z, exact = (torch.tensor(re, dtype=double), torch.tensor(im, dtype=double)), mp_mean(mpmath.mpc(re, im))
                for got, want in (
                    (numerics.mean_exponential(*z), exact),
                    (numerics.inverse_mean_exponential(*z), 1 / exact),
                ):
                    want = torch.tensor([float(want.real), float(want.imag)], dtype=double)
                    torch.testing.assert_close(torch.stack(got), want, **tol)
            square = torch.tensor(value, dtype=double)
            want = mp_rotation(mpmath.sqrt(mpmath.mpf(value)))
            got = (*numerics.rotation_factors(square), numerics.inverse_rotation_factor(square))
            torch.testing.assert_close(
                torch.stack(got), torch.tensor([float(x) for x in want], dtype=double), rtol=2e-14, atol=0
            )


@pytest.mark.parametrize("dtype", [torch.float32, double])
@pytest.mark.parametrize("name", ["SO(2)", "SE(2)", "O(2)", "R+xSO(2)"])
def test_regular_grids_never_see_minus_pi(name, dtype):
    G = groups.get(name)
    tol = 1e-6 if dtype == torch.float32 else 2e-15
    angle_at = G.translation_dim
    for n in range(1, 17):
        halves = 2 if name == "O(2)" else 1
        if n == 1 and halves == 2:
            continue
        for jitter in (0.0, 0.1, 1.2345, math.pi, 5.9, -2.7):
            grid = G.grid(halves * n, dtype=dtype)
            grid[:, angle_at] += jitter
            got = G.coordinates(G.relative(grid[:, None], grid))[..., angle_at]
            k = torch.arange(n).repeat(halves)
            sign = G.unpack(grid)[1] if halves == 2 else torch.ones(n)
            turns = torch.remainder(sign[:, None].long() * (k - k[:, None]), n)
            exact = 2 * torch.where(2 * turns > n, turns - n, turns).to(double) / n
            torch.testing.assert_close(got.to(double), exact, rtol=0, atol=tol)
            assert got.min() > -1 + 0.5 / n


def test_wrapping_range_and_derivative():
    a = torch.linspace(-20, 20, 4001, dtype=double, requires_grad=True)
    wrapped = numerics.wrap(a)
    assert (wrapped > -math.pi + 0.999e-5).all() and (wrapped <= math.pi + 1.001e-5).all()
    torch.testing.assert_close(torch.cos(wrapped), torch.cos(a))
    assert (torch.autograd.grad(wrapped.sum(), a)[0] == 1).all()
    for near in (math.pi, -math.pi, -math.pi + 0.9e-5, math.pi + 0.9e-5, 3 * math.pi):
        assert abs(float(numerics.wrap(torch.tensor(near, dtype=double))) - math.pi) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, double])
@pytest.mark.parametrize("n", [12, 24, 60])
def test_platonic_grids_have_only_n_relative_coordinates(n, dtype):
    # Half turns are on the cut: without the sign rule rounding would choose between q and -q.
    G = groups.get("SO(3)")
    known = G.coordinates(G.grid(n, dtype=double))
    for w in [G.identity(dtype=dtype), *draw(G, 3, dtype=dtype)]:
        grid = G.product(w, G.grid(n, dtype=dtype))
        got = G.coordinates(G.relative(grid[:, None], grid)).to(double).reshape(-1, 3)
        nearest = (got[:, None] - known).abs().amax(-1)
        assert nearest.amin(1).max() < 1e-6
        assert (torch.bincount(nearest.argmin(1), minlength=n) == n).all()


def release_matrix(angle, mirror):
    """diag(1, m) R(a) on (row, col) with R(a) = [[cos, sin], [-sin, cos]]."""
    c, s = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([c, s], -1), torch.stack([-mirror * s, mirror * c], -1)], -2)


def to_release(g):
    """(row, col), clockwise angle and mirror of an element (x, y, angle, mirror) of E(2)."""
    x, y, angle, mirror = g.unbind(-1)
    return torch.stack([-y, x], -1), torch.where(mirror > 0, -angle, angle - math.pi), mirror


TO_ROW_COL = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=double)


def test_release_elements_are_ours_in_row_and_column():
    G = groups.get("E(2)")
    g, h = draw(G, seed=1), draw(G, seed=2)
    position, angle, mirror = to_release(g)
    conjugated = TO_ROW_COL @ G.matrix(g) @ TO_ROW_COL.T
    torch.testing.assert_close(release_matrix(angle, mirror), conjugated)
    # Products: a = a2 + m2 a1 (mod 2 pi), m = m1 m2, position p1 + h1 p2.
    position2, angle2, mirror2 = to_release(h)
    got_position, got_angle, got_mirror = to_release(G.product(g, h))
    torch.testing.assert_close(got_mirror, mirror * mirror2)
    torch.testing.assert_close(torch.cos(got_angle - angle2 - mirror2 * angle), torch.ones(64, dtype=double))
    moved = position + torch.einsum("nij,nj->ni", release_matrix(angle, mirror), position2)
    torch.testing.assert_close(got_position, moved)


@pytest.mark.parametrize("name", ["T(2)", "SE(2)", "E(2)", "SO(2)", "O(2)"])
def test_release_coordinates_from_the_definition(name):
    G = groups.get(name)
    u, v = draw(G, 300, seed=3), draw(G, 300, seed=4)

    def widen(g):
        """As elements of E(2)."""
        t, h = G.split(g)
        full = torch.zeros(300, 4, dtype=double)
        full[:, : t.shape[1]], full[:, 3] = t, 1
        full[:, 2 : 2 + h.shape[1]] = h
        return full

    (p_u, a_u, m_u), (p_v, a_v, m_v) = to_release(widen(u)), to_release(widen(v))
    offset = torch.linalg.solve(release_matrix(a_u, m_u), (p_v - p_u).unsqueeze(-1)).squeeze(-1)
    inverse_angle = -m_u * a_u
    angle = torch.remainder(a_v + m_v * inverse_angle, 2 * math.pi) / math.pi - 1
    expected = [offset] if G.translation_dim else []
    expected += [angle[:, None]] if name != "T(2)" else []
    expected += [(m_u * m_v)[:, None]] if name in ("E(2)", "O(2)") else []
    got = G.coordinates(G.relative(u, v), "release")
    torch.testing.assert_close(got, torch.cat(expected, 1))


@pytest.mark.parametrize("dtype", [torch.float32, double])
def test_release_jumps_at_equal_angles(dtype):
    G = groups.get("SO(2)")
    a = torch.tensor([0.0, 0.1, 1.2345, 3.0, 6.2, -5.0], dtype=dtype)[:, None]
    assert (G.coordinates(G.relative(a, a), "release") == -1).all()
    # Clockwise by a hair: just above -1; counter-clockwise: just below (or, rounded, at) +1.
    step = torch.tensor([[-1e-6], [1e-6]], dtype=dtype)
    value = G.coordinates(step, "release").flatten()
    assert -1 < value[0] < -1 + 1e-6 and 1 - 1e-6 < value[1] <= 1
    # Continuous at pi.
    near = torch.tensor([[math.pi - 1e-5], [-math.pi + 1e-5]], dtype=dtype)
    assert G.coordinates(near, "release").abs().max() < 1e-5
    e2 = groups.get("E(2)")
    g = draw(e2, 32, dtype=dtype)
    assert (e2.coordinates(e2.relative(g, g), "release")[:, 2] == -1).all()


@pytest.mark.parametrize("name, chart", [("E(2)", "product"), ("SE(3)", "lie")])
def test_traces_under_compile(name, chart):
    G = groups.get(name)

    def f(v, u):
        return G.coordinates(G.relative(v, u), chart)

    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    v, u = draw(G, 6)[:, None].requires_grad_(), draw(G, 5, 1).requires_grad_()
    torch.testing.assert_close(compiled(v, u), f(v, u))
    for got, want in zip(*(torch.autograd.grad(g(v, u).square().sum(), (v, u)) for g in (compiled, f)), strict=True):
        torch.testing.assert_close(got, want)


@every_chart
def test_function_transforms(G, chart):
    v, u = draw(G, 3, 1), draw(G, 3, 2)

    def f(v, u):
        return G.coordinates(G.relative(v, u), chart)

    out, pull = torch.func.vjp(f, v, u)
    assert all(g.shape == v.shape for g in pull(torch.ones_like(out)))
    torch.testing.assert_close(torch.func.vmap(f)(v, u), out)
    _, push = torch.func.jvp(f, (v, u), (torch.ones_like(v), torch.ones_like(u)))
    assert push.shape == out.shape
