"""The moments of the point convolution on a GPU against the definition in float64, on every machine there is."""

import pytest
import torch
from feature_checks import make_net, operands
from gpu_machines import machines
from point_checks import EVERY_GROUP_CHART_AND_FORM, HALVES, assert_close, call, random

from pgconv import groups
from pgconv.backends.cuda.layout import halves
from pgconv.backends.reference.features import pair_features
from pgconv.kernel_nets import packing
from pgconv.spec import FeatureSpec

MACHINES = machines()
if not MACHINES:
    pytest.skip("neither the emulator nor a GPU", allow_module_level=True)


@pytest.fixture(params=MACHINES)
def machine(request):
    return MACHINES[request.param]


def moments(f, v, u, params, spec):
    """The definition, with the features rounded to the signal's type."""
    phi = pair_features(v[:, None], u[:, :, None], params, spec).to(f.dtype)
    return torch.einsum("bijh,bjc->bihc", phi.expand(f.shape[0], -1, -1, -1), f)


def check(machine, spec, batch, channels, v, u, params, dtype):
    f = random((batch, v.shape[1], channels), dtype, 7)
    found = machine.point_moments(f, v, u, params, spec)
    assert found.dtype == torch.float32
    want = moments(*(x.double() for x in (f, v, u, params)), spec)
    assert_close(found, want, moments(f, v, u, params, spec), dtype)


EVERY_TYPE = pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32], ids=["float16", "bfloat16", "float32"]
)


def in_parts(grad, f, sets=1):
    """As the caller scales them, but for columns and sets of other sizes."""
    return halves(grad * 2**11), halves(f * 2**11), torch.full((sets,), 2.0**-22)


def check_gradient(machine, spec, batch, channels, v, u, params, dtype):
    f = random((batch, v.shape[1], channels), dtype, 7)
    grad = random((batch, u.shape[1], int(spec.net.split(":")[2]), channels), dtype, 8)

    def by_definition(f, grad, *elements):
        leaves = [x.clone().requires_grad_() for x in elements]
        return torch.autograd.grad(moments(f, *leaves, spec), leaves, grad, allow_unused=True, materialize_grads=True)

    signals, sets = (grad, f, None), max(v.shape[0], u.shape[0])
    if dtype == torch.float32:
        signals = in_parts(grad, f, sets)
    found = machine.point_gradient(*signals, v, u, params, spec)
    want = by_definition(*(x.double() for x in (f, grad, v, u, params)))
    same = by_definition(f, grad, v, u, params)
    for name, *gradients in zip(("v", "u", "params"), found, want, same):
        assert_close(*gradients, dtype, name)


@EVERY_GROUP_CHART_AND_FORM
def test_every_group_chart_and_form(machine, name, chart, form):
    group, net, spec = call(name, chart=chart, form=form)
    check(machine, spec, 1, 8, *operands(group, net, 1, 19, 1, 3, torch.float32), torch.float16)


@pytest.mark.parametrize("part", ["translation", "stabilizer"])
def test_parts_of_the_coordinates(machine, part):
    group, net, spec = call("SE(2)", part=part)
    check(machine, spec, 1, 8, *operands(group, net, 1, 19, 1, 3, torch.float32), torch.bfloat16)


def test_orbit_coordinates(machine):
    orbits = groups.Orbits(groups.get("SO(2)"), 1)
    net = make_net("silu", orbits.coord_dim_of("product"))
    for form in ("convolution", "correlation"):
        spec = FeatureSpec(orbits.name, "product", "all", form, net.net_spec)
        check(machine, spec, 2, 8, *operands(orbits, net, 2, 21, 2, 3, torch.float32), torch.float16)


@HALVES
@pytest.mark.parametrize("activation", packing.ACTIVATIONS)
@pytest.mark.parametrize(("hidden", "layers"), [(1, 2), (32, 2), (7, 3), (33, 3), (64, 4), (32, 5)])
def test_every_activation_width_and_depth(machine, activation, hidden, layers, dtype):
    group, net, spec = call("SE(2)", activation, hidden=hidden, layers=layers)
    check(machine, spec, 1, 8, *operands(group, net, 1, 20, 1, 5, torch.float32), dtype)


@pytest.mark.parametrize(
    ("nv", "nu"), [(0, 3), (3, 0), (1, 1), (15, 16), (16, 17), (17, 1), (64, 2), (65, 2), (129, 3)]
)
def test_awkward_numbers_of_points(machine, nv, nu):
    group, net, spec = call("SE(3)", chart="embed")
    check(machine, spec, 2, 16, *operands(group, net, 2, nv, 2, nu, torch.float32), torch.bfloat16)


@pytest.mark.parametrize(("sv", "su", "batch"), [(1, 1, 3), (3, 1, 3), (1, 3, 3), (3, 3, 3), (1, 1, 9)])
@pytest.mark.parametrize("channels", [8, 24, 40])
def test_shared_or_own_elements_and_columns_in_several_blocks(machine, sv, su, batch, channels):
    group, net, spec = call("T(2)")
    check(machine, spec, batch, channels, *operands(group, net, sv, 18, su, 5, torch.float32), torch.float16)


