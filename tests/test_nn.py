"""Layers: shapes, parameters, gates, repeatability, state."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from architectures import GCNN13, CKResNet

import pgconv
from pgconv import groups, kernel_nets, sampling
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
from pgconv.sampling import Samples, anneal


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _maps(*shape, seed=0):
    return torch.randn(*shape, generator=_generator(seed))


def _grid(group="SE(2)", n=4, sets=1):
    elements = groups.get(group).grid(n)[None].expand(sets, -1, -1)
    return Samples(elements, torch.ones(elements.shape[:2]))


PUBLISHED = {
    "rotated-MNIST-T(2)": (450_074, lambda: CKResNet(1, 10, num_samples=1, partial=False)),
    "rotated-MNIST-SE(2)-partial": (467_791, lambda: CKResNet(1, 10)),
    "rotated-MNIST-E(2)-partial": (467_988, lambda: CKResNet(1, 10, group="E(2)")),
    "CIFAR10-T(2)": (452_186, lambda: CKResNet(3, 10, num_samples=1, partial=False)),
    "CIFAR10-SE(2)-partial": (469_903, lambda: CKResNet(3, 10)),
    "CIFAR100-SE(2)-partial": (475_753, lambda: CKResNet(3, 100)),
    "MNIST6-180-partial-MAGNet": (48_845, lambda: CKResNet(1, 2, width=10, factors=(1, 1), kernel_net="magnet")),
    "MNIST6-180-full-Fourier": (
        104_422,
        lambda: CKResNet(1, 2, width=20, factors=(1, 1), kernel_net="fourier", norm="layer", partial=False),
    ),
    "MNIST6-M-E(2)-partial": (
        51_154,
        lambda: CKResNet(1, 2, group="E(2)", width=10, factors=(1, 1), kernel_net="magnet"),
    ),
    "one-block-SIREN": (17_063, lambda: CKResNet(1, 2, width=10, factors=(1,))),
    "GCNN-rotated-MNIST-SE(2)-partial": (3_992_114, lambda: GCNN13(1, 10)),
    "GCNN-CIFAR10-SE(2)-partial": (3_994_418, lambda: GCNN13(3, 10)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_count(name):
    count, build = PUBLISHED[name]
    with torch.device("meta"):
        net = build()
    assert sum(p.numel() for p in net.parameters()) == count


def test_parameter_count_does_not_depend_on_the_number_of_samples():
    counts = {sum(p.numel() for p in CKResNet(1, 10, num_samples=n, width=4).parameters()) for n in (2, 4, 8)}
    assert len(counts) == 1


@pytest.mark.parametrize("compat", [None, "release"], ids=["own", "release"])
@pytest.mark.parametrize("group", ["SE(2)", "E(2)"])
def test_published_network_trains_end_to_end(group, compat):
    torch.manual_seed(0)
    net = CKResNet(1, 2, group=group, num_samples=4, width=3, factors=(1, 2), hidden=4, kernel_size=5, compat=compat)
    for sampler in (m for m in net.modules() if hasattr(m, "theta")):
        sampler.theta.data.fill_(0.7)
    out = net(_maps(2, 1, 20, 20))
    F.cross_entropy(out, torch.tensor([0, 1])).backward()
    assert out.shape == (2, 2)
    for name, p in net.named_parameters():
        if "alpha" not in name:  # a gate that happens to be closed gives no gradient in release mode
            assert p.grad is not None and p.grad.isfinite().all(), name
    thetas = {n: p.grad for n, p in net.named_parameters() if "theta" in n}
    assert len(thetas) == 5 and all(g.abs().sum() > 0 for g in thetas.values())


# name: (layer, shape of x, input samples, shape of y, shape of the returned elements)
SHAPES = {
    "same-grid": (lambda: GroupConv2d(3, 5, 3), (2, 3, 4, 7, 8), 1, (2, 5, 4, 7, 8), (1, 4, 3)),
    "partial": (
        lambda: GroupConv2d(3, 5, 3, num_samples=6, partial=True),
        (2, 3, 4, 7, 8),
        1,
        (2, 5, 6, 7, 8),
        (1, 6, 3),
    ),
    "per-example": (
        lambda: GroupConv2d(3, 5, 3, num_samples=6, sampling="jittered", samples_per_example=True),
        (2, 3, 4, 7, 8),
        1,
        (2, 5, 6, 7, 8),
        (2, 6, 3),
    ),
    "input-per-example": (lambda: GroupConv2d(3, 5, 3), (2, 3, 4, 7, 8), 2, (2, 5, 4, 7, 8), (2, 4, 3)),
    "one-output-sample": (
        lambda: GroupConv2d(3, 5, 3, num_samples=1, sampling="identity"),
        (2, 3, 4, 7, 8),
        1,
        (2, 5, 1, 7, 8),
        (1, 1, 3),
    ),
    "valid": (lambda: GroupConv2d(3, 5, 7, padding="valid"), (2, 3, 4, 7, 8), 1, (2, 5, 4, 1, 2), (1, 4, 3)),
    "stride-dilation": (
        lambda: GroupConv2d(3, 5, 3, stride=(2, 3), dilation=2, padding=1),
        (2, 3, 4, 9, 8),
        1,
        (2, 5, 4, 4, 2),
        (1, 4, 3),
    ),
    "kernel-1": (lambda: GroupConv2d(3, 5, 1), (2, 3, 4, 7, 8), 1, (2, 5, 4, 7, 8), (1, 4, 3)),
    "pointwise": (lambda: PointwiseGroupConv2d(3, 5, stride=2), (2, 3, 4, 7, 8), 1, (2, 5, 4, 4, 4), (1, 4, 3)),
    "separable": (
        lambda: SeparableGroupConv2d(3, 5, 3, num_samples=6, partial=True, stride=2),
        (2, 3, 4, 7, 8),
        1,
        (2, 5, 6, 4, 4),
        (1, 6, 3),
    ),
    "empty-batch": (lambda: GroupConv2d(3, 5, 3), (0, 3, 4, 7, 8), 1, (0, 5, 4, 7, 8), (1, 4, 3)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    build, shape, sets, out_shape, elements_shape = SHAPES[name]
    y, samples = build()(_maps(*shape), _grid(sets=sets))
    assert y.shape == out_shape
    assert samples.elements.shape == elements_shape and samples.weights.shape == elements_shape[:2]


@pytest.mark.parametrize(
    "group,n,dim", [("T(2)", 1, 2), ("M(2)", 2, 3), ("SE(2)", 5, 3), ("E(2)", 6, 4), ("Sim(2)", 5, 4)]
)
def test_lifting_and_convolution_on_every_planar_group(group, n, dim):
    lift = LiftingConv2d(2, 3, 5, group=group, num_samples=n)
    y, samples = lift(_maps(2, 2, 9, 8))
    assert y.shape == (2, 3, n, 9, 8) and samples.elements.shape == (1, n, dim)
    y, out = GroupConv2d(3, 4, 3, group=group)(y, samples)
    assert y.shape == (2, 4, n, 9, 8) and torch.equal(out.elements, samples.elements)


def test_out_samples_override_the_sampler():
    conv = GroupConv2d(3, 5, 3, partial=True)
    y, out = conv(_maps(2, 3, 4, 7, 7), _grid(), _grid(n=2))
    assert y.shape == (2, 5, 2, 7, 7) and torch.equal(out.elements, _grid(n=2).elements)


def test_layer_is_the_function_plus_its_bias():
    conv = GroupConv2d(3, 5, 3)
    conv.bias.data.normal_(generator=_generator())
    x, s = _maps(2, 3, 4, 7, 7), _grid()
    y = pgconv.functional.group_conv2d(
        x, s.elements, s.elements, conv.net, conv.weight, conv.weight_bias, group="SE(2)", kernel_size=3
    )
    assert torch.allclose(conv(x, s)[0], y + conv.bias[:, None, None, None], atol=1e-6)


@pytest.mark.parametrize("name,n", [("T(3)", 1), ("SE(2)", 3), ("SE(3)", 12)])
def test_point_layers(name, n):
    group = groups.get(name)
    lift, conv = PointLift(group, n), PointGroupConv(3, 8, group)
    x, f = _maps(2, 5, group.spatial_dim), _maps(2, 5, 3)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    lifted, samples = lift(x, f, mask=mask)
    assert lifted.shape == (2, 5 * n, 3) and samples.elements.shape == (2, 5 * n, group.element_dim)
    assert samples.weights.sum(1).tolist() == [5 * n, 3 * n]
    y, out = conv(lifted, samples)
    junk = torch.where(mask.repeat_interleave(n, 1)[..., None], lifted, torch.full_like(lifted, 1e3))
    assert y.shape == (2, 5 * n, 8) and torch.equal(out.elements, samples.elements)
    assert torch.allclose(conv(junk, samples)[0], y, atol=1e-4)
    assert PointGroupConv(3, 3, group, depthwise=True)(lifted, samples)[0].shape == (2, 5 * n, 3)


CONVS = {
    "LiftingConv2d": lambda **o: LiftingConv2d(2, 3, 3, **o),
    "GroupConv2d": lambda **o: GroupConv2d(2, 3, 3, **o),
    "PointwiseGroupConv2d": lambda **o: PointwiseGroupConv2d(2, 3, **o),
    "SeparableGroupConv2d": lambda **o: SeparableGroupConv2d(2, 3, 3, **o),
    "PointGroupConv": lambda **o: PointGroupConv(2, 3, "SE(2)", **o),
}


@pytest.mark.parametrize("name", CONVS)
def test_repr_says_what_matters(name):
    text = repr(CONVS[name](compat="release"))
    for part in (name, "2, 3", "group='SE(2)'", "chart='release'", "form='correlation'", "compat='release'", "SIREN"):
        assert part in text, part


def test_repr_of_the_small_layers():
    assert repr(GroupMaxPool2d(3, 2, 1)) == "GroupMaxPool2d(kernel_size=3, stride=2, padding=1)"
    assert repr(GlobalGroupPool("max")) == "GlobalGroupPool(mode='max')"
    assert repr(GroupInstanceNorm2d(3, affine=True)) == "GroupInstanceNorm2d(3, eps=1e-05, affine=True)"


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("options", [{"device": "meta"}, {"dtype": torch.float64}], ids=["meta", "float64"])
def test_device_and_dtype_reach_every_tensor(name, options):
    layer = CONVS[name](**options, **({} if name == "PointGroupConv" else {"sampling": "jittered"}))
    for key, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        assert tensor.device.type == options.get("device", "cpu"), key
        assert tensor.dtype == options.get("dtype", tensor.dtype), key


@pytest.mark.parametrize(
    "net",
    ["siren", "mlp", "fourier", "gabor", "magnet", lambda d: kernel_nets.MLP(d, 8, 4, "gelu"), kernel_nets.SIREN(3, 8)],
    ids=["siren", "mlp", "fourier", "gabor", "magnet", "function", "module"],
)
def test_kernel_net_by_name_function_or_module(net):
    conv = GroupConv2d(2, 3, 3, kernel_net=net, hidden=8)
    assert conv.net.hidden == 8 and conv.weight.shape == (3, 2, 8)
    assert conv(_maps(1, 2, 4, 5, 5), _grid())[0].isfinite().all()


def test_without_biases_there_are_none():
    conv = GroupConv2d(2, 3, 3, bias=False, weight_bias=False)
    assert conv.bias is None and conv.weight_bias is None
    assert conv(torch.zeros(1, 2, 4, 5, 5), _grid())[0].abs().max() == 0


def test_the_release_is_a_correlation_summed_in_its_own_chart():
    conv = GroupConv2d(2, 3, 3, compat="release")
    assert (conv.form, conv.chart, conv.reduction) == ("correlation", "release", "sum")
    own = GroupConv2d(2, 3, 3)
    assert (own.form, own.chart, own.reduction) == ("convolution", "product", "mean")


GATES = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0]])
NORMS = {
    "batch": lambda: GroupBatchNorm2d(3),
    "batch-cumulative": lambda: GroupBatchNorm2d(3, momentum=None),
    "batch-without-statistics": lambda: GroupBatchNorm2d(3, affine=False, track_running_stats=False),
    "instance": lambda: GroupInstanceNorm2d(3),
    "instance-affine": lambda: GroupInstanceNorm2d(3, affine=True),
    "layer": lambda: GroupLayerNorm2d(3),
}


@pytest.mark.parametrize("name", NORMS)
def test_norm_with_gates_is_the_norm_of_the_kept_samples(name):
    norm = NORMS[name]()
    for p in norm.parameters():
        p.data.normal_(generator=_generator(1))
    plain = copy.deepcopy(norm)
    x = _maps(2, 3, 5, 4, 4)
    keep = GATES[0] > 0
    for _ in range(2):
        y = norm(x, Samples(torch.zeros(1, 5, 3), GATES))
        expected = plain(x[:, :, keep])
        assert torch.allclose(y[:, :, keep], expected, atol=1e-5)
    for key, value in plain.named_buffers():
        assert torch.allclose(norm.get_buffer(key), value, atol=1e-6), key
    assert torch.allclose(
        norm.eval()(x, Samples(torch.zeros(1, 5, 3), GATES))[:, :, keep], plain.eval()(x[:, :, keep]), atol=1e-5
    )


@pytest.mark.parametrize("name", NORMS)
def test_norm_with_equal_gates_is_the_ordinary_norm(name):
    norm, x = NORMS[name](), _maps(2, 3, 5, 4, 4)
    assert torch.allclose(norm(x, _grid(n=5)), copy.deepcopy(norm)(x), atol=1e-5)


def test_norm_takes_gates_per_example():
    x = _maps(2, 3, 5, 4, 4)
    gates = torch.cat([GATES, GATES.flip(1)])
    both = GroupInstanceNorm2d(3)(x, Samples(torch.zeros(2, 5, 3), gates))
    for i in range(2):
        alone = GroupInstanceNorm2d(3)(x[i : i + 1], Samples(torch.zeros(1, 5, 3), gates[i : i + 1]))
        assert torch.allclose(both[i], alone[0], atol=1e-6)


@pytest.mark.parametrize("parameters", ["own", "float32"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_norm_with_gates_is_no_worse_in_low_precision_than_the_ordinary_one(name, dtype, parameters):
    """More values than float16 counts, far from zero; statistics, gradients and the running ones."""
    x = (30 + 5 * _maps(4, 3, 5, 36, 36)).to(dtype)
    cotangent, samples = _maps(*x.shape, seed=1).to(dtype), Samples(torch.zeros(1, 5, 3), 3 * torch.ones(1, 5))
    norm = NORMS[name]().to(dtype if parameters == "own" else torch.float32)

    def results(norm, x, *samples):
        leaf = x.clone().requires_grad_()
        y = norm(leaf, *samples)
        y.backward(cotangent.to(y.dtype))
        statistics = [b for key, b in norm.named_buffers() if "running" in key]
        return [y.detach(), leaf.grad, *(p.grad for p in norm.parameters()), *statistics]

    exact = results(copy.deepcopy(norm).double(), x.double())
    plain = results(copy.deepcopy(norm), x)
    for value, other, want in zip(results(norm, x, samples), plain, exact, strict=True):
        assert value.dtype == other.dtype
        errors = [(t.double() - want).abs().max() for t in (value, other)]
        assert errors[0] <= 2 * errors[1] + 2 * torch.finfo(dtype).eps * want.abs().max()


def test_norm_with_gates_of_a_constant_in_low_precision_is_zero():
    x = torch.full((2, 3, 5, 4, 4), 3.0).half()
    for make in NORMS.values():
        assert torch.equal(make().half()(x, _grid(n=5)), torch.zeros_like(x))


def test_pooling_and_norms_with_gates_under_autocast():
    torch.manual_seed(0)
    lift, norm = LiftingConv2d(3, 4, 3, num_samples=4), GroupBatchNorm2d(4)
    image = _maps(16, 3, 36, 36)
    with torch.autocast("cpu", torch.float16):
        y, samples = lift(image)
        z = norm(y, samples)
        pooled = GlobalGroupPool()(z, samples)
    assert y.dtype == z.dtype == pooled.dtype == torch.float16
    assert norm.running_var.isfinite().all()
    assert torch.allclose(z.float().std((0, 2, 3, 4)), torch.ones(4), atol=1e-2)


def test_mean_pooling_does_not_overflow_on_the_way():
    x = torch.full((1, 2, 2000, 1, 1), 100.0).half()
    assert torch.equal(GlobalGroupPool()(x, _grid(n=2000)), torch.full((1, 2), 100.0).half())


@pytest.mark.parametrize("name", NORMS)
def test_norm_of_an_empty_batch_is_empty_and_learns_nothing(name):
    """As PyTorch's batch norm."""
    x, samples, found = _maps(2, 3, 5, 4, 4), _grid(n=5), []
    for more in ([], [samples]):
        norm = NORMS[name]()
        norm(x, *more)
        before = copy.deepcopy(norm.state_dict())
        empty = x[:0].clone().requires_grad_()
        y = norm(empty, *more)
        y.sum().backward()
        assert y.shape == empty.grad.shape == empty.shape
        for key, value in norm.state_dict().items():
            assert torch.equal(value, before[key] + (key == "num_batches_tracked")), key
        found.append(norm(x, *more))
    assert torch.allclose(*found, atol=1e-5)


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_global_pool_sees_the_kept_samples_only(mode):
    x = _maps(2, 3, 5, 4, 4)
    x[:, :, 1] += 100.0
    pool = GlobalGroupPool(mode)
    assert torch.allclose(pool(x, Samples(torch.zeros(1, 5, 3), GATES)), pool(x[:, :, GATES[0] > 0]), atol=1e-6)
    assert torch.allclose(pool(x, _grid(n=5)), pool(x), atol=1e-5)


