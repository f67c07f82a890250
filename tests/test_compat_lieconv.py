"""Accelerated layers of LieConv against their own code: values, masks and all gradients."""

import copy

import pytest
import torch
from lieconv_doubles import LieConv, OneFunction
from torch import nn

from pgconv import compat


def _inputs(d=2, batch=2, n=9, channels=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(batch, n, d, generator=generator, dtype=dtype)
    pairs = (points[:, :, None] - points[:, None]).requires_grad_()
    values = torch.randn(batch, n, channels, generator=generator, dtype=dtype).requires_grad_()
    mask = torch.ones(batch, n, dtype=torch.bool)
    mask[1, 6:] = False
    return pairs, values, mask


def _run(layer, inputs, seed=0):
    torch.manual_seed(seed)
    pairs, y, mask = layer(inputs)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    sources = {"pairs": inputs[0], "values": inputs[1], **dict(layer.named_parameters())}
    grads = torch.autograd.grad((y * weights).sum(), list(sources.values()))
    return pairs, y, mask, dict(zip(sources, grads))


def _error(found, expected):
    return float(((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).detach())


def _check(layer, *, bounds=(1e-10, 1e-9), **options):
    dtype = next(layer.parameters()).dtype
    fast = copy.deepcopy(layer)
    state = copy.deepcopy(layer.state_dict())
    report = compat.accelerate(fast, strict=True)
    assert list(report.replaced) == [""], report
    assert all(torch.equal(x, state[name]) for name, x in fast.state_dict().items())
    for seed in (0, 1):
        inputs = _inputs(dtype=dtype, **options)
        pairs, y, mask, grads = _run(fast, inputs, seed)
        own_pairs, own_y, own_mask, own_grads = _run(layer, inputs, seed)
        assert torch.equal(pairs, own_pairs) and torch.equal(mask, own_mask) and torch.equal(fast.r, layer.r)
        assert y.shape == own_y.shape and _error(y, own_y) <= bounds[0]
        for name, own in own_grads.items():
            assert _error(grads[name], own) <= bounds[1], name
    assert not y[~mask].any()
    return fast


def _layer(*args, dtype=torch.float64, **options):
    torch.manual_seed(3)
    return LieConv(*args, **options).to(dtype)


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("knn", [True, False])
@pytest.mark.parametrize("bn", [True, False])
def test_options(mean, knn, bn):
    layer = _layer(3, 4, mean=mean, knn=knn, bn=bn)
    _check(layer.eval() if bn else layer)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 6])
def test_offsets_of_any_group(d):
    _check(_layer(3, 4, d=d), d=d)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU, lambda: nn.LeakyReLU(0.1)])
def test_activations(activation):
    _check(_layer(3, 4, activation=activation))


def test_single_precision():
    _check(_layer(3, 4, mean=True, dtype=torch.float32), bounds=(1e-5, 1e-4))


def test_subsampling_and_few_neighbours():
    _check(_layer(3, 4, ds_frac=0.5, mc_samples=7, mean=True, knn=True))


@pytest.mark.parametrize("divides", [True, False])
def test_the_bias_is_part_of_the_mean_where_it_is_in_the_layer(divides):
    layer = _layer(3, 4, mean=True, knn=True)
    layer.divides_bias = divides
    with torch.no_grad():
        layer.linear.bias.fill_(3.0)
    _check(layer)


@pytest.mark.parametrize("d", [2, 6])
def test_second_derivatives(d):
    layer = _layer(3, 4, d=d, knn=True)
    fast = copy.deepcopy(layer)
    compat.accelerate(fast, strict=True)
    found = []
    for model in (fast, layer):
        pairs, values, mask = _inputs(d)
        y = model((pairs, values, mask))[1]
        (grad,) = torch.autograd.grad(y.square().sum(), pairs, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), [pairs, *model.weightnet.parameters()]))
    for one, own in zip(*found):
        assert _error(one, own) <= 1e-9


def test_nothing_of_the_padding_is_seen():
    fast = _layer(3, 4, knn=True)
    compat.accelerate(fast, strict=True)
    pairs, values, mask = (x.detach() for x in _inputs())
    expected = fast((pairs, values, mask))[1]
    values = values.masked_fill(~mask[..., None], float("nan"))
    assert torch.equal(fast((pairs, values, mask))[1], expected)


def test_batch_norm_trains_by_the_layers_own_code():
    layer = _layer(3, 4, bn=True).eval()
    fast = copy.deepcopy(layer)
    compat.accelerate(fast, strict=True)
    for mode in (True, False):
        found, own = (_run(model.train(mode), _inputs()) for model in (fast, layer))
        assert _error(found[1], own[1]) <= 1e-10
        assert all(_error(found[3][name], own[3][name]) <= 1e-9 for name in own[3])
        assert all(torch.equal(a, b) for a, b in zip(fast.buffers(), layer.buffers()))
    report = compat.accelerate(_layer(3, 4, bn=True))
    assert "call model.eval() before" in report.kept[""]


def test_without_a_method_for_the_sum_it_stays():
    torch.manual_seed(0)
    layer = OneFunction(3, 4).double()
    report = compat.accelerate(layer)
    assert not report.replaced and "no method of its own" in report.kept[""]
    assert type(layer) is OneFunction


def test_another_formula_is_found_out():
    class Doubled(LieConv):
        def contract(self, *args):
            return 2 * super().contract(*args)

    torch.manual_seed(0)
    report = compat.accelerate(Doubled(3, 4))
    assert not report.replaced and "differs from the formula" in report.kept[""]