@pytest.mark.parametrize("activation", packing.ACTIVATIONS)
@pytest.mark.parametrize(("hidden", "layers"), [(1, 2), (32, 2), (7, 3), (32, 3), (33, 3), (32, 5)])
def test_parts_of_float32_are_as_accurate(machine, activation, hidden, layers):
    """At most twice what the definition in float32 loses, or half a unit for each of the steps that cut sums off: 5 times 16
    inputs, three products each, and as many in the layers before."""
    group, net, spec = call("SE(2)", activation, hidden=hidden, layers=layers)
    v, u, params = operands(group, net, 1, 70, 1, 5, torch.float32)
    f = random((1, 70, 8), torch.float32, 7)
    high = f.half()
    found = machine.point_moments(torch.stack([high, (f - high).half()]), v, u, params, spec).double()
    want = moments(*(x.double() for x in (f, v, u, params)), spec)
    own = (moments(f, v, u, params, spec).double() - want).norm()
    assert (found - want).norm() <= max(2 * own, 2 * 15 * 2.0**-24 * want.norm())


def test_large_phases_keep_their_accuracy(machine):
    """The first layer is in float32: in 16 bits phases near 100 would be off by more than a tenth."""
    group, net, spec = call("T(2)")
    v, u, params = operands(group, net, 1, 40, 1, 4, torch.float32)
    check(machine, spec, 1, 8, 3 * v, 3 * u, params, torch.float16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["float16", "float32"])
@EVERY_GROUP_CHART_AND_FORM
def test_gradients_of_every_group_chart_and_form(machine, name, chart, form, dtype):
    group, net, spec = call(name, chart=chart, form=form)
    if dtype == torch.float32 and name in ("SO(3)", "SE(3)") and chart == "embed":
        assert "(float32: 7)" in machine.why_not_gradient(name, spec.net, 16, True)
        return
    check_gradient(machine, spec, 1, 16, *operands(group, net, 1, 37, 1, 13, torch.float32), dtype)


@EVERY_TYPE
@pytest.mark.parametrize("form", ["convolution", "correlation"])
def test_gradients_of_orbit_coordinates(machine, form, dtype):
    orbits = groups.Orbits(groups.get("SO(2)"), 1)
    net = make_net("silu", orbits.coord_dim_of("product"))
    spec = FeatureSpec(orbits.name, "product", "all", form, net.net_spec)
    check_gradient(machine, spec, 2, 8, *operands(orbits, net, 2, 21, 2, 3, torch.float32), dtype)


@EVERY_TYPE
@pytest.mark.parametrize("activation", packing.ACTIVATIONS)
@pytest.mark.parametrize(("hidden", "layers"), [(1, 2), (32, 2), (7, 3), (32, 3)])
@pytest.mark.parametrize(("name", "chart"), [("SE(2)", "product"), ("SE(2)", "embed"), ("SE(3)", "product")])
def test_gradients_of_every_activation_and_width(machine, activation, hidden, layers, dtype, name, chart):
    """Kernels know common nets, by the number of coordinates: up to three, four, and up to seven."""
    group, net, spec = call(name, activation, hidden=hidden, layers=layers, chart=chart)
    check_gradient(machine, spec, 1, 8, *operands(group, net, 1, 20, 1, 5, torch.float32), dtype)


@EVERY_TYPE
@pytest.mark.parametrize(("nv", "nu"), [(0, 3), (3, 0), (1, 1), (15, 2), (17, 3), (128, 1), (129, 5), (20, 66)])
def test_gradients_of_awkward_numbers_of_points(machine, nv, nu, dtype):
    group, net, spec = call("SE(3)", chart="product")
    check_gradient(machine, spec, 2, 16, *operands(group, net, 2, nv, 2, nu, torch.float32), dtype)


