"""The Python side of the ``cuda`` backend against the reference: on a GPU where there is one, else with the emulator in place of
the native operators, on CPU tensors."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from feature_checks import make_net, operands
from gpu_machines import machines
from list_checks import FORMS, draw, written

import pgconv
from pgconv import groups
from pgconv.backends import list_features
from pgconv.backends import point_lists as shared
from pgconv.backends.cuda import backend as cuda
from pgconv.backends.cuda import library, point_conv, point_features, point_lists
from pgconv.backends.lists import Lists
from pgconv.backends.reference.group_conv2d import group_conv2d as image_reference
from pgconv.backends.reference.point_conv import point_conv as reference
from pgconv.spec import ConvGeometry, Facts, FeatureSpec

MACHINES = machines()
if not MACHINES:
    pytest.skip("neither the emulator nor a GPU", allow_module_level=True)


@pytest.fixture(params=MACHINES)
def device(request, monkeypatch):
    """Device of the tensors, with operators that run on them."""
    machine = MACHINES[request.param]
    if request.param == "gpu":
        return "cuda"

    def moments(f, v, u, params, group, chart, part, form, net):
        return machine.point_moments(f, v, u, params, FeatureSpec(group, chart, part, form, net))

    def gradient(grad, f, factor, v, u, params, group, chart, part, form, net):
        return machine.point_gradient(grad, f, factor, v, u, params, FeatureSpec(group, chart, part, form, net))

    def list_moments(f, v, u, params, index, rowptr, first, group, chart, part, form, net):
        spec = FeatureSpec(group, chart, part, form, net)
        return machine.point_list_moments(f, v, u, params, Lists(index, rowptr, first), spec)

    native = SimpleNamespace(
        point_moments=moments,
        point_list_moments=list_moments,
        point_gradient=gradient,
        cuda_why_not_moments=machine.why_not_moments,
        cuda_why_not_gradient=machine.module.why_not_gradient,
        cuda_capability=lambda device: machine.capability,
        cuda_why_not_net=machine.module.why_not_net,
    )
    for module in (point_conv, point_features, point_lists):
        monkeypatch.setattr(module, "ops", lambda: native)
    return "cpu"


def call(device, dtype=torch.float16, batch=2, sets=2, nv=21, nu=6, channels=5, outputs=3, depthwise=False, bias=True):
    group, generator = groups.get("SE(2)"), torch.Generator().manual_seed(3)
    net = make_net("silu", 3, hidden=7)
    spec = FeatureSpec("SE(2)", "product", "all", "convolution", net.net_spec)
    v, u, params = operands(group, net, sets, nv, sets, nu, torch.float32)
    f = torch.randn(batch, nv, channels, generator=generator)
    head = (channels,) if depthwise else (outputs, channels)
    weight, shift = torch.randn(*head, 7, generator=generator), torch.randn(head, generator=generator)
    halves = [x.to(dtype) for x in (f, weight, shift)]
    tensors = halves[0], v, u, params, halves[1], halves[2] if bias else None
    return [None if x is None else x.to(device) for x in tensors], spec


def wide(tensors):
    return [None if x is None else x.double().cpu() for x in tensors]


def error(x, y):
    return (x.double().cpu() - y).norm() / y.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("sets", [1, 2])
def test_values(device, monkeypatch, sets, depthwise, bias, dtype):
    tensors, spec = call(device, dtype, sets=sets, depthwise=depthwise, bias=bias)
    monkeypatch.setattr(point_conv, "MOMENTS", 300)  # a few outputs at a time
    found = point_conv.forward(tensors, spec, depthwise)
    none = Lists(None, None, None)
    want = reference(*wide(tensors), none, spec, depthwise)
    same = reference(
        *(None if x is None else x.to(dtype) if i in (0, 4, 5) else x for i, x in enumerate(tensors)),
        none,
        spec,
        depthwise,
    )
    assert found.dtype == dtype and found.shape == want.shape
    assert error(found, want) <= 2 * error(same, want) + torch.finfo(dtype).eps


@pytest.mark.parametrize("way", ["own kernel", "features' kernel", "plain"])
@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("sets", [1, 2])
def test_gradients(device, monkeypatch, sets, depthwise, way):
    tensors, spec = call(device, sets=sets, depthwise=depthwise)
    if way != "own kernel":
        monkeypatch.setattr(point_conv, "_most_columns", lambda *_: 0)
    if way == "plain":
        monkeypatch.setattr(point_features, "ops", lambda: SimpleNamespace(cuda_why_not_net=lambda *_: "too wide"))
    monkeypatch.setattr(point_conv, "MOMENTS", 300)
    monkeypatch.setattr(point_features, "NUMBERS", 2000)
    grad = torch.randn(2, 6, 5 if depthwise else 3, generator=torch.Generator().manual_seed(4)).half().to(device)
    found = point_conv.backward([True] * 6, grad, tensors, spec, depthwise)
    leaves = [x.requires_grad_() for x in wide(tensors)]
    out = reference(*leaves, Lists(None, None, None), spec, depthwise)
    for x, y, own in zip(found, torch.autograd.grad(out, leaves, grad.double().cpu()), tensors):
        assert x.dtype == own.dtype and x.shape == own.shape
        assert error(x, y) < 1e-2
    some = point_conv.backward([False, True, False, False, False, True], grad, tensors, spec, depthwise)
    assert [x is not None for x in some] == [False, True, False, False, False, True]
    assert torch.equal(some[1], found[1])


@pytest.mark.parametrize(("sets", "batch", "channels"), [(1, 5, 30), (1, 2, 100), (2, 2, 100), (2, 2, 97)])
def test_gradients_of_more_columns_than_the_kernel_takes(device, monkeypatch, sets, batch, channels):
    tensors, spec = call(device, torch.bfloat16, batch=batch, sets=sets, channels=channels)
    monkeypatch.setattr(point_conv, "point_features", None)
    monkeypatch.setattr(point_conv, "MOMENTS", 20000)
    grad = torch.randn(batch, 6, 3, generator=torch.Generator().manual_seed(4)).bfloat16().to(device)
    found = point_conv.backward([False, True, True, True, False, False], grad, tensors, spec, False)
    leaves = [x.requires_grad_() for x in wide(tensors)]
    out = reference(*leaves, Lists(None, None, None), spec, False)
    for x, y in zip(found[1:4], torch.autograd.grad(out, leaves[1:4], grad.double().cpu())):
        assert error(x, y) < 2e-2


@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 3e-30, 1e30], ids=["near 1", "tiny", "huge"])
def test_float32_keeps_the_bounds_of_float32(device, scale, sets, depthwise):
    """In two parts; their range is that of float32, column by column."""
    tensors, spec = call(device, torch.float32, sets=sets, depthwise=depthwise, channels=9)
    tensors[0] = tensors[0] * torch.logspace(0, 6, 9, device=tensors[0].device) * scale
    tensors[0][0, :, 3] = 0
    leaves = [x.requires_grad_() for x in wide(tensors)]
    want = reference(*leaves, Lists(None, None, None), spec, depthwise)
    found = point_conv.forward(tensors, spec, depthwise)
    assert found.dtype == torch.float32
    channels = (0, 1) if depthwise else None
    largest = want.detach().abs().amax(channels, keepdim=True)
    assert ((found.double().cpu() - want.detach()).abs() <= 3e-6 * largest.clamp(min=1e-37)).all()
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(4)).to(device)
    gradients = torch.autograd.grad(want, leaves, grad.double().cpu())
    for x, y in zip(point_conv.backward([True] * 6, grad, tensors, spec, depthwise), gradients):
        assert x.dtype == torch.float32 and error(x, y) < 1e-5


def gradients(device, tensors, spec, grad):
    """Of v, u and params, found and by the reference."""
    leaves = [x.requires_grad_() for x in wide(tensors)]
    want = torch.autograd.grad(
        reference(*leaves, Lists(None, None, None), spec, False), leaves[1:4], grad.double().cpu()
    )
    return point_conv.backward([False, True, True, True, False, False], grad, tensors, spec, False)[1:4], want


@pytest.mark.parametrize("channels", [9, 40, 110])
def test_float32_gradients_of_columns_and_sets_of_other_sizes(device, monkeypatch, channels):
    """A column counts by its signal times its gradient, one of zeros not at all, and every set for itself."""
    monkeypatch.setattr(point_conv, "point_features", None)  # all by the kernel
    tensors, spec = call(device, torch.float32, channels=channels)
    sizes = torch.logspace(-6, 6, channels, device=tensors[0].device)
    tensors[0], tensors[4] = tensors[0] * sizes, tensors[4] / sizes[:, None]
    tensors[0][1, :, 3] = 0
    grad = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(4)) * torch.tensor([1e-9, 1.0])[:, None, None]
    found, want = gradients(device, tensors, spec, grad.to(device))
    for x, y in zip(found, want):
        for own, exact in zip(x, y) if x.dim() > 1 else [(x, y)]:
            assert error(own, exact) < 1e-5


def test_float32_gradients_of_small_outputs_and_inputs(device):
    """Each as accurate as the largest."""
    tensors, spec = call(device, torch.float32, nv=20)
    tensors[0] = tensors[0] * torch.logspace(-3, 0, 20, device=tensors[0].device)[:, None]
    grad = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(4)) * torch.logspace(-4.8, 0, 6)[:, None]
    (of_v, of_u, _), (want_v, want_u, _) = gradients(device, tensors, spec, grad.to(device))
    for found, want in ((of_v, want_v), (of_u, want_u)):
        for x, y in zip(found.flatten(0, 1), want.flatten(0, 1)):
            assert error(x, y) < 1e-5


def test_float32_gradients_of_a_set_with_nan_are_nan(device):
    """All of them, and none of another set: in its parts the others could not be told from smaller ones."""
    tensors, spec = call(device, torch.float32)
    for bad in (torch.nan, torch.inf):
        grad = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(4)).to(device)
        grad[0, 2, 1] = bad
        found, want = gradients(device, tensors, spec, grad)
        assert found[2].isnan().all() and all(x[0].isnan().all() for x in found[:2])
        assert all(error(x[1], y[1]) < 1e-5 for x, y in zip(found[:2], want))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["float16", "float32"])
@pytest.mark.parametrize("sizes", [{"batch": 0, "sets": 1}, {"batch": 0, "sets": 0}, {"nu": 0}, {"nv": 0}], ids=str)
def test_gradients_of_nothing(device, sizes, dtype):
    tensors, spec = call(device, dtype, **sizes)
    f, v, u, params, weight, _ = tensors
    grad = torch.ones(f.shape[0], u.shape[1], weight.shape[0], device=f.device)
    by_kernel = point_conv.backward([False, True, True, True, False, False], grad, tensors, spec, False)[1:4]
    for found in (by_kernel, point_features.gradients(*tensors[:5], grad, spec, False)):
        for x, y in zip(found, (v, u, params)):
            assert x.shape == y.shape and not x.any()


def on_lists(device, lists, tensors, spec, depthwise, bound, dtype=None):
    """Values and all gradients against the definition in float64."""
    lists = Lists(*(None if x is None else x.to(device) for x in lists))
    leaves = [None if x is None else x.requires_grad_() for x in wide(tensors)]
    want = reference(*leaves, Lists(*(None if x is None else x.cpu() for x in lists)), spec, depthwise)
    found = point_lists.KERNELS.forward(tensors, lists, spec, depthwise)
    assert found.dtype == tensors[0].dtype and found.shape == want.shape
    assert error(found, want.detach()) < bound
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(4)).to(found.dtype).to(device)
    given = [x for x in leaves if x is not None]
    gradients = iter(torch.autograd.grad(want, given, grad.double().cpu()))
    found = point_lists.KERNELS.backward([True] * 6, grad, tensors, lists, spec, depthwise)
    for name, x, own in zip(("f", "v", "u", "params", "weight", "bias"), found, tensors):
        assert (x is None) == (own is None), name
        if own is not None:
            assert x.dtype == own.dtype and x.shape == own.shape, name
            assert error(x, next(gradients)) < bound, name


@FORMS
@pytest.mark.parametrize("own_lists", [False, True], ids=["shared lists", "own lists"])
@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("pieces", [False, True], ids=["at once", "in pieces"])
def test_neighbour_lists(device, monkeypatch, form, own_lists, sets, depthwise, pieces):
    tensors, spec = call(device, torch.float16, sets=sets, depthwise=depthwise)
    if pieces:
        monkeypatch.setattr(shared, "MOMENTS", 300)
        monkeypatch.setattr(list_features, "NUMBERS", 3000)
    lists = written(draw(2 if own_lists else 1, (5, 17, 0, 9, 1, 20), 21, form), form)
    on_lists(device, lists, tensors, spec, depthwise, 2e-2)


@FORMS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sets", [1, 2])
def test_neighbour_lists_in_float32(device, form, sets, bias):
    tensors, spec = call(device, torch.float32, sets=sets, bias=bias, channels=9)
    tensors[0] = tensors[0] * torch.logspace(0, 6, 9, device=tensors[0].device)
    lists = written(draw(2, (5, 17, 0, 9, 1, 20), 21, form), form)
    on_lists(device, lists, tensors, spec, False, 1e-5)


@pytest.mark.parametrize("form", ["convolution", "correlation"])
def test_neighbour_lists_of_a_net_without_native_features(device, monkeypatch, form):
    """Then its derivatives are plain PyTorch's."""
    tensors, spec = call(device, torch.bfloat16)
    native = point_lists.ops()
    own = SimpleNamespace(point_list_moments=native.point_list_moments, cuda_why_not_net=lambda net, size: "no")
    monkeypatch.setattr(point_lists, "ops", lambda: own)
    lists = written(draw(2, (5, 17, 0, 9, 1, 20), 21), "csr")
    on_lists(device, lists, tensors, replace(spec, form=form), False, 3e-2)


