"""Neighbours and farthest points against brute force in float64, the same by every path."""

from __future__ import annotations

import math

import pytest
import torch
from own_groups import Heisenberg, Shear
from test_errors import assert_refused

from pgconv import groups, neighbors
from pgconv.functional import point_conv
from pgconv.groups import SemidirectProduct
from pgconv.kernel_nets import MLP
from pgconv.neighbors import Ball, Nearest, Within, _pairs, ball, farthest_points, nearest, within
from pgconv.neighbors._arguments import Metric
from pgconv.neighbors._embedding import embedding

OWN = {"Heisenberg": Heisenberg(), "Shear": SemidirectProduct(2, Shear(), name="R^2 x| shear")}
GROUPS = [*groups.names(), "SO(2)/1", "SE(3)/2", "R+xSO(2)/1", *OWN]
WITHOUT_TREE = ("Sim(2)", *OWN)
EVERY_GROUP = pytest.mark.parametrize("name", GROUPS)


def group_of(name):
    return OWN.get(name) or groups.get(name)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(name, *shape, seed=0, dtype=torch.float64):
    group = group_of(name)
    return group.sample(math.prod(shape), generator=generator(seed), dtype=dtype).view(*shape, group.element_dim)


@pytest.fixture(params=["tree", "tree-in-pieces", "all-pairs", "all-pairs-in-pieces"])
def path(request, monkeypatch):
    """Every way to find the pairs, and so little at a time that a row is a piece."""
    if request.param.startswith("tree"):
        monkeypatch.setattr(_pairs, "TREE_FROM", 1)
    else:
        monkeypatch.setattr(_pairs, "_kd_tree", lambda: None)
    if request.param.endswith("pieces"):
        monkeypatch.setattr(_pairs, "CHUNK", 7)


def distances(group, v, u, weight=1.0, mask=None):
    """``[S, Nu, Nv]``, infinite where masked."""
    d = group.distance(v.double()[:, None], u.double()[:, :, None], stabilizer_weight=weight)
    return d if mask is None else d.masked_fill(~mask[:, None], torch.inf)


def rows_within(d, radius):
    return [[j for j, x in enumerate(row) if x <= radius] for example in d.tolist() for row in example]


def rows_nearest(d, count):
    rows = []
    for row in d.flatten(0, 1).tolist():
        order = [j for x, j in sorted((x, j) for j, x in enumerate(row)) if x < math.inf][:count]
        rows.append(order + [-1] * (count - len(order)))
    return rows


def lists(csr):
    rowptr, index = csr
    return [index[a:b].tolist() for a, b in zip(rowptr[:-1].tolist(), rowptr[1:].tolist())]


def check_all(group, v, u, radius, count, weight=1.0, mask=None):
    """All three searches against the rows of brute force."""
    d, options = distances(group, v, u, weight, mask), {"stabilizer_weight": weight, "mask": mask}
    near = rows_within(d, radius)
    assert lists(within(v, u, group, radius, **options)) == near
    assert nearest(v, u, group, count, **options).flatten(0, 1).tolist() == rows_nearest(d, count)
    for row, full in zip(
        ball(v, u, group, radius, count, generator=generator(), **options).flatten(0, 1).tolist(), near
    ):
        drawn = [j for j in row if j >= 0]
        assert row == drawn + [-1] * (count - len(drawn)) and drawn == sorted(set(drawn)) and set(drawn) <= set(full)
        assert len(drawn) == min(count, len(full))


@EVERY_GROUP
@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_every_group_by_every_path(name, weight, path):
    group = group_of(name)
    v, u = draw(name, 2, 43), draw(name, 1, 9, seed=1)
    mask = torch.rand(2, 43, generator=generator(2)) < 0.8
    radius = float(distances(group, v, u, weight).median())
    check_all(group, v, u, radius, 5, weight, mask)
    check_all(group, v, u, radius, 5, weight)


