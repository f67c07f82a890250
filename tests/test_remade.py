"""Maps that the backward pass makes again: nobody keeps them, and everything else is as if they had been kept."""

import copy

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

import pgconv
from pgconv.models import _pooled_norm, _remade
from pgconv.models._remade import remade_relu

NETWORKS = {
    "residual": (pgconv.models.CKResNet, {"width": 4, "kernel_size": 3}),
    "residual-partial": (pgconv.models.CKResNet, {"width": 4, "kernel_size": 3, "partial": True, "pools": (0, 2)}),
    "residual-input": (pgconv.models.CKResNet, {"width": 4, "kernel_size": 3, "partial": "input", "norm": "layer"}),
    "residual-one-grid": (
        pgconv.models.CKResNet,
        {"width": 4, "kernel_size": 3, "one_grid": True, "factors": (1, 1), "last_translations": True, "dropout": 0.5},
    ),
    "13-layer": (pgconv.models.GCNN13, {"width": 4}),
    "13-layer-partial": (pgconv.models.GCNN13, {"width": 4, "partial": True, "norm": "layer", "dropout": 0.0}),
}


@pytest.fixture(autouse=True)
def whatever_size(monkeypatch):
    """Small maps are made again, too."""
    monkeypatch.setattr(_remade, "SMALL", 0)


@pytest.fixture
def kept_as_usual(monkeypatch):
    """Calls a function while all maps are kept."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(_remade, "can_be_recomputed", lambda: False)
            return function()

    return call


def network(name):
    kind, options = NETWORKS[name]
    torch.manual_seed(0)
    return kind(2, 3, group="SE(2)", num_samples=3, **options).train()


def step(model, x, autocast=False):
    """Loss, gradients and buffers of a step with all penalties."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits, penalties = model(x, with_penalty=True)
    loss = torch.logsumexp(logits.float(), -1).sum() + sum(penalties)
    loss.backward()
    grads = {"x": x.grad} | {key: p.grad for key, p in model.named_parameters()}
    return {"loss": loss.detach()} | grads | {f"buffer {key}": b for key, b in model.named_buffers()}


def assert_same(found, want):
    assert found.keys() == want.keys()
    for key, value in want.items():
        assert (found[key] is None) == (value is None), key
        assert value is None or torch.equal(found[key], value), key


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_to_the_bit_that_with_all_maps_kept(name, autocast, kept_as_usual):
    model, x = network(name), torch.randn(3, 2, 13, 12)
    other = copy.deepcopy(model)
    assert_same(step(model, x, autocast), kept_as_usual(lambda: step(other, x, autocast)))


@pytest.mark.parametrize("name", ["residual", "13-layer"])
@pytest.mark.parametrize("training", [False, True])
def test_a_network_in_evaluation_or_changed_before_the_backward_pass(name, training, kept_as_usual):
    x = torch.randn(2, 2, 12, 12)

    def gradients():
        model = network(name)
        model(x)  # Running statistics that are not those of the start.
        model.train(training)
        torch.manual_seed(1)
        y = model(x, torch.Generator().manual_seed(2))
        model.train(not training)
        y.square().sum().backward()
        return {key: p.grad for key, p in model.named_parameters()} | dict(model.named_buffers())

    assert_same(gradients(), kept_as_usual(gradients))


def parts():
    torch.manual_seed(0)
    norm, conv = pgconv.nn.GroupBatchNorm2d(3), torch.nn.Conv3d(3, 2, 1)
    return norm, conv, torch.randn(2, 3, 4, 5, 6).requires_grad_()


def test_nobody_keeps_the_map(kept_as_usual):
    norm, conv, x = parts()

    def is_kept():
        with remade_relu(norm, x, None, pgconv.nn.GroupMaxPool2d(2)) as maps:
            y = conv(maps).sin() + maps.transpose(3, 4).square().mean()
            kept = StorageWeakRef(maps.untyped_storage())
        del maps
        found = not kept.expired()
        y.sum().backward()
        assert kept.expired()
        return found

    assert not is_kept() and kept_as_usual(is_kept)


@pytest.mark.parametrize("more, times", [(1, 1), (0, 2)])
def test_small_maps_are_kept(more, times, monkeypatch):
    norm, conv, x = parts()
    calls, normalised = [], norm.normalised
    monkeypatch.setattr(norm, "normalised", lambda *args, **kwargs: calls.append(1) or normalised(*args, **kwargs))
    monkeypatch.setattr(_remade, "SMALL", 4 * x.numel() + more)
    with remade_relu(norm, x, None) as maps:
        y = conv(maps)
    y.sum().backward()
    assert len(calls) == times


@pytest.mark.parametrize("pool", [None, pgconv.nn.GroupMaxPool2d(2), lambda y: y.transpose(3, 4).clone()])
@pytest.mark.parametrize("layout", [torch.clone, pgconv.group_last, lambda x: x[..., :1, :]])
def test_layouts(layout, pool, kept_as_usual):
    norm, conv, x = parts()
    norm, conv, x = norm.double(), conv.double(), layout(torch.randn(2, 3, 4, 6, 5).double()).requires_grad_()
    pool = None if x.shape[3] == 1 else pool

    def gradients():
        with remade_relu(norm, x, None, pool) as maps:
            y = conv(maps) * maps.transpose(1, 2)[:, 1:, :2].transpose(1, 2).sum(2, keepdim=True).exp()
        return dict(enumerate(torch.autograd.grad(y.square().sum(), [x, norm.weight, conv.weight])))

    assert_same(gradients(), kept_as_usual(gradients))


