"""Image convolutions in Triton through their Python side, against the definition in float64: interpreted, on CPU tensors, and on a
GPU where there is one."""

import importlib.util
from dataclasses import replace
from functools import partial

import conv_machines
import pytest
import torch

import pgconv
from pgconv._layout import group_last, is_group_last
from pgconv.backends.reference.group_conv2d import group_conv2d as reference
from pgconv.backends.triton import BACKEND, conv_tiles, group_conv2d, runtime
from pgconv.ops import dispatch
from pgconv.ops import plan as planner
from pgconv.ops._define import FAMILIES
from pgconv.spec import ConvGeometry, Plan

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)

UNIT = {torch.float16: 2.0**-12, torch.bfloat16: 2.0**-9, torch.float32: 2.0**-24}
DTYPES = pytest.mark.parametrize("dtype", UNIT, ids=lambda dtype: str(dtype).removeprefix("torch."))
FUSED = pytest.mark.parametrize("order", ["aggregate", "direct"])
ALL = (True, True, True)


make = partial(conv_machines.make, size=(5, 7))


def expected(tensors, geometry, order):
    """Of out, and of the gradients from one of it: the definition in float64, and in the tensors' type."""
    results, dtype = [], tensors[0].dtype
    for cast, form in ((torch.float64, "direct"), (dtype, order)):
        leaves = [x.detach().to(cast).requires_grad_() for x in tensors]
        out = reference(*leaves, geometry, form)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        results.append((out.detach(), *torch.autograd.grad(out, leaves, grad.to(cast))))
    return grad, zip(*results)


def assert_close(found, want, same, dtype):
    """Twice the error of the definition in that precision, and a rounding of the result."""
    assert found.shape == want.shape and found.dtype == dtype, f"{found.shape}, {found.dtype}"
    if want.numel():
        bound = 2 * (same.double() - want).norm() + UNIT[dtype] * want.norm()
        error = (found.double().cpu() - want).norm()
        assert error <= bound, f"{error} > {bound}"


def check(device, order, dtype, shape, geometry=None, needs=ALL, spoil=None):
    """Values and gradients; ``spoil`` is an operand that loses one number first."""
    tensors, geometry = make(dtype, **shape, geometry=geometry)
    grad, wanted = expected(tensors, geometry, order)
    on = [x.to(device) for x in (grad, *tensors)]
    if spoil is not None:
        on[spoil][tuple(n - 1 for n in on[spoil].shape)] = 0
    found = group_conv2d.forward(order, *on[1:], geometry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_conv2d, "PROGRAMS", 3)  # so few that each has several tiles
        gradients = group_conv2d.backward(order, *on, geometry, needs)
    assert [x is not None for x in gradients] == list(needs)
    for x, (want, same) in zip((found, *gradients), wanted):
        if x is not None:
            assert_close(x, want, same, dtype)


@FUSED
@DTYPES
@pytest.mark.parametrize("per_example", [False, True], ids=["shared", "per_example"])
def test_a_plain_layer(run, order, dtype, per_example):
    run(check, order, dtype, {"per_example": per_example})


SHAPES = {
    "ones": {"b": 1, "c": 1, "o": 1, "nv": 1, "nu": 1, "hidden": 1, "size": (1, 1)},
    # More than a block has.
    "outputs": {"o": 17, "c": 1, "b": 1, "nu": 2, "size": (3, 5)},
    "features": {"hidden": 33, "c": 1, "b": 1, "nu": 2, "size": (3, 5)},
    "pixels": {"size": (2, 131), "b": 1, "c": 1, "nu": 1},
    # Images that share a block, and that do not.
    "images": {"b": 7, "c": 1, "size": (2, 3)},
    "own": {"b": 3, "c": 1, "size": (3, 5), "per_example": True, "nu": 1},
    "products": {"nv": 47, "c": 1, "nu": 1, "b": 1, "size": (3, 3)},
    "samples": {"nu": 9, "b": 1, "c": 2, "size": (3, 5)},
    "channels": {"c": 7, "hidden": 7, "nu": 8, "nv": 8, "b": 1, "size": (3, 5)},
    "whole": {"o": 16, "c": 4, "hidden": 8, "nu": 8, "nv": 8, "b": 1, "size": (4, 8)},
}
ONE_SAMPLE = list(SHAPES)[:6]
"""Those that say something of kernels that take one sample of the result at a time."""