@pytest.mark.parametrize(("sv", "su", "batch"), [(1, 1, 3), (3, 1, 3), (1, 3, 3), (3, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["float16", "float32"])
@pytest.mark.parametrize("channels", [8, 16, 24, 32])
def test_gradients_of_shared_or_own_elements_and_many_columns(machine, sv, su, batch, channels, dtype):
    """Images that share elements are columns side by side, of which float32 may have fewer on small GPUs."""
    group, net, spec = call("T(2)")
    if dtype == torch.float32 and sv == su == 1 and machine.why_not_gradient("T(2)", spec.net, batch * channels, True):
        assert batch * channels > 64
        return
    check_gradient(machine, spec, batch, channels, *operands(group, net, sv, 18, su, 5, torch.float32), dtype)


def test_every_schedule_gives_the_same_bits(machine):
    group, net, spec = call("SE(2)")
    v, u, params = operands(group, net, 1, 140, 1, 18, torch.float32)
    f = random((1, 140, 8), torch.float16, 1)
    first, *others = (machine.with_seed(seed).point_moments(f, v, u, params, spec) for seed in range(4))
    for other in others:
        assert torch.equal(first, other)
    grad = random((1, 18, 32, 8), torch.float16, 2)
    for signals in ((grad, f, None), in_parts(grad.float(), f.float())):
        first, *others = (machine.with_seed(seed).point_gradient(*signals, v, u, params, spec) for seed in range(4))
        for other in others:
            assert all(map(torch.equal, first, other))


def test_long_sums_are_cut(machine):
    """All terms of one sign: in one accumulator the cut-off of every step would add up."""
    group, net, spec = call("T(1)", "relu", hidden=1, layers=2)
    v, u, params = operands(group, net, 1, 9000, 1, 1, torch.float32)
    params = params.abs()
    f = torch.full((1, 9000, 8), 1.0009765625).half()
    high = torch.stack([f, torch.zeros_like(f)])
    want = moments(f.double(), v.double().abs(), u.double() + 2, params.double(), spec)
    found = machine.point_moments(high, v.abs(), u + 2, params, spec)
    assert ((found.double() - want).abs() <= 1e-5 * want.abs()).all()


@pytest.mark.parametrize("size", [1e-30, 1e-4, 1e-2, 30.0])
@pytest.mark.parametrize("activation", packing.ACTIVATIONS)
def test_float32_gradients_before_weights_of_any_size(machine, activation, size):
    """Of elements and first layer, which the second layer's weights bring to them."""
    group, net, spec = call("SE(2)", activation)
    v, u, params = operands(group, net, 1, 20, 1, 5, torch.float32)
    first = 32 * 4
    params[first : first + 32 * 32] *= size
    f, grad = random((1, 20, 8), torch.float32, 7), random((1, 5, 32, 8), torch.float32, 8)

    def by_definition(f, grad, *elements):
        leaves = [x.clone().requires_grad_() for x in elements]
        of_v, of_u, of_params = torch.autograd.grad(moments(f, *leaves, spec), leaves, grad)
        return of_v, of_u, of_params[:first]

    of_v, of_u, of_params = machine.point_gradient(*in_parts(grad, f), v, u, params, spec)
    want = by_definition(*(x.double() for x in (f, grad, v, u, params)))
    same = by_definition(f, grad, v, u, params)
    for name, own, exact, plain in zip(("v", "u", "first layer"), (of_v, of_u, of_params[:first]), want, same):
        norm = exact.norm()
        assert norm > 0
        assert_close(own.double() / norm, exact / norm, plain.double() / norm, torch.float32, name)


def test_long_sums_of_float32_gradients_are_rounded(machine):
    """Not cut off by every product."""
    group, net, spec = call("SE(2)", hidden=5)
    check_gradient(machine.with_parts(1), spec, 1, 8, *operands(group, net, 1, 3, 1, 140, torch.float32), torch.float32)
    group, net, spec = call("T(1)", "relu", hidden=1, layers=2)
    v, u, params = (x.abs() for x in operands(group, net, 1, 3, 1, 140, torch.float32))
    ones = torch.full((1, 3, 8), 1.0009765625), torch.ones(1, 140, 1, 8)
    leaves = [x.double().requires_grad_() for x in (v, u + 4, params)]
    want = torch.autograd.grad(moments(ones[0].double(), *leaves, spec), leaves, ones[1].double())
    found = machine.with_parts(1).point_gradient(*in_parts(*ones[::-1]), v, u + 4, params, spec)
    for own, exact in zip(found, want):
        assert ((own.double() - exact).abs() <= 1e-6 * exact.abs()).all()


def test_nan_reaches_its_outputs_and_no_others(machine):
    group, net, spec = call("T(2)")
    v, u, params = operands(group, net, 1, 20, 1, 20, torch.float32)
    u[0, 17, 1] = torch.nan
    found = machine.point_moments(torch.ones(1, 20, 8).half(), v, u, params, spec)
    assert found[0, 17].isnan().all()
    assert not found[0, torch.arange(20) != 17].isnan().any()


def test_what_has_a_reason_is_refused(machine):
    """Images that share their elements are columns, too: three times 40."""
    group, net, spec = call("T(2)")
    elements = operands(group, net, 1, 18, 1, 5, torch.float32)
    with pytest.raises(RuntimeError, match="96 columns"):
        check_gradient(machine, spec, 3, 40, *elements, torch.float16)
    group, net, spec = call("T(2)", hidden=65)
    with pytest.raises(RuntimeError, match="too wide"):
        check(machine, spec, 1, 8, *operands(group, net, 1, 18, 1, 5, torch.float32), torch.float16)


def test_nets_that_are_too_large_have_a_reason(machine):
    assert "too wide" in machine.why_not_moments("sin:3:65:3")
    assert machine.why_not_moments("silu:3:64:5") == ""
    assert "too deep" in machine.why_not_moments("silu:3:64:12")
    for exact, most, coords in ((False, 96, 16), (True, 64, 8)):
        assert machine.why_not_gradient("SE(2)", "sin:3:32:3", most, exact) == ""
        assert machine.why_not_gradient("SE(3)", "sin:6:32:3", most // 2, exact) == ""
        for net, columns in (("sin:3:33:3", 32), ("sin:3:32:4", 32), (f"sin:{coords}:32:3", 32), ("sin:3:32:3", 97)):
            assert "up to 32 features, two hidden layers" in machine.why_not_gradient("SE(2)", net, columns, exact)
