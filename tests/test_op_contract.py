"""What every operator promises PyTorch: schema, fake kernels, autograd, compilation, autocast; layers as good citizens."""

import copy
import io
import pickle

import pytest
import torch
from cases import IMAGE_CASES, POINT_CASES, build
from contract import INPUTS, LAYERS, draw, layer_inputs
from torch._subclasses.fake_tensor import FakeTensorMode

import pgconv
from pgconv import backends, nn
from pgconv.backends import available
from pgconv.ops._define import FAMILIES

CASES = {case.id: case for case in (*IMAGE_CASES, *POINT_CASES)}


VARIANTS = [pytest.param(op, variant, id=f"{op}-{variant}") for op, table in INPUTS.items() for variant in table]

FAST_CHECKS = ("test_schema", "test_faketensor")
ALL_CHECKS = (*FAST_CHECKS, "test_autograd_registration", "test_aot_dispatch_dynamic")


def plans(op):
    """What can be asked for: the planner's choice, and every order of every backend that runs here."""
    return ["auto:auto", *(f"{name}:{order}" for name in available("cpu") for order in backends.load(name).orders(op))]


PLANNED = [pytest.param(*v.values, plan, id=f"{v.id}-{plan}") for v in VARIANTS for plan in plans(v.values[0])]


def test_every_operation_has_inputs_here():
    assert set(INPUTS) == set(FAMILIES)
    assert {plan.partition(":")[0] for op in INPUTS for plan in plans(op)} == {"auto", *available("cpu")}


@pytest.mark.parametrize(("op", "variant", "plan"), PLANNED)
def test_forward_operator(op, variant, plan):
    tensors, statics = INPUTS[op][variant]
    count = FAMILIES[op].differentiable
    leaves = [t if t is None else t.clone().requires_grad_(i < count) for i, t in enumerate(tensors)]
    checks = ALL_CHECKS if plan == "auto:auto" else FAST_CHECKS
    torch.library.opcheck(FAMILIES[op].forward_op, (*leaves, *statics, plan), test_utils=checks)


@pytest.mark.parametrize("needed", ["all", "first", "last"])
@pytest.mark.parametrize(("op", "variant", "plan"), PLANNED)
def test_backward_operator(op, variant, plan, needed):
    tensors, statics = INPUTS[op][variant]
    family = FAMILIES[op]
    present = [t is not None for t in tensors[: family.differentiable]]
    needs = {"all": present, "first": [i == 0 for i in range(len(present))]}.get(needed)
    if needs is None:
        last = max(i for i, there in enumerate(present) if there)
        needs = [i == last for i in range(len(present))]
    grad = torch.randn_like(family.forward_op(*tensors, *statics, "auto:auto")).requires_grad_()
    leaves = [t if t is None else t.clone().requires_grad_(i < len(present)) for i, t in enumerate(tensors)]
    # Tracing a double backward takes seconds: once per operation.
    traced = needed == "all" and variant == next(iter(INPUTS[op])) and plan == "auto:auto"
    checks = ALL_CHECKS if traced else FAST_CHECKS
    torch.library.opcheck(family.backward_op, (grad, *leaves, *statics, plan, needs), test_utils=checks)


COMPILED = (
    "k3", "weights-each-shared-elements", "sets-both-each-stride-2", "net-magnet", "own-group", "lifting", "pointwise",
    "depthwise-lifting", "dense", "dense-mask-weights-sum", "dense-depthwise", "dense-own-group", "padded-weights-mask-each",
    "csr", "csr-each-weights-mask-each",
)  # fmt: skip


def _gradients(call, run):
    out = run()
    leaves = call.leaves()
    cotangent = draw(*out.shape).to(out)
    return out.detach(), dict(zip(leaves, torch.autograd.grad(out, list(leaves.values()), cotangent)))


