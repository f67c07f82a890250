"""The chain kernel of the image convolution through its Python side, against the definition in float64: on a GPU where there is
one, else with the emulator in place of the native operators, on CPU tensors."""

import re
from dataclasses import replace
from pathlib import Path

import conv_machines
import pytest
import torch
from conv_machines import (
    CAPABILITIES,
    HALVES,
    KERNELS,
    MACHINES,
    assert_close,
    check,
    expected,
    go_through_kernel,
    make,
    operators,
    use,
)

from pgconv._layout import group_last, is_group_last
from pgconv.backends.cuda import group_conv2d, kernel_gradient
from pgconv.backends.cuda.conv_operands import Walk
from pgconv.backends.reference.group_conv2d import group_conv2d as reference
from pgconv.ops._define import FAMILIES
from pgconv.spec import ConvGeometry, Facts

if not MACHINES:
    pytest.skip("neither the emulator nor a GPU", allow_module_level=True)

device = conv_machines.device


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 24])
@pytest.mark.parametrize("size", [(1, 1), (3, 43), (16, 8), (5, 64), (0, 3)])
def test_samples_last(device, samples, size):
    f = torch.randn(2, 3, samples, *size, generator=torch.Generator().manual_seed(0)).half()
    want = torch.nn.functional.pad(f.permute(0, 1, 3, 4, 2), (0, -samples % 8))
    # At an address that rows cannot be read from in one piece, too.
    for on in (f.to(device), torch.nn.functional.pad(f.flatten().to(device), (1, 0))[1:].view(f.shape)):
        assert torch.equal(group_conv2d.ops().group_last(on, None).cpu(), want)


@pytest.mark.parametrize(
    ("kernel", "stride", "shape"),
    [
        # The chain: features in registers, and not; tails of samples, outputs and pixels; narrow images.
        (3, 1, {"c": 9, "nv": 8, "nu": 8}),
        (3, 1, {"b": 1, "c": 3, "o": 129, "nv": 8, "nu": 16, "size": (5, 19)}),
        (3, 1, {"o": 66, "nv": 16, "nu": 9, "size": (3, 5)}),
        (3, 2, {"nu": 3, "nv": 5, "size": (8, 9)}),
        # Many features or taps: blocks of 8 samples and of 4.
        (5, 1, {"hidden": 16, "o": 31, "nu": 8, "nv": 8, "size": (6, 70), "b": 1}),
        (5, 1, {"hidden": 9, "o": 65, "nu": 12, "size": (6, 7), "c": 2}),
        (5, 2, {"hidden": 9, "o": 9, "nu": 7, "size": (6, 7), "c": 2}),
    ],
    ids=str,
)
def test_results_lie_as_the_signal(device, kernel, stride, shape):
    (f, phi, weight), geometry = make(
        torch.float16, **shape, geometry=ConvGeometry.make("test", kernel, stride, "same", 1, "disc")
    )
    f, phi, weight = (x.to(device) for x in (f, phi, weight))
    want = group_conv2d.forward("aggregate", f, phi, weight, geometry)
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(want)
    (of_f,) = group_conv2d.backward("aggregate", grad, f, phi, weight, geometry, (True, False, False))[:1]
    found = group_conv2d.forward("aggregate", group_last(f), phi, weight, geometry)
    assert want.is_contiguous() and is_group_last(found) and torch.equal(found, want)
    last = group_conv2d.backward(
        "aggregate", group_last(grad), group_last(f), phi, weight, geometry, (True, False, False)
    )[0]
    # The vendor's gradient, at other strides than 1, lies as it likes.
    assert torch.equal(last, of_f) and (stride > 1 or is_group_last(last))


