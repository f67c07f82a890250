"""Gates that depend on the input: probabilities, gradients, divergence, and what layers and networks make of them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_sampling import _Cyclic
from torch import nn

from pgconv import groups, sampling, use_backend
from pgconv.functional._kernel import KernelArgs
from pgconv.models import CKResNet, Penalties, gate_probabilities, learned_ranges, monotone_loss, parameter_groups
from pgconv.nn import GlobalGroupPool, GroupConv2d, LiftingConv2d, PointwiseGroupConv2d, SeparableGroupConv2d
from pgconv.sampling import EncodedGates, FixedGrid, HaarUniform, Samples

SE2 = groups.get("SE(2)")
CHANNELS = 3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def inputs(batch=2, n=4, sets=1, dtype=torch.float64, seed=0):
    """Maps, and samples with weights of all sizes, 0 too."""
    g = seeded(seed)
    x = torch.randn(batch, CHANNELS, n, 5, 6, generator=g, dtype=dtype)
    weights = torch.rand(sets, n, generator=g, dtype=dtype)
    weights[:, -1] = 0
    return x, Samples(FixedGrid(SE2, n, dtype=dtype)().elements.expand(sets, -1, -1), weights)


def gates(n=4, group="SE(2)", **options):
    """A sampler whose logits differ by element and by example."""
    options = {"dtype": torch.float64, "hidden": 5} | options
    sampler = EncodedGates(groups.get(group) if isinstance(group, str) else group, n, CHANNELS, **options)
    for number, p in enumerate(sampler.parameters()):
        p.data = torch.randn(p.shape, generator=seeded(number), dtype=p.dtype)
    return sampler


def by_hand(sampler, x, samples):
    """logit [B, n - 1], number by number."""
    first, _, last = sampler.encoder
    rows = []
    for b in range(x.shape[0]):
        w = samples.weights[min(b, samples.weights.shape[0] - 1)]
        z = [sum(w[v] * x[b, c, v].sum() / x[b, c, v].numel() for v in range(len(w))) / sum(w) for c in range(CHANNELS)]
        inner = [sum(a * c for a, c in zip(row, z)) + d for row, d in zip(first.weight, first.bias)]
        inner = [h / (1 + torch.exp(-h)) for h in inner]
        rows.append(torch.stack([sum(a * c for a, c in zip(row, inner)) + d for row, d in zip(last.weight, last.bias)]))
    return torch.stack(rows)


@pytest.mark.parametrize("sets", [1, 2])
def test_probabilities_are_those_of_the_encoder(sets):
    sampler, (x, samples) = gates(), inputs(sets=sets)
    found = sampler.keep_probabilities(x, samples)
    assert found.shape == (2, 4) and not found.requires_grad and (found[:, 0] == 1).all()
    torch.testing.assert_close(found[:, 1:], 1 / (1 + torch.exp(-by_hand(sampler, x, samples))), rtol=1e-12, atol=1e-12)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_training_starts_where_other_learned_samplers_do():
    x, samples = inputs()
    subset = sampling.LearnedSubset(SE2, 4)
    found = EncodedGates(SE2, 4, CHANNELS).keep_probabilities(x, samples)
    torch.testing.assert_close(found, subset.range().expand(2, -1))


@pytest.mark.parametrize("fraction", [0.0, 0.9])
def test_each_example_keeps_elements_as_often_as_its_probability_says(fraction):
    draws, sampler, (x, samples) = 8000, gates(), inputs(3)
    sampler.anneal(fraction)
    drawn = sampler(3 * draws, seeded(1), x=x.repeat(draws, 1, 1, 1, 1), samples=samples).weights.detach()
    p, kept = sampler.keep_probabilities(x, samples), drawn.unflatten(0, (draws, 3)).mean(0)
    assert ((drawn == 0) | (drawn == 1)).all()
    assert ((kept - p).abs() <= 5 * (p * (1 - p) / draws).sqrt()).all()


def test_evaluation_keeps_what_is_more_likely_than_not():
    sampler, (x, samples) = gates().eval(), inputs(5)
    found = sampler(5, x=x, samples=samples)
    assert torch.equal(found.weights[:, 1:], (by_hand(sampler, x, samples) > 0).double())
    assert torch.equal(found.elements, FixedGrid(SE2, 4, dtype=torch.float64)().elements.expand(5, -1, -1))
    assert 0 < found.weights[:, 1:].mean() < 1


@pytest.mark.parametrize("base", ["jittered", "fixed"])
@pytest.mark.parametrize("per_example", [True, False])
@pytest.mark.parametrize(
    ("group", "n"),
    [("SE(2)", 2), ("SE(2)", 4), ("SE(2)", 8), ("E(2)", 2), ("E(2)", 4), ("E(2)", 8), ("M(2)", 2), ("O(2)", 4), ("SO(2)", 3),
     ("Sim(2)", 4), ("R+xSO(2)", 4), ("SO(3)", 12), ("SE(3)", 24), (_Cyclic(), 4)],
)  # fmt: skip
def test_the_identity_is_kept_on_every_group(group, n, per_example, base):
    sampler = gates(n, group, per_example=per_example, base=base)
    sampler.encoder[-1].bias.data.fill_(-40.0)
    sampler.encoder[-1].weight.data.zero_()
    x, samples = inputs(3)
    g = sampler.group
    for mode in (True, False):
        found = sampler.train(mode)(3, seeded(2), x=x, samples=samples)
        assert found.elements.shape == (3, n, g.element_dim) and g.invalid(found.elements) is None
        at = found.weights[0].argmax()
        assert (found.weights.sum(1) == 1).all() and (found.weights[:, at] == 1).all()
        h = found.elements[:, at, g.translation_dim :]
        identity = g.stabilizer.identity(dtype=torch.float64)
        if mode and base == "jittered" and sampler.kind.startswith("rotation"):
            turns = n // 2 if sampler.kind.endswith("mirror") else n
            assert (h[:, 0] >= 0).all() and (h[:, 0] < 2 * math.pi / turns).all()
            assert torch.equal(h[:, 1:], identity[1:].expand(3, -1))
        else:
            assert (g.stabilizer.distance(h, identity) < 1e-6).all()
        # Elements the examples share are not copied.
        assert found.elements.stride(0) == 0 or (per_example and mode and base == "jittered")


def test_elements_are_drawn_for_each_example_where_asked_for():
    x, samples = inputs(3)
    for per_example in (True, False):
        drawn = gates(per_example=per_example)(3, seeded(), x=x, samples=samples).elements
        assert torch.equal(drawn[0], drawn[1]) != per_example


def relaxed(sampler, logits, seed):
    """y, from numbers drawn as the sampler draws them."""
    u = torch.rand(logits.shape, generator=seeded(seed), dtype=torch.float64)
    return torch.sigmoid((logits + torch.log(u) - torch.log(1 - u)) / sampler.temperature)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.9])
def test_gradients_of_gates_are_those_of_the_relaxation(fraction):
    sampler, (x, samples) = gates(base="fixed"), inputs()
    sampler.anneal(fraction)
    leaves = [x.requires_grad_(), samples.weights.requires_grad_(), *sampler.parameters()]
    drawn = sampler(2, seeded(4), x=x, samples=samples).weights
    y = relaxed(sampler, by_hand(sampler, x, samples), 4)
    assert torch.equal(drawn[:, 1:].detach(), (y > 0.5).double())
    cotangent = torch.randn(2, 3, generator=seeded(5), dtype=torch.float64)
    found = torch.autograd.grad((drawn[:, 1:] * cotangent).sum(), leaves)
    for one, two in zip(found, torch.autograd.grad((y * cotangent).sum(), leaves)):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
        assert one.abs().max() > 1e-9
    # By the logit, whose last bias is part of it: y (1 - y) / tau.
    own = torch.autograd.grad(sampler(2, seeded(4), x=x, samples=samples).weights.sum(), sampler.encoder[-1].bias)[0]
    torch.testing.assert_close(own, (y * (1 - y) / sampler.temperature).sum(0).detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("prior", [0.9, 0.5, 1e-3])
def test_the_divergence_and_its_gradients_are_those_of_the_formula(prior):
    sampler, (x, samples) = gates(prior=prior), inputs()
    leaves = [x.requires_grad_(), *sampler.parameters()]
    p = torch.sigmoid(by_hand(sampler, x, samples))
    want = (p * (p / prior).log() + (1 - p) * ((1 - p) / (1 - prior)).log()).sum() / 2
    found = sampler.divergence(x, samples)
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-12)
    for one, two in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(want, leaves)):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: sampler.divergence(x, samples), x)


def test_the_divergence_is_zero_at_the_prior_alone_and_finite_everywhere():
    sampler, (x, samples) = gates(prior=0.7), inputs()
    last = sampler.encoder[-1]
    last.weight.data.zero_()
    for logit in (math.log(0.7 / 0.3), 0.8, 0.9, -3.0, 200.0, -200.0):
        last.bias.data.fill_(logit)
        found = sampler.divergence(x, samples)
        assert found.isfinite() and torch.autograd.grad(found, last.bias)[0].isfinite().all()
        if logit == math.log(0.7 / 0.3):
            assert found.abs() < 1e-12
        else:
            assert found > 1e-4
    assert found.item() == pytest.approx(3 * math.log(1 / 0.3))


def test_the_encoder_reads_a_set_of_weighted_samples():
    """Neither their order nor those of weight 0 count."""
    sampler, (x, samples) = gates(), inputs(n=6)
    want = sampler.keep_probabilities(x, samples)
    order = torch.randperm(6, generator=seeded(3))
    moved = Samples(samples.elements[:, order], samples.weights[:, order])
    torch.testing.assert_close(sampler.keep_probabilities(x[:, :, order], moved), want)
    torch.testing.assert_close(sampler.keep_probabilities(x[:, :, :5], Samples(*(s[:, :5] for s in samples))), want)
    torch.testing.assert_close(sampler.keep_probabilities(x, Samples(samples[0], 7 * samples[1])), want)
    none = sampler.keep_probabilities(x, Samples(samples[0], 0 * samples[1]))
    assert none.isfinite().all() and torch.equal(none, sampler.keep_probabilities(0 * x, samples))


def test_an_image_and_its_turned_copy_have_the_same_gates():
    lift, conv = (
        LiftingConv2d(1, CHANNELS, 5, num_samples=4, sampling="fixed").double(),
        GroupConv2d(CHANNELS, 2, 3, num_samples=8, partial="input").double(),
    )
    conv.sampler.load_state_dict(gates(8, hidden=16).state_dict())
    image = torch.randn(1, 1, 9, 9, generator=seeded(), dtype=torch.float64)
    one, two, other = (
        conv.sampler.keep_probabilities(torch.relu(lift(x)[0]), lift(x)[1])
        for x in (image, image.rot90(1, (2, 3)), image.flip(2) ** 2)
    )
    torch.testing.assert_close(one, two)
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("mode", [True, False])
def test_every_example_has_a_set(batch, mode):
    sampler, (x, samples) = gates(dtype=torch.float32).train(mode), inputs(batch, dtype=torch.float32)
    found = sampler(batch, x=x, samples=samples)
    assert found.elements.shape == (batch, 4, 3) and found.weights.shape == (batch, 4)
    assert found.elements.dtype == found.weights.dtype == torch.float32
    assert sampler.keep_probabilities(x, samples).shape == (batch, 4)
    assert sampler.divergence(x, samples).isfinite()
    conv = GroupConv2d(CHANNELS, 2, 3, num_samples=4, partial="input").train(mode)
    y, out = conv(x, samples)
    assert y.shape == (batch, 2, 4, 5, 6) and out.weights.shape == (batch, 4)
    assert conv(y[:, :1].expand(-1, CHANNELS, -1, -1, -1), out)[0].shape == y.shape


def test_state_precision_and_modes():
    sampler, (x, samples) = gates(), inputs()
    sampler.anneal(0.25)
    other = EncodedGates(SE2, 4, CHANNELS, hidden=5, dtype=torch.float64)
    other.load_state_dict(sampler.state_dict())
    before = {name: value.clone() for name, value in sampler.state_dict().items()}
    for twin in (other, copy.deepcopy(sampler)):
        one, two = (s(2, seeded(3), x=x, samples=samples) for s in (sampler, twin))
        assert torch.equal(one.elements, two.elements) and torch.equal(one.weights, two.weights)
    assert all(torch.equal(before[name], value) for name, value in sampler.state_dict().items())
    for cast in (lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.float()):
        low = cast(copy.deepcopy(sampler))(2, x=x.float(), samples=samples)
        assert low.elements.dtype == low.weights.dtype == torch.float32
    assert sampler(2, x=x, samples=samples).elements.dtype == torch.float64
    assert repr(sampler).startswith("EncodedGates(\n  SE(2), n=4, channels=3, prior=0.9")


def test_autocast_leaves_gates_alone():
    sampler, (x, samples) = gates(dtype=torch.float32), inputs(64, dtype=torch.float32)
    want = sampler.keep_probabilities(x, samples), sampler.divergence(x, samples)
    with torch.autocast("cpu", torch.bfloat16):
        found = sampler.keep_probabilities(x, samples), sampler.divergence(x, samples)
    assert all(torch.equal(one, two) for one, two in zip(found, want))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EncodedGates("SE(2)", 4, 3), "group must be a group object"),
        (lambda: EncodedGates(groups.get("T(2)"), 4, 3), r"EncodedGates learns a part of the stabiliser, but T\(2\) has none"),
        (lambda: EncodedGates(SE2, 1, 3), r"EncodedGates: n must be >= 2 \(the identity is always kept\), got 1"),
        (lambda: EncodedGates(groups.get("E(2)"), 3, 3), "n = 3"),
        (lambda: EncodedGates(SE2, 4, 0), "channels must be an integer >= 1"),
        (lambda: EncodedGates(SE2, 4, 3, hidden=0), "hidden must be an integer >= 1"),
        (lambda: EncodedGates(SE2, 4, 3, prior=1.0), "prior must be a probability between 0 and 1, received 1.0"),
        (lambda: EncodedGates(SE2, 4, 3, base="haar"), "base must be one of 'jittered', 'fixed', received 'haar'"),
        (lambda: gates()(2), r"the layer passes; .* call sampler\(batch_size, x=x, samples=samples\)"),
        (lambda: gates()(2, x=inputs()[0]), "x and samples are missing"),
        (lambda: gates()(2, x=inputs()[0][:, :2], samples=inputs()[1]), r"axis 1 \(C\) should be 3"),
        (lambda: gates()(2, x=inputs()[0][:, :, :2], samples=inputs()[1]), "samples.weights must be"),
        (lambda: sampling.get("encoded", SE2, 4), "unknown sampler 'encoded'"),
        (lambda: GroupConv2d(3, 3, 3, partial="inputs"), "GroupConv2d: partial must be one of False, True, 'input', received"),
        (lambda: GroupConv2d(3, 3, 3, partial="input", sampling="haar"), "partial='input' chooses the learned sampler itself"),
        (lambda: GroupConv2d(3, 3, 3, partial="input", compat="release"), "partial='input' has no compat mode, got compat="),
        (lambda: CKResNet(1, 3, partial="input", final_positions=4), "partial='input' leaves no fixed positions"),
    ],
)  # fmt: skip
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()


LAYERS = {
    "group": lambda **options: GroupConv2d(CHANNELS, 2, 3, **options),
    "pointwise": lambda **options: PointwiseGroupConv2d(CHANNELS, 2, **options),
    "separable": lambda **options: SeparableGroupConv2d(CHANNELS, 2, 3, **options),
}


def followed(x, samples, layer, after, out_samples=None):
    """Through two layers, the weights of the first in the mean of the second; and the pooling."""
    y, out = layer(x, samples, out_samples, generator=seeded(6))
    z, last = after(y, out)
    return GlobalGroupPool()(torch.tanh(z), last), out


def leaves_of(x, layer, after):
    return [x, *(p for m in (layer, after) for name, p in m.named_parameters() if "sampler" not in name)]


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("group", ["SE(2)", "E(2)"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_is_the_reference_on_the_samples_of_each_example_alone(kind, group, per_example):
    torch.manual_seed(0)
    layer = LAYERS[kind](group=group, num_samples=4, partial="input", samples_per_example=per_example).double()
    after = GroupConv2d(2, 2, 3, group=group).double()
    own = getattr(layer, "over_group", layer)
    assert isinstance(own.sampler, EncodedGates) and own.sampler.per_example == per_example
    own.sampler.encoder[-1].bias.data.fill_(0.3)
    x = torch.randn(3, CHANNELS, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    samples = FixedGrid(groups.get(group), 4, dtype=torch.float64)()
    leaves = leaves_of(x, layer, after)
    found, out = followed(x, samples, layer, after)
    assert 0 < out.weights.detach()[:, 1:].mean() < 1
    through = torch.autograd.grad(found.square().sum(), list(own.sampler.parameters()), retain_graph=True)
    assert all(grad.isfinite().all() for grad in through) and through[-1].abs().max() > 0
    slow_layer, slow_after = copy.deepcopy(layer), copy.deepcopy(after)
    for module in (slow_layer, slow_after):
        for part in module.modules():
            if hasattr(part, "backend"):
                part.backend = "reference"
    fixed = [Samples(e[None], w[None]) for e, w in zip(out.elements, out.weights.detach())]
    alone = torch.cat([followed(x[b : b + 1], samples, slow_layer, slow_after, fixed[b])[0] for b in range(3)])
    torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-10)
    # Gates as numbers: the gradient that goes through them is another one.
    shared, _ = followed(x, samples, layer, after, Samples(out.elements, out.weights.detach()))
    want = torch.autograd.grad(alone.square().sum(), leaves_of(x, slow_layer, slow_after))
    for one, two in zip(torch.autograd.grad(shared.square().sum(), leaves), want):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)


def test_the_mean_of_the_next_layer_is_over_the_samples_that_are_there():
    """Each example's own: what is left out counts neither above nor below."""
    conv = GroupConv2d(CHANNELS, 2, 3).double()
    x, _ = inputs(2)
    weights = torch.tensor([[1.0, 0, 1, 0], [1, 1, 1, 0]], dtype=torch.float64)
    grid = FixedGrid(SE2, 4, dtype=torch.float64)().elements
    y = conv(x, Samples(grid.expand(2, -1, -1), weights), Samples(grid, torch.ones(1, 4, dtype=torch.float64)))[0]
    for b, there in enumerate(([0, 2], [0, 1, 2])):
        part = Samples(grid[:, there], torch.ones(1, len(there), dtype=torch.float64))
        want = conv(x[b : b + 1, :, there], part, Samples(grid, torch.ones(1, 4, dtype=torch.float64)))[0]
        torch.testing.assert_close(y[b : b + 1], want)


