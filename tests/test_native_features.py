"""Native kernel-net features against the float64 reference: every group, chart, part, form, activation, level and shape."""

import pytest
import torch
from feature_checks import DTYPES, check, check_net, make_net, operands

from pgconv import backends, groups
from pgconv.backends import native_features
from pgconv.backends.cpp import library
from pgconv.kernel_nets import packing
from pgconv.spec import FeatureSpec

if "cpp" not in backends.available("cpu"):
    pytest.skip(f"no native library: {library.load_error()}", allow_module_level=True)


@DTYPES
@pytest.mark.parametrize("form", ["convolution", "correlation"])
@pytest.mark.parametrize("chart", ["product", "embed", "lie", "release"])
@pytest.mark.parametrize("name", groups.names())
def test_every_group_chart_part_and_form(name, chart, form, dtype):
    group = groups.get(name)
    if chart not in group.charts:
        pytest.skip("no such chart on this group")
    for part in ("all", "translation", "stabilizer"):
        net = make_net("sin", group.coord_dim_of(chart, part))
        spec = FeatureSpec(name, chart, part, form, net.net_spec)
        check(native_features, spec, operands(group, net, 2, 7, 2, 5, dtype), dtype)


@DTYPES
@pytest.mark.parametrize("activation", packing.ACTIVATIONS)
@pytest.mark.parametrize(("hidden", "layers"), [(1, 2), (7, 2), (16, 3), (32, 3), (33, 4), (128, 5)])
def test_every_activation_width_depth_and_level(level, activation, hidden, layers, dtype):
    group = groups.get("SE(2)")
    net = make_net(activation, 3, hidden, layers)
    spec = FeatureSpec("SE(2)", "product", "all", "convolution", net.net_spec)
    check(native_features, spec, operands(group, net, 1, 13, 1, 11, dtype), dtype)


@pytest.mark.parametrize(("sv", "su"), [(1, 1), (3, 3), (1, 3), (3, 1)])
@pytest.mark.parametrize("nv", [0, 1, 7, 64, 65])
@pytest.mark.parametrize("nu", [0, 1, 7, 64, 65])
def test_awkward_sizes_and_shared_or_own_elements(sv, su, nv, nu):
    group = groups.get("SE(3)")
    net = make_net("silu", 6)
    for form in ("convolution", "correlation"):
        spec = FeatureSpec("SE(3)", "lie", "all", form, net.net_spec)
        check(native_features, spec, operands(group, net, sv, nv, su, nu, torch.float64), torch.float64)


def test_strided_inputs():
    group = groups.get("E(2)")
    net = make_net("sin", 4)
    spec = FeatureSpec("E(2)", "product", "all", "convolution", net.net_spec)
    v, u, params = operands(group, net, 2, 9, 2, 8, torch.float64)
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (v, u)]
    check(native_features, spec, [*strided, params], torch.float64)


@DTYPES
@pytest.mark.parametrize("activation", packing.ACTIVATIONS)
@pytest.mark.parametrize(
    ("coord_dim", "shape"), [(0, (5,)), (1, (1,)), (2, (3, 0)), (3, (2, 33)), (12, (64,)), (20, (65,))]
)
def test_kernel_net_at_given_coordinates(level, activation, coord_dim, shape, dtype):
    check_net(native_features, activation, coord_dim, shape, dtype)


def test_gradients_stay_accurate_over_millions_of_pairs():
    # Plain float32 sums lose digits at this size; totals are kept in double.
    group, n = groups.get("T(3)"), 2048
    net = make_net("sin", 3, hidden=4)
    spec = FeatureSpec("T(3)", "product", "all", "convolution", net.net_spec)
    v, u, params = operands(group, net, 1, n, 1, n, torch.float32)
    grad = torch.randn(1, n, n, 4, generator=torch.Generator().manual_seed(4))
    found = native_features.relative_features_backward(grad, v, u, params, spec)
    want = native_features.relative_features_backward(*(x.double() for x in (grad, v, u, params)), spec)
    for x, y in zip(found, want):
        assert (x.double() - y).norm() / y.norm() <= 2e-6


def test_results_repeat_bitwise():
    group = groups.get("SE(2)")
    net = make_net("sin", 3, hidden=32)
    spec = FeatureSpec("SE(2)", "product", "all", "convolution", net.net_spec)
    tensors = operands(group, net, 2, 100, 2, 90, torch.float32)
    grad = torch.randn(2, 90, 100, 32, generator=torch.Generator().manual_seed(5))
    first = native_features.relative_features_backward(grad, *tensors, spec)
    for _ in range(3):
        assert all(
            torch.equal(x, y) for x, y in zip(first, native_features.relative_features_backward(grad, *tensors, spec))
        )


def test_levels_are_selected_and_refused_by_name(level):
    assert library.isa() == level
    with pytest.raises(RuntimeError, match="level"):
        library.set_isa("mmx")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(v=torch.zeros(1, 4, 2)), "v"),
        (dict(u=torch.zeros(4, 3)), "u"),
        (dict(params=torch.zeros(3)), "params"),
        (dict(group="SE(9)"), "group"),
        (dict(chart="polar"), "chart"),
        (dict(form="both"), "form"),
        (dict(net="sin:4:8:3"), "net"),
        (dict(u=torch.zeros(1, 4, 3, dtype=torch.float64)), "u"),
    ],
    ids=lambda x: x if isinstance(x, str) else next(iter(x)),
)
def test_native_border_refuses_wrong_input(change, words):
    net = make_net("sin", 3, hidden=8)
    arguments = dict(v=torch.zeros(1, 4, 3), u=torch.zeros(1, 5, 3), params=net.pack().detach())
    arguments |= dict(group="SE(2)", chart="product", part="all", form="convolution", net=net.net_spec)
    library.ops().relative_features(**arguments)
    with pytest.raises(RuntimeError, match=words):
        library.ops().relative_features(**(arguments | change))