@pytest.mark.parametrize("size", [(3, 43), (5, 64)])
def test_scaled_samples_last(device, size):
    f = torch.randn(2, 3, 9, *size, generator=torch.Generator().manual_seed(0))
    want = torch.nn.functional.pad(f.permute(0, 1, 3, 4, 2) * 8, (0, 7)).half()
    factor = torch.tensor(8.0, device=device)
    for on in (f.to(device), torch.nn.functional.pad(f.flatten().to(device), (1, 0))[1:].view(f.shape)):
        assert torch.equal(group_conv2d.ops().group_last(on, factor).cpu(), want)


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        (3, {"c": 9, "nv": 8, "nu": 8}),
        (3, {"c": 3, "nv": 3, "nu": 9, "o": 66, "size": (5, 7), "per_example": True}),
        (5, {"hidden": 9, "o": 9, "nu": 7, "size": (6, 7), "c": 2}),
        (5, {"hidden": 9, "o": 65, "nu": 12, "size": (6, 7), "c": 2, "b": 1}),
        (3, {"b": 1, "c": 1, "o": 1, "nv": 1, "nu": 1, "hidden": 1, "size": (1, 1)}),
        (3, {"b": 0}),
    ],
    ids=str,
)
def test_float32_has_the_errors_of_tf32(device, kernel, shape):
    tensors, geometry = make(torch.float32, **shape, geometry=ConvGeometry.make("test", kernel, 1, "same", 1, "disc"))
    check(device, tensors, geometry)
    f, *factors = (x.to(device) for x in tensors)
    want = group_conv2d.forward("aggregate", f, *factors, geometry)
    found = group_conv2d.forward("aggregate", group_last(f), *factors, geometry)
    assert want.is_contiguous() and torch.equal(found, want)
    assert found.numel() == 0 or found.permute(0, 1, 3, 4, 2).is_contiguous()


@pytest.mark.parametrize(
    "sizes", [(1e20, 1.0, 1e-10), (1e-20, 1e3, 1e-3), (1e4, 1e-30, 1e30), (0.0, 1.0, 1.0)], ids=str
)
def test_float32_of_any_size(device, sizes):
    tensors, geometry = make(torch.float32, c=2)
    grad, wanted = expected(tensors, geometry)
    on = [(x * size).to(device) for x, size in zip(tensors, sizes)]
    found = group_conv2d.forward("aggregate", *on, geometry)
    gradients = group_conv2d.backward("aggregate", grad.to(device), *on, geometry, (True,) * 3)
    a, b, c = sizes
    for x, size, (want, _) in zip((found, *gradients), (a * b * c, b * c, a * c, a * b), wanted):
        want = want * size
        assert (x.double().cpu() - want).norm() <= 2.0**-10 * want.norm()


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_is_seen(device, bad):
    tensors, geometry = make(torch.float32, c=2)
    for k in range(3):
        on = [x.clone().to(device) for x in tensors]
        on[k].view(-1)[0] = bad
        assert group_conv2d.forward("aggregate", *on, geometry).isnan().all()


def test_small_numbers_beside_a_large_one(device):
    """They keep their bits down to 2^-20 of the largest."""
    (f, phi, weight), geometry = make(torch.float32, c=2, size=(8, 40))
    f[..., :10] *= 2.0**18
    far, on = f[..., 20:], [x.to(device) for x in (f, phi, weight)]
    found = group_conv2d.forward("aggregate", *on, geometry)[..., 21:].cpu().double()
    want = reference(far.double(), phi.double(), weight.double(), geometry, "direct")[..., 1:]
    assert (found - want).norm() < 2.0**-10 * want.norm()


@HALVES
def test_a_plain_layer(device, dtype):
    check(device, *make(dtype, c=9, nv=8, nu=8))