def test_elements_that_were_expanded_make_one_kernel(monkeypatch):
    seen = []
    features = KernelArgs.features
    monkeypatch.setattr(
        KernelArgs, "features", lambda self, v, u: seen.append((v.shape[0], u.shape[0])) or features(self, v, u)
    )
    x, samples = inputs(3)
    for per_example, sets in ((False, 1), (True, 3)):
        conv = GroupConv2d(CHANNELS, 2, 3, num_samples=4, partial="input", samples_per_example=per_example).double()
        y, out = conv(x, samples)
        GroupConv2d(2, 2, 3).double()(y, out)
        conv.kernel_norm(samples, out)
        assert seen == [(1, sets), (sets, sets), (1, sets)]
        seen.clear()
    # Where a gradient to each copy is wanted, there is one.
    conv = GroupConv2d(CHANNELS, 2, 3).double()
    copies = samples.elements.expand(3, -1, -1).detach().requires_grad_()
    grad = torch.autograd.grad(conv(x, Samples(copies, samples.weights.expand(3, -1)))[0].square().sum(), copies)[0]
    assert (grad.abs().amax((1, 2)) > 0).all()


def test_the_norm_of_kernels_with_weights_by_example_is_the_root_of_the_mean_square():
    conv = GroupConv2d(CHANNELS, 2, 3).double()
    grid = FixedGrid(SE2, 4, dtype=torch.float64)()
    weights = torch.tensor([[1.0, 0, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0]], dtype=torch.float64)
    out = Samples(grid.elements.expand(3, -1, -1), weights)
    each = [conv.kernel_norm(grid, Samples(grid.elements, w[None])).square() for w in weights]
    torch.testing.assert_close(conv.kernel_norm(grid, out), (sum(each) / 3).sqrt())


