"""Lifting points where a group does not act transitively: orbit coordinates, isotropy, and what the layers do with them."""

import pytest
import torch

import pgconv
from pgconv import groups, kernel_nets
from pgconv.functional import point_conv
from pgconv.groups.base import FixedSequence, uniforms
from pgconv.nn import PointGroupConv, PointLift

# Group, samples per point, dimension, reference point of the orbit with coordinates q.
LIFTS = {
    "T(3)": (1, lambda q: torch.zeros(3)),
    "SE(2)": (4, lambda q: torch.zeros(2)),
    "E(2)": (4, lambda q: torch.zeros(2)),
    "SE(3)": (12, lambda q: torch.zeros(3)),
    "SO(2)": (1, lambda q: torch.stack([q[0], 0 * q[0]])),
    "O(2)": (2, lambda q: torch.stack([q[0], 0 * q[0]])),
    "SO(3)": (5, lambda q: torch.stack([0 * q[0], 0 * q[0], q[0]])),
    "R+xSO(2)": (1, lambda q: torch.tensor([1.0, 0.0])),
    "Sim(2)": (3, lambda q: torch.zeros(2)),
}
EVERY_LIFT = pytest.mark.parametrize("name", LIFTS)


def points(dim, seed=0):
    """In general position, and on the axes on both sides of the origin."""
    axes = torch.cat([torch.eye(dim), -2 * torch.eye(dim)]).double()
    return torch.cat([torch.randn(6, dim, generator=torch.Generator().manual_seed(seed)).double(), axes])[None]


def lifted(name, training=False, x=None, turns="random"):
    lift = PointLift(name, LIFTS[name][0], turns).train(training)
    x = points(lift.group.spatial_dim) if x is None else x
    f = torch.randn(1, x.shape[1], 3, generator=torch.Generator().manual_seed(1)).double()
    f, samples = lift(x, f, generator=torch.Generator().manual_seed(2))
    return lift, x, f, samples


@EVERY_LIFT
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_every_element_sends_the_reference_point_to_its_point(name, training):
    lift, x, f, samples = lifted(name, training)
    n, reference = LIFTS[name]
    plain = groups.get(name)
    g, q = samples.elements[0].split([plain.element_dim, plain.orbit_dim], -1)
    assert lift.group.invalid(samples.elements) is None
    origin = torch.stack([reference(row).double() for row in q])
    assert (plain.act(g, origin) - x[0].repeat_interleave(n, 0)).abs().max() < 1e-14
    assert torch.equal(f[:, ::n], f[:, n - 1 :: n])
    distinct = plain.distance(g.view(-1, n, 1, g.shape[-1]), g.view(-1, 1, n, g.shape[-1])) + torch.eye(n)
    assert distinct.min() > 0.1


@EVERY_LIFT
def test_random_turns_are_fresh_in_training_and_the_same_in_evaluation(name):
    n = LIFTS[name][0]
    moved, again, fixed, fixed_again, aligned = (
        lifted(name, *how)[3].elements for how in ((True,), (True,), (False,), (False,), (True, None, "aligned"))
    )
    assert torch.equal(moved, again) and torch.equal(fixed, fixed_again)
    grid = groups.get(name).isotropy(n, dtype=torch.float64)
    plain = groups.get(name)
    x = points(plain.spatial_dim)
    first = plain.lift(x)[0, :, : plain.element_dim]
    assert torch.equal(aligned[0, ::n, : plain.element_dim], plain.product(first, grid[:1]))
    if n > 1:
        assert not torch.allclose(fixed, moved) and not torch.allclose(fixed, aligned)


def test_evaluation_does_not_depend_on_the_place_in_the_batch():
    x, f = torch.randn(3, 5, 2), torch.randn(3, 5, 1)
    lift = PointLift("SE(2)", 4).eval()
    assert torch.equal(lift(x, f)[1].elements[2:], lift(x[2:], f[2:])[1].elements)


def test_turning_by_an_element_of_an_aligned_grid_moves_elements_to_elements():
    group, x = groups.get("SE(2)"), points(2)
    lift = PointLift("SE(2)", 4, turns="aligned").eval()
    f = torch.zeros(1, x.shape[1], 1)
    w = torch.tensor([0.0, 0.0, torch.pi / 2], dtype=torch.float64)
    moved = group.product(w, lift(x, f)[1].elements).view(-1, 4, 3)
    turned = lift(group.act(w, x), f)[1].elements.view(-1, 4, 3)
    assert group.distance(moved, turned.roll(-1, 1)).max() < 1e-12


@EVERY_LIFT
def test_lifting_is_smooth_enough_to_learn_positions(name):
    lift = PointLift(name, LIFTS[name][0]).eval()
    x = points(lift.group.spatial_dim)[:, :6].requires_grad_()
    weight = torch.randn(lift.group.element_dim, generator=torch.Generator().manual_seed(3)).double()

    def score(x):
        return lift.group.lift(x) @ weight

    assert torch.autograd.gradcheck(score, x)