@pytest.mark.parametrize("bias", [True, False])
def test_only_what_is_needed_of_neighbour_lists(device, bias):
    tensors, spec = call(device, bias=bias)
    lists = Lists(*(None if x is None else x.to(device) for x in written(draw(2, (5, 17, 0, 9, 1, 20), 21), "csr")))
    grad = torch.ones(2, 6, 3, dtype=torch.float16, device=device)
    every = point_lists.KERNELS.backward([True] * 6, grad, tensors, lists, spec, False)
    for one in range(6):
        only = point_lists.KERNELS.backward([one == k for k in range(6)], grad, tensors, lists, spec, False)
        for k, (x, y) in enumerate(zip(only, every)):
            assert x is None if k != one or y is None else torch.equal(x, y)


def test_nan_of_no_pair_is_in_no_gradient(device):
    (f, v, u, *rest), spec = call(device, nv=5, nu=3)
    rows = [[[0, 2], [4], []], [[1, 1], [3, 2, 1], [0]]]
    lists, grad = written(rows, "padded"), torch.ones(2, 3, 3, dtype=f.dtype, device=device)
    lists = Lists(*(None if x is None else x.to(device) for x in lists))
    want = point_lists.KERNELS.backward([True] * 6, grad, (f, v, u, *rest), lists, spec, False)
    f, v, u = f.clone(), v.clone(), u.clone()
    f[0, 1], v[0, 3], u[0, 2], v[1, 4] = (torch.nan,) * 4
    for x, y in zip(point_lists.KERNELS.backward([True] * 6, grad, (f, v, u, *rest), lists, spec, False), want):
        assert torch.equal(x, y)