def test_gates_get_gradients_through_the_next_layer():
    torch.manual_seed(0)
    conv1 = GroupConv2d(2, 3, 3, num_samples=4, sampling="subset")
    conv2, norm, pool = GroupConv2d(3, 3, 3), GroupBatchNorm2d(3), GlobalGroupPool()
    y, samples = conv1(_maps(2, 2, 4, 5, 5), _grid())
    y, samples = conv2(torch.relu(norm(y, samples)), samples)
    pool(y, samples).square().sum().backward()
    assert conv1.sampler.alpha.grad.abs().min() > 0


SAMPLERS = {
    "jittered": {"sampling": "jittered"},
    "haar": {"sampling": "haar"},
    "subset": {"sampling": "subset"},
    "learned": {"partial": True},
    "learned-per-example": {"partial": True, "samples_per_example": True},
}


def _network(**options):
    torch.manual_seed(0)
    return LiftingConv2d(1, 3, 3, num_samples=4), GroupConv2d(3, 3, 3, num_samples=4, **options)


def _run(net, x, seed=None):
    generator = None if seed is None else _generator(seed)
    y, samples = net[0](x, generator=generator)
    return net[1](y, samples, generator=generator)


@pytest.mark.parametrize("name", SAMPLERS)
def test_training_draws_follow_the_generator_and_evaluation_repeats(name):
    net, x = _network(**SAMPLERS[name]), _maps(2, 1, 7, 7)
    first, again, other = _run(net, x, 3)[0], _run(net, x, 3)[0], _run(net, x, 4)[0]
    assert torch.equal(first, again) and not torch.equal(first, other)
    before = torch.get_rng_state()
    _run(net, x, 3)
    assert torch.equal(torch.get_rng_state(), before)  # a generator leaves the global state alone
    for layer in net:
        layer.eval()
    assert torch.equal(_run(net, x)[0], _run(net, x, 5)[0])


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("via", ["state_dict", "deepcopy", "pickle"])
def test_state_round_trip(name, via):
    net, x = _network(**SAMPLERS[name]), _maps(2, 1, 7, 7)
    anneal(net[1], 0.25)
    for p in net[1].parameters():
        p.data.add_(0.1)
    if via == "state_dict":
        torch.manual_seed(1)
        other = LiftingConv2d(1, 3, 3, num_samples=4), GroupConv2d(3, 3, 3, num_samples=4, **SAMPLERS[name])
        for new, old in zip(other, net):
            new.load_state_dict(old.state_dict(), strict=True)
    else:
        other = copy.deepcopy(net) if via == "deepcopy" else pickle.loads(pickle.dumps(net))
    for mode in (True, False):
        for layer in (*net, *other):
            layer.train(mode)
        assert torch.equal(_run(net, x, 2)[0], _run(other, x, 2)[0])
    if hasattr(net[1].sampler, "temperature"):
        assert torch.equal(net[1].sampler.temperature, other[1].sampler.temperature)