@pytest.mark.parametrize(
    "shape",
    [
        {"b": 1, "c": 1, "o": 1, "nv": 1, "nu": 1, "hidden": 1, "size": (1, 1)},
        {"c": 8, "nv": 7, "nu": 9, "hidden": 7},
        {"c": 17, "o": 65, "nv": 8, "nu": 1, "b": 1, "size": (5, 7)},
        {"o": 8, "hidden": 16, "c": 5},
        {"c": 33, "o": 129, "b": 1, "size": (3, 5)},
        {"o": 3, "hidden": 9, "c": 3, "nv": 9, "b": 1},
        {"hidden": 32, "c": 3, "nu": 2, "size": (3, 7)},
        {"hidden": 33, "c": 2, "nu": 2, "size": (3, 7)},
        {"hidden": 64, "c": 2, "nu": 2, "size": (3, 7)},
        {"nv": 17, "nu": 2, "c": 2},
        {"size": (4, 8)},
        {"size": (5, 33), "b": 1},
        {"size": (2, 3), "b": 3},
        {"size": (17, 2), "b": 3},
    ],
    ids=lambda shape: "-".join(f"{k}{v}" for k, v in shape.items()).replace(" ", ""),
)
def test_awkward_shapes(device, shape):
    check(device, *make(torch.float16, **shape))


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "support", "shape"),
    [
        # One octet of features: two channels at a time, an odd number of them.
        (5, 1, 1, "disc", {"hidden": 8, "c": 3, "o": 4, "nu": 8, "nv": 8, "size": (6, 7)}),
        (3, 1, 1, "square", {"hidden": 5, "c": 9, "o": 33, "nu": 1, "size": (8, 8)}),
        # Two to eight octets; more samples, outputs and features than a block has.
        (7, 1, 1, "disc", {"hidden": 32, "c": 3, "o": 3, "nu": 9, "nv": 8, "size": (7, 9)}),
        (7, 1, 1, "disc", {"hidden": 32, "c": 1, "o": 33, "nu": 5, "nv": 8, "size": (8, 4)}),
        (5, 1, 1, "disc", {"hidden": 16, "c": 5, "o": 65, "nu": 1, "nv": 9, "size": (4, 9)}),
        (3, 1, 1, "disc", {"hidden": 64, "c": 2, "o": 3, "nu": 8, "nv": 17, "size": (6, 7)}),
        (1, 1, 1, "disc", {"hidden": 33, "c": 2, "o": 32, "nu": 8, "size": (1, 1), "b": 5}),
        (3, (2, 1), (1, 3), "square", {"hidden": 33, "c": 2, "nu": 9, "nv": 8, "size": (7, 20)}),
        # Pixels of several images in a block, and of several blocks.
        (3, 1, 1, "disc", {"hidden": 16, "b": 5, "size": (3, 8)}),
        (3, 1, 1, "disc", {"hidden": 16, "b": 3, "size": (10, 10), "nu": 5}),
        # Strips of wide images, in pieces of 8 pixels and not.
        (3, 1, 1, "disc", {"hidden": 16, "c": 1, "size": (3, 80)}),
        (3, 2, 1, "disc", {"hidden": 16, "c": 1, "size": (3, 149)}),
        # Images that have features of their own are not counted together.
        (3, 1, 1, "disc", {"hidden": 32, "b": 3, "nu": 8, "size": (5, 8), "per_example": True}),
    ],
)
def test_many_features_or_taps(device, kernel, stride, dilation, support, shape):
    geometry = ConvGeometry.make("test", kernel, stride, kernel // 2, dilation, support)
    tensors, geometry = make(torch.float16, geometry=geometry, **shape)
    if group_conv2d.why_not(FAMILIES["group_conv2d"].facts(*tensors, geometry), "aggregate"):
        pytest.skip("only blocks of more shared memory hold the features")
    check(device, tensors, geometry)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "shape"),
    [
        # Blocks of 8, 16 and 32 outputs, in one piece and in several; columns of one channel, and of many.
        (3, 1, 1, {"c": 9, "o": 8, "nv": 8, "nu": 8}),
        (3, 1, 1, {"c": 9, "o": 16, "b": 1}),
        (3, 1, 1, {"c": 4, "o": 32, "size": (7, 6)}),
        (5, 1, 1, {"c": 5, "o": 41, "size": (4, 5)}),
        (7, 1, 1, {"c": 4, "o": 9, "size": (6, 9)}),
        (1, 1, 1, {"c": 29, "o": 35, "size": (5, 5)}),
        # More octets of samples than one, on either side.
        (3, 1, 1, {"nv": 17, "nu": 9, "c": 2}),
        # Images of a pixel, of fewer than a product takes, and of several tiles.
        (3, 1, 1, {"size": (1, 1), "b": 37}),
        (5, 1, 1, {"size": (3, 2), "b": 11, "c": 2}),
        (3, 1, 1, {"size": (13, 17), "b": 3}),
        # Strips whose last is narrow, with gaps between windows and without.
        (3, 1, 1, {"size": (4, 65), "c": 2, "b": 3}),
        (3, 2, 1, {"size": (5, 133), "c": 2}),
        (1, 3, 1, {"size": (8, 200), "c": 2, "b": 1}),
        (3, (2, 1), (1, 3), {"size": (9, 12), "c": 2, "nv": 9}),
    ],
    ids=str,
)
@pytest.mark.parametrize("parts", [3, 0], ids=lambda n: f"parts{n}")
def test_gradients_through_the_kernel(device, kernel, stride, dilation, shape, parts, monkeypatch):
    go_through_kernel(monkeypatch, True)
    if device == "cpu":
        machine = MACHINES["emulated"].with_capability(group_conv2d.ops().cuda_capability(0)).with_parts(parts)
        native = operators(machine)
        use(monkeypatch, native)
    called, own = [], kernel_gradient.of_factors
    monkeypatch.setattr(kernel_gradient, "of_factors", lambda *call: called.append(1) or own(*call))
    geometry = ConvGeometry.make("test", kernel, stride, kernel // 2, dilation, "disc")
    check(device, *make(torch.bfloat16, geometry=geometry, **shape), needs=(False, True, True))
    assert called == [1]


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_one_of_the_gradients_through_the_kernel(device, needs, monkeypatch):
    go_through_kernel(monkeypatch, True)
    check(device, *make(torch.float16), needs=(False, *needs))


def test_features_of_their_own_do_not_go_through_the_kernel(monkeypatch):
    go_through_kernel(monkeypatch, True)
    sizes = {"S": 1, "B": 1, "C": 3, "O": 5, "Nu": 3, "Nv": 2, "T": 5, "Hb": 8, "Ho": 9, "Wo": 11}
    assert kernel_gradient.wanted(sizes, 1) and not kernel_gradient.wanted(sizes, 0)
    assert not kernel_gradient.wanted(sizes | {"S": 2, "B": 2}, 2)


@pytest.mark.parametrize("inputs", [0, 3])
@pytest.mark.parametrize("outputs", [0, 5])
@pytest.mark.parametrize("images", [0, 2])
def test_operators_of_nothing(device, inputs, outputs, images):
    """What there is are sums of nothing, and zeros."""
    if inputs and outputs and images:
        pytest.skip("not nothing")
    f = torch.ones(images, inputs, 4, 4, 8, dtype=torch.float16, device=device)
    grad = torch.ones(images, outputs, 4, 4, 8, dtype=torch.float16, device=device)
    weight = torch.ones(outputs, inputs, 8, dtype=torch.float16, device=device)
    call = (0, 1, 1, 0, 1, 1, 1, 2, 2, 1), (1, 1, 1, 1, 4, 4)
    features = group_conv2d.ops().conv_feature_gradient(grad, f, weight, 1, 3, *call)
    kernel = group_conv2d.ops().conv_kernel_gradient(grad, f, *call)
    assert features.shape == (1, 3, 1, 5, 8, 8) and not features.any()
    assert kernel.shape == (1, outputs, inputs, 5, 8, 8) and not kernel.any()


@pytest.mark.parametrize("shape", [{"nu": 0}, {"c": 0}, {"o": 0}, {"hidden": 0, "b": 64, "size": (4, 5)}], ids=str)
@pytest.mark.parametrize("through", [True, False])
def test_gradients_of_nothing(device, shape, through, monkeypatch):
    go_through_kernel(monkeypatch, through)
    tensors, geometry = make(torch.float16, **{"c": 3, "o": 5} | shape)
    on = [x.to(device) for x in tensors]
    height, width = geometry.out_size(*tensors[0].shape[-2:])
    grad = torch.ones(tensors[0].shape[0], tensors[2].shape[0], tensors[1].shape[1], height, width).half()
    for x, own in zip(group_conv2d.backward("aggregate", grad.to(device), *on, geometry, (True,) * 3), tensors):
        assert x.shape == own.shape and not x.any()


LARGE = ConvGeometry.make("test", 5, 1, 3, 2, "square")
"""Too large for GPUs of less shared memory."""
TOO_LARGE = ConvGeometry.make("test", 11, 1, "same", 2, "square")


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("support", ["disc", "square"])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, "same", 1), (1, "valid", 1), (1, 3, 2), (2, 1, 1), ((1, 2), (2, 0), (1, 2))]
)
def test_every_walk_over_the_pixels(device, kernel, support, stride, padding, dilation):
    geometry = ConvGeometry.make("test", kernel, stride, padding, dilation, support)
    if geometry == LARGE:
        geometry = replace(geometry, dilation=(2, 1))
    if min(geometry.out_size(9, 11)) < 1:
        pytest.skip("the kernel does not fit")
    check(device, *make(torch.float16, geometry=geometry))