def test_neighbour_lists_of_nothing(device):
    for nv, nu in ((0, 3), (3, 0), (4, 3)):
        tensors, spec = call(device, nv=nv, nu=nu)
        for form in ("csr", "runs"):
            lists = Lists(*(None if x is None else x.to(device) for x in written([[[]] * nu] * 2, form)))
            assert torch.equal(
                point_lists.KERNELS.forward(tensors, lists, spec, False).cpu(), torch.zeros(2, nu, 3).half()
            )
            grad = torch.ones(2, nu, 3, dtype=torch.float16, device=device)
            for x, own in zip(point_lists.KERNELS.backward([True] * 6, grad, tensors, lists, spec, False), tensors):
                assert x.shape == own.shape and not x.any()


def test_signals_at_any_address(device):
    """The kernel reads 16 bytes at once; a view may begin anywhere."""
    (f, *rest), spec = call(device, channels=8)
    shifted = torch.cat([f.flatten()[:1], f.flatten()])[1:].view(f.shape)
    assert shifted.data_ptr() % 16
    out, plain = (point_conv.forward((x, *rest), spec, False) for x in (shifted, f))
    assert error(out, plain.double().cpu()) < 1e-3  # other products than ours may depend on the address
    grad = torch.ones(2, 6, 3, dtype=f.dtype, device=device)
    for x, y in zip(*(point_conv.backward([True] * 6, grad, (x, *rest), spec, False) for x in (shifted, f))):
        assert error(x, y.double().cpu()) < 1e-3


