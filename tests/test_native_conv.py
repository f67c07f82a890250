"""The native planar convolution against the reference: every order, instruction set, number type and thread count."""

import threading

import pytest
import torch
from native import threads
from test_backends import error

from pgconv.backends.cpp import few_pixels, library
from pgconv.backends.cpp import group_conv2d as native
from pgconv.backends.cpp.backend import BACKEND
from pgconv.backends.reference.group_conv2d import group_conv2d as reference
from pgconv.spec import ConvGeometry

ORDERS = tuple(o for o in BACKEND.orders("group_conv2d") if o != "materialize")
DTYPES = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-12, 1e-12)}

# B, C, Nv, O, Nu, (H, W), k, features, sets, geometry: ones, primes, sizes around vectors and panels, rows longer and shorter
# than a panel, windows larger than the image, every kind of stride, dilation and padding.
SHAPES = {
    "ones": (1, 1, 1, 1, 1, (1, 1), 1, 1, 1, {}),
    "ones-k11": (1, 1, 1, 1, 1, (1, 1), 11, 1, 1, {}),
    "primes": (2, 3, 2, 5, 3, (5, 7), 3, 7, 1, {}),
    "each": (3, 5, 2, 7, 3, (5, 3), 5, 5, 3, {}),
    "each-wide": (2, 3, 2, 33, 9, (16, 16), 5, 9, 2, {}),
    "panels": (2, 17, 4, 16, 5, (17, 31), 3, 33, 1, {}),
    "rows-of-65": (1, 2, 1, 3, 2, (3, 65), 3, 2, 1, {}),
    "rows-of-32": (2, 2, 3, 15, 2, (4, 32), 3, 8, 1, {}),
    "many-to-one": (5, 65, 7, 1, 1, (9, 8), 3, 16, 1, {}),
    "one-to-many": (1, 2, 1, 65, 17, (8, 33), 5, 31, 1, {"stride": 2}),
    "stride-dilation-each": (2, 2, 3, 3, 2, (7, 6), 3, 4, 2, {"stride": (3, 2), "dilation": (1, 2)}),
    "stride-past-window": (2, 3, 1, 2, 2, (5, 70), 3, 3, 1, {"stride": (1, 5)}),
    "valid-dilation": (2, 2, 3, 3, 2, (6, 5), 3, 4, 1, {"dilation": 2, "padding": "valid"}),
    "valid-to-one": (2, 3, 4, 5, 4, (7, 7), 7, 6, 1, {"padding": "valid"}),
    "padding-past-window": (2, 2, 3, 3, 2, (2, 3), 3, 4, 1, {"padding": 3}),
    "padding-past-window-k1-stride": (2, 2, 3, 3, 2, (2, 3), 1, 4, 1, {"padding": 2, "stride": 3}),
    "k11": (2, 2, 3, 3, 2, (9, 10), 11, 4, 1, {"padding": (5, 6)}),
    "square-stride": (1, 4, 3, 3, 2, (9, 10), 7, 4, 1, {"support": "square", "stride": 2}),
    "few-pixels-each": (4, 3, 2, 5, 3, (9, 7), 5, 6, 4, {"padding": (0, 1), "stride": (2, 1), "dilation": (1, 2)}),
    "few-pixels-square": (7, 5, 3, 6, 4, (6, 6), 3, 9, 1, {"padding": "valid", "support": "square"}),
    "lifting": (4, 3, 1, 32, 8, (28, 28), 7, 32, 1, {}),
}


def operands(shape, dtype):
    b, c, nv, o, nu, size, k, features, sets, more = SHAPES[shape]
    options = {"stride": 1, "padding": "same", "dilation": 1, "support": "disc"} | more
    geometry = ConvGeometry.make("test", k, *options.values())
    generator = torch.Generator().manual_seed(len(shape))

    def normal(*dims):
        return torch.randn(*dims, generator=generator, dtype=torch.float64).to(dtype)

    taps = len(geometry.taps())
    return (normal(b, c, nv, *size), normal(sets, nu, nv, taps, features), normal(o, c, features)), geometry