def test_a_window_that_does_not_fit_a_block_is_refused(device):
    tensors, geometry = make(torch.float16, geometry=TOO_LARGE)
    facts = FAMILIES["group_conv2d"].facts(*tensors, geometry)
    assert "shared memory" in group_conv2d.why_not(facts, "aggregate")
    with pytest.raises(RuntimeError, match="shared memory"):
        group_conv2d.forward("aggregate", *(x.to(device) for x in tensors), geometry)


@HALVES
def test_features_of_their_own_for_every_image(device, dtype):
    check(device, *make(dtype, b=3, size=(3, 9), per_example=True))
    check(device, *make(dtype, b=3, size=(3, 9), hidden=16, nv=9, nu=9, per_example=True))


@pytest.mark.parametrize("parts", [0, 1])
def test_any_number_of_parts(parts, monkeypatch):
    if "emulated" not in MACHINES:
        pytest.skip("no emulator")
    native = operators(MACHINES["emulated"].with_parts(parts))
    use(monkeypatch, native)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for shape in ({"nu": 9}, {"nu": 9, "nv": 9, "per_example": True}, {"b": 4, "size": (2, 3), "per_example": True}):
        check("cpu", *make(torch.float16, **{"b": 3, "size": (5, 9), **shape}))


@pytest.mark.parametrize("per_example", [True, False])
def test_no_images(device, per_example):
    tensors, geometry = make(torch.float16, b=0, per_example=per_example)
    on = [x.to(device) for x in tensors]
    out = group_conv2d.forward("aggregate", *on, geometry)
    assert out.shape == (0, 5, 3, 9, 11)
    for x, y in zip(group_conv2d.backward("aggregate", out, *on, geometry, (True, True, True)), tensors):
        assert torch.equal(x.cpu(), torch.zeros_like(y))