def facts(dtypes=("float16", "float32", "float32", "float32", "float16"), net="sin:3:32:3", inputs=1000, listed=None):
    return Facts(
        "point_conv",
        "cuda",
        dtypes,
        (("lists", int(listed is not None)), ("Nv", inputs), ("B", 2), ("Nu", 50), ("pairs", 100 * (listed or inputs))),
        FeatureSpec("SE(2)", "product", "all", "convolution", net),
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"dtypes": ("float32",) * 5}, None),
        ({"dtypes": ("float64",) * 5}, "float16, bfloat16"),
        ({"dtypes": ("float16", "float32", "float32", "float32", "bfloat16")}, "float16, bfloat16"),
        ({"dtypes": ("float16",) * 5}, "float32"),
        ({"listed": 20}, None),
        ({"inputs": 20000}, "bfloat16 has it"),
        ({"inputs": 20000, "listed": 20}, None),
        ({"inputs": 20000, "listed": 20000}, "bfloat16 has it"),
        ({"net": "sin:3:65:3"}, "too wide"),
    ],
)
def test_calls_that_no_kernel_takes_have_a_reason(device, changed, reason):
    found = cuda.BACKEND.why_not(facts(**changed), "aggregate")
    assert found is None if reason is None else reason in found


def test_materialized_image_convolutions_are_the_vendors():
    """The same functions as on the CPU, so values are compared there; what they cannot take has a reason."""
    tensors = torch.randn(2, 3, 2, 6, 5), torch.randn(1, 4, 2, 5, 3), torch.randn(2, 3, 3)
    geometry = ConvGeometry.make("test", 3, 1, "same", 1, "disc")
    convolve, backward = cuda.BACKEND.function("group_conv2d"), cuda.BACKEND.function("group_conv2d_backward")
    out = convolve("materialize", *tensors, geometry)
    grads = backward("materialize", (True, True, True), torch.ones_like(out), *tensors, geometry)
    leaves = [x.double().requires_grad_() for x in tensors]
    want = image_reference(*leaves, geometry, "direct")
    for x, y in zip((out, *grads), (want, *torch.autograd.grad(want.sum(), leaves))):
        assert error(x, y.detach()) < 1e-5
    sizes = (("Ho", 6), ("Wo", 5))
    same, mixed = (
        Facts("group_conv2d", "cuda", 3 * ("float16",), sizes),
        Facts("group_conv2d", "cuda", ("float16", "float32", "float16"), sizes),
    )
    assert cuda.BACKEND.why_not(same, "materialize") is None
    assert "one dtype" in cuda.BACKEND.why_not(mixed, "materialize")
    assert "does not fit" in cuda.BACKEND.why_not(replace(same, sizes=(("Ho", 0), ("Wo", 5))), "materialize")
    assert "no CUDA kernel in the order" in cuda.BACKEND.why_not(same, "spectral")