@pytest.mark.parametrize("id", COMPILED)
def test_compiled_call_equals_eager(id, fresh_compiler):
    call = build(CASES[id]).to(torch.float64, grad=True)
    expected, expected_grads = _gradients(call, call)
    found, grads = _gradients(call, torch.compile(call.__call__, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-11, atol=1e-11, msg=name)


class Network(torch.nn.Module):
    """Image to logits through a layer with a learned range of rotations."""

    def __init__(self, group="SE(2)"):
        super().__init__()
        self.lift = nn.LiftingConv2d(1, 3, kernel_size=3, group=group, num_samples=4, hidden=4)
        self.conv = nn.GroupConv2d(3, 4, kernel_size=3, group=group, num_samples=4, partial=True, hidden=4)
        self.pool = nn.GlobalGroupPool()

    def forward(self, x):
        y, samples = self.lift(x)
        y, samples = self.conv(torch.relu(y), samples)
        return self.pool(y, samples)


def _train_step(network, run, x):
    torch.manual_seed(3)
    network.zero_grad()
    out = run(x)
    out.square().sum().backward()
    return out.detach(), {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("group", ["SE(2)", "E(2)"])
def test_compiled_partial_network_equals_eager_and_is_compiled_once(group, fresh_compiler):
    torch.manual_seed(0)
    network, x = Network(group), draw(2, 1, 6, 6).float()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    learned = [p for name, p in network.named_parameters() if "sampler" in name]
    assert learned
    for step, share in enumerate((1.0, 0.6, 0.35)):
        with torch.no_grad():
            for p in learned:
                p.fill_(share)
        expected, expected_grads = _train_step(network, network, x)
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            found, grads = _train_step(network, compiled, x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert grads.keys() == expected_grads.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected_grads[name], rtol=1e-4, atol=1e-6, msg=name)
    assert any(grads[name].abs().max() > 0 for name in grads if "sampler" in name)


LOW = [n for n in ("k3", "weights-each-shared-elements", "lifting", "pointwise", "net-magnet", "dense", "dense-mask-weights-sum",
                   "dense-depthwise", "padded-each", "csr-each")]  # fmt: skip


def _rounding_floor(x):
    """Twice the error of rounding the exact result to bf16 once, which no implementation can avoid."""
    return 2 * (x.to(torch.bfloat16).double() - x).abs().max().item()


@pytest.mark.parametrize("id", LOW)
def test_autocast_is_as_exact_as_bf16_allows(id):
    """At most twice the error of the reference run in bf16, both against float64, plus the rounding floor."""
    call = build(CASES[id]).to(torch.bfloat16)
    for name in ("u", "v"):
        if name in call.tensors:
            call.tensors[name] = call.tensors[name].float()
    call.net.float()
    single = call.to(torch.float32, grad=True)
    exact_call = call.to(torch.float64, grad=True)
    call.net.requires_grad_()
    call.tensors = {name: x.requires_grad_() for name, x in call.tensors.items()}

    def autocast():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return single()

    exact, exact_grads = _gradients(exact_call, lambda: exact_call(backend="reference"))
    plain, plain_grads = _gradients(call, lambda: call(backend="reference"))
    found, grads = _gradients(single, autocast)
    assert found.dtype == plain.dtype == torch.bfloat16
    pairs = {"output": (found, plain, exact)}
    pairs |= {name: (grads[name], plain_grads[name], exact_grads[name]) for name in exact_grads}
    for name, (value, low, reference) in pairs.items():
        error, allowed = ((x.double() - reference).abs().max().item() for x in (value, low))
        assert error <= 2 * allowed + _rounding_floor(reference), name


def test_autocast_leaves_double_precision_alone():
    call = build(CASES["k3"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert call().dtype == torch.float64


@pytest.mark.parametrize("id", COMPILED)
@pytest.mark.parametrize("kind", ["meta", "fake"])
def test_shapes_without_data(id, kind):
    call = build(CASES[id])
    expected = call()
    if kind == "meta":
        call.net.to("meta")
        call.tensors = {name: x.to("meta") for name, x in call.tensors.items()}
        call.options = {name: _map(lambda t: t.to("meta"), x) for name, x in call.options.items()}
        out = call()
        assert out.device.type == "meta"
    else:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            call.tensors = {name: mode.from_tensor(x.detach()) for name, x in call.tensors.items()}
            call.options = {name: _map(mode.from_tensor, x) for name, x in call.options.items()}
            out = call()
    assert out.shape == expected.shape
    assert out.dtype == expected.dtype


def _map(function, x):
    return torch.utils._pytree.tree_map_only(torch.Tensor, function, x)


def _flat(out):
    return [t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor)]


def _saved_and_loaded(layer):
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(99)
    fresh = LAYERS[type(layer).__name__]().eval()
    fresh.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    return fresh


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "state_dict": _saved_and_loaded,
}


def test_every_layer_is_here():
    assert set(LAYERS) == set(nn.__all__)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", LAYERS)
def test_copies_of_layers_compute_the_same(name, way):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    inputs = layer_inputs(name)
    layer(*inputs)
    layer.eval()
    twin = COPIES[way](layer)
    assert not {p.data_ptr() for p in layer.parameters()} & {p.data_ptr() for p in twin.parameters()}
    for found, expected in zip(_flat(twin(*inputs)), _flat(layer(*inputs)), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", available("cpu"))
def test_self_check_of_a_network(backend):
    torch.manual_seed(0)
    with pgconv.use_backend(backend):
        report = pgconv.self_check(Network(), draw(2, 1, 6, 6).float())
    assert report.ok, str(report)


@pytest.mark.parametrize("backend", available("cpu"))
def test_a_layer_with_a_backend_by_name_compiles_to_one_graph(backend):
    layer = nn.LiftingConv2d(2, 3, kernel_size=3, num_samples=2, backend=backend).eval()
    x = draw(1, 2, 5, 4, dtype=torch.float32)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0], layer(x)[0])
    with pgconv.use_backend(backend, "materialize"):
        group = torch.compile(lambda x: in_use(x, layer), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(group(x), in_use(x, layer))


def in_use(x, layer):
    """The layer's function on one set of samples, by the backend in use."""
    u = torch.zeros(1, 1, 3)
    return pgconv.functional.lifting_conv2d(x, u, layer.net, layer.weight, group=layer.group, kernel_size=3)
