"""Triton kernels of nets and of point convolutions against the definition in float64: interpreted, on CPU tensors, and on a GPU
where there is one."""

import importlib.util

import pytest
import torch
from feature_checks import check as check_features
from feature_checks import check_net
from point_checks import assert_results, operands_of, random
from triton_process import with_values

from pgconv.backends.lists import Lists
from pgconv.kernel_nets import packing
from pgconv.spec import Facts, FeatureSpec

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)

from pgconv.backends.triton import features, pairs, point_conv
from pgconv.backends.triton.pairs import GIVEN, Law, law_of

DTYPES = pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16],
    ids=["float32", "float16", "bfloat16"],
)
BOTH = (torch.float32, torch.float16)
call = operands_of
HERE = "pgconv.backends.triton."


def computed(device, tensors, spec, depthwise, grad):
    own = [None if x is None else x.to(device) for x in tensors]
    out = point_conv.forward(own, spec, depthwise)
    grads = point_conv.backward([True] * 6, grad.to(device), own, spec, depthwise)
    return [None if x is None else x.cpu() for x in (out, *grads)]


def check(device, *args, factors=(1,) * 6, **changes):
    """Values and all gradients of a call within the bounds of their type. ``factors`` are those of the operands."""
    operands, spec, depthwise = call(*args, **changes)
    tensors = [None if x is None else factor * x for factor, x in zip(factors, operands)]
    check_operands(device, tensors, spec, depthwise)


def check_operands(device, tensors, spec, depthwise):
    """The same of operands."""
    f, _, u, _, weight, _ = tensors
    grad = random((f.shape[0], u.shape[1], weight.shape[0]), f.dtype, 6)
    found = computed(device, tensors, spec, depthwise, grad)
    assert_results(found, tensors, Lists(None, None, None), spec, depthwise, grad)


def net(device, *args):
    """Values and gradients of a net at given coordinates."""
    check_net(features, *args, device=device)


@pytest.mark.parametrize("activation", packing.ACTIVATIONS)
@pytest.mark.parametrize(
    ("shape", "coords", "hidden", "layers"),
    [((3, 5), 3, 9, 3), ((70,), 17, 64, 5), ((2,), 0, 33, 2), ((0,), 3, 8, 3)],
)
def test_nets_at_coordinates(run, activation, shape, coords, hidden, layers):
    run(net, activation, coords, shape, torch.float32, hidden, layers)


def of_pairs(device, name, form):
    (_, v, u, params, *_), spec, _ = call(name, form=form, sets=(2, 1), nv=7, nu=5)
    check_features(features, spec, (v, u, params), torch.float32, device)


@pytest.mark.parametrize(
    ("name", "form"), [("SE(2)", "convolution"), ("SE(3)", "correlation"), ("SO(2)/1", "convolution")]
)
def test_features_of_pairs(run, name, form):
    run(of_pairs, name, form)


def test_gradients_of_nets_in_several_tiles(run):
    run(with_values, {HERE + "features.PROGRAMS": 2}, net, "sin", 2, (300,), torch.float32)