@pytest.mark.parametrize(
    "needs", [(True, False, False), (False, True, False), (False, False, True), (False, False, False)]
)
def test_only_the_gradients_that_are_needed(device, needs):
    check(device, *make(torch.float16), needs=needs)


@pytest.mark.parametrize("refused", KERNELS)
def test_the_vendors_gradients_stand_in(device, refused, monkeypatch):
    monkeypatch.setattr(group_conv2d, "_refusal", lambda kernel, *call: "no" if kernel == refused else None)
    check(device, *make(torch.float16), needs=(True, True, True))


@pytest.mark.parametrize("spoil", ["grad", "f"])
def test_one_number_left_out_would_be_seen(device, spoil):
    """The tolerance is below what one number adds to the gradients of features and head."""
    tensors, geometry = make(torch.float16)
    grad, wanted = expected(tensors, geometry)
    on = [x.to(device) for x in (grad, *tensors)]
    on[0 if spoil == "grad" else 1][1, 2, 1, 8, 10] = 0
    found = group_conv2d.backward("aggregate", *on, geometry, (False, True, True))
    for x, (want, same) in list(zip((None, *found), wanted))[2:]:
        with pytest.raises(AssertionError):
            assert_close(x, want, same, torch.float16)


def test_nan_reaches_the_windows_it_is_in_and_no_others(device):
    (f, phi, weight), geometry = make(torch.float16, nv=1, size=(12, 12), b=1)
    f[0, 1, 0, 5, 6] = torch.nan
    out = group_conv2d.forward("aggregate", *(x.to(device) for x in (f, phi, weight)), geometry)
    spoiled = out[0, 0, 0].isnan().nonzero().tolist()
    assert sorted(map(tuple, spoiled)) == sorted((5 - row, 6 - col) for row, col in geometry.taps())


