"""Accelerated layers of the release against their own code: samples to the bit, values and all gradients."""

import copy

import pytest
import torch
from release_doubles import E2, NETS, SE2, GroupConv, LiftingConv, Method, PointwiseGroupConv

from pgconv import compat

GROUPS = {"SE2": SE2, "E2": E2}
BOUNDS = {torch.float64: (1e-10, 1e-9), torch.float32: (1e-5, 1e-4)}
# Batch norms of the kernel net are folded in evaluation alone.
EVAL_ONLY = ("mlp", "mlp-relu", "mlp-leaky")


def _maps(batch=2, channels=3, n=4, size=7, dtype=torch.float64):
    shape = (batch, channels, n, size, size) if n else (batch, channels, size, size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype).requires_grad_()


def _samples(group, n=4, sets=1):
    angle = torch.rand(sets, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 6
    if not group.mirrored:
        return angle.requires_grad_()
    mirror = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(n // 2).expand(sets, -1)
    return torch.stack([angle, mirror], -1).requires_grad_()


def _layer(cls, *args, dtype=torch.float64, training=True, **options):
    torch.manual_seed(3)
    return cls(*args, **options).to(dtype).train(training)


def _run(layer, inputs, seed):
    """Values, samples and gradients to everything, by name."""
    torch.manual_seed(seed)
    y, u = layer(*inputs)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    loss = (y * weights).sum() + (u * torch.arange(1.0, u.numel() + 1).reshape(u.shape)).sum() * 0.01
    sources = {f"input {i}": x for i, x in enumerate(_flat(inputs)) if x.requires_grad} | dict(layer.named_parameters())
    grads = torch.autograd.grad(loss, list(sources.values()), allow_unused=True)
    return y, u, dict(zip(sources, grads)), dict(layer.named_buffers())


def _flat(inputs):
    return [x for part in inputs for x in (part if isinstance(part, (tuple, list)) else (part,))]


def _error(found, expected):
    return float(((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).detach())


def _check(layer, *inputs, seeds=(0, 1), fast=None):
    """The accelerated layer, a copy if none is given, repeats its own code; returns it."""
    dtype = next(layer.parameters()).dtype
    fast = fast or copy.deepcopy(layer)
    report = compat.accelerate(fast, strict=True)
    assert list(report.replaced) == [""] and not report.kept
    assert type(fast).forward is not type(layer).forward
    value_bound, gradient_bound = BOUNDS[dtype]
    for seed in seeds:
        y, u, grads, buffers = _run(fast, inputs, seed)
        own_y, own_u, own_grads, own_buffers = _run(layer, inputs, seed)
        assert torch.equal(u, own_u) and u.dtype == own_u.dtype
        assert y.shape == own_y.shape and y.dtype == own_y.dtype
        assert _error(y, own_y) <= value_bound
        assert grads.keys() == own_grads.keys()
        for name, own in own_grads.items():
            assert (grads[name] is None) == (own is None), name
            # Gradients of biases that every sine passes on may cancel to rounding: these are measured by all others.
            if own is not None:
                assert grads[name].shape == own.shape
                assert float((grads[name] - own).abs().max()) <= gradient_bound * max(float(own.abs().max()), 1e-3), (
                    name
                )
        assert buffers.keys() == own_buffers.keys()
        assert all(torch.equal(buffers[name], own_buffers[name]) for name in buffers)
    return fast


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("group", GROUPS)
def test_every_kernel_net(group, net, dtype):
    options = {"dtype": dtype, "training": net not in EVAL_ONLY}
    group = GROUPS[group]
    _check(_layer(LiftingConv, group(), net, 3, 2, **options), _maps(n=0, dtype=dtype))
    x = _maps(dtype=dtype)
    _check(_layer(GroupConv, group(), net, 3, 2, **options), (x, _samples(group)))
    shortcut = _layer(PointwiseGroupConv, group(), net, 3, 2, bias=False, **options)
    _check(shortcut, x, _samples(group), _samples(group, 2).flip(1))


WINDOWS = [(size, padding) for size in ("1", "3", "7", 5, "same") for padding in ("same", "valid")] + [("full", "same")]


@pytest.mark.parametrize(("size", "padding"), WINDOWS)
@pytest.mark.parametrize("cls", [LiftingConv, GroupConv])
def test_kernel_sizes(cls, size, padding):
    layer = _layer(cls, SE2(), "siren", 3, 2, kernel_size=size, padding=padding)
    x = _maps(n=0 if cls is LiftingConv else 4)
    _check(layer, x if cls is LiftingConv else (x, _samples(SE2)))


def test_a_size_that_follows_the_image():
    layer = _layer(LiftingConv, SE2(), "siren", 1, 2, kernel_size="same")
    fast = copy.deepcopy(layer)
    compat.accelerate(fast, strict=True)
    for size in (5, 7, 6, 5):  # an even kernel has no centre pixel: the layer's own code convolves
        for model in (fast, layer):
            torch.manual_seed(0)
            model.y = model(_maps(channels=1, n=0, size=size))[0]
        assert _error(fast.y, layer.y) <= 1e-10


SAMPLING = {
    "one grid": {"per_layer": False, "method": Method.RANDOM},
    "one fixed grid": {"per_layer": False, "method": Method.DETERMINISTIC},
    "own grid": {"method": Method.RANDOM},
    "partial": {"partial": True},
    "partial, fixed": {"partial": True, "method": Method.DETERMINISTIC},
    "per example": {"per_batch_element": True},
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("group", GROUPS)
def test_samples_are_those_of_the_layer_itself(group, sampling, training):
    group = GROUPS[group]
    layer = _layer(GroupConv, group(), "siren", 3, 2, training=training, **SAMPLING[sampling])
    fast = _check(layer, (_maps(), _samples(group)), seeds=range(6))
    if "partial" in sampling:
        assert fast.probs.requires_grad
    lifting = _layer(LiftingConv, group(), "siren", 3, 2, training=training, **{**SAMPLING[sampling], "partial": False})
    _check(lifting, _maps(n=0))


@pytest.mark.parametrize(("theta", "count"), [(0.6, 3), (0.1, 1), (-0.5, 2), (1.4, 4)])
def test_learned_arcs_of_any_width(theta, count):
    layer = _layer(GroupConv, SE2(), "magnet", 3, 2, partial=True)
    with torch.no_grad():
        layer.probs.fill_(theta)
    fast = _check(layer, (_maps(), _samples(SE2)))
    assert fast((_maps(), _samples(SE2)))[1].shape == (1, count)


def test_samples_of_every_example():
    for sets in (1, 2):
        layer = _layer(GroupConv, SE2(), "siren", 3, 2, partial=True, per_batch_element=True)
        _check(layer, (_maps(), _samples(SE2, sets=sets)))
    shortcut = _layer(PointwiseGroupConv, SE2(), "siren", 3, 2, bias=False)
    _check(shortcut, _maps(), _samples(SE2, sets=2), _samples(SE2, 3, sets=2))


@pytest.mark.parametrize("n", [3, 5, 6, 8])
@pytest.mark.parametrize("group", GROUPS)
def test_grids_that_hit_the_jump_of_the_kernel(group, n):
    """Relative angles of a fixed grid are 0 up to rounding; which side of the jump that is must be the same."""
    group = GROUPS[group]
    n = 2 * n if group.mirrored else n
    layer = _layer(GroupConv, group(), "siren", 3, 2, no_samples=n, per_layer=False, method=Method.DETERMINISTIC)
    v = group().whole(1, n, Method.DETERMINISTIC)
    _check(layer, (_maps(n=n), v))


def test_a_list_is_as_good_as_a_tuple():
    layer = _layer(GroupConv, SE2(), "siren", 3, 2)
    _check(layer, [_maps(), _samples(SE2)])


@pytest.mark.parametrize("how", [torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm])
@pytest.mark.parametrize("net", ["siren", "magnet"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_norm(net, how):
    def normed():
        layer = _layer(GroupConv, E2(), net, 3, 2)
        for module in list(layer.kernelnet.modules()):
            if hasattr(module, "weight"):
                how(module)
        with torch.no_grad():
            for name, p in layer.named_parameters():
                if name.endswith(("weight_g", "original0")):
                    p.mul_(1.3)
        return layer

    _check(normed(), (_maps(), _samples(E2)), fast=normed())


def test_bias_may_be_missing():
    _check(_layer(LiftingConv, SE2(), "siren", 3, 2, bias=False), _maps(n=0))


def test_a_mirror_of_zero_is_left_to_the_layer():
    layer = _layer(GroupConv, E2(), "siren", 3, 2, per_layer=False, method=Method.DETERMINISTIC)
    v = torch.zeros(1, 1, 2, dtype=torch.float64)
    fast = copy.deepcopy(layer)
    compat.accelerate(fast, strict=True)
    assert torch.equal(fast((_maps(n=1), v))[0], layer((_maps(n=1), v))[0])


def test_the_kernel_can_be_read_as_before():
    for cls, inputs in (
        (LiftingConv, (_maps(n=0),)),
        (GroupConv, ((_maps(), _samples(E2)),)),
        (PointwiseGroupConv, (_maps(), _samples(E2), _samples(E2, 2))),
    ):
        layer = _layer(cls, E2(), "siren", 3, 2)
        fast = copy.deepcopy(layer)
        compat.accelerate(fast, strict=True)
        assert fast.kernel is None and "kernel" not in vars(fast)
        norms = []
        for model in (fast, layer):
            torch.manual_seed(0)
            model(*inputs)
            norm = model.kernel.norm()
            (grad,) = torch.autograd.grad(norm, [p for n, p in model.named_parameters() if n.endswith("4.weight")])
            norms.append((norm, grad))
        assert fast.kernel.shape == layer.kernel.shape and _error(fast.kernel, layer.kernel) <= 1e-10
        assert _error(norms[0][0], norms[1][0]) <= 1e-10 and _error(norms[0][1], norms[1][1]) <= 1e-9
        assert copy.deepcopy(fast).kernel is None


def test_a_layer_that_has_run_and_whose_code_reads_its_kernel_net():
    class Reading(GroupConv):
        def forward(self, pair):
            assert self.kernelnet.kernel_net[4].weight.shape[0] == 6
            return super().forward(pair)

    inputs = (_maps(), _samples(SE2))
    own, fast = (_layer(Reading, SE2(), "siren", 3, 2) for _ in range(2))
    fast(inputs)
    assert fast.kernel is not None
    compat.accelerate(fast, strict=True)
    assert fast.kernel is None
    _, _, grads, _ = _run(fast, [inputs], 0)
    _, _, own_grads, _ = _run(own, [inputs], 0)
    assert all(_error(grads[name], grad) <= 1e-9 for name, grad in own_grads.items())


def test_a_changed_weight_shows():
    """The comparison can fail."""
    layer = _layer(GroupConv, SE2(), "siren", 3, 2)
    fast = copy.deepcopy(layer)
    compat.accelerate(fast, strict=True)
    before = fast((_maps(), _samples(SE2)))[0]
    with torch.no_grad():
        fast.kernelnet.kernel_net[2].weight[0, 0] += 1e-3
    torch.manual_seed(0)
    found = fast((_maps(), _samples(SE2)))[0]
    torch.manual_seed(0)
    assert _error(found, layer((_maps(), _samples(SE2)))[0]) > 1e-6 and before.shape == found.shape