def values_and_gradients(tensors, geometry):
    """Reference in float64: output, cotangent, gradients."""
    leaves = [x.double().requires_grad_() for x in tensors]
    out = reference(*leaves, geometry, "direct")
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grad = grad.to(tensors[0].dtype)
    return out.detach(), grad, torch.autograd.grad(out, leaves, grad.double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_order_agrees_with_the_reference(shape, dtype, level):
    tensors, geometry = operands(shape, dtype)
    expected, grad, expected_grads = values_and_gradients(tensors, geometry)
    value_bound, gradient_bound = DTYPES[dtype]
    for order in ORDERS:
        out = native.forward(order, *tensors, geometry)
        assert out.dtype == dtype and error(out, expected) <= value_bound, order
        grads = native.backward(order, grad, *tensors, geometry, (True, True, True))
        for i, (found, wanted) in enumerate(zip(grads, expected_grads)):
            assert error(found, wanted) <= gradient_bound, (order, i)
            alone = native.backward(order, grad, *tensors, geometry, tuple(i == j for j in range(3)))
            assert [x is None for x in alone] == [i != j for j in range(3)]
            assert error(alone[i], wanted) <= gradient_bound, (order, i, "alone")


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("shape", ["each-wide", "panels", "many-to-one", "one-to-many", "lifting"])
def test_any_number_of_threads_gives_the_same(shape, count):
    """These are large enough for the native code to use them all."""
    tensors, geometry = operands(shape, torch.float64)
    grad = torch.ones_like(native.forward("direct", *tensors, geometry))
    for order in ORDERS:
        results = []
        for n in (1, count):
            with threads(n):
                out = native.forward(order, *tensors, geometry)
                results.append([out, *native.backward(order, grad, *tensors, geometry, (True, True, True))])
        for one, many in zip(*results):
            assert error(many, one) <= 1e-13, order


FEW = (
    "ones",
    "ones-k11",
    "each",
    "stride-dilation-each",
    "valid-dilation",
    "valid-to-one",
    "few-pixels-each",
    "few-pixels-square",
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", FEW)
def test_few_pixels_in_chunks_of_images(shape, dtype, monkeypatch):
    """The last chunk is smaller than the others, and a chunk is never less than one image."""
    monkeypatch.setattr(few_pixels, "MOST", 16)
    monkeypatch.setattr(few_pixels, "LEAST", 0)
    tensors, geometry = operands(shape, dtype)
    assert few_pixels.applies("aggregate", *tensors, geometry)
    expected, grad, expected_grads = values_and_gradients(tensors, geometry)
    value_bound, gradient_bound = DTYPES[dtype]
    height, width = expected.shape[-2:]
    image = height * width * tensors[0].shape[1] * max(tensors[1][0, 0, ..., 0].numel(), tensors[1][0, :, 0, 0].numel())
    for chunk in (1, 3 * image, few_pixels.CHUNK):
        monkeypatch.setattr(few_pixels, "CHUNK", chunk)
        assert error(native.forward("aggregate", *tensors, geometry), expected) <= value_bound
        grads = native.backward("aggregate", grad, *tensors, geometry, (True, True, True))
        for i, (found, wanted) in enumerate(zip(grads, expected_grads)):
            assert error(found, wanted) <= gradient_bound
            alone = native.backward("aggregate", grad, *tensors, geometry, tuple(i == j for j in range(3)))
            assert [x is None for x in alone] == [i != j for j in range(3)]
            assert error(alone[i], wanted) <= gradient_bound, (i, "alone")


def test_few_pixels_are_products_where_there_is_enough_to_do():
    large, small = ((n, 32, 2, 32, 2, (2, 2), 3, 8, 1, {}) for n in (128, 1))
    for sizes, many in ((large, True), (small, False), ((*large[:5], (3, 3), *large[6:]), False)):
        b, c, nv, o, nu, size, k, features, *_ = sizes
        geometry = ConvGeometry.make("test", k, 1, "same", 1, "disc")
        f, weight = torch.empty(b, c, nv, *size), torch.empty(o, c, features)
        phi = torch.empty(1, nu, nv, len(geometry.taps()), features)
        assert few_pixels.applies("aggregate", f, phi, weight, geometry) == many
        assert not few_pixels.applies("direct", f, phi, weight, geometry)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", ["each", "panels"])
def test_strided_views_and_repeated_calls(order, shape):
    tensors, geometry = operands(shape, torch.float64)
    strided = [torch.cat([x, x], -1)[..., : x.shape[-1]].transpose(0, 1).contiguous().transpose(0, 1) for x in tensors]
    first = native.forward(order, *tensors, geometry)
    for _ in range(3):  # workspaces come back with what earlier calls left in them
        native.forward(order, *[torch.full_like(x, float("nan")) for x in tensors], geometry)
        assert torch.equal(native.forward(order, *strided, geometry), first)


@pytest.mark.parametrize("order", ORDERS)
def test_nan_reaches_the_output_and_stays_in_its_image(order):
    tensors, geometry = operands("panels", torch.float32)
    tensors[0][0, 3, 1, 8, 9] = float("nan")
    out = native.forward(order, *tensors, geometry)
    assert out[0].isnan().any() and not out[1].isnan().any()
    if not order.startswith("spectral"):  # a spectrum knows no place
        assert not out[0, ..., 0, 0].isnan().any()


@pytest.mark.parametrize("order", ORDERS)
def test_calls_from_many_threads_do_not_meet(order):
    cases = [operands(shape, torch.float64) for shape in ("each", "panels", "primes", "stride-dilation-each")]
    expected = [native.forward(order, *tensors, geometry) for tensors, geometry in cases]
    wrong = []

    def work(i):
        for k in range(12):
            (tensors, geometry), wanted = cases[(i + k) % 4], expected[(i + k) % 4]
            if not torch.equal(native.forward(order, *tensors, geometry), wanted):
                wrong.append((i, k))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_full_size_sums_keep_their_digits():
    """Sums over millions of terms: errors of plain running sums show at full size only."""
    geometry = ConvGeometry.make("test", 3, 1, "same", 1, "disc")
    generator = torch.Generator().manual_seed(0)
    f, phi, weight, grad = (
        torch.randn(*shape, generator=generator)
        for shape in ((16, 8, 4, 64, 64), (1, 4, 4, 5, 8), (8, 8, 8), (16, 8, 4, 64, 64))
    )
    expected = values_and_gradients_given(f, phi, weight, grad, geometry)
    for order in ORDERS:
        out = native.forward(order, f, phi, weight, geometry)
        grads = native.backward(order, grad, f, phi, weight, geometry, (True, True, True))
        for found, wanted in zip((out, *grads), expected):
            relative = (found.double() - wanted).norm() / wanted.norm()
            assert relative <= 5e-6, order


def values_and_gradients_given(f, phi, weight, grad, geometry):
    leaves = [x.double().requires_grad_() for x in (f, phi, weight)]
    out = reference(*leaves, geometry, "materialize")
    return out.detach(), *torch.autograd.grad(out, leaves, grad.double())


WRONG = {
    "phi samples": ((1, 1, 2, 5, 2), None, None, "phi: expected shape"),
    "phi sets": ((3, 1, 1, 5, 2), None, None, "phi: expected 1 or 2 sets"),
    "weight channels": (None, (2, 3, 2), None, "weight: expected shape"),
    "geometry length": (None, None, [1, 1], "geometry: expected"),
    "stride 0": (None, None, [0, 1, 1, 1, 1, 1], "geometry: expected stride >= 1"),
    "too large": (None, None, [1, 1, 0, 0, 9, 9], "does not fit"),
}


@pytest.mark.parametrize("what", WRONG)
def test_raw_operator_refuses_what_would_read_out_of_bounds(what):
    phi, weight, geometry, message = WRONG[what]
    taps = torch.tensor([[0, 1], [1, 0], [1, 1], [1, 2], [2, 1]])
    args = [
        torch.zeros(2, 2, 1, 4, 4),
        torch.zeros(phi or (1, 1, 1, 5, 2)),
        torch.zeros(weight or (2, 2, 2)),
        taps,
        geometry or [1, 1, 1, 1, 1, 1],
    ]
    for order in ORDERS:
        with pytest.raises(RuntimeError, match=message):
            library.ops().group_conv2d(*args, order)
    with pytest.raises(RuntimeError, match="order: expected"):
        library.ops().group_conv2d(args[0], torch.zeros(1, 1, 1, 5, 2), torch.zeros(2, 2, 2), taps, [1] * 6, "spiral")


def test_spectral_needs_a_symmetric_support():
    with pytest.raises(RuntimeError, match="symmetric"):
        library.ops().group_conv2d(
            torch.zeros(1, 1, 1, 4, 4), torch.zeros(1, 1, 1, 3, 1), torch.zeros(1, 1, 1),
            torch.tensor([[0, 0], [1, 0], [2, 1]]), [1, 1, 1, 1, 1, 1], "spectral",
        )  # fmt: skip


@pytest.mark.parametrize("size", [(33, 21), (24, 33)])
def test_spectra_too_large_to_be_held_at_once(size):
    """More than 50 MB of them: frequencies come in bands, whose planes are added up."""
    generator = torch.Generator().manual_seed(0)
    channels, width = size
    geometry = ConvGeometry.make("test", 5, 1, "same", 1, "disc")

    def normal(*dims):
        return torch.randn(*dims, generator=generator, dtype=torch.float64)

    f, weight = normal(16, channels, 8, 28, width), normal(channels, channels, 4)
    per_image = (3 + 2) * channels * 8 * (28 + 2) * (width + 2) / 2 * 8
    assert per_image * f.shape[0] > 50 << 20
    phi = normal(1, 8, 8, len(geometry.taps()), 4)
    expected = native.forward("aggregate", f, phi, weight, geometry)
    assert error(native.forward("spectral", f, phi, weight, geometry), expected) <= 1e-12
    operands = normal(*expected.shape), f, phi, weight, geometry, (True, True, True)
    wanted = native.backward("aggregate", *operands)
    for found, exact in zip(native.backward("spectral", *operands), wanted):
        assert error(found, exact) <= 1e-12


@pytest.mark.parametrize("size", [(64, 64), (63, 67), (32, 130)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_larger_than_caches(size, dtype, level):
    """Their lines are written without being read where panels lie on whole vectors, which odd sizes do not."""
    generator = torch.Generator().manual_seed(0)
    geometry = ConvGeometry.make("test", 3, 1, "same", 1, "disc")
    shapes = (5, 2, 1, *size), (1, 8, 1, len(geometry.taps()), 3), (64, 2, 3)
    operands = [torch.randn(*shape, generator=generator).to(dtype) for shape in shapes]
    found = native.forward("direct", *operands, geometry)
    assert found.numel() * found.element_size() > 32 << 20
    assert error(found, native.forward("aggregate", *[x.double() for x in operands], geometry)) <= DTYPES[dtype][0]