@pytest.mark.parametrize("size", [(12, 12), (12, 10), (4, 132)], ids=str)
def test_nan_that_no_output_reads_reaches_no_gradient(device, size):
    """The last row and column lie behind the last window, but within the last tile's, and beside the last pixel of a strip."""
    geometry = ConvGeometry.make("test", 3, 2, "valid", 1, "disc")
    (f, phi, weight), geometry = make(torch.float16, size=size, geometry=geometry)
    f[..., size[0] - 1, :] = f[..., size[1] - 1] = torch.nan
    on = [x.to(device) for x in (f, phi, weight)]
    grad = torch.ones(2, 5, 3, *geometry.out_size(*size), dtype=torch.float16, device=device)
    for x in group_conv2d.backward("aggregate", grad, *on, geometry, (False, True, True))[1:]:
        assert x.isfinite().all()


@pytest.mark.parametrize(
    ("capability", "shape"),
    [
        (80, {"nv": 8}),
        (90, {"nv": 8}),
        (80, {"hidden": 9, "nv": 9, "per_example": True}),
        (90, {"hidden": 32, "nv": 8, "c": 5}),
    ],
)
def test_every_schedule_gives_the_same_bits(capability, shape):
    if "emulated" not in MACHINES:
        pytest.skip("no emulator")
    machine = MACHINES["emulated"].with_capability(capability)
    tensors, geometry = make(torch.bfloat16, **{"c": 17, "nu": 9, "size": (5, 6)} | shape)
    grad = torch.randn(2, 5, 9, 5, 6, generator=torch.Generator().manual_seed(1)).bfloat16()
    results = []
    for seed in range(4):
        with pytest.MonkeyPatch.context() as patch:
            native = operators(machine.with_seed(seed))
            use(patch, native)
            patch.setattr(torch.cuda, "current_device", lambda: 0)
            out = group_conv2d.forward("aggregate", *tensors, geometry)
            go_through_kernel(patch, capability == CAPABILITIES[1])
            results.append((out, *group_conv2d.backward("aggregate", grad, *tensors, geometry, (True,) * 3)))
    assert all(torch.equal(x, y) for other in results[1:] for x, y in zip(results[0], other))