def test_a_sampler_module_is_used_as_it_is():
    sampler = sampling.get("haar", groups.get("SE(2)"), 5)
    conv = GroupConv2d(2, 3, 3, sampling=sampler)
    assert conv.sampler is sampler
    assert conv(_maps(1, 2, 4, 5, 5), _grid())[1].elements.shape == (1, 5, 3)


def test_forward_keeps_nothing_alive():
    conv = GroupConv2d(2, 3, 3, partial=True)
    before = set(vars(conv))
    conv(_maps(1, 2, 4, 5, 5), _grid())
    assert set(vars(conv)) == before


@pytest.mark.parametrize(("k", "size"), [(2, (8, 6)), (2, (7, 5)), (3, (10, 9)), (15, (16, 31)), (2, (2, 2))])
def test_max_pooling_keeps_a_byte_for_each_window_and_is_pytorchs(k, size):
    """Values, gradients, the first of equal values, and gradients of gradients."""
    x = torch.randint(0, 3, (2, 3, 4, *size)).double().requires_grad_()
    pool, kept = GroupMaxPool2d(k), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = pool(x)

    def pytorchs():
        return F.max_pool2d(x.flatten(1, 2), k).unflatten(1, (3, 4))

    want = pytorchs()
    assert torch.equal(y, want) and [(t.dtype, t.shape) for t in kept] == [(torch.uint8, y.shape)]
    cotangent = torch.randn_like(y)
    assert torch.equal(*(torch.autograd.grad((out * cotangent).sum(), x)[0] for out in (y, want)))
    with torch.no_grad():
        assert torch.equal(pool(x), want)
    distinct = torch.randperm(x.numel()).double().reshape(x.shape).requires_grad_()
    assert torch.autograd.gradcheck(pool, distinct[:1, :1, :1]) and torch.autograd.gradgradcheck(
        pool, distinct[:1, :1, :1]
    )
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for other in (x, x[:0], x.transpose(1, 2)):
            half = other.detach().to(dtype).requires_grad_()
            out, own = pool(half), F.max_pool2d(half.flatten(1, 2), k).unflatten(1, half.shape[1:3])
            assert torch.equal(out, own) and out.dtype == dtype
            assert torch.equal(pool(half.detach()), own), "without gradients"
            assert torch.equal(*(torch.autograd.grad(y.sum(), half)[0] for y in (out, own)))
    last = pgconv.group_last(x.detach()).requires_grad_()
    assert torch.equal(pool(last), want)
    bad = x.detach().clone()
    bad[0, 0, 0, 0, 1] = torch.nan
    assert pool(bad.requires_grad_())[0, 0, 0, 0, 0].isnan()
    turned = torch.func.vmap(torch.func.grad(lambda one: (pool(one[None])[0] ** 2).sum()))(x.detach())
    torch.testing.assert_close(turned, torch.autograd.grad((pytorchs() ** 2).sum(), x)[0])


@pytest.mark.parametrize("norm", [GroupBatchNorm2d, GroupInstanceNorm2d, GroupLayerNorm2d])
def test_norms_with_gates_keep_one_map_for_their_gradients(norm):
    x = torch.randn(2, 3, 4, 32, 32, requires_grad=True)
    samples = pgconv.sampling.get("fixed", pgconv.groups.get("SE(2)"), 4)()
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        norm(3)(x, samples)
    kept.pop(x.untyped_storage().data_ptr(), None)
    assert sum(kept.values()) < 1.1 * x.untyped_storage().nbytes()
