"""``f(g x) = g f(x)``: exact on grids that g maps to themselves, and broken where it must be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pgconv
from pgconv import groups, kernel_nets
from pgconv.functional import point_conv
from pgconv.nn import (
    GlobalGroupPool,
    GroupBatchNorm2d,
    GroupConv2d,
    GroupInstanceNorm2d,
    GroupLayerNorm2d,
    GroupMaxPool2d,
    LiftingConv2d,
    PointGroupConv,
    PointLift,
    PointwiseGroupConv2d,
    SeparableGroupConv2d,
)
from pgconv.sampling import Samples

TOLERANCE = 5e-6  # of max|out|, float32

MOVES = {
    "turn": lambda t: torch.rot90(t, 1, (-2, -1)),  # counter-clockwise as displayed
    "columns": lambda t: t.flip(-1),
    "rows": lambda t: t.flip(-2),
}

# (group, N, compat, move): out(T x)[j] = T out(x)[perm[j]]. The first rows follow from perm[j] = g^-1 u_j on the grid 2 pi i / N,
# mirrors after rotations; the release orders the same elements clockwise and mirrors columns.
PERMUTATIONS = {
    ("SE(2)", 4, None, "turn"): (3, 0, 1, 2),
    ("SE(2)", 8, None, "turn"): (6, 7, 0, 1, 2, 3, 4, 5),
    ("E(2)", 8, None, "turn"): (3, 0, 1, 2, 7, 4, 5, 6),
    ("E(2)", 8, None, "columns"): (6, 5, 4, 7, 2, 1, 0, 3),
    ("E(2)", 8, None, "rows"): (4, 7, 6, 5, 0, 3, 2, 1),
    ("M(2)", 2, None, "rows"): (1, 0),
    ("SE(2)", 4, "release", "turn"): (1, 2, 3, 0),
    ("SE(2)", 8, "release", "turn"): (2, 3, 4, 5, 6, 7, 0, 1),
    ("E(2)", 8, "release", "turn"): (1, 2, 3, 0, 7, 4, 5, 6),
    ("E(2)", 8, "release", "columns"): (4, 5, 6, 7, 0, 1, 2, 3),
    ("E(2)", 8, "release", "rows"): (6, 7, 4, 5, 2, 3, 0, 1),
    ("M(2)", 2, "release", "rows"): (1, 0),
}


def _cases():
    for (group, n, compat, move), perm in PERMUTATIONS.items():
        for chart in ("product", "embed", "lie") if compat is None else ("release",):
            for form in ("convolution", "correlation"):
                name = f"{group}-N{n}-{compat or 'own'}-{move}-{chart}-{form}"
                yield pytest.param(group, n, compat, move, perm, chart, form, id=name)


def _images(seed=0, channels=2, size=9, batch=2):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def _assert_permuted(module, x, move, perm):
    """The defining equation, and that the permutation matters: it must fail without it."""
    with torch.no_grad():
        found, plain = module(move(x)), move(module(x))
    scale = plain.abs().max()
    assert (found - plain[:, :, list(perm)]).abs().max() <= TOLERANCE * scale
    assert (found - plain).abs().max() > 1e-2 * scale


@pytest.mark.parametrize("group,n,compat,move,perm,chart,form", list(_cases()))
def test_lifting_and_group_convolution_permute(group, n, compat, move, perm, chart, form):
    torch.manual_seed(0)
    options = {"kernel_size": 5, "group": group, "num_samples": n, "compat": compat, "chart": chart, "form": form}
    lift = LiftingConv2d(2, 3, sampling="fixed", **options)
    conv = GroupConv2d(3, 4, **options)
    _assert_permuted(lambda x: conv(*lift(x))[0], _images(), MOVES[move], perm)


def _stack(group, n, layer):
    """Lifting, ReLU, one more layer."""
    lift = LiftingConv2d(2, 3, kernel_size=3, group=group, num_samples=n, sampling="fixed")

    def run(x):
        y, samples = lift(x)
        return layer(torch.relu(y), samples)

    return run


LAYERS = {
    "separable": lambda group: _first(SeparableGroupConv2d(3, 4, kernel_size=5, group=group)),
    "pointwise": lambda group: _first(PointwiseGroupConv2d(3, 4, group=group)),
    "group-conv-stride-2": lambda group: _first(GroupConv2d(3, 4, kernel_size=3, group=group, stride=2)),
    "group-conv-dilated-square": lambda group: _first(
        GroupConv2d(3, 4, kernel_size=3, group=group, dilation=2, support="square", padding="valid")
    ),
    "group-conv-mlp": lambda group: _first(GroupConv2d(3, 4, kernel_size=3, group=group, kernel_net="mlp")),
    "group-conv-magnet": lambda group: _first(GroupConv2d(3, 4, kernel_size=3, group=group, kernel_net="magnet")),
    "batch-norm": lambda group: GroupBatchNorm2d(3),
    "instance-norm": lambda group: GroupInstanceNorm2d(3),
    "layer-norm": lambda group: GroupLayerNorm2d(3),
    "max-pool": lambda group: lambda y, samples: GroupMaxPool2d(3)(y),
}


def _first(layer):
    return lambda y, samples: layer(y, samples)[0]


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", LAYERS)
def test_other_layers_permute(name, move):
    torch.manual_seed(1)
    _assert_permuted(
        _stack("E(2)", 8, LAYERS[name]("E(2)")), _images(), MOVES[move], PERMUTATIONS["E(2)", 8, None, move]
    )


class Classifier(nn.Module):
    """Lifting, two group convolutions with norm and pooling, pooled logits."""

    def __init__(self, group, n, **conv_options):
        super().__init__()
        options = {"kernel_size": 5, "group": group, "num_samples": n}
        self.lift = LiftingConv2d(1, 4, **options)
        self.conv1 = GroupConv2d(4, 6, **options, **conv_options)
        self.conv2 = GroupConv2d(6, 6, **options, **conv_options)
        self.norm1, self.norm2 = GroupBatchNorm2d(4), GroupInstanceNorm2d(6)
        self.pool, self.last = GroupMaxPool2d(2), GlobalGroupPool("mean")
        self.classify = nn.Linear(6, 2)

    def forward(self, x):
        y, samples = self.lift(x)
        y = self.pool(torch.relu(self.norm1(y, samples)))
        y, samples = self.conv1(y, samples)
        y = self.pool(torch.relu(self.norm2(y, samples)))
        y, samples = self.conv2(y, samples)
        return self.classify(self.last(torch.relu(y), samples))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_full_rotation_network_cannot_tell_6_from_9(training):
    torch.manual_seed(2)
    net = Classifier("SE(2)", 8).train(training)
    x = _images(channels=1, size=16)
    error = pgconv.diagnostics.equivariance_error(net, x, "SE(2)", torch.tensor([[0.0, 0.0, torch.pi]]))
    assert error <= TOLERANCE


def test_a_partial_network_can():
    torch.manual_seed(2)
    net = Classifier("SE(2)", 8, partial=True).eval()
    for sampler in (net.conv1.sampler, net.conv2.sampler):
        sampler.theta.data.fill_(0.4)
    error = pgconv.diagnostics.equivariance_error(
        net, _images(channels=1, size=16), "SE(2)", torch.tensor([[0.0, 0.0, torch.pi]])
    )
    assert error > 1e-2


class Pooled(nn.Module):
    """Lifting, one convolution, mean pooling."""

    def __init__(self, group, n, **options):
        super().__init__()
        self.lift = LiftingConv2d(2, 3, kernel_size=5, group=group, num_samples=n)
        self.conv = GroupConv2d(3, 4, kernel_size=5, group=group, num_samples=n, **options)
        self.pool = GlobalGroupPool()

    def forward(self, x):
        return self.pool(*self.conv(*self.lift(x)))


@pytest.mark.parametrize("group,n", [("SE(2)", 4), ("SE(2)", 8), ("E(2)", 8), ("M(2)", 2), ("Sim(2)", 4)])
def test_diagnostic_is_zero_for_equivariant_stacks(group, n):
    torch.manual_seed(3)
    net = Pooled(group, n).eval()
    errors = pgconv.diagnostics.equivariance_error(net, _images(), group)
    layer_errors = pgconv.diagnostics.equivariance_error(lambda x: net.conv(*net.lift(x)), _images(), group)
    assert errors.shape == layer_errors.shape == (n if group != "SE(2)" else 4,)
    assert errors.max() <= TOLERANCE and layer_errors.max() <= TOLERANCE


class Shifted(nn.Module):
    """An equivariant layer followed by one that is not: a ramp over the rows."""

    def __init__(self):
        super().__init__()
        self.lift = LiftingConv2d(2, 3, kernel_size=5, group="SE(2)", num_samples=4)

    def forward(self, x):
        y, samples = self.lift(x)
        return y * torch.arange(y.shape[-2], dtype=y.dtype)[:, None], samples


def test_diagnostic_sees_a_broken_layer():
    torch.manual_seed(4)
    errors = pgconv.diagnostics.equivariance_error(Shifted().eval(), _images(), "SE(2)")
    assert errors[0] == 0  # the identity
    assert errors[1:].min() > 0.1


@pytest.mark.parametrize("theta,equivariant", [(1.0, True), (0.5, False)])
def test_diagnostic_sees_a_partial_layer(theta, equivariant):
    torch.manual_seed(5)
    net = Pooled("SE(2)", 8, partial=True).eval()
    net.conv.sampler.theta.data.fill_(theta)
    errors = pgconv.diagnostics.equivariance_error(net, _images(), "SE(2)")
    assert (errors[1:].max() <= TOLERANCE) if equivariant else (errors[1:].min() > 1e-2)


def test_samples_that_the_element_does_not_map_to_each_other_are_refused():
    lift = LiftingConv2d(2, 3, kernel_size=3, group="SE(2)", num_samples=4).eval()
    with pytest.raises(ValueError, match="elements must map the module's output samples to each other"):
        pgconv.diagnostics.equivariance_error(lift, _images(), "SE(2)", torch.tensor([[0.0, 0.0, 0.3]]))


def _point_cases():
    for name in groups.names():
        for chart in groups.get(name).charts:
            if chart != "release":  # it jumps at the identity, so rounding may move a pair across the jump
                yield pytest.param(name, chart, id=f"{name}-{chart}")


@pytest.mark.parametrize("form", ["convolution", "correlation"])
@pytest.mark.parametrize("name,chart", list(_point_cases()))
def test_point_conv_depends_on_relative_elements_only(name, chart, form):
    group = groups.get(name)
    g = torch.Generator().manual_seed(6)
    torch.manual_seed(6)
    net = kernel_nets.MLP(group.coord_dim_of(chart), hidden=6).double()
    v, u, w = (group.sample(n, generator=g, dtype=torch.float64) for n in (7, 5, 3))
    f = torch.randn(2, 7, 3, generator=g, dtype=torch.float64)
    weight = torch.randn(4, 3, 6, generator=g, dtype=torch.float64)

    def run(v, u):
        return point_conv(f, v[None], u[None], net, weight, group=group, chart=chart, form=form)

    for element in w:
        moved = run(group.product(element, v), group.product(element, u))
        assert (moved - run(v, u)).abs().max() <= 1e-9
    assert (run(group.product(w[0], v), u) - run(v, u)).abs().max() > 1e-4


@pytest.mark.parametrize("name,n", [("T(2)", 1), ("T(3)", 1), ("SE(2)", 6), ("E(2)", 4), ("SE(3)", 12), ("Sim(2)", 4)])
def test_point_network_is_invariant_to_grid_motions(name, n):
    torch.manual_seed(7)
    group = groups.get(name)
    lift = PointLift(group, n, turns="aligned").eval()
    conv1, conv2 = (PointGroupConv(c, 5, group, kernel_net="mlp", dtype=torch.float64) for c in (3, 5))
    x = torch.randn(2, 6, group.spatial_dim, dtype=torch.float64)
    f = torch.randn(2, 6, 3, dtype=torch.float64)

    def run(x):
        y, samples = conv1(*lift(x, f))
        y, samples = conv2(torch.tanh(y), samples)
        return y.unflatten(1, (6, n)).mean(2)

    grid = group.grid(n, dtype=torch.float64)
    shift = torch.randn(group.spatial_dim, dtype=torch.float64)
    for h in grid:
        assert (run(group.act(h, x) + shift) - run(x)).abs().max() <= 1e-9
    assert (run(1.3 * x) - run(x)).abs().max() > 1e-4


def test_gates_keep_equivariance():
    """Samples of weight 0 may hold any number: it does not reach the output."""
    torch.manual_seed(8)
    conv = GroupConv2d(2, 3, kernel_size=3, group="SE(2)")
    grid = groups.get("SE(2)").grid(8)[None]
    gates = torch.tensor([[1.0, 0.0] * 4])
    x = torch.randn(1, 2, 8, 7, 7)
    junk = x.clone()
    junk[:, :, 1::2] = 1e3
    kept = conv(x[:, :, ::2], Samples(grid[:, ::2], gates[:, ::2]), Samples(grid, gates))[0]
    gated = conv(junk, Samples(grid, gates))[0]
    assert torch.allclose(gated, kept, atol=TOLERANCE * kept.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_diagnostic_between_quarter_turns_in_low_precision(dtype):
    """Elements and positions are not of the maps' 16 bits."""
    torch.manual_seed(0)
    lift = pgconv.nn.LiftingConv2d(1, 4, kernel_size=5, num_samples=8).eval()
    x, turn = torch.randn(1, 1, 21, 21), torch.tensor([[0.0, 0.0, torch.pi / 4]])
    want = pgconv.diagnostics.equivariance_error(lift, x, group="SE(2)", elements=turn)
    found = pgconv.diagnostics.equivariance_error(lift.to(dtype), x.to(dtype), group="SE(2)", elements=turn)
    torch.testing.assert_close(found.to(want), want, rtol=0.02, atol=0)