def facts(dtype="float16", hidden=8, nv=8, kernel=3, out=32):
    geometry = ConvGeometry.make("test", kernel, 1, "same", 1, "disc")
    sizes = {"Nv": nv, "Hb": hidden, "O": 64, "T": len(geometry.taps()), "Ho": out, "Wo": out}
    return Facts("group_conv2d", "cuda", 3 * (dtype,), tuple(sizes.items()), None, geometry)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (facts(), None),
        (facts("float32"), "float16 or bfloat16"),
        (facts(hidden=65), "up to 64 features"),
        (facts(kernel=15), "up to 128 taps"),
        (facts(kernel=11, hidden=64), "shared memory"),
        (facts(out=0), "does not fit the padded image"),
        (replace(facts(), dtypes=("float16", "float32", "float16")), "one dtype"),
    ],
)
def test_calls_that_the_kernel_does_not_take_have_a_reason(device, call, reason):
    found = group_conv2d.why_not(call, "aggregate")
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize("kernel", KERNELS[1:3])
@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((8, 8, 64, (0, 1, 1, 0)), None),
        ((8, 65, 64, (0, 1, 1, 0)), "up to 64 features"),
        ((8, 8, 64, (0, 0, 0, 300)), "too large for a block"),
        ((64, 8, 64, (0, 0, 128, 128)), "does not fit"),
        ((512, 8, 64, (0, 0, 256, 256)), "does not fit"),
    ],
)
def test_gradients_that_have_no_kernel_have_a_reason(device, kernel, sizes, reason):
    found = group_conv2d._refusal(kernel, *sizes[:3], Walk(sizes[3], (1, 1, 0, 0, 32, 32)))
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize(
    ("shape", "one", "both"),
    [
        # 32 features of 29 taps, 32 outputs: one product of 32 * 232 against two of 32 * (232 + 32), for each sample and channel.
        ({"nv": 8, "taps": 29, "hidden": 32, "outputs": 32}, False, True),
        ({"nv": 8, "taps": 29, "hidden": 64, "outputs": 32}, True, True),
        ({"nv": 8, "taps": 29, "hidden": 32, "outputs": 64}, False, True),
        ({"nv": 8, "taps": 5, "hidden": 8, "outputs": 128}, False, False),
        ({"nv": 8, "taps": 1, "hidden": 8, "outputs": 8}, True, True),
    ],
)
def test_the_way_with_fewer_products_is_taken(shape, one, both):
    assert [kernel_gradient.pays(**shape, gradients=gradients) for gradients in (1, 2)] == [one, both]


def test_parts_are_counted_as_they_are_cut():
    """The longest sum, in the Python that asks whether the parts fit and in the kernels' source."""
    source = Path(__file__).resolve().parent.parent / "csrc" / "cuda"
    (terms,) = re.findall(r"kMostTerms = (\d+);", (source / "parts.h").read_text())
    (times,) = re.findall(r"kMostGradientTerms = (\d+) \* kMostTerms;", (source / "conv_walk.cuh").read_text())
    assert int(times) * int(terms) == kernel_gradient.TERMS


def test_a_kernel_larger_than_the_signals_is_not_built():
    shape = {"nu": 8, "nv": 8, "taps": 29, "inputs": 32, "outputs": 32}
    assert kernel_gradient.fits(**shape, pixels=64 * 28 * 28) and not kernel_gradient.fits(**shape, pixels=28 * 28)
    # Nor where the parts that it is summed in are many.
    shape = {"nu": 8, "nv": 8, "taps": 13, "inputs": 512, "outputs": 512}
    assert not kernel_gradient.fits(**shape, pixels=64 * 56 * 56)


def test_without_room_for_the_kernels_gradient_chains_are_taken(device, monkeypatch):
    go_through_kernel(monkeypatch, True)
    monkeypatch.setattr(group_conv2d, "why_not_kernel_gradient", lambda *call: "no")
    monkeypatch.setattr(kernel_gradient, "of_factors", None)
    check(device, *make(torch.float16))


@pytest.mark.parametrize(
    ("octets", "reach", "reason"), [(1, 2, None), (1, 200, "shared memory"), (65, 0, "samples are too many")]
)
def test_a_kernels_gradient_that_has_no_kernel_has_a_reason(device, octets, reach, reason):
    sizes = octets, 2, 3, 8, (0, 0, reach, reach), (1, 1, 0, 0, 32, 32)
    found = group_conv2d._refusal_on("kernel_gradient", *sizes, group_conv2d._capability())
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize("width", [56, 64, 112, 128, 224])
def test_windows_of_wide_images_fit_every_gpu(device, width):
    """A tile begins where a row may, and strips are made narrower where they have to be."""
    n = {"B": 32, "C": 64, "O": 64, "Nv": 8, "Ho": width, "Wo": width}
    assert group_conv2d.why_not_kernel_gradient(n, ConvGeometry.make("test", 3, 1, "same", 1, "disc")) is None