@pytest.mark.parametrize(
    ("name", "chart", "part", "form", "dtype", "law"),
    [
        ("SE(2)", "product", "all", "convolution", torch.float32, Law(2, rotation=1)),
        ("SE(2)", "product", "all", "correlation", torch.float16, Law(2, rotation=1)),
        ("SE(2)", "embed", "all", "convolution", torch.bfloat16, Law(2, rotation=1, embedded=1)),
        ("SE(2)", "embed", "all", "correlation", torch.float32, Law(2, rotation=1, embedded=1)),
        ("SE(2)", "lie", "all", "correlation", torch.float32, GIVEN),
        ("SE(2)", "product", "translation", "convolution", torch.float16, Law(2, rotation=1, own=0)),
        ("SE(2)", "embed", "stabilizer", "correlation", torch.float32, Law(0, rotation=1, embedded=1)),
        ("E(2)", "product", "all", "convolution", torch.float32, Law(2, rotation=1, mirror=1)),
        ("E(2)", "embed", "all", "correlation", torch.float32, Law(2, rotation=1, mirror=1, embedded=1)),
        ("E(2)", "product", "translation", "correlation", torch.float32, Law(2, rotation=1, mirror=1, own=0)),
        ("E(2)", "product", "stabilizer", "convolution", torch.float16, Law(0, rotation=1, mirror=1)),
        ("M(2)", "lie", "all", "convolution", torch.float32, Law(2, mirror=1)),
        ("Sim(2)", "product", "all", "correlation", torch.float32, Law(2, rotation=1, scale=1)),
        ("Sim(2)", "embed", "all", "convolution", torch.float32, Law(2, rotation=1, scale=1, embedded=1)),
        ("SO(2)", "product", "all", "convolution", torch.float32, Law(0, rotation=1)),
        ("O(2)", "embed", "all", "correlation", torch.float32, Law(0, rotation=1, mirror=1, embedded=1)),
        ("R+xSO(2)", "product", "all", "convolution", torch.bfloat16, Law(0, rotation=1, scale=1)),
        ("T(1)", "product", "all", "correlation", torch.float32, Law(1)),
        ("T(2)", "lie", "translation", "convolution", torch.float16, Law(2, own=0)),
        ("T(2)", "release", "all", "convolution", torch.float32, GIVEN),
        ("T(3)", "product", "all", "convolution", torch.float32, Law(3)),
        ("SE(3)", "embed", "all", "convolution", torch.float32, GIVEN),
        ("SE(3)", "product", "all", "correlation", torch.bfloat16, GIVEN),
        ("SO(2)/1", "product", "all", "convolution", torch.float32, GIVEN),
        ("SO(2)/1", "product", "all", "correlation", torch.float16, GIVEN),
    ],
)
def test_laws_charts_and_forms(run, name, chart, part, form, dtype, law):
    assert law_of(name, chart, part) == law
    run(check, name, chart, form, part=part, dtype=dtype)


@pytest.mark.parametrize("dtype", BOTH, ids=["float32", "float16"])
@pytest.mark.parametrize("activation", packing.ACTIVATIONS)
def test_activations(run, activation, dtype):
    run(check, "T(2)", activation=activation, dtype=dtype)


@DTYPES
@pytest.mark.parametrize(("hidden", "layers", "activation"), [(1, 2, "tanh"), (33, 3, "sin"), (7, 5, "sin")])
def test_widths_and_depths(run, hidden, layers, activation, dtype):
    run(check, "T(2)", activation=activation, hidden=hidden, layers=layers, dtype=dtype, batch=1)


def test_deep_nets_in_parts(run):
    run(check, "T(2)", activation="gelu", layers=4, dtype=torch.float16, batch=1)


@pytest.mark.parametrize(
    ("dtype", "depthwise", "bias"),
    [(torch.float32, True, True), (torch.float16, True, False), (torch.float32, False, False)],
)
def test_depthwise_and_without_bias(run, dtype, depthwise, bias):
    run(check, "T(2)", dtype=dtype, depthwise=depthwise, bias=bias)


@pytest.mark.parametrize(
    ("sets", "batch", "channels", "dtype"),
    [
        ((2, 2), 2, 5, torch.float32),
        ((2, 1), 2, 5, torch.float16),
        ((1, 2), 2, 35, torch.float32),
        ((1, 1), 3, 24, torch.bfloat16),
    ],
)
def test_shared_or_own_elements_and_columns_in_blocks(run, sets, batch, channels, dtype):
    run(check, "SE(2)", sets=sets, batch=batch, channels=channels, dtype=dtype, nv=9)


def test_places_of_64_bits(run):
    run(with_values, {HERE + "point_conv.FAR": 0}, check, "T(2)", batch=3, channels=6, nv=9)


@pytest.mark.parametrize(("nv", "nu"), [(0, 3), (3, 0), (1, 1), (16, 1), (35, 3)])
def test_awkward_numbers_of_points(run, nv, nu):
    run(check, "T(1)", nv=nv, nu=nu, hidden=4, dtype=torch.float16 if nu == 3 else torch.float32)


def without_numbers(device, batch, channels):
    """Zeros of the right shape."""
    tensors, spec, _ = call("T(1)", batch=batch, channels=channels, nv=4)
    grad = torch.ones(batch, 8, 3)
    out, *grads = computed(device, tensors, spec, False, grad)
    assert out.shape == grad.shape and not out.any()
    for x, own in zip(grads, tensors):
        assert x.shape == own.shape and not x.any()


@pytest.mark.parametrize(("batch", "channels"), [(0, 3), (2, 0)])
def test_signals_without_numbers(run, batch, channels):
    run(without_numbers, batch, channels)