def test_views_of_the_map_inside_one_another_and_twice(kept_as_usual):
    norm, conv, x = parts()

    def gradients():
        x.grad, norm.weight.grad, norm.bias.grad = None, None, None
        with remade_relu(norm, x, None) as outer:
            y = conv(outer)
            with remade_relu(pgconv.nn.GroupInstanceNorm2d(2), y, None) as inner:
                z = inner.transpose(1, 2)[:, 1:] ** 2 * outer[:, :2].flip(1).transpose(1, 2)[:, 1:].exp()
        z.sum().backward(retain_graph=True)
        z.sum().backward()
        return {"x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad, "conv": conv.weight.grad.clone()}

    found = gradients()
    conv.weight.grad = None
    assert_same(found, kept_as_usual(gradients))


def test_second_derivatives(kept_as_usual):
    norm, conv, x = parts()

    def gradients():
        with remade_relu(norm, x, None) as maps:
            y = conv(maps).square().sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        second = torch.autograd.grad(first.square().sum(), [x, norm.weight, conv.weight])
        return dict(enumerate([first.detach(), *second]))

    assert_same(gradients(), kept_as_usual(gradients))


def test_the_map_is_made_once_for_its_neighbours_and_counts_once():
    model, x = network("residual"), torch.randn(2, 2, 12, 12)
    calls = []
    for key, module in model.named_modules():
        if isinstance(module, pgconv.nn.GroupInstanceNorm2d):
            module.register_forward_hook(lambda *_, key=key: calls.append(key))
    step(model, x)
    assert {key: calls.count(key) for key in calls} == {
        f"blocks.{block}.norm{number}": 2 for block in (0, 1) for number in (1, 2)
    }
    assert all(int(b) == 1 for key, b in model.named_buffers() if key.endswith("num_batches_tracked"))


def test_what_was_before_the_norm_must_not_change():
    _, conv, x = parts()
    y = x + 0
    with remade_relu(_Double(), y, None) as maps:
        z = conv(maps)
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"\[2, 3, 4, 5, 6\].* modified in place"):
        z.sum().backward()


class _Double(torch.nn.Module):
    """A norm for which autograd keeps nothing that would tell."""

    def forward(self, x, _):
        return x * 2


def test_other_plans_for_what_is_kept_are_left_alone(kept_as_usual):
    x = torch.randn(2, 2, 12, 12)

    def on_cpu():
        with torch.autograd.graph.save_on_cpu():
            return step(network("residual-partial"), x)

    def checkpointed():
        model = network("residual-partial")
        whole = torch.nn.Module()
        whole.model = model
        whole.forward = lambda *args, **options: checkpoint(model, *args, use_reentrant=False, **options)
        return {key.replace("model.", ""): value for key, value in step(whole, x).items()}

    want = kept_as_usual(lambda: step(network("residual-partial"), x))
    assert_same(on_cpu(), want)
    found = checkpointed()
    for key in want:
        # Under checkpoints the norms run, and count, twice.
        assert key.startswith("buffer") or torch.equal(found[key], want[key]), key


def test_function_transforms():
    norm, conv, x = parts()
    norm = pgconv.nn.GroupInstanceNorm2d(3)

    def loss(x):
        with remade_relu(norm, x[None], None) as maps:
            return conv(maps).square().sum()

    found = torch.vmap(torch.func.grad(loss))(x.detach())
    torch.stack([loss(image) for image in x]).sum().backward()
    torch.testing.assert_close(found, x.grad)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("k", [2, 3])
def test_norm_and_pooling_by_parts_are_to_the_bit_the_modules(k, affine, momentum, monkeypatch):
    torch.manual_seed(0)
    norm, pool = pgconv.nn.GroupBatchNorm2d(5, affine=affine, momentum=momentum), pgconv.nn.GroupMaxPool2d(k)
    x = torch.randn(3, 5, 2, 7, 9)
    if affine:
        with torch.no_grad():
            norm.weight.copy_(torch.randn(5))
            norm.bias.copy_(torch.randn(5))
    found = []
    for way in ("modules", "one part", "parts of two", "parts of one"):
        own, leaf = copy.deepcopy(norm), x.clone().requires_grad_()
        monkeypatch.setattr(_pooled_norm, "PART", {"one part": 1 << 40, "parts of two": 2 * x.nbytes // 5}.get(way, 1))
        for _ in range(2):
            y = pool(own(leaf)) if way == "modules" else _pooled_norm.pooled_norm(own, leaf, pool)
        again = y.detach() if way == "modules" else _pooled_norm.values_again(own, leaf, pool)
        wanted = [leaf, *own.parameters()]
        first = torch.autograd.grad(y.square().sum(), wanted, create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in first), wanted)
        found.append([y.detach(), again, *[g.detach() for g in first], *own.buffers()])
        found[-1].append(torch.cat([g.flatten() for g in second]))
    for others in found[1:]:
        for a, b in zip(others[:-1], found[0][:-1], strict=True):
            assert torch.equal(a, b)
        torch.testing.assert_close(others[-1], found[0][-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["13-layer", "13-layer-partial", "residual", "residual-partial"])
def test_the_lifted_map_is_not_kept(name, kept_as_usual):
    model = network(name)
    kept, own = [], model.lift.forward

    def watched(*args):
        y, samples = own(*args)
        kept.append(StorageWeakRef(y.untyped_storage()))
        return y, samples

    model.lift.forward = watched

    def is_kept():
        logits = model(torch.randn(2, 2, 16, 16))
        found = not kept[-1].expired()
        logits.sum().backward()
        return found

    assert not is_kept() and kept_as_usual(is_kept)


def test_what_is_made_again_of_other_weights_is_refused():
    model = network("13-layer")
    logits = model(torch.randn(2, 2, 16, 16))
    with torch.no_grad():
        model.lift.weight.add_(1)
    with pytest.raises(RuntimeError, match=r"\[4, 2, 8\].* modified in place"):
        logits.sum().backward()
