"""Points that a mask hides, and examples without any: whatever they hold reaches no other number, forward or backward."""

from __future__ import annotations

import pytest
import torch

import pgconv
from pgconv import functional, groups, kernel_nets
from pgconv.nn import (
    GlobalGroupPool,
    GroupBatchNorm2d,
    GroupInstanceNorm2d,
    GroupLayerNorm2d,
    PointGroupConv,
    PointLift,
)
from pgconv.sampling import Samples

B, P, C, WIDTH = 3, 6, 2, 4
MASK = torch.arange(P) < torch.tensor([[P], [4], [3]])
BAD = pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0], ids=["nan", "inf", "zero"])
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def padded(x, value, mask=MASK):
    """With that in the place of what is hidden."""
    return torch.where(mask[..., None], x, value)


def score(y, seed=9):
    """A number to which all values contribute differently."""
    return (y * randn(*y.shape, seed=seed).to(y.dtype)).sum()


def gradients(y, leaves):
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, _grads(score(y), leaves))]


def _grads(value, leaves):
    return torch.autograd.grad(value, leaves, allow_unused=True)


def assert_equal(found, want):
    for a, b in zip(found, want, strict=True):
        assert torch.equal(a, b)


@BAD
@pytest.mark.parametrize("backend", [None, "reference"], ids=["best", "reference"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-example"])
@pytest.mark.parametrize("near", [False, True], ids=["all", "neighbors"])
@pytest.mark.parametrize("name", ["SE(2)", "SE(3)", "SO(2)/1"])
def test_hidden_elements_and_features_of_a_convolution(name, near, shared, backend, bad):
    group, mask = groups.get(name), torch.arange(P) < 4 if shared else MASK
    mask = mask.expand(B, P)
    v = group.sample(P * (1 if shared else B), generator=generator()).unflatten(0, (-1, P))
    f, u, w = randn(B, P, C), group.sample(5, generator=generator(1))[None], torch.rand(B, P, generator=generator(2))
    net, weight = kernel_nets.SIREN(group.coord_dim, hidden=8), randn(WIDTH, C, 8, seed=3).requires_grad_()
    neighbors = torch.randint(0, P, (B, 5, 3), generator=generator(4)) if near else None

    def results(f, v, w):
        leaves = [t.clone().requires_grad_() for t in (f, v, w)]
        options = {"group": group, "sample_weight": leaves[2], "mask": mask, "neighbors": neighbors, "backend": backend}
        y = functional.point_conv(leaves[0], leaves[1], u, net, weight, **options)
        return [y.detach(), *gradients(y, [*leaves, weight, *net.parameters()])]

    hidden = padded(f, bad, mask), padded(v, bad, mask[: len(v)]), padded(w[..., None], bad, mask)[..., 0]
    found = results(*hidden)
    assert_equal(found, results(f, v, w))
    for gradient, there in zip(found[1:4], (mask, mask[: len(v)], mask)):
        assert not gradient[~there].any()


def test_a_mask_on_another_device_or_of_another_shape_is_refused():
    group = groups.get("SE(2)")
    v = group.sample(P, generator=generator())[None]
    arguments = randn(B, P, C), v, v, kernel_nets.SIREN(3, hidden=8), randn(WIDTH, C, 8)
    for mask in (MASK.to("meta"), MASK[:, 1:], MASK.float(), MASK[:1]):
        with pytest.raises(ValueError, match="mask"):
            functional.point_conv(*arguments, group=group, mask=mask)
    with pytest.raises(ValueError, match="v must be"):
        functional.point_conv(arguments[0], v[:, 1:], *arguments[2:], group=group, mask=MASK)


LIFTED = {"T(2)": 1, "SE(2)": 2, "E(2)": 4, "SO(2)": 1, "O(2)": 2, "R+xSO(2)": 1, "Sim(2)": 2, "SE(3)": 1, "SO(3)": 2}


@BAD
@TRAINING
@pytest.mark.parametrize("name", LIFTED)
def test_hidden_points_of_a_lifting(name, training, bad):
    """Also where no element of the group reaches the origin."""
    lift = PointLift(name, LIFTED[name]).train(training)
    x, f = randn(B, P, lift.group.spatial_dim), randn(B, P, C, seed=1)

    def results(x, f):
        leaves = [t.clone().requires_grad_() for t in (x, f)]
        y, samples = lift(*leaves, MASK, generator(5))
        total = score(y) + score(samples.elements)
        return [y.detach(), *(t.detach() for t in samples), *_grads(total, leaves)]

    found = results(padded(x, bad), padded(f, bad))
    assert all(t.isfinite().all() for t in found)
    assert_equal(found, results(padded(x, 0.5), padded(f, 0.5)))
    there = MASK.repeat_interleave(lift.num_samples, 1)
    whole, samples = lift(x, f, generator=generator(5))
    assert torch.equal(found[0][there], whole[there]) and torch.equal(found[1][there], samples.elements[there])


def network(near=None, **options):
    torch.manual_seed(0)
    return pgconv.models.LieResNet(C, 3, num_samples=2, width=8, blocks=2, neighborhood=near, **options).double()


NEAR = {
    "all": None,
    "nearest": pgconv.neighbors.Nearest(5),
    "within": pgconv.neighbors.Within(1.0),
    "ball": pgconv.neighbors.Ball(2.0, 4),
}


def training_step(model, x, f, mask):
    """Logits, all gradients and the buffers."""
    leaves = [t.double().requires_grad_() for t in (x, f)]
    y = model(*leaves, mask, generator(5))
    found = _grads(score(y), [*leaves, *model.parameters()])
    return [y.detach(), *found, *(b.clone() for b in model.buffers())]


@BAD
@TRAINING
@pytest.mark.parametrize("near", NEAR)
def test_hidden_points_of_a_network(near, training, bad):
    x, f = randn(B, P, 2), randn(B, P, C, seed=1)
    found, want = (
        training_step(network(NEAR[near]).train(training), padded(x, value), padded(f, value), MASK)
        for value in (bad, 0.5)
    )
    assert all(t.isfinite().all() for t in found)
    assert_equal(found, want)


@TRAINING
@pytest.mark.parametrize("near", NEAR)
def test_an_example_without_points_is_as_if_it_were_not_there(near, training):
    """Its own logits are those of nothing."""
    x, f = randn(B, P, 2), randn(B, P, C, seed=1)
    hides_all = torch.cat([MASK[:2], torch.zeros(1, P, dtype=torch.bool)])
    model = network(NEAR[near], turns="aligned").train(training)
    found = training_step(model, x, f, hides_all)
    assert all(t.isfinite().all() for t in found)
    assert torch.equal(found[0][2], model.classify.bias)
    assert not found[1][2].any() and not found[2][2].any()
    others = training_step(network(NEAR[near], turns="aligned").train(training), x[:2], f[:2], MASK[:2])
    torch.testing.assert_close(found[0][:2], others[0])
    for a, b in zip(list(model.buffers()), others[-len(list(model.buffers())) :], strict=True):
        torch.testing.assert_close(a, b)


def test_a_batch_without_points_teaches_nothing():
    model, nothing = network(), torch.zeros(B, P, dtype=torch.bool)
    before = {key: b.clone() for key, b in model.named_buffers() if "running" in key}
    found = training_step(model, randn(B, P, 2), randn(B, P, C), nothing)
    assert all(t.isfinite().all() for t in found)
    for key, value in before.items():
        assert torch.equal(model.get_buffer(key), value), key


@pytest.mark.parametrize("sets", [1, 2], ids=["shared", "per-example"])
@pytest.mark.parametrize(
    "layer",
    [
        GlobalGroupPool("mean"),
        GlobalGroupPool("max"),
        GroupBatchNorm2d(C),
        GroupInstanceNorm2d(C, affine=True),
        GroupLayerNorm2d(C),
    ],
    ids=repr,
)
def test_layers_on_samples_that_are_all_switched_off(layer, sets):
    """Pooling gives 0, norms leave what is there as it is; gradients are finite, and those of pooling zero."""
    x = randn(2, C, 4, 3, 3).requires_grad_()
    weights = torch.zeros(sets, 4)
    weights[1:] = 1.0
    weights.requires_grad_()
    y = layer(x, Samples(torch.zeros(1, 4, 3), weights))
    pools = isinstance(layer, GlobalGroupPool)
    if pools:
        assert not y[0].any()
    elif sets == 1 or not isinstance(layer, GroupBatchNorm2d):
        torch.testing.assert_close(y[0], x[0], rtol=1e-4, atol=1e-4)
    if sets == 2:
        alone = layer(x[1:], Samples(torch.zeros(1, 4, 3), weights[1:]))
        torch.testing.assert_close(y[1:], alone)
    found = [g for g in _grads(score(y), [x, weights, *layer.parameters()]) if g is not None]
    assert all(g.isfinite().all() for g in found)
    assert not pools or not found[0][0].any()


def test_what_is_hidden_does_not_reach_the_layers_behind_a_lifting():
    lift, conv = PointLift("SE(2)", 2), PointGroupConv(C, WIDTH, "SE(2)", downsample=0.5)
    x, f = randn(B, P, 2), randn(B, P, C)
    y, samples = conv(*lift(padded(x, torch.nan), padded(f, torch.nan), MASK))
    maps = y.mT[..., None, None]
    for layer in (GroupBatchNorm2d(WIDTH), GlobalGroupPool("mean"), GlobalGroupPool("max")):
        assert layer(maps, samples).isfinite().all()
