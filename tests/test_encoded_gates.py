"""Gates that depend on the input: probabilities, gradients and divergence are those of the formula; layers use them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

import pgconv
from pgconv import groups
from pgconv.models import CKResNet, gate_probabilities, learned_ranges, monotone_loss
from pgconv.models._images import Penalties
from pgconv.nn import GroupConv2d, PointwiseGroupConv2d, SeparableGroupConv2d
from pgconv.sampling import EncodedGates, FixedGrid, JitteredGrid, Samples


def sampler(group="SE(2)", n=4, channels=3, seed=0, **options):
    """One whose last layer says something."""
    torch.manual_seed(seed)
    own = EncodedGates(groups.get(group), n, channels, **options)
    torch.nn.init.normal_(own.encoder[2].weight, std=3.0)
    torch.nn.init.zeros_(own.encoder[2].bias)
    return own


def maps(batch=5, channels=3, group="SE(2)", n=4, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    grid = FixedGrid(groups.get(group), n, dtype=dtype)()
    weights = torch.rand(batch, n, generator=generator, dtype=dtype) + 0.1
    return torch.randn(batch, channels, n, 4, 3, generator=generator, dtype=dtype), Samples(grid.elements, weights)


def logits_of(own, x, samples):
    """The formula, element by element."""
    found = []
    for b in range(x.shape[0]):
        w = samples.weights[b % samples.weights.shape[0]]
        z = sum(w[v] * x[b, :, v].mean((1, 2)) for v in range(x.shape[2])) / w.sum()
        hidden = own.encoder[0].weight @ z + own.encoder[0].bias
        found.append(own.encoder[2].weight @ (hidden * torch.sigmoid(hidden)) + own.encoder[2].bias)
    return torch.stack(found)


@pytest.mark.parametrize(
    ("group", "n"), [("SE(2)", 4), ("SE(2)", 7), ("E(2)", 8), ("M(2)", 2), ("SO(2)", 3), ("Sim(2)", 4)]
)
def test_elements_are_kept_by_chance_and_the_identity_always(group, n):
    own = sampler(group, n, per_example=group == "E(2)")
    x, samples = maps(group="SE(2)")
    want = torch.sigmoid(logits_of(own, x, samples))
    found = own.keep_probabilities(x, samples)
    torch.testing.assert_close(found[:, 1:], want, rtol=1e-5, atol=1e-6)
    assert (found[:, 0] == 1).all() and found.shape == (5, n) and not found.requires_grad
    assert want.std(0).max() > 0.05, "differs between examples"
    generator, draws = torch.Generator().manual_seed(2), 600
    total = torch.zeros(5, n)
    for _ in range(draws):
        elements, weights = own(5, generator, x=x, samples=samples)
        assert elements.shape == (5 if own.per_example else 1, n, groups.get(group).element_dim)
        assert ((weights == 0) | (weights == 1)).all() and (weights[:, 0] == 1).all()
        total += weights.detach()
    bound = 4.5 * (want * (1 - want) / draws).sqrt() + 1e-3
    assert ((total[:, 1:] / draws - want).abs() < bound).all()
    own.eval()
    weights = own(x=x, samples=samples).weights
    assert torch.equal(weights[:, 1:], (want > 0.5).float()) and weights.shape == (5, n)
    jittered = JitteredGrid(groups.get(group), n, own.per_example)
    assert torch.equal(own(x=x, samples=samples).elements, jittered.eval()(5).elements)


def test_what_the_encoder_sees_does_not_depend_on_order_or_on_samples_that_are_not_there():
    own, (x, samples) = sampler(), maps()
    order = torch.tensor([2, 0, 3, 1])
    moved = Samples(samples.elements[:, order], samples.weights[:, order])
    # Sums in another order: those of float32.
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(own.logits(x[:, :, order], moved), own.logits(x, samples), **close)
    torch.testing.assert_close(own.logits(torch.rot90(x, 1, (3, 4)), samples), own.logits(x, samples), **close)
    gone = samples.weights.clone()
    gone[:, 3] = 0
    other = x.clone()
    other[:, :, 3] = 9.0
    torch.testing.assert_close(own.logits(other, Samples(None, gone)), own.logits(x, Samples(None, gone)), **close)


def test_gradients_are_those_of_the_relaxed_gates():
    own = sampler(dtype=torch.float64)
    own.anneal(0.25)
    x, samples = maps(dtype=torch.float64)
    x.requires_grad_()
    samples.weights.requires_grad_()
    cotangent = torch.randn(5, 4, dtype=torch.float64)
    weights = own(5, torch.Generator().manual_seed(3), x=x, samples=samples).weights
    leaves = [x, samples.weights, *own.parameters()]
    found = torch.autograd.grad((weights * cotangent).sum(), leaves)
    generator = torch.Generator().manual_seed(3)
    torch.rand(1, 1, generator=generator, dtype=torch.float64)  # the grid's jitter
    u = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    tau = 0.5 - 0.25 * (0.5 - 1e-4)
    y = torch.sigmoid((logits_of(own, x, samples) + torch.log(u / (1 - u))) / tau)
    assert torch.equal(weights[:, 1:], (y > 0.5).double())
    want = torch.autograd.grad((y * cotangent[:, 1:]).sum(), leaves)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b)
        assert b.abs().max() > 0


@pytest.mark.parametrize("prior", [0.5, 0.9])
def test_the_divergence_is_that_of_bernoulli_variables(prior):
    own = sampler(prior=prior, dtype=torch.float64)
    x, samples = maps(dtype=torch.float64)
    x.requires_grad_()
    p, q = torch.sigmoid(logits_of(own, x, samples)), torch.tensor(prior, dtype=torch.float64)
    own_way = torch.distributions.kl_divergence(torch.distributions.Bernoulli(p), torch.distributions.Bernoulli(q))
    want = own_way.sum(1).mean()
    found = own.divergence(x, samples)
    torch.testing.assert_close(found, want)
    leaves = [x, *own.parameters()]
    for a, b in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(want, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)
    with torch.no_grad():
        own.encoder[2].weight.zero_()
        own.encoder[2].bias.fill_(math.log(prior / (1 - prior)))
        assert abs(own.divergence(x, samples).item()) < 1e-12
        own.encoder[2].bias.fill_(200.0)
        assert own.divergence(x, samples).item() == pytest.approx(-3 * math.log(prior)), "stable where p is 1"


def test_all_sizes_and_types():
    own = sampler()
    x, samples = maps(batch=0)
    assert own(0, x=x, samples=samples).weights.shape == (0, 4) and own.divergence(x, samples) == 0
    x, samples = maps(batch=1)
    whole = own.logits(x, samples)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(own.logits(x, samples), whole)
    assert torch.isfinite(own.logits(x.bfloat16(), samples)).all()
    again = sampler(seed=5)
    again.load_state_dict(own.state_dict())
    torch.testing.assert_close(again.logits(x, samples), whole)
    assert sampler().double().logits(x.double(), samples).dtype == torch.float64
    shared = Samples(samples.elements, samples.weights[:1].clone())
    x5, _ = maps(batch=5)
    torch.testing.assert_close(own.logits(x5, shared), logits_of(own, x5, shared).double(), rtol=1e-5, atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="a layer passes them"):
        sampler()(3)
    for options, text in (
        ({"n": 1}, "n=1 on SE"),
        ({"group": "T(2)", "n": 2}, r"on T\(2\)"),
        ({"prior": 1.0}, "prior must be a probability"),
        ({"base": "haar"}, "base must be"),
        ({"channels": 0}, "channels must be"),
    ):
        with pytest.raises(ValueError, match=text):
            sampler(**options)
    with pytest.raises(ValueError, match="partial must be True, False or 'input', received 'inputs'"):
        GroupConv2d(2, 2, 3, partial="inputs")
    with pytest.raises(ValueError, match="partial='input' chooses the learned sampler itself"):
        GroupConv2d(2, 2, 3, partial="input", sampling="fixed")
    with pytest.raises(ValueError, match="is not in the release"):
        GroupConv2d(2, 2, 3, partial="input", compat="release")
    conv, (x, samples) = GroupConv2d(3, 2, 3, num_samples=4), maps()
    with pytest.raises(ValueError, match="sample_weight must be"):
        conv(x, Samples(samples.elements, samples.weights[:3]))
    with pytest.raises(ValueError, match=r"samples\.weights must be"):
        conv(x, Samples(samples.elements.expand(5, -1, -1), samples.weights[:3]))


@pytest.mark.parametrize("layer", ["full", "pointwise", "separable"])
@pytest.mark.parametrize("per_example", [False, True])
def test_layers_choose_samples_for_each_example(layer, per_example):
    """Two of them in a row, against the reference and, in eval mode, against every example alone."""
    torch.manual_seed(0)
    options = {"group": "SE(2)", "num_samples": 4, "partial": "input", "samples_per_example": per_example, "hidden": 8}

    def make(c, o):
        if layer == "pointwise":
            return PointwiseGroupConv2d(c, o, **options)
        return (GroupConv2d if layer == "full" else SeparableGroupConv2d)(c, o, 3, **options)

    first, second = make(3, 4), make(4, 2)
    for conv in (first, second):
        gates = getattr(conv, "over_group", conv).sampler
        assert isinstance(gates, EncodedGates)
        torch.nn.init.normal_(gates.encoder[2].weight, std=3.0)
    x, samples = maps()
    x.requires_grad_()

    def forward(backend):
        with pgconv.use_backend(backend):
            y, out = second(
                *first(x, samples, generator=torch.Generator().manual_seed(1)),
                generator=torch.Generator().manual_seed(2),
            )
        return (y * out.weights[:, None, :, None, None]).square().sum(), y

    leaves = [x, *first.parameters(), *second.parameters()]
    (loss, y), (want_loss, want) = forward(None), forward("reference")
    assert y.shape == (5, 2, 4, 4, 3)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)
    grads, wants = (torch.autograd.grad(value, leaves, allow_unused=True) for value in (loss, want_loss))
    for a, b in zip(grads, wants, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    encoders = [p for conv in (first, second) for p in getattr(conv, "over_group", conv).sampler.parameters()]
    used = dict(zip(map(id, leaves), grads))
    assert all(used[id(p)].abs().max() > 0 for p in encoders), "both encoders learn"
    first.eval(), second.eval()
    with torch.no_grad():
        y, out = second(*first(x, samples))
        for b in range(5):
            alone = Samples(samples.elements, samples.weights[b : b + 1])
            y1, out1 = second(*first(x[b : b + 1], alone))
            torch.testing.assert_close(y[b : b + 1], y1, rtol=1e-4, atol=1e-5)
            assert torch.equal(out.weights[b : b + 1], out1.weights)


@pytest.mark.parametrize("network", ["CKResNet", "GCNN13"])
def test_networks_return_the_divergence_of_their_gates(network):
    torch.manual_seed(0)
    model = getattr(pgconv.models, network)(1, 3, num_samples=4, width=4, kernel_size=3, partial="input", norm="layer")
    x = torch.randn(3, 1, 16, 16)
    for module in model.modules():
        if isinstance(module, EncodedGates):
            torch.nn.init.normal_(module.encoder[2].weight, std=1.0)
    model.eval()
    logits, penalties = model(x, with_penalty=True)
    assert isinstance(penalties, Penalties) and torch.equal(logits, model(x))
    torch.manual_seed(3)
    found = gate_probabilities(model.train(), x)
    assert model.training and not any(module._forward_pre_hooks for module in model.modules())
    prior = torch.distributions.Bernoulli(torch.tensor(0.9))
    want = sum(
        torch.distributions.kl_divergence(torch.distributions.Bernoulli(p[:, 1:]), prior).sum(1).mean()
        for p in found.values()
    )
    torch.testing.assert_close(penalties.gates, want, rtol=1e-4, atol=1e-4)
    assert len(found) == (5 if network == "CKResNet" else 8) and all(p.shape == (3, 4) for p in found.values())
    assert learned_ranges(model) == {} and monotone_loss(model) == 0
    full = getattr(pgconv.models, network)(1, 3, num_samples=4, width=4, kernel_size=3)
    assert full(x, with_penalty=True)[1].gates == 0 and gate_probabilities(full, x) == {}


def test_a_network_under_a_compiler_is_the_same():
    torch.manual_seed(0)
    model = CKResNet(1, 3, num_samples=4, width=4, kernel_size=3, factors=(1,), partial="input")
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    for batch in (2, 3):
        x = torch.randn(batch, 1, 12, 12)
        results = []
        for run in (model, compiled):
            torch.manual_seed(1)
            logits, penalties = run(x, with_penalty=True)
            (F.cross_entropy(logits, torch.arange(batch)) + penalties.gates).backward()
            results.append([logits.detach(), penalties.gates.detach()])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for (name, a), (_, b) in zip(model.named_parameters(), compiled.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=name)