@pytest.mark.parametrize(
    ("order", "shape"), [("aggregate", x) for x in SHAPES] + [("direct", x) for x in ONE_SAMPLE], ids=str
)
def test_awkward_shapes(run, order, shape):
    # Both orders share the kernels of the other gradients.
    needs = ALL if order == "aggregate" else (True, False, False)
    run(check, order, torch.float16, SHAPES[shape], None, needs)


def with_blocks_of(device, architecture, *call):
    """With the blocks that a class of GPUs has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "architecture", lambda: architecture)
        check(device, *call)


@pytest.mark.parametrize("architecture", ["hopper", "ampere"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_blocks_of_gpus(run, architecture, dtype):
    shape = {"b": 1, "c": 5, "o": 19, "nu": 5, "nv": 3, "hidden": 9, "size": (5, 7)}
    run(with_blocks_of, architecture, "aggregate", dtype, shape)
    run(with_blocks_of, architecture, "direct", dtype, shape | {"nu": 1}, None, (True, False, False))


@FUSED
@pytest.mark.parametrize(
    "walk",
    [
        (1, 1, "same", 1, "disc"),
        (3, 1, "valid", 1, "square"),
        (3, 2, 1, 1, "disc"),
        (3, (1, 2), (2, 0), (1, 2), "disc"),
        (5, 1, 3, 1, "disc"),
        (5, (3, 1), 4, 2, "square"),
        (7, 1, "same", 1, "disc"),
    ],
    ids=str,
)
def test_every_walk_over_the_pixels(run, order, walk):
    size, *others = walk
    geometry = ConvGeometry.make("test", size, *others)
    shape = {"b": 1, "c": 2, "nu": 2, "size": (7, 6)}
    run(check, order, torch.float32, shape, geometry, ALL if order == "aggregate" else (True, False, False))


def layouts(device, order, stride):
    """The same numbers from both layouts, in the layout of the signal."""
    geometry = ConvGeometry.make("test", 3, stride, "same", 1, "disc")
    tensors, geometry = make(torch.float16, b=2, c=2, geometry=geometry)
    f, phi, weight = (x.to(device) for x in tensors)
    want = group_conv2d.forward(order, f, phi, weight, geometry)
    found = group_conv2d.forward(order, group_last(f), phi, weight, geometry)
    assert want.is_contiguous() and is_group_last(found) and torch.equal(found, want)
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(want)
    wants = group_conv2d.backward(order, grad, f, phi, weight, geometry, ALL)
    founds = group_conv2d.backward(order, group_last(grad), group_last(f), phi, weight, geometry, ALL)
    assert all(torch.equal(x, y) for x, y in zip(wants, founds))
    # The vendor's gradient, at other strides than 1, lies as it likes.
    assert stride > 1 or (wants[0].is_contiguous() and is_group_last(founds[0]))
    # A signal and a gradient that are neither.
    apart = torch.stack([f, f + 1], -1)[..., 0]
    assert torch.equal(group_conv2d.forward(order, apart, phi, weight, geometry), want)


@pytest.mark.parametrize(("order", "stride"), [("aggregate", 1), ("aggregate", 2), ("direct", 1)])
def test_results_lie_as_the_signal(run, order, stride):
    run(layouts, order, stride)


def empty(device, order, shape):
    """Zeros of the right shape."""
    tensors, geometry = make(torch.float16, **shape)
    on = [x.to(device) for x in tensors]
    out = group_conv2d.forward(order, *on, geometry)
    assert out.shape == (on[0].shape[0], on[2].shape[0], on[1].shape[1], *geometry.out_size(*on[0].shape[-2:]))
    assert not out.any()
    for x, y in zip(group_conv2d.backward(order, out, *on, geometry, ALL), on):
        assert x.shape == y.shape and not x.any()


@FUSED
@pytest.mark.parametrize(
    "shape",
    [{"b": 0}, {"b": 0, "per_example": True}, {"c": 0}, {"o": 0}, {"nv": 0}, {"nu": 0}, {"hidden": 0}],
    ids=str,
)
def test_nothing(run, order, shape):
    run(empty, order, shape)


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3])
def test_only_the_gradients_that_are_needed(run, needs):
    run(check, "aggregate", torch.float32, {"c": 1}, None, needs)


@pytest.mark.parametrize("spoil", range(4), ids=["grad", "f", "phi", "weight"])
def test_one_number_left_out_would_be_seen(run, spoil):
    with pytest.raises(AssertionError):
        run(check, "aggregate", torch.float16, {}, None, ALL, spoil)


def nan(device, order):
    """It reaches the windows it is in and no others."""
    (f, phi, weight), geometry = make(torch.float16, nv=1, nu=1, size=(9, 8), b=1)
    f[0, 1, 0, 5, 6] = torch.nan
    out = group_conv2d.forward(order, *(x.to(device) for x in (f, phi, weight)), geometry)
    spoiled = out[0, 0, 0].isnan().nonzero().tolist()
    assert sorted(map(tuple, spoiled)) == sorted((5 - row, 6 - col) for row, col in geometry.taps())


@FUSED
def test_nan_reaches_the_windows_it_is_in(run, order):
    run(nan, order)


def wide(device, order):
    """The same with int64 places."""
    tensors, geometry = make(torch.float32, c=2)
    on = [x.to(device) for x in tensors]
    grad = torch.ones(2, 5, 3, 5, 7, device=device)
    results = []
    for numbers in (1 << 31, 2):
        group_conv2d.NUMBERS = numbers
        try:
            results.append([group_conv2d.forward(order, *on, geometry)])
            results[-1] += group_conv2d.backward(order, grad, *on, geometry, ALL)
        finally:
            group_conv2d.NUMBERS = 1 << 31
    assert all(torch.equal(x, y) for x, y in zip(*results))


@FUSED
def test_places_that_int32_cannot_hold(run, order):
    run(wide, order)


def through_the_operator(device):
    """By name it runs, with gradients; by itself it is not taken on a CPU."""
    tensors, geometry = make(torch.float32, c=2)
    leaves = [x.to(device).requires_grad_() for x in tensors]
    results = []
    for plan in ("triton:aggregate", "reference:direct"):
        out = pgconv.ops.group_conv2d(*leaves, str(geometry), plan)
        results.append([out, *torch.autograd.grad(out.sin().sum(), leaves)])
    for x, y in zip(*results):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
    facts = FAMILIES["group_conv2d"].facts(*leaves, geometry)
    assert dispatch.resolve(facts, Plan("triton")).backend == "triton"
    if device == "cpu":
        assert BACKEND.unavailable("cpu") is None and "triton" in pgconv.backends.available("cpu")
        assert dispatch.resolve(facts, Plan()).backend != "triton"
        assert "interpreted" in BACKEND.describe()


def test_by_name(run):
    run(through_the_operator)


def facts(dtype="float16", **sizes):
    tensors, geometry = make(torch.float16, **sizes)
    return replace(FAMILIES["group_conv2d"].facts(*tensors, geometry), device="cuda", dtypes=3 * (dtype,))


@FUSED
@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (facts(), None),
        (facts("float32"), None),
        (facts("float64"), "float16, bfloat16, float32, received float64"),
        (replace(facts(), dtypes=("float16", "float32", "float16")), "one dtype"),
        (replace(facts("bfloat16"), device="cpu"), "bits of bfloat16"),
        (facts(geometry=ConvGeometry.make("test", 3, 1, 0, 3, "disc")), "does not fit"),
        (facts(geometry=ConvGeometry.make("test", 33, 1, "same", 1, "disc"), size=(1, 1), nv=1, nu=1), "up to 31 rows"),
    ],
)
def test_calls_that_the_kernels_do_not_take_have_a_reason(order, call, reason):
    found = BACKEND.why_not(call, order)
    assert found is None if reason is None else reason in found


def test_the_rest_has_a_reason():
    assert "no Triton kernel in the order 'mix'" in BACKEND.why_not(facts(), "mix")
    assert BACKEND.why_not(facts("float64"), "materialize") is None
    assert "do not run on meta" in BACKEND.unavailable("meta")
    if not runtime.interpreted():
        assert "TRITON_INTERPRET" in BACKEND.unavailable("cpu")


def test_every_order_has_a_cost_on_a_gpu():
    for direction in planner.DIRECTIONS:
        assert set(BACKEND.orders("group_conv2d")) <= set(planner.costs(facts(), direction))


@pytest.mark.parametrize("architecture", conv_tiles.TABLE)
@pytest.mark.parametrize("kernel", ["chain", "direct", "head_gradient", "feature_gradient"])
def test_every_tile_is_one_that_matrix_instructions_take(architecture, kernel):
    for word in (2, 4):
        for samples in (1, 2, 5, 8, 24):
            for features in (1, 8, 9, 32, 100):
                tile = conv_tiles.tile(architecture, kernel, word, samples, features, 3, 40)
                assert all(n & (n - 1) == 0 for n in tile[:6])
                assert min(tile.UB * tile.HB, tile.CB * tile.HB, tile.P * tile.UB, tile.OB, tile.KB) >= conv_tiles.LEAST