@pytest.mark.parametrize("nv,nu", [(1, 1), (1, 5), (3, 1), (2, 3)])
def test_awkward_sizes(nv, nu, path):
    group = groups.get("SE(2)")
    v, u = draw("SE(2)", 1, nv), draw("SE(2)", 3, nu, seed=1)
    for radius, count in ((0.0, 1), (1.5, 4), (100.0, 2)):
        check_all(group, v, u, radius, count)
    assert within(v, u, group, 0.0)[1].numel() == 0  # all rows empty
    nothing = torch.zeros(1, nv, dtype=torch.bool)
    check_all(group, v, u, 100.0, 3, mask=nothing)
    assert (nearest(v, u, group, 3, mask=nothing) == -1).all()


def test_examples_one_for_all_or_one_each(path):
    one, each, mask = draw("SE(2)", 1, 6), draw("SE(2)", 3, 6, seed=1), torch.rand(3, 6, generator=generator()) < 0.7
    group = groups.get("SE(2)")
    for v, u, m in ((one, each, None), (each, one, None), (each, each, mask), (one, one, mask), (one, one, None)):
        s = max(len(v), len(u), 1 if m is None else len(m))
        assert within(v, u, group, 1.0, mask=m)[0].shape == (s * 6 + 1,)
        assert nearest(v, u, group, 2, mask=m).shape == (s, 6, 2)
        check_all(group, v, u, 1.0, 2, mask=m)


@EVERY_GROUP
def test_duplicates_and_equal_distances_go_by_number(name, path):
    group = group_of(name)
    v = draw(name, 1, 4)[:, [0, 1, 0, 2, 0, 3, 1]]
    assert lists(within(v, v, group, 0.0))[0] == [0, 2, 4]
    assert nearest(v, v, group, 4)[0, 2, :3].tolist() == [0, 2, 4]


def test_points_of_a_lattice_are_equally_far_however_they_are_turned(path):
    """A radius that is met exactly, and ties, do not hang on rounding."""
    group = groups.get("SE(2)")
    x = torch.cartesian_prod(*[torch.arange(-3.0, 4.0).double()] * 2)
    v = torch.cat([x, torch.zeros(49, 1)], -1)[None]
    rows, order = lists(within(v, v, group, 1.0)), nearest(v, v, group, 5)
    assert len(rows[24]) == 5 and order[0, 24].tolist() == [24, 17, 23, 25, 31]
    for w in draw("SE(2)", 4, seed=3):
        moved = group.product(w, v)
        assert lists(within(moved, moved, group, 1.0)) == rows
        assert torch.equal(nearest(moved, moved, group, 5), order)


def test_angles_across_the_seam_and_quaternions_of_either_sign(path):
    so2 = groups.get("SO(2)")
    v, u = torch.tensor([[[3.1], [-3.1], [3.2 + 4 * math.pi]]]), torch.tensor([[[math.pi], [-math.pi]]])
    assert lists(within(v, u, so2, 0.07)) == [[0, 1, 2]] * 2
    q = draw("SE(3)", 1, 30)
    other = torch.cat([q[..., :3], -q[..., 3:]], -1)
    for group in (groups.get("SE(3)"),):
        assert lists(within(q, other, group, 1e-9)) == [[j] for j in range(30)]
        assert torch.equal(nearest(q, other, group, 4), nearest(q, q, group, 4))
        assert torch.equal(
            farthest_points(q, group, 9), farthest_points(torch.where(q[..., :1] > 0, q, other), group, 9)
        )


def test_elements_with_a_nan_are_not_there(path):
    v = draw("SE(2)", 1, 8)
    u = v.clone()
    v[0, 3], u[0, 2, 0] = torch.nan, torch.nan
    mask = torch.arange(8)[None] != 3
    group = groups.get("SE(2)")
    assert (nearest(v, u, group, 3)[0, 2] == -1).all()
    rows = [0, 1, 3, 4, 5, 6, 7]
    there = torch.where(mask[..., None], v, group.identity(torch.float64))
    assert torch.equal(nearest(v, u, group, 3)[:, rows], nearest(there, u, group, 3, mask=mask)[:, rows])
    assert lists(within(v, u, group, 1.0)) == lists(within(there, u, group, 1.0, mask=mask))
    assert farthest_points(v, group, 8)[0, -1] == 3


