"""What the tests of the point convolution's kernels on GPUs share: nets, numbers, and how far a result in 16 bits may be off."""

import pytest
import torch
from feature_checks import make_net, operands

from pgconv import groups
from pgconv.backends.reference.point_conv import point_conv as reference
from pgconv.spec import FeatureSpec

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
EVERY_GROUP_CHART_AND_FORM = pytest.mark.parametrize(
    ("name", "chart", "form"),
    [(n, c, f) for n in groups.names() for c in groups.get(n).charts for f in ("convolution", "correlation")],
)
# The relative error of one rounding; of float32 in parts that of half a dozen products, and of the special-function unit.
UNIT = {torch.float16: 2.0**-12, torch.bfloat16: 2.0**-9, torch.float32: 2.0**-19}


def call(name, activation="sin", chart="product", part="all", form="convolution", hidden=32, layers=3):
    group = groups.get(name)
    net = make_net(activation, group.coord_dim_of(chart, part), hidden, layers)
    return group, net, FeatureSpec(name, chart, part, form, net.net_spec)


def assert_close(found, want, same, dtype, name=None):
    """Twice the error of the definition in that type (``same``), and a rounding of the result."""
    assert found.shape == want.shape, name
    if want.numel():
        own = (same.double() - want).norm()
        assert (found.double() - want).norm() <= 2 * own + UNIT[dtype] * want.norm() + 1e-9, name


NAMES = ("f", "v", "u", "params", "weight", "bias")


def by_reference(tensors, lists, spec, depthwise, grad):
    """Value of a point convolution, and gradients of what is given."""
    leaves = [None if x is None else x.clone().requires_grad_() for x in tensors]
    out = reference(*leaves, lists, spec, depthwise)
    given = [x for x in leaves if x is not None]
    found = iter(torch.autograd.grad(out, given, grad.to(out.dtype), allow_unused=True, materialize_grads=True))
    return [out.detach(), *(None if x is None else next(found) for x in leaves)]


def assert_results(found, tensors, *call):
    """Value and all gradients within the bounds of their type; ``call`` are the reference's lists, spec, depthwise and grad."""
    dtype = tensors[0].dtype
    exact = by_reference([None if x is None else x.double() for x in tensors], *call)
    same = by_reference(tensors, *call)
    for name, x, y, z, own in zip(("out", *NAMES), found, exact, same, (tensors[0], *tensors)):
        assert (x is None) == (own is None), name
        if x is None:
            continue
        assert x.shape == y.shape and x.dtype == own.dtype, name
        if dtype != torch.float32:
            assert_close(x, y, z, dtype, name)
        elif y.numel():
            error = (x.double() - y).abs().max() / y.abs().max().clamp(min=1e-3)
            assert error <= (1e-5 if name == "out" else 1e-4), f"{name}: {error:.1e}"


def random(shape, dtype, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def operands_of(
    name="SE(2)",
    chart="product",
    form="convolution",
    activation="silu",
    hidden=9,
    layers=3,
    part="all",
    dtype=torch.float32,
    sets=(1, 1),
    batch=2,
    nv=17,
    nu=8,
    channels=5,
    outputs=3,
    depthwise=False,
    bias=True,
):
    """Operands f, v, u, params, weight, bias, and what is computed of them."""
    group = groups.get(name)
    net = make_net(activation, group.coord_dim_of(chart, part), hidden, layers)
    v, u, params = operands(group, net, sets[0], nv, sets[1], nu, torch.float32)
    head = (channels,) if depthwise else (outputs, channels)
    f, weight = random((batch, nv, channels), dtype, 3), random((*head, hidden), dtype, 4)
    shift = random(head, dtype, 5) if bias else None
    return (f, v, u, params, weight, shift), FeatureSpec(name, chart, part, form, net.net_spec), depthwise
