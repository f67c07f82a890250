"""Native image convolutions of bfloat16 signals: every order, level and gradient by the rule for low precision.

The error against float64 is at most twice that of the same order of the reference in bfloat16, beside the rounding of
the result that no implementation can avoid.
"""

import pytest
import torch

from pgconv import backends
from pgconv.backends.cpp import group_conv2d as native
from pgconv.backends.cpp import library
from pgconv.backends.reference.group_conv2d import group_conv2d as reference
from pgconv.spec import ConvGeometry

if "cpp" not in backends.available("cpu"):
    pytest.skip(f"no native library: {library.load_error()}", allow_module_level=True)

BF16 = torch.bfloat16
ALL = (True, True, True)

# B, C, Nv, O, Nu, image, kernel size, features, sets, geometry. Words hold two numbers: all sizes occur even and odd.
CASES = {
    "ones": (1, 1, 1, 1, 1, (1, 1), 1, 1, 1, {}),
    "odd": (3, 5, 3, 7, 3, (5, 3), 3, 5, 3, {}),
    "even": (2, 4, 2, 16, 4, (8, 32), 3, 8, 1, {}),
    "one-feature": (2, 9, 3, 9, 3, (3, 40), 3, 1, 2, {}),
    "wide-net": (1, 17, 2, 16, 5, (7, 31), 3, 33, 1, {}),
    "many-channels": (5, 65, 3, 1, 1, (9, 8), 3, 16, 1, {}),
    "many-outputs": (1, 2, 1, 65, 9, (8, 33), 5, 31, 1, {}),
    "chunks": (1, 40, 2, 33, 3, (6, 11), 3, 9, 1, {}),
    "strides": (2, 3, 3, 3, 2, (7, 6), 3, 4, 2, {"stride": (3, 2), "dilation": (1, 2)}),
    "valid": (2, 2, 3, 3, 2, (6, 5), 3, 4, 1, {"padding": "valid", "dilation": 2}),
    "padding": (2, 2, 3, 3, 2, (2, 3), 3, 3, 1, {"padding": 3}),
    "square": (1, 4, 3, 3, 2, (9, 10), 5, 4, 1, {"support": "square"}),
}


@pytest.fixture(autouse=True)
def restored_level():
    before = library.isa()
    yield
    library.set_isa(before)


def operands(B, C, Nv, O, Nu, image, k, Hd, S, options):  # noqa: E741
    """f, phi, weight, the output's gradient, all bfloat16, and the geometry."""
    given = {"stride": 1, "padding": "same", "dilation": 1, "support": "disc", **options}
    geometry = ConvGeometry.make("test", k, given["stride"], given["padding"], given["dilation"], given["support"])
    shapes = [
        (B, C, Nv, *image),
        (S, Nu, Nv, len(geometry.taps()), Hd),
        (O, C, Hd),
        (B, O, Nu, *geometry.out_size(*image)),
    ]
    generator = torch.Generator().manual_seed(0)
    *tensors, grad = (torch.randn(s, generator=generator, dtype=torch.float64).to(BF16) for s in shapes)
    return tensors, grad, geometry


def by_reference(tensors, grad, geometry, order, dtype):
    """The output and the gradients of f, phi and weight."""
    leaves = [x.to(dtype).requires_grad_() for x in tensors]
    out = reference(*leaves, geometry, order)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(dtype))]


def by_native(tensors, grad, geometry, order, needs=ALL):
    return [native.forward(order, *tensors, geometry), *native.backward(order, grad, *tensors, geometry, needs)]


@pytest.mark.parametrize("order", ["aggregate", "mix", "direct"])
@pytest.mark.parametrize("id", CASES)
def test_as_exact_as_bfloat16_allows(id, order):
    tensors, grad, geometry = operands(*CASES[id])
    exact = by_reference(tensors, grad, geometry, order, torch.float64)
    low = by_reference(tensors, grad, geometry, order, BF16)
    for level in library.supported_isas():
        library.set_isa(level)
        found = by_native(tensors, grad, geometry, order)
        for name, x, allowed, y in zip(("output", "f", "phi", "weight"), found, low, exact):
            assert x.dtype == BF16 and x.shape == y.shape, (level, name)
            for norm in (float("inf"), 2):
                bound, floor, error = ((z.double() - y).flatten().norm(norm) for z in (allowed, y.to(BF16), x))
                assert error <= 2 * (bound + floor), (level, name, norm)
        for i in range(3):
            alone = by_native(tensors, grad, geometry, order, tuple(i == j for j in range(3)))[1:]
            assert [g is not None for g in alone] == [i == j for j in range(3)]
            assert torch.equal(alone[i], found[1 + i]), (level, i)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("order", ["aggregate", "mix"])
@pytest.mark.parametrize("where", range(4), ids=["f", "phi", "weight", "grad"])
@pytest.mark.parametrize("id", ["odd", "even"])
def test_values_that_are_not_finite(id, where, order, value):
    """They spoil the results they take part in, as in float32; where operands are padded to whole words, no others."""
    tensors, grad, geometry = operands(*CASES[id])
    [*tensors, grad][where].view(-1)[7] = value
    for level in library.supported_isas():
        library.set_isa(level)
        expected = by_native([x.float() for x in tensors], grad.float(), geometry, order)
        assert not all(x.isfinite().all() for x in expected)
        for x, y in zip(by_native(tensors, grad, geometry, order), expected):
            assert torch.equal(x.isfinite(), y.isfinite()), level


@pytest.mark.skipif("avx512bf16" not in library.supported_isas(), reason="no AVX512_BF16 here")
@pytest.mark.parametrize("order", ["aggregate", "mix"])
def test_products_of_bfloat16_are_only_for_bfloat16(order):
    """Between the levels with and without them, bfloat16 results differ in rounding and wider results in nothing."""
    tensors, grad, geometry = operands(*CASES["chunks"])

    def at_both_levels(dtype):
        for level in ("avx512", "avx512bf16"):
            library.set_isa(level)
            yield by_native([x.to(dtype) for x in tensors], grad.to(dtype), geometry, order)

    for dtype in (torch.float32, torch.float64):
        assert all(torch.equal(x, y) for x, y in zip(*at_both_levels(dtype)))
    assert not any(torch.equal(x, y) for x, y in zip(*at_both_levels(BF16)))