def in_parts(device, name):
    """The coordinates of outputs in pieces are so few, too."""
    seen = []

    def coordinates(v, u, spec):
        seen.append(u.shape[1] * v.shape[1] * 3)
        return own(v, u, spec)

    own = pairs.coordinates
    constants = {"NUMBERS": 200, "LEAST_INPUTS": 16, "LEAST_OUTPUTS": 1, "MOST_PROGRAMS": 1}
    values = {HERE + "point_conv." + constant: value for constant, value in constants.items()}
    values |= {HERE + module + ".coordinates": coordinates for module in ("pairs", "point_conv")}
    with_values(device, values, check, name, nv=35, nu=3, batch=1, channels=2)
    assert max(seen) <= 200


@pytest.mark.parametrize("name", ["SE(2)", "SO(2)/1"])
def test_sums_in_parts(run, name):
    """Outputs in pieces, inputs of a sum over several programs, and the gradients' programs some at a time."""
    run(in_parts, name)


def only_needed(device):
    tensors, spec, _ = call("T(2)", nv=5)
    tensors = [x.to(device) for x in tensors]
    grad = torch.ones(2, 8, 3, device=device)
    whole = point_conv.backward([True] * 6, grad, tensors, spec, False)
    for one in range(6):
        only = point_conv.backward([k == one for k in range(6)], grad, tensors, spec, False)
        assert [k for k, x in enumerate(only) if x is not None] == [one]
        assert torch.equal(only[one], whole[one])


def test_what_is_not_needed_is_not_computed(run):
    run(only_needed)


def test_large_phases_keep_their_accuracy(run):
    """The first layer is in float32: in 16 bits phases near 100 would be off by more than a tenth."""
    run(check, "T(2)", activation="sin", hidden=16, dtype=torch.float16, factors=(1, 3, 3, 1, 1, 1))


def far(device, name):
    (f, v, u, *rest), spec, _ = call(name, activation="relu", dtype=torch.float16, batch=1)
    for x in (v, u):
        x[..., :2] = 1e6 + 4 * torch.round(4 * x[..., :2])
    check_operands(device, (f, v, u, *rest), spec, False)


@pytest.mark.parametrize("name", ["T(2)", "SE(2)"])
def test_points_far_from_the_origin(run, name):
    """Behind the last input there are features, too, which must be finite: those of the origin would be beyond float16."""
    run(far, name)


def test_gradients_far_from_one_keep_their_accuracy(run):
    """In float16 they would be lost, were they not brought into its range."""
    run(check, "T(2)", dtype=torch.bfloat16, factors=(1e-6, 1, 1, 1, 1e-6, 1))


def nan(device):
    (f, v, u, params, weight, _), spec, _ = call("T(2)", nu=5, batch=1)
    u[0, 3, 1] = torch.nan
    out = point_conv.forward([x.to(device) for x in (f, v, u, params, weight)] + [None], spec, False)
    assert out[0, 3].isnan().all() and not out[0, [0, 1, 2, 4]].isnan().any()


def test_nan_reaches_its_outputs_and_no_others(run):
    run(nan)


@DTYPES
def test_real_sizes(run, request, dtype):
    if "gpu" not in request.node.callspec.id:
        pytest.skip("for GPUs")
    run(check, "SE(2)", activation="sin", hidden=32, dtype=dtype, nv=1500, nu=700, channels=32, outputs=16)


def facts(dtypes=("float16", "float32", "float32", "float32", "float16"), net="sin:3:32:3", inputs=1000, lists=0):
    sizes = (("lists", lists), ("Nv", inputs), ("B", 2), ("Nu", 50), ("pairs", 100 * inputs))
    return Facts("point_conv", "cuda", dtypes, sizes, FeatureSpec("SE(2)", "product", "all", "convolution", net))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"dtypes": ("float32",) * 5}, None),
        ({"dtypes": ("float64",) * 5}, "float16, bfloat16"),
        ({"dtypes": ("float16",) * 5}, "float32"),
        ({"lists": 1}, None),
        ({"inputs": 20000}, "bfloat16 has it"),
        ({"net": "sin:3:65:3"}, "too wide"),
        ({"net": "sin:3:32:6"}, "too deep"),
        ({"net": "sin:32:32:3"}, "coordinates"),
    ],
)
def test_calls_that_no_kernel_takes_have_a_reason(changed, reason):
    found = point_conv.why_not(facts(**changed))
    assert found is None if reason is None else reason in found


def test_features_in_other_types_have_a_reason():
    assert "float32" in features.why_not(facts(("float64",) * 3))
    assert features.why_not(facts(("float32",) * 3)) is None
    assert "too wide" in features.why_not(facts(("float32",) * 3, "sin:3:65:3"))