class Seeing(nn.Module):
    """A sampler of one's own: keeps samples at which the maps are positive in the mean."""

    sees_input = True

    def forward(self, batch_size=1, generator=None, x=None, samples=None):
        weights = (x.mean((1, 3, 4)) > 0).to(x.dtype)
        weights[:, 0] = 1
        return Samples(samples.elements.expand(batch_size, -1, -1), weights)


def test_a_sampler_of_ones_own_may_see_the_input():
    x, samples = inputs(2)
    out = GroupConv2d(CHANNELS, 2, 3, sampling=Seeing()).double()(x, samples)[1]
    assert torch.equal(out.weights[:, 1:], (x.mean((1, 3, 4))[:, 1:] > 0).double())


SMALL = {"num_samples": 4, "width": 4, "kernel_size": 3, "factors": (1,), "hidden": 4, "norm": "layer", "pools": (0,)}


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_compiled_network_is_the_same_and_is_compiled_once(dynamic, fresh_compiler):
    torch.manual_seed(0)
    network = CKResNet(1, 2, partial="input", **SMALL)
    run = torch.compile(network, fullgraph=True, backend="aot_eager", dynamic=dynamic)

    def step(call, batch):
        torch.manual_seed(3)
        network.zero_grad()
        logits, penalties = call(torch.randn(batch, 1, 10, 10), with_penalty=True)
        assert isinstance(penalties, Penalties)
        (logits.square().sum() + sum(penalties)).backward()
        return logits.detach(), *(p.detach() for p in penalties), *(p.grad.clone() for p in network.parameters())

    for number, batch in enumerate((2, 5, 3) if dynamic else (2, 2)):
        want = step(network, batch)
        with torch._dynamo.config.patch(error_on_recompile=number > 0):
            found = step(run, batch)
        for one, two in zip(found, want, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_probabilities_by_layer_and_what_reads_learned_ranges():
    torch.manual_seed(0)
    network, x = CKResNet(1, 2, partial="input", **SMALL), torch.randn(3, 1, 10, 10)
    network.blocks[0].conv1.eval()
    for sampler in (m for m in network.modules() if isinstance(m, EncodedGates)):
        sampler.encoder[-1].weight.data.normal_()
    found = gate_probabilities(network, x)
    assert list(found) == ["blocks.0.conv1.sampler", "blocks.0.conv2.sampler", "last.sampler"]
    assert all(p.shape == (3, 4) and (p[:, 0] == 1).all() and (p[0] != p[1]).any() for p in found.values())
    assert network.training and network.last.training and not network.blocks[0].conv1.training
    with pytest.raises(ValueError):
        gate_probabilities(network, x[:, 0])
    assert network.training and not any(m._forward_pre_hooks for m in network.modules())
    # The sum of what the layers say, from the probabilities alone.
    _, penalties = network.eval()(x, with_penalty=True)
    want = sum((p * (p / 0.9).log() + (1 - p) * ((1 - p) / 0.1).log())[:, 1:].sum(1).mean() for p in found.values())
    torch.testing.assert_close(penalties.gates, want, rtol=1e-4, atol=1e-5)
    assert gate_probabilities(CKResNet(1, 2, partial=True, **SMALL), x) == {}
    assert learned_ranges(network) == {} and monotone_loss(network) == 0
    ranges = parameter_groups(network, 1e-3, range_lr=1.0)[1]
    encoders = [p for name, p in network.named_parameters() if ".encoder." in name]
    assert ranges["name"] == "ranges" and ranges["lr"] == 1.0
    assert {id(p) for p in ranges["params"]} == {id(p) for p in encoders} and len(encoders) == 4 * len(found)


def test_gates_learn_where_an_invariant_network_is_at_chance():
    """A shape, and the shape upside down."""
    shape = torch.zeros(10, 10)
    shape[2:8, 4] = shape[6, 4:8] = 1.0
    upright = shape + 0.1 * torch.randn(8, 1, 10, 10, generator=seeded())
    images, labels = torch.cat([upright, upright.flip(-2)]), torch.arange(2).repeat_interleave(8)

    def trained(**options):
        torch.manual_seed(0)
        network = CKResNet(1, 2, **SMALL | {"group": "M(2)", "num_samples": 2}, **options)
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for step in range(80):
            sampling.anneal(network, step / 80)
            logits, penalties = network(images, with_penalty=True)
            loss = F.cross_entropy(logits, labels) + 1e-3 * penalties.gates
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return F.cross_entropy(network.eval()(images), labels).item()

    assert trained(partial="input") < 0.1
    assert trained(one_grid=True) == pytest.approx(math.log(2), abs=1e-3)  # the two are one to it


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", [{}, {"form": "correlation"}, {"chart": "lie"}, {"compat": "release"}], ids=str)
@pytest.mark.parametrize("layer", [GroupConv2d, PointwiseGroupConv2d])
@pytest.mark.parametrize("group", ["SE(2)", "E(2)", "M(2)"])
def test_weights_by_example_on_elements_that_are_one_set(group, layer, form, dtype):
    """As each example alone on the reference, in values and all gradients; other numbers of sets are refused."""
    torch.manual_seed(0)
    options = {"group": group, "num_samples": 2, "hidden": 8, **form}
    conv = layer(CHANNELS, 2, **options, **({"kernel_size": 3} if layer is GroupConv2d else {})).to(dtype)
    x, weights = torch.randn(3, CHANNELS, 2, 5, 6, dtype=dtype, requires_grad=True), torch.rand(3, 2, dtype=dtype)
    elements = HaarUniform(groups.get(group), 2, dtype=torch.float64)().elements
    leaves = [x, weights.requires_grad_(), *conv.parameters()]
    whole = conv(x, Samples(elements, weights))[0]
    cotangent = torch.randn_like(whole)
    found = whole, *torch.autograd.grad(whole, leaves, cotangent)
    exact, xs, ws = copy.deepcopy(conv).double(), *(t.detach().double().requires_grad_() for t in (x, weights))
    with use_backend("reference"):
        alone = torch.cat([exact(xs[b : b + 1], Samples(elements, ws[b : b + 1]))[0] for b in range(3)])
    want = alone, *torch.autograd.grad(alone, [xs, ws, *exact.parameters()], cotangent.double())
    for a, b in zip(found, want, strict=True):
        # Of the largest value: sums of rounded terms are as far off where they cancel.
        assert (a - b).abs().max() <= (1e-5 if dtype == torch.float32 else 1e-13) * b.abs().max()
    with pytest.raises(ValueError, match="sample_weight must be"):
        conv(x, Samples(elements, weights[:2]))
    with pytest.raises(ValueError, match=r"samples\.weights must be"):
        conv(x, Samples(elements.expand(3, -1, -1), weights[:2]))