def test_the_backend_is_for_cuda_tensors_alone():
    assert "does not run on cpu" in cuda.BACKEND.unavailable("cpu")
    assert "cuda" not in pgconv.backends.available("cpu")
    if torch.version.cuda is None:
        assert library.load_error() == "torch was built without CUDA"
        with pytest.raises(ValueError, match="does not run on cpu"), pgconv.use_backend("cuda"):
            pgconv.nn.LiftingConv2d(1, 2, kernel_size=3, group="SE(2)", num_samples=2)(torch.ones(1, 1, 5, 5))


def test_the_public_function_on_a_gpu(device):
    if device == "cpu":
        pytest.skip("no GPU")
    torch.manual_seed(0)
    layer = pgconv.nn.PointGroupConv(8, 16, group="SE(2)").cuda()
    x, f = torch.rand(2, 50, 2, device="cuda"), torch.randn(2, 50, 8, device="cuda")
    f, samples = pgconv.nn.PointLift("SE(2)", 2).cuda()(x, f)
    with torch.autocast("cuda", torch.bfloat16):
        with pgconv.use_backend("cuda"):
            out, _ = layer(f, samples)
        with pgconv.use_backend("reference"):
            want, _ = layer(f, samples)
    assert error(out, want.double().cpu()) < 2e-2