@pytest.mark.parametrize("name", [n for n in GROUPS if n not in WITHOUT_TREE])
def test_the_embedding_bounds_the_distance_from_below(name):
    group = group_of(name)
    a, b = draw(name, 2000), draw(name, 2000, seed=1)
    for weight in (0.0, 0.3, 1.0, 4.0):
        metric = Metric(group, weight)
        shortest = (embedding(metric, a) - embedding(metric, b)).norm(dim=-1)
        assert (shortest <= metric.distance(a, b) * (1 + 1e-9) + 1e-9).all()
    # Sizes that are 1 within what is accepted stay within the slack of the search.
    off = 1.0 + 9e-4 * (2 * torch.rand(2000, 1, generator=generator()) - 1).double()
    sized = a.clone()
    for part in {"SO(3)": [slice(0, 4)], "SE(3)": [slice(3, 7)], "E(2)": [slice(3, 4)], "M(2)": [slice(2, 3)]}.get(
        name, []
    ):
        sized[:, part] *= off
    metric = Metric(group, 1.0)
    shortest = (embedding(metric, sized) - embedding(metric, b)).norm(dim=-1)
    assert (shortest <= _pairs.SLACK * metric.distance(sized, b) + 1e-8).all()


@pytest.mark.parametrize("name", WITHOUT_TREE)
def test_groups_without_a_bound_have_no_embedding(name):
    assert embedding(Metric(group_of(name), 1.0), draw(name, 3)) is None


