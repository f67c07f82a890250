"""Group axioms, actions, exp and log, sampling and grids for every registered group, and for a user's own."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from own_groups import Heisenberg, Shear

from pgconv import groups
from pgconv.groups import SemidirectProduct, platonic

NAMES = ("T(1)", "T(2)", "T(3)", "M(2)", "SO(2)", "O(2)", "SE(2)", "E(2)", "SO(3)", "SE(3)", "R+xSO(2)", "Sim(2)")

ALL = [groups.get(name) for name in NAMES] + [Heisenberg(), SemidirectProduct(2, Shear())]
STANDARD = ALL[: len(NAMES)]
every_group = pytest.mark.parametrize("G", ALL, ids=str)
standard_group = pytest.mark.parametrize("G", STANDARD, ids=str)


def draw(G, n=64, seed=0, dtype=torch.float64):
    return G.sample(n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def points(G, n=64, seed=9):
    return torch.randn(n, G.spatial_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same_elements(G, a, b, tol=1e-12):
    """Equality as group elements: through a chart without cut or double cover."""
    chart = "embed" if "embed" in G.charts else "product"
    torch.testing.assert_close(G.coordinates(a, chart), G.coordinates(b, chart), rtol=tol, atol=tol)


def test_names_are_registered_in_order():
    assert groups.names() == NAMES


@every_group
def test_axioms(G):
    a, b, c = draw(G, seed=1), draw(G, seed=2), draw(G, seed=3)
    e = G.identity(dtype=torch.float64)
    assert e.shape == (G.element_dim,)
    ab = G.product(a, b)
    assert ab.shape == a.shape and G.invalid(ab) is None and G.invalid(G.inverse(a)) is None
    assert_same_elements(G, G.product(ab, c), G.product(a, G.product(b, c)))
    assert_same_elements(G, G.product(a, G.inverse(a)), e.expand_as(a))
    assert_same_elements(G, G.product(G.inverse(a), a), e.expand_as(a))
    assert_same_elements(G, G.product(a, e), a)
    assert_same_elements(G, G.product(e, a), a)
    assert_same_elements(G, G.inverse(ab), G.product(G.inverse(b), G.inverse(a)))
    assert_same_elements(G, G.relative(a, b), G.product(G.inverse(a), b))


@every_group
def test_action(G):
    a, b, x = draw(G, seed=1), draw(G, seed=2), points(G)
    torch.testing.assert_close(G.act(G.product(a, b), x), G.act(a, G.act(b, x)))
    torch.testing.assert_close(G.act(G.identity(dtype=torch.float64), x), x)
    torch.testing.assert_close(G.act_inverse(a, G.act(a, x)), x)
    torch.testing.assert_close(G.act_inverse(a, x), G.act(G.inverse(a), x))
    matrix = G.matrix(a)
    assert matrix.shape == (64, G.spatial_dim, G.spatial_dim)
    linear = torch.einsum("nij,nj->ni", matrix, x)
    torch.testing.assert_close(G.act(a, x), linear + G.act(a, torch.zeros_like(x)))
    torch.testing.assert_close(G.matrix(G.product(a, b)), matrix @ G.matrix(b))


def test_planar_matrix_is_scale_times_rotation_times_mirror():
    h = torch.tensor([0.7, -1.0], dtype=torch.float64)
    c, s = math.cos(0.7), math.sin(0.7)
    torch.testing.assert_close(groups.get("O(2)").matrix(h), torch.tensor([[c, s], [s, -c]], dtype=torch.float64))
    h = torch.tensor([0.7, 0.3], dtype=torch.float64)
    expected = math.exp(0.3) * torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    torch.testing.assert_close(groups.get("R+xSO(2)").matrix(h), expected)


@standard_group
def test_exp_and_log_invert_each_other(G):
    a = draw(G)
    assert_same_elements(G, G.exp(G.log(a)), a)
    torch.testing.assert_close(G.log(G.exp(G.log(a))), G.log(a))
    assert_same_elements(G, G.exp(G.log(G.identity(dtype=torch.float64))), G.identity(dtype=torch.float64))


ANGLED = [G for G in STANDARD if G.name in ("SO(2)", "O(2)", "SE(2)", "E(2)", "SO(3)", "SE(3)", "R+xSO(2)", "Sim(2)")]


def with_angle(G, angle, n=32):
    """Algebra vectors of random directions with rotation angle ``angle`` and translations of about that size."""
    xi = G.log(draw(G, n, seed=4))
    d, h = G.translation_dim, xi[:, G.translation_dim :]
    if G.spatial_dim == 3:
        h = angle * h / h.norm(dim=1, keepdim=True)
    else:
        h = torch.cat([torch.full_like(h[:, :1], angle), h[:, 1:]], 1)
    return torch.cat([xi[:, :d], h], 1)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-9, 1e-4, 0.31, 0.32, 1.0, math.pi - 1e-3, math.pi - 2e-5])
@pytest.mark.parametrize("G", ANGLED, ids=str)
def test_log_of_exp_at_small_and_large_angles(G, angle):
    xi = with_angle(G, angle)
    torch.testing.assert_close(G.log(G.exp(xi)), xi, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("angle", [math.pi - 1e-9, math.pi, math.pi + 1e-9])
@pytest.mark.parametrize("G", ANGLED, ids=str)
def test_exp_of_log_at_pi(G, angle):
    g = G.exp(with_angle(G, angle))
    assert_same_elements(G, G.exp(G.log(g)), g, tol=1e-11)


@every_group
def test_broadcasting_and_empty_batches(G):
    a, b = draw(G, 10).reshape(2, 1, 5, -1), draw(G, 3, seed=1).reshape(3, 1, -1)
    x = points(G, 3).reshape(3, 1, -1)
    for op in (G.product, G.relative):
        full = op(a, b)
        assert full.shape == (2, 3, 5, G.element_dim)
        torch.testing.assert_close(full[1, 2, 3], op(a[1, 0, 3], b[2, 0]))
    moved = G.act(a, x)
    assert moved.shape == (2, 3, 5, G.spatial_dim)
    torch.testing.assert_close(moved[1, 2, 3], G.act(a[1, 0, 3], x[2, 0]))
    torch.testing.assert_close(G.act_inverse(a, x)[1, 2, 3], G.act_inverse(a[1, 0, 3], x[2, 0]))
    assert G.distance(a, b).shape == (2, 3, 5)
    for chart in G.charts:
        assert G.coordinates(a, chart).shape == (2, 1, 5, G.coord_dim_of(chart))
        assert G.coordinates(a[:0], chart).shape == (0, 1, 5, G.coord_dim_of(chart))
    assert G.relative(a[:0], b).shape == (0, 3, 5, G.element_dim)


@every_group
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(G, dtype):
    a, x = draw(G, 4, dtype=dtype), points(G, 4).to(dtype)
    results = [a, G.identity(dtype=dtype), G.product(a, a), G.inverse(a), G.relative(a, a), G.act(a, x), G.matrix(a)]
    results += [G.coordinates(a, chart) for chart in G.charts] + [G.distance(a, a), G.grid(1, dtype=dtype)]
    if G in STANDARD:
        results += [G.log(a), G.exp(G.log(a))]
    assert {r.dtype for r in results} == {dtype}


@every_group
def test_distance(G):
    a, b, c, w = (draw(G, seed=s) for s in range(4))
    d = G.distance(a, b)
    assert (d > 0).all() or G.element_dim == 0
    torch.testing.assert_close(G.distance(G.product(w, a), G.product(w, b)), d)
    torch.testing.assert_close(G.distance(a, a), torch.zeros_like(d), rtol=0, atol=1e-12)
    none, double = G.distance(a, b, stabilizer_weight=0.0), G.distance(a, b, stabilizer_weight=2.0)
    assert torch.equal(G.distance(a, b, stabilizer_weight=1.0), d)
    assert (none <= d).all() and (double >= d).all() and (double <= 2 * d + 1e-12).all()
    if not G.translation_dim:  # all of the group is its own stabiliser
        torch.testing.assert_close(double, 2 * d)
        assert none.max() == 0
    if G in STANDARD and "R+" not in G.stabilizer.name:
        torch.testing.assert_close(G.distance(b, a), d)
        assert (G.distance(a, c) <= d + G.distance(b, c) + 1e-12).all()
    a.requires_grad_()
    G.distance(a, a.detach().clone()).sum().backward()
    assert a.grad.isfinite().all()


def test_distance_adds_the_sizes_of_the_parts():
    G = groups.get("E(2)")
    a = torch.tensor([1.0, 2.0, 0.3, 1.0], dtype=torch.float64)
    b = torch.tensor([4.0, 6.0, 0.3 + 2 * math.pi - 0.5, -1.0], dtype=torch.float64)
    assert float(G.distance(a, b)) == pytest.approx(5 + 0.5 + 2)
    assert float(G.distance(a, b, stabilizer_weight=3.0)) == pytest.approx(5 + 3 * 2.5)
    q = groups.get("SO(3)").exp(torch.tensor([0.0, 0.4, 0.3], dtype=torch.float64))
    assert float(groups.get("SO(3)").distance(groups.get("SO(3)").identity(torch.float64), -q)) == pytest.approx(0.5)


def chi_square(values01, bins=20):
    counts = torch.histc(values01.clamp(0, 1), bins=bins, min=0, max=1)
    expected = values01.numel() / bins
    return float(((counts - expected) ** 2 / expected).sum())


@every_group
def test_samples_are_elements_and_repeat(G):
    a = draw(G, 50, seed=3)
    assert a.shape == (50, G.element_dim) and G.invalid(a) is None
    assert torch.equal(a, draw(G, 50, seed=3))
    assert torch.equal(a.float(), draw(G, 50, seed=3, dtype=torch.float32))
    assert draw(G, 0).shape == (0, G.element_dim)
    assert G.sample(2).dtype == torch.get_default_dtype()


@standard_group
@pytest.mark.parametrize("shifted", [False, True])
def test_stabilizer_samples_are_haar_uniform(G, shifted):
    # 19 degrees of freedom: 50 is passed with chance 1e-4 only; moments are bounded by five standard deviations.
    n = 20000
    H = G.stabilizer
    h = G.split(draw(G, n, seed=5))[1]
    if shifted:
        w = draw(H, 1, seed=77)
        if H.name == "R+xSO(2)":
            w[:, 1] = 0.0  # the scale is uniform on an interval only
        h = H.product(w, h)
    bound = 5 / math.sqrt(n)
    if H.name == "SO(3)":
        # Rotation angles have the distribution function (t - sin t) / pi.
        angle = H.log(h).norm(dim=1)
        assert chi_square((angle - torch.sin(angle)) / math.pi) < 50
        m = H.matrix(h)
        assert (m.mean(0).abs() < bound).all() and ((m * m).mean(0) - 1 / 3).abs().max() < bound
        return
    angle, mirror, log_scale = H.unpack(h) if H.spatial_dim == 2 else (None, None, None)
    if angle is not None:
        assert chi_square(torch.remainder(angle, 2 * math.pi) / (2 * math.pi)) < 50
    if mirror is not None:
        assert abs(float(mirror.mean())) < bound
        if angle is not None:
            assert abs(float((mirror * torch.cos(angle)).mean())) < bound
    if log_scale is not None:
        assert chi_square((log_scale / math.log(2) + 1) / 2) < 50


@standard_group
def test_sampled_translations_fill_the_cube(G):
    t = G.split(draw(G, 20000, seed=6))[0]
    for axis in t.unbind(1):
        assert float(axis.abs().max()) <= 1 and chi_square((axis + 1) / 2) < 50


def index_in(G, elements, grid):
    """For each element the index of the grid element it equals; fails when there is none."""
    distance = G.distance(elements[:, None], grid)
    assert (distance.amin(1) < 1e-6).all()
    return distance.argmin(1).tolist()


GRID_SIZES = {
    "T(1)": [1], "T(2)": [1], "T(3)": [1], "M(2)": [1, 2], "SO(2)": [1, 2, 3, 7], "O(2)": [1, 2, 6, 8],
    "SE(2)": [1, 4, 5], "E(2)": [1, 2, 8], "SO(3)": [1, 12, 24, 60], "SE(3)": [1, 24], "R+xSO(2)": [1, 6],
    "Sim(2)": [1, 3],
}  # fmt: skip


@pytest.mark.parametrize("name, n", [(name, n) for name, sizes in GRID_SIZES.items() for n in sizes])
def test_grids_are_subgroups(name, n):
    G = groups.get(name)
    grid = G.grid(n, dtype=torch.float64)
    assert grid.shape == (n, G.element_dim) and G.invalid(grid) is None
    assert torch.equal(grid[0], G.identity(dtype=torch.float64))
    assert (grid[:, : G.translation_dim] == 0).all()
    for g in grid:
        assert sorted(index_in(G, G.product(g, grid), grid)) == list(range(n))
    assert torch.equal(G.grid(n, dtype=torch.float32), grid.float())


def test_grid_layout():
    half = math.pi
    so2 = groups.get("SO(2)").grid(4, dtype=torch.float64)[:, 0]
    torch.testing.assert_close(so2, torch.tensor([0, 0.5, 1, 1.5], dtype=torch.float64) * half)
    o2 = groups.get("O(2)").grid(4, dtype=torch.float64)
    torch.testing.assert_close(o2, torch.tensor([[0, 1], [half, 1], [0, -1], [half, -1]], dtype=torch.float64))
    assert groups.get("M(2)").grid(2)[:, 2].tolist() == [1.0, -1.0]
    sim = groups.get("Sim(2)").grid(2, dtype=torch.float64)
    torch.testing.assert_close(sim, torch.tensor([[0, 0, 0, 0], [0, 0, half, 0]], dtype=torch.float64))


@pytest.mark.parametrize(
    "name, n, options",
    [
        ("T(2)", 2, "1 only"), ("T(3)", 2, "n = 1"), ("M(2)", 3, "1 and 2"), ("SO(2)", 0, "1, 2, 3"),
        ("E(2)", 3, "even"), ("O(2)", -2, "even"), ("SO(3)", 8, "1, 12, 24, 60"), ("SE(3)", 2, "1, 12, 24, 60"),
    ],
)  # fmt: skip
def test_impossible_grids_name_the_possible_ones(name, n, options):
    with pytest.raises(ValueError, match=options):
        groups.get(name).grid(n)


def test_left_multiplication_permutes_image_grids():
    # A quarter turn and the flips of the image are elements of these grids; the tables are worked out by hand.
    quarter = math.pi / 2
    se2, e2 = groups.get("SE(2)"), groups.get("E(2)")
    w = torch.tensor([0, 0, quarter], dtype=torch.float64)
    grid = se2.grid(4, dtype=torch.float64)
    assert index_in(se2, se2.product(w, grid), grid) == [1, 2, 3, 0]
    grid = e2.grid(8, dtype=torch.float64)
    tables = {
        (quarter, 1.0): [1, 2, 3, 0, 5, 6, 7, 4],
        (0.0, -1.0): [4, 7, 6, 5, 0, 3, 2, 1],  # flip of the rows, y -> -y
        (math.pi, -1.0): [6, 5, 4, 7, 2, 1, 0, 3],  # flip of the columns, x -> -x
    }
    for (angle, mirror), table in tables.items():
        w = torch.tensor([0, 0, angle, mirror], dtype=torch.float64)
        assert index_in(e2, e2.product(w, grid), grid) == table


@pytest.mark.parametrize("order", platonic.ORDERS)
def test_platonic_quaternions_are_exact(order):
    q = torch.tensor(platonic.rotations(order), dtype=torch.float64)
    torch.testing.assert_close(q.norm(dim=1), torch.ones(order, dtype=torch.float64), rtol=0, atol=3e-16)
    # Orders of the rotations: T has 8 thirds and 3 halves, O 6 quarters, 8 thirds, 9 halves, I 24 fifths, 20, 15.
    angles = groups.get("SO(3)").log(q).norm(dim=1)
    halves = int((angles - math.pi).abs().lt(1e-9).sum())
    assert halves == {12: 3, 24: 9, 60: 15}[order]


def test_get_and_register():
    G = groups.get("SE(2)")
    assert groups.get(G) is G and groups.get("SE(2)") is G
    assert G.stabilizer is groups.get("SO(2)") and G.stabilizer.stabilizer is G.stabilizer
    for wrong in ("SE(9)", "se(2)", 3, None):
        with pytest.raises(ValueError, match=r"T\(1\).*Sim\(2\).*Group"):
            groups.get(wrong)
    own = Heisenberg()
    try:
        assert groups.register(own) is own and groups.get("Heisenberg") is own and groups.names()[-1] == "Heisenberg"
        groups.register(Heisenberg())
        impostor = Shear()
        impostor.name = "Heisenberg"
        with pytest.raises(ValueError, match="belongs to"):
            groups.register(impostor)
    finally:
        groups.registry._registry.pop("Heisenberg")
    with pytest.raises(ValueError, match="instance"):
        groups.register("SE(2)")


@every_group
def test_groups_are_values(G):
    assert copy.deepcopy(G) is G and copy.copy(G) is G
    clone = pickle.loads(pickle.dumps(G))
    assert clone == G and hash(clone) == hash(G) and G.name in repr(G)
    assert all((other == G) == (G is other) for other in ALL)


def test_dimensions():
    expected = {
        "T(1)": (1, 1, 1), "T(2)": (2, 2, 2), "T(3)": (3, 3, 3), "M(2)": (3, 3, 2), "SO(2)": (1, 1, 2),
        "O(2)": (2, 2, 2), "SE(2)": (3, 3, 2), "E(2)": (4, 4, 2), "SO(3)": (4, 3, 3), "SE(3)": (7, 6, 3),
        "R+xSO(2)": (2, 2, 2), "Sim(2)": (4, 4, 2),
    }  # fmt: skip
    for name, dims in expected.items():
        G = groups.get(name)
        assert (G.element_dim, G.coord_dim, G.spatial_dim) == dims
        assert G.translation_dim == (0 if G.stabilizer is G else G.spatial_dim)
        h = G.stabilizer.identity(dtype=torch.float64)
        assert torch.equal(G.embed_stabilizer(h), G.identity(dtype=torch.float64))


def test_invalid_names_the_reason():
    cases = [
        ("E(2)", [0.0, 0.0, 0.0, 0.5], "mirror"),
        ("M(2)", [0.0, 0.0, 0.0], "mirror"),
        ("SO(3)", [1.0, 0.1, 0.0, 0.0], "quaternion"),
        ("SE(3)", [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "quaternion"),
        ("Sim(2)", [0.0, 0.0, 0.0, 1000.0], "scale"),
        ("SE(2)", [0.0, 0.0, math.inf], "infinite"),
        ("SE(2)", [0.0, 0.0], "3 numbers"),
    ]
    for name, values, reason in cases:
        assert reason in groups.get(name).invalid(torch.tensor([values]))


@standard_group
def test_nan_passes_through(G):
    if G.element_dim == 0:
        return
    bad = torch.full((2, G.element_dim), math.nan, dtype=torch.float64)
    assert G.invalid(bad) is None
    for result in (G.product(bad, bad), G.inverse(bad), G.relative(bad, draw(G, 2)), G.log(bad), G.coordinates(bad)):
        assert result.isnan().all()


@every_group
def test_wrong_charts_parts_and_shapes(G):
    e = G.identity(dtype=torch.float64)
    for call in (lambda chart, part: G.coordinates(e, chart, part), G.coord_dim_of):
        with pytest.raises(ValueError, match="choose from " + ", ".join(G.charts)):
            call("polar", "all")
        with pytest.raises(ValueError, match="choose from all, translation, stabilizer"):
            call("product", "rotation")
    if G in STANDARD and G.element_dim:
        with pytest.raises(ValueError, match=rf"\[\.\.\., {G.element_dim}\]"):
            G.product(e[:-1], e[:-1])


def test_semidirect_product_checks_the_dimension():
    with pytest.raises(ValueError, match=r"acts on R\^2"):
        SemidirectProduct(3, Shear())


def test_methods_left_out_by_a_user_group_say_so():
    own = Heisenberg()
    for call in (own.exp, own.log):
        with pytest.raises(NotImplementedError, match="Heisenberg"):
            call(own.identity())
    with pytest.raises(ValueError, match="n = 1"):
        own.grid(2)
    assert own.charts == ("product",) and own.coord_dim_of("product", "translation") == 0


def test_every_pair_of_planar_flags():
    for flags in itertools.product([False, True], repeat=3):
        H = groups.Planar(*flags)
        G = SemidirectProduct(2, H)
        test_axioms(G)
        test_action(G)
        assert H.element_dim == sum(flags) == H.coord_dim_of("lie")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("z", [-2.0, -1.0, 1.0])
def test_rotations_to_points_next_to_the_axis_have_the_gradients_of_all_others(z, dtype):
    """At distances from it whose squares are rounded or 0."""
    lift, smallest = groups.get("SO(3)").lift, 4 * torch.finfo(dtype).tiny
    direction = torch.tensor([0.6, -0.8, 0.0], dtype=torch.float64)
    for distance in (0.0, 1e-3, 1e-18, 1e-19, 1e-20, 1e-22, 1e-30, smallest, smallest / 16):
        x = (distance * direction + torch.tensor([0.0, 0.0, z], dtype=torch.float64)).to(dtype)
        q = lift(x)[:4]
        rotated = groups.get("SO(3)").act(q, torch.tensor([0.0, 0.0, abs(z)], dtype=dtype))
        torch.testing.assert_close(rotated, x, rtol=1e-5, atol=1e-5)
        jacobian = torch.func.jacrev(lift)(x)
        assert jacobian.isfinite().all()
        if dtype == torch.float32 and distance >= smallest:
            exact = torch.func.jacrev(lift)(x.double())
            torch.testing.assert_close(jacobian.double(), exact, rtol=1e-5, atol=1e-6 * exact.abs().max().item())
            torch.testing.assert_close(q.double(), lift(x.double())[:4], rtol=1e-5, atol=1e-30)