def test_workspaces_do_not_grow_with_the_pairs(monkeypatch):
    """Outputs of one call of a kernel times what it keeps for each: numbers of moments and of their partial sums, and gradients of
    the outputs' fields from every block of inputs."""
    inputs, outputs, seen = 100_000, 5000, []
    tensors, spec = call("cpu", torch.bfloat16, batch=1, sets=1, nv=inputs, nu=outputs, channels=8)
    blocks, parts = -(-inputs // point_conv.BLOCK_INPUTS), -(-inputs // point_conv.TERMS)

    def moments(f, v, u, params, *names):
        seen.append(u.shape[1] * 7 * f.shape[-1] * -(-f.shape[-2] // point_conv.TERMS))
        return torch.zeros(f.shape[0], u.shape[1], 7, f.shape[-1])

    def gradient(grad, f, factor, v, u, params, *names):
        seen.append(u.shape[1] * max(blocks * point_conv.MOST_FIELDS, 7 * f.shape[-1]))
        return torch.zeros_like(v), torch.zeros_like(u), torch.zeros_like(params)

    native = SimpleNamespace(
        point_moments=moments,
        point_gradient=gradient,
        cuda_why_not_gradient=lambda *_: "",
        cuda_capability=lambda _: 80,
    )
    monkeypatch.setattr(point_conv, "ops", lambda: native)
    monkeypatch.setattr(point_conv, "MOMENTS", 1 << 20)
    point_conv.forward(tensors, spec, False)
    point_conv.backward([True] * 6, torch.zeros(1, outputs, 3).bfloat16(), tensors, spec, False)
    assert parts > 1 and len(seen) > 3 and max(seen) <= 1 << 20


def test_workspaces_of_lists_do_not_grow_with_the_pairs(monkeypatch):
    """Moments of one call of the kernel, and numbers of the pairs whose features' gradients are held at a time."""
    length, seen, pairs = 64, [], []
    tensors, spec = call("cpu", torch.bfloat16, batch=2, sets=2, nv=3000, nu=1000, channels=8)
    lists = written(draw(2, [length] * 1000, 3000), "csr")

    def moments(f, v, u, params, index, rowptr, first, *names):
        hidden = int(names[-1].split(":")[2])
        assert rowptr.shape[0] - 1 in (u.shape[1], f.shape[-3] * u.shape[1])
        seen.append(f.shape[-3] * u.shape[1] * hidden * f.shape[-1])
        return torch.zeros(f.shape[-3], u.shape[1], hidden, f.shape[-1])

    def net_gradients(grad, coords, params, net):
        pairs.append(grad.shape[0] * grad.shape[1])
        return torch.zeros_like(coords), torch.zeros_like(params)

    native = SimpleNamespace(point_list_moments=moments)
    monkeypatch.setattr(point_lists, "ops", lambda: native)
    monkeypatch.setattr(point_lists, "KERNELS", point_lists.KERNELS._replace(net_gradients=net_gradients))
    for limit in (1 << 17, 1 << 15):  # some examples, some outputs of one
        monkeypatch.setattr(shared, "MOMENTS", limit)
        monkeypatch.setattr(list_features, "NUMBERS", 20 * limit)
        seen.clear(), pairs.clear()
        point_lists.KERNELS.forward(tensors, lists, spec, False)
        assert sum(seen) == 2 * 1000 * 8 * (7 + 1) and max(seen) <= limit
        point_lists.KERNELS.backward([True] * 6, torch.zeros(2, 1000, 3).bfloat16(), tensors, lists, spec, False)
        assert max(seen) <= limit and len(pairs) > 2 and max(pairs) * 7 <= 20 * limit
