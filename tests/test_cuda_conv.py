"""The chain kernel of the image convolution through its Python side, against the definition in float64: on a GPU where there is
one, else with the emulator in place of the native operators, on CPU tensors."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from gpu_machines import machines

from pgconv.backends.cuda import group_conv2d
from pgconv.backends.reference.group_conv2d import group_conv2d as reference
from pgconv.ops._define import FAMILIES
from pgconv.spec import ConvGeometry, Facts

MACHINES = machines()
if not MACHINES:
    pytest.skip("neither the emulator nor a GPU", allow_module_level=True)

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
UNIT = {torch.float16: 2.0**-12, torch.bfloat16: 2.0**-9}


CAPABILITIES = 80, 90
"""Of GPUs whose kernels differ."""


def operators(machine):
    return SimpleNamespace(
        conv_chain=machine.conv_chain,
        group_last=machine.group_last,
        cuda_why_not_chain=machine.why_not_chain,
        cuda_capability=lambda _: machine.capability,
    )


@pytest.fixture(params=[(name, capability) for name in MACHINES for capability in CAPABILITIES], ids=lambda p: f"{p[0]}{p[1]}")
def device(request, monkeypatch):
    """Device of the tensors, with operators that run on them."""
    name, capability = request.param
    if name == "gpu":
        monkeypatch.setenv("PGCONV_CUDA_CAPABILITY", str(capability))
        return "cuda"
    native = operators(MACHINES[name].with_capability(capability))
    monkeypatch.setattr(group_conv2d, "ops", lambda: native)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return "cpu"


def make(dtype, b=2, c=3, o=5, nv=2, nu=3, hidden=8, size=(9, 11), geometry=None, per_example=False):
    geometry = geometry or ConvGeometry.make("test", 3, 1, "same", 1, "disc")
    generator = torch.Generator().manual_seed(0)
    shapes = (b, c, nv, *size), (b if per_example else 1, nu, nv, len(geometry.taps()), hidden), (o, c, hidden)
    f, phi, weight = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return (f, phi.sin(), weight), geometry


def assert_close(found, want, same, dtype):
    """Twice the error of the definition in 16 bits, and a rounding of the result."""
    assert found.shape == want.shape and found.dtype == dtype
    if want.numel():
        own = (same.double() - want).norm()
        assert (found.double().cpu() - want).norm() <= 2 * own + UNIT[dtype] * want.norm()


def check(device, tensors, geometry):
    dtype = tensors[0].dtype
    leaves = [x.double().requires_grad_() for x in tensors]
    want = reference(*leaves, geometry, "direct")
    low = [x.clone().requires_grad_() for x in tensors]
    same = reference(*low, geometry, "aggregate")
    on = [x.to(device) for x in tensors]
    assert_close(group_conv2d.forward("aggregate", *on, geometry), want.detach(), same.detach(), dtype)
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = torch.autograd.grad(want, leaves, grad.double())
    rounded = torch.autograd.grad(same, low, grad)
    found = group_conv2d.backward("aggregate", grad.to(device), *on, geometry, (True, False, False))
    assert found[1] is None and found[2] is None
    assert_close(found[0], exact[0], rounded[0], dtype)


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 24])
@pytest.mark.parametrize("size", [(1, 1), (3, 43), (16, 8), (5, 64), (0, 3)])
def test_samples_last(device, samples, size):
    f = torch.randn(2, 3, samples, *size, generator=torch.Generator().manual_seed(0)).half()
    want = torch.nn.functional.pad(f.permute(0, 1, 3, 4, 2), (0, -samples % 8))
    # At an address that rows cannot be read from in one piece, too.
    for on in (f.to(device), torch.nn.functional.pad(f.flatten().to(device), (1, 0))[1:].view(f.shape)):
        assert torch.equal(group_conv2d.ops().group_last(on).cpu(), want)


@HALVES
def test_a_plain_layer(device, dtype):
    check(device, *make(dtype, c=9, nv=8, nu=8))


@pytest.mark.parametrize(
    "shape",
    [
        {"b": 1, "c": 1, "o": 1, "nv": 1, "nu": 1, "hidden": 1, "size": (1, 1)},
        {"c": 8, "nv": 7, "nu": 9, "hidden": 7},
        {"c": 17, "o": 65, "nv": 8, "nu": 1},
        {"o": 8, "hidden": 16, "c": 5},
        {"o": 3, "hidden": 9, "c": 3, "nv": 9},
        {"hidden": 32, "c": 3, "nu": 2},
        {"hidden": 33, "c": 2, "nu": 2},
        {"hidden": 64, "c": 2, "nu": 2},
        {"nv": 17, "nu": 2, "c": 2},
        {"size": (4, 8)},
        {"size": (5, 33), "b": 1},
        {"size": (2, 3), "b": 3},
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
    check(device, *make(dtype, b=3, per_example=True))
    check(device, *make(dtype, b=3, hidden=16, per_example=True))


@pytest.mark.parametrize("per_example", [True, False])
def test_no_images(device, per_example):
    tensors, geometry = make(torch.float16, b=0, per_example=per_example)
    assert group_conv2d.forward("aggregate", *(x.to(device) for x in tensors), geometry).shape == (0, 5, 3, 9, 11)


def test_gradients_of_features_and_head(device):
    tensors, geometry = make(torch.float16)
    leaves = [x.double().requires_grad_() for x in tensors]
    want = reference(*leaves, geometry, "direct")
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).half()
    exact = torch.autograd.grad(want, leaves, grad.double())
    on = [x.to(device) for x in tensors]
    for x, y in zip(group_conv2d.backward("aggregate", grad.to(device), *on, geometry, (True, True, True)), exact):
        assert (x.double().cpu() - y).norm() <= 5e-3 * y.norm()


def test_nan_reaches_the_windows_it_is_in_and_no_others(device):
    (f, phi, weight), geometry = make(torch.float16, nv=1, size=(12, 12), b=1)
    f[0, 1, 0, 5, 6] = torch.nan
    out = group_conv2d.forward("aggregate", *(x.to(device) for x in (f, phi, weight)), geometry)
    spoiled = out[0, 0, 0].isnan().nonzero().tolist()
    assert sorted(map(tuple, spoiled)) == sorted((5 - row, 6 - col) for row, col in geometry.taps())


@pytest.mark.parametrize("hidden", [8, 32])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_schedule_gives_the_same_bits(capability, hidden):
    if "emulated" not in MACHINES:
        pytest.skip("no emulator")
    machine = MACHINES["emulated"].with_capability(capability)
    tensors, geometry = make(torch.bfloat16, c=136 // hidden, nv=8, nu=8, hidden=hidden)
    results = []
    for seed in range(3):
        with pytest.MonkeyPatch.context() as patch:
            native = operators(machine.with_seed(seed))
            patch.setattr(group_conv2d, "ops", lambda native=native: native)
            patch.setattr(torch.cuda, "current_device", lambda: 0)
            results.append(group_conv2d.forward("aggregate", *tensors, geometry))
    assert all(torch.equal(results[0], x) for x in results[1:])


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