def test_lifting_the_origin_gives_finite_elements_and_gradients():
    for name in ("SO(2)", "O(2)", "SO(3)", "SE(2)"):
        group = groups.get(name)
        x = torch.zeros(1, group.spatial_dim, requires_grad=True)
        out = group.lift(x)
        assert out.isfinite().all()
        assert torch.autograd.grad(out.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("name", ["SO(2)", "O(2)", "R+xSO(2)"])
def test_rotating_the_points_changes_nothing(name):
    """Where every point has all its elements, the layers see the same relative elements whichever way the points are turned."""
    group = groups.get(name)
    torch.manual_seed(0)
    lift = PointLift(name, LIFTS[name][0]).eval()
    first, second = PointGroupConv(3, 8, lift.group).double(), PointGroupConv(8, 4, lift.group).double()

    def network(x, f):
        y, samples = first(*lift(x, f))
        y, samples = second(torch.relu(y), samples)
        return y.mean(1)

    x = points(2)
    f = torch.randn(1, x.shape[1], 3, generator=torch.Generator().manual_seed(1)).double()
    for w in group.sample(5, generator=torch.Generator().manual_seed(4), dtype=torch.float64):
        assert (network(group.act(w, x), f) - network(x, f)).abs().max() < 1e-12
    # What is not a rotation about the origin does change it: the radius is seen.
    assert (network(x + 0.3, f) - network(x, f)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["SO(2)/1", "O(2)/1", "SO(3)/1", "R+xSO(2)/2", "SE(3)/4"])
@pytest.mark.parametrize("form", ["convolution", "correlation"])
@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_equivariance_when_samples_move_with_the_input(name, form, backend):
    group = groups.get(name)
    net = kernel_nets.SIREN(group.coord_dim_of("embed"), hidden=8).double()
    v, u = (group.sample(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)[None] for n in (70, 9))
    f, weight = torch.randn(2, 70, 3).double(), torch.randn(4, 3, 8).double()

    def convolve(v, u):
        return point_conv(f, v, u, net, weight, group=group, chart="embed", form=form, backend=backend)

    w = group.sample(1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)[0]
    moved = [group.product(w, x) for x in (v, u)]
    assert torch.equal(moved[0][..., -1], v[..., -1])  # labels stay
    assert (convolve(*moved) - convolve(v, u)).abs().max() < 1e-12


def test_names_and_equality():
    group = groups.get("SO(2)/1")
    assert group == groups.Orbits(groups.get("SO(2)"), 1) and group != groups.get("SO(2)/2") != groups.get("SO(2)")
    assert groups.is_builtin(group) and repr(group) == "Orbits('SO(2)/1')"
    assert (group.element_dim, group.coord_dim, group.coord_dim_of("embed")) == (2, 3, 4)
    assert group.coordinates(group.relative(group.identity(), group.identity())).shape == (3,)
    with pytest.raises(ValueError, match="part"):
        group.coord_dim_of("product", "stabilizer")
    with pytest.raises(ValueError, match="choose from"):
        groups.get("SO(9)/1")


def test_distance_counts_the_distance_of_orbits():
    group = groups.get("SO(2)/1")
    a, b = torch.tensor([0.5, 1.0]), torch.tensor([0.7, 3.0])
    assert group.distance(a, b).item() == pytest.approx(0.2 + 2.0)


def test_self_check_and_explain_know_orbits():
    lift = PointLift("SO(2)").eval()
    conv = PointGroupConv(3, 4, lift.group)
    f, samples = lift(torch.randn(2, 6, 2), torch.randn(2, 6, 3))
    report = pgconv.self_check(conv, f, samples)
    assert report.ok, str(report)
    assert "cpp:aggregate" in str(pgconv.explain(conv, f, samples))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_numbers_without_a_generator_are_evenly_spread(dim):
    found = uniforms(500, dim, FixedSequence())
    assert found.shape == (500, dim) and found.min() >= 0 and found.max() < 1
    torch.testing.assert_close(uniforms(20, dim, FixedSequence()), found[:20], rtol=0, atol=0)
    below = (found[:, None] < torch.linspace(0.1, 0.9, 9, dtype=torch.float64)[:, None].expand(9, dim)).double()
    for axis in range(dim):
        assert (below[..., axis].mean(0) - torch.linspace(0.1, 0.9, 9, dtype=torch.float64)).abs().max() < 0.02
    # Together, too: the share of a corner is its volume.
    assert abs(below[:, 4].prod(-1).mean() - 0.5**dim) < 0.03


class Own(type(groups.get("SE(2)"))):
    """Draws with torch's generator."""

    def sample_isotropy(self, n, generator=None, dtype=None, device=None):
        return self.embed_stabilizer(6 * torch.rand(n, 1, generator=generator, dtype=dtype))


@pytest.mark.parametrize(
    "group",
    [groups.get("SE(2)"), groups.get("SE(3)"), Own(2, groups.get("SO(2)"))],
    ids=["SE(2)", "SE(3)", "own"],
)
def test_lifts_in_evaluation_are_the_same(group):
    torch.manual_seed(0)
    x, f = torch.randn(1, 6, group.spatial_dim), torch.randn(1, 6, 1)
    lift = PointLift(group).eval()
    first = lift(x, f)[1].elements
    assert torch.equal(lift(x, f)[1].elements, first)
    assert not torch.equal(lift.train()(x, f)[1].elements, first)