@pytest.mark.parametrize("name", ["SE(3)", "E(2)", "SO(3)/1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tree_finds_what_all_pairs_hold(name, dtype, monkeypatch):
    group = group_of(name)
    v, u = draw(name, 1, 1500, dtype=dtype), draw(name, 1, 200, seed=1, dtype=dtype)
    found = []
    for use in (True, False):
        if not use:
            monkeypatch.setattr(_pairs, "_kd_tree", lambda: None)
        assert (
            _pairs._tree_blocks(neighbors.search.check_sets("within", v, u, group, 1.0, None), 1) is not None
        ) == use
        found.append(
            (
                *within(v, u, group, 0.8),
                nearest(v, u, group, 20, stabilizer_weight=0.2),
                ball(v, u, group, 1.0, 5, generator=generator(4)),
            )
        )
    for tree, pairs in zip(*found):
        assert torch.equal(tree, pairs)


def test_a_tree_is_used_on_the_cpu_from_some_size_on(monkeypatch):
    used = []
    tree = _pairs._kd_tree()
    monkeypatch.setattr(_pairs, "_kd_tree", lambda: lambda points: used.append(len(points)) or tree(points))
    x = draw("SE(2)", 2, _pairs.TREE_FROM)
    nearest(x[:, 1:], x, "SE(2)", 3)
    assert used == []
    nearest(x, x[:1], "SE(2)", 3)
    nearest(x[:1], x, "SE(2)", 3)
    assert used == [_pairs.TREE_FROM] * 3


@pytest.mark.parametrize("use_tree", [True, False])
def test_no_more_pairs_at_a_time_than_the_chunk(use_tree, monkeypatch):
    sizes, distance = [], Metric.distance
    monkeypatch.setattr(_pairs, "CHUNK", 1000)
    if not use_tree:
        monkeypatch.setattr(_pairs, "_kd_tree", lambda: None)
    monkeypatch.setattr(Metric, "distance", lambda self, v, u: sizes.append((d := distance(self, v, u)).numel()) or d)
    x = draw("SE(2)", 1, 600)
    nearest(x, x, "SE(2)", 20)
    within(x, x, "SE(2)", 1.0)
    assert max(sizes) <= 1000


def test_balls_repeat_with_the_seed_and_are_uniform():
    group, v = groups.get("T(1)"), torch.linspace(0, 1, 6)[None, :, None]
    u = torch.zeros(1, 3000, 1)
    first, again, other = (ball(v, u, group, 0.9, 2, generator=generator(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    drawn = torch.bincount(first.flatten(), minlength=6)  # five are in the ball, each in 2 of 5 of the draws
    assert drawn[5] == 0 and (drawn[:5] - 1200).abs().max() < 5 * (3000 * 0.4 * 0.6) ** 0.5
    torch.manual_seed(0)
    default = ball(v, u, group, 0.9, 2)
    torch.manual_seed(0)
    assert torch.equal(ball(v, u, group, 0.9, 2), default)


def farthest_by_hand(d, start, count, there):
    """Of one example, from the matrix of distances ``d[i][j] = d(x_i, x_j)``."""
    chosen = [start]
    while len(chosen) < count:
        left = [j for j in range(len(d)) if j not in chosen and there[j]]
        if left:
            gaps = {j: min(d[i][j] for i in chosen) for j in left}
            chosen.append(min(left, key=lambda j: (-gaps[j], j)))
        else:
            chosen.append(next(j for j in range(len(d)) if j not in chosen))
    return chosen


@EVERY_GROUP
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_farthest_points_of_every_group(name, weight):
    group = group_of(name)
    x = draw(name, 2, 14)
    x[:, 13] = x[:, 2]  # a duplicate
    mask = torch.ones(2, 14, dtype=torch.bool)
    mask[0, [0, 1, 5]] = False
    d = group.distance(x[:, :, None], x[:, None], stabilizer_weight=weight).tolist()
    for count in (1, 5, 14):
        for m, start, firsts in ((None, 0, (0, 0)), (None, 4, (4, 4)), (mask, 0, (2, 0)), (mask, 13, (13, 13))):
            found = farthest_points(x, group, count, start=start, stabilizer_weight=weight, mask=m)
            there = torch.ones_like(mask) if m is None else m
            expected = [farthest_by_hand(d[s], firsts[s], count, there[s].tolist()) for s in range(2)]
            assert found.tolist() == expected


def test_farthest_points_start_at_random_with_a_generator():
    x, mask = draw("SE(2)", 40, 9), torch.ones(40, 9, dtype=torch.bool)
    mask[:, :5] = False
    first, again, other = (farthest_points(x, "SE(2)", 4, generator=generator(s), mask=mask) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert set(first[:, 0].tolist()) == {5, 6, 7, 8}
    nothing = farthest_points(x, "SE(2)", 3, generator=generator(), mask=torch.zeros_like(mask))
    assert nothing[0].tolist() == [0, 1, 2]


def test_farthest_points_of_one_set_with_masks_of_many():
    x, mask = draw("SE(2)", 1, 6), torch.rand(3, 6, generator=generator()) < 0.5
    each = farthest_points(x.expand(3, -1, -1), "SE(2)", 4, mask=mask)
    assert torch.equal(farthest_points(x, "SE(2)", 4, mask=mask), each)


@EVERY_GROUP
def test_moving_everything_by_one_element_changes_no_result(name, path):
    group = group_of(name)
    v, u = draw(name, 2, 25), draw(name, 2, 6, seed=1)
    for w in draw(name, 2, seed=2):
        a, b = group.product(w, v), group.product(w, u)
        assert lists(within(a, b, group, 1.0)) == lists(within(v, u, group, 1.0))
        assert torch.equal(nearest(a, b, group, 4), nearest(v, u, group, 4))
        assert torch.equal(farthest_points(a, group, 7), farthest_points(v, group, 7))


def test_no_gradient_flows_through_a_search():
    x = draw("SE(2)", 1, 8).requires_grad_()
    for result in (*within(x, x, "SE(2)", 1.0), nearest(x, x, "SE(2)", 2), farthest_points(x, "SE(2)", 2)):
        assert result.dtype == torch.long and not result.requires_grad


@pytest.mark.parametrize(
    "near", [Within(1.0, 0.5), Nearest(3, 0.5), Ball(1.0, 2, 0.5)], ids=["within", "nearest", "ball"]
)
def test_neighborhoods_are_the_functions(near):
    v, u, mask = draw("SE(2)", 2, 9), draw("SE(2)", 2, 4, seed=1), torch.rand(2, 9, generator=generator()) < 0.7
    options = {"stabilizer_weight": 0.5, "mask": mask}
    expected = {
        Within: lambda: within(v, u, "SE(2)", 1.0, **options),
        Nearest: lambda: nearest(v, u, "SE(2)", 3, **options),
        Ball: lambda: ball(v, u, "SE(2)", 1.0, 2, generator=generator(), **options),
    }[type(near)]()
    found = near(v, u, "SE(2)", mask=mask, generator=generator())
    pairs = zip(found, expected) if isinstance(found, tuple) else [(found, expected)]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert near == type(near)(**vars(near)) and hash(near) == hash(type(near)(**vars(near)))
    # What comes out goes in.
    net, weight = MLP(3, hidden=4).double(), torch.ones(1, 1, 4).double()
    assert point_conv(torch.ones(2, 9, 1).double(), v, u, net, weight, group="SE(2)", neighbors=found).shape == (
        2,
        4,
        1,
    )


X = draw("SE(2)", 2, 5)
REFUSED = {
    "examples": (lambda: within(X, X[:1].expand(3, -1, -1), "SE(2)", 1.0), "u"),
    "mask-examples": (lambda: nearest(X, X, "SE(2)", 1, mask=torch.ones(3, 5, dtype=torch.bool)), "mask"),
    "ball-generator": (lambda: ball(X, X, "SE(2)", 1.0, 1, generator=3), "generator"),
    "farthest-generator": (lambda: farthest_points(X, "SE(2)", 1, generator="0"), "generator"),
    "farthest-too-many": (lambda: farthest_points(X, "SE(2)", 6), "count"),
    "farthest-start": (lambda: farthest_points(X, "SE(2)", 2, start=5), "start"),
    "within-radius": (lambda: Within(-1.0), "radius"),
    "within-infinite": (lambda: Within(math.inf), "radius"),
    "within-weight": (lambda: Within(1.0, -1.0), "stabilizer_weight"),
    "nearest-count": (lambda: Nearest(0), "count"),
    "nearest-weight": (lambda: Nearest(1, math.nan), "stabilizer_weight"),
    "ball-radius": (lambda: Ball("1", 1), "radius"),
    "ball-count": (lambda: Ball(1.0, 2.0), "count"),
    "ball-weight": (lambda: Ball(1.0, 1, None), "stabilizer_weight"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, word = REFUSED[case]
    assert_refused(call, word)


SEARCHES = {
    "nearest": lambda v, u: nearest(v, u, "T(2)", 2),
    "within": lambda v, u: within(v, u, "T(2)", 1e150),
    "ball": lambda v, u: ball(v, u, "T(2)", 1e150, 2),
    "farthest_points": lambda x, _: farthest_points(x, "T(2)", 2),
}


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("inputs", [600, 30], ids=["tree", "all-pairs"])
def test_elements_whose_distances_overflow_are_refused(search, inputs):
    """Squares of lengths would be infinite, and everything as far as everything else."""
    v, u = torch.randn(1, inputs, 2, dtype=torch.float64), torch.randn(1, 3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"^{search}: [vx] .*1e\+150.*distances overflow"):
        SEARCHES[search](v * 1e200, u)
    if search != "farthest_points":
        with pytest.raises(ValueError, match=rf"^{search}: u .*distances overflow"):
            SEARCHES[search](v, u * 1e200)


def test_large_elements_have_the_neighbours_of_small_ones():
    v, u = torch.randn(1, 600, 2, dtype=torch.float64), torch.randn(1, 3, 2, dtype=torch.float64)
    large = 2.0**490  # a power of two: no rounding differs
    assert torch.equal(nearest(v * large, u * large, "T(2)", 5), nearest(v, u, "T(2)", 5))
    v[0, 7] = torch.nan
    there = torch.arange(600)[None] != 8
    far = v.clone()
    far[0, 8] = 1e200
    found, want = (nearest(x, u, "T(2)", 5, mask=there) for x in (far, v))
    assert torch.equal(found, want)


def test_a_weight_whose_square_overflows():
    """The turn alone decides; the tree's coordinates would be infinite."""
    v, u = torch.randn(1, 600, 3, dtype=torch.float64), torch.randn(1, 3, 3, dtype=torch.float64)
    heavy, moderate = (nearest(v, u, "SE(2)", 5, stabilizer_weight=w) for w in (1e200, 1e9))
    assert torch.equal(heavy, moderate)
