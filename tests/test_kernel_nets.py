"""Kernel nets: formulas against explicit loops, initialisation, packing, precision, errors."""

import copy
import math

import numpy as np
import pytest
import torch

from pgconv import kernel_nets
from pgconv.kernel_nets import MLP, SIREN, FourierNet, GaborNet, MAGNet, packing

NETS = kernel_nets.names()
PACKED = {
    "sin": lambda d, h, n: SIREN(d, h, n, omega0=7.0, learn_omega0=True),
    **{name: (lambda d, h, n, name=name: MLP(d, h, n, activation=name)) for name in ("silu", "relu", "gelu", "tanh")},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _randomise(net):
    """Make zero biases visible."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def _arrays(net):
    return {name: p.detach().double().numpy() for name, p in net.state_dict().items()}


_NUMPY_ACT = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "tanh": math.tanh,
}


def _loop_packed(net, z, activation):
    p = _arrays(net)
    h = list(z)
    for layer in range(net.layers - 1):
        A, b = p[f"weights.{layer}"], p[f"biases.{layer}"]
        nxt = []
        for o in range(net.hidden):
            total = b[o]
            for i in range(len(h)):
                total += A[o, i] * h[i]
            nxt.append(math.sin(p["omega0"] * total) if activation == "sin" else _NUMPY_ACT[activation](total))
        h = nxt
    return np.array(h)


def _loop_multiplicative(net, z, kind):
    p = _arrays(net)

    def g(i):
        out = np.zeros(net.hidden)
        for o in range(net.hidden):
            phase = p[f"filters.{i}.bias"][o]
            exponent = 0.0
            for d in range(net.coord_dim):
                phase += p[f"filters.{i}.weight"][o, d] * z[d]
                if kind == "gabor":
                    exponent -= 0.5 * p[f"filters.{i}.gamma"][o, 0] ** 2 * (z[d] - p[f"filters.{i}.mu"][o, d]) ** 2
                if kind == "magnet":
                    exponent -= 0.5 * (p[f"filters.{i}.gamma"][o, d] * (z[d] - p[f"filters.{i}.mu"][o, d])) ** 2
            out[o] = math.exp(exponent) * math.sin(phase)
        return out

    h = g(0)
    for i in range(1, net.layers + 1):
        mixed = np.zeros(net.hidden)
        for o in range(net.hidden):
            mixed[o] = p[f"biases.{i - 1}"][o] + sum(p[f"weights.{i - 1}"][o, j] * h[j] for j in range(net.hidden))
        h = g(i) * mixed
    return h


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize("activation", PACKED)
def test_packed_nets_match_loops(activation, layers):
    net = _randomise(PACKED[activation](3, 5, layers)).double()
    coords = torch.randn(4, 2, 3, dtype=torch.float64)
    out = net.features(coords)
    assert out.shape == (4, 2, 5)
    for index in np.ndindex(4, 2):
        expected = _loop_packed(net, coords[index].numpy(), activation)
        np.testing.assert_allclose(out[index].detach().numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("kind", ["fourier", "gabor", "magnet"])
def test_multiplicative_nets_match_loops(kind, layers):
    net = _randomise(kernel_nets.get(kind, 2, hidden=4, layers=layers)).double()
    coords = torch.randn(6, 2, dtype=torch.float64)
    out = net(coords).detach().numpy()
    for m in range(6):
        np.testing.assert_allclose(out[m], _loop_multiplicative(net, coords[m].numpy(), kind), rtol=1e-9, atol=1e-12)


def test_siren_initialisation():
    net = SIREN(4, hidden=256, layers=4, omega0=30.0)
    bounds = [1 / 4, math.sqrt(6 / 256) / 30, math.sqrt(6 / 256) / 30]
    for weight, bias, bound in zip(net.weights, net.biases, bounds):
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert not bias.any()
    W, b = torch.empty(16, 8, 256), torch.ones(16, 8)
    net.reset_head_(W, b)
    assert W.abs().max() <= bounds[1] and W.std().item() == pytest.approx(bounds[1] / math.sqrt(3), rel=0.05)
    assert not b.any()
    assert SIREN(2)._bound == pytest.approx(0.0433, abs=1e-4)


def test_siren_kernel_scale_is_the_published_one():
    """The kernel of a freshly made width-32, omega0 = 10 net has standard deviation about 0.09."""
    stds = []
    for seed in range(20):
        torch.manual_seed(seed)
        net, W = SIREN(3), torch.empty(32, 32, 32)
        net.reset_head_(W, torch.empty(32, 32))
        phi = net(torch.rand(500, 3) * 2 - 1)
        stds.append(torch.einsum("mh,och->moc", phi, W).std().item())
    assert np.mean(stds) == pytest.approx(0.09, abs=0.015)


@pytest.mark.parametrize("make", [lambda: MLP(4, 256), lambda: FourierNet(4, 256), lambda: MAGNet(4, 256)])
def test_default_initialisation_of_hidden_layers_and_head(make):
    net = make()
    for weight, bias in zip(net.weights, net.biases):
        bound = 1 / math.sqrt(weight.shape[1])
        for tensor in (weight, bias):
            assert tensor.abs().max() <= bound
            assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    W, b = torch.empty(64, 256), torch.empty(64)
    net.reset_head_(W, b)
    assert 0.9 / 16 < W.abs().max() <= 1 / 16 and 0.9 / 16 < b.abs().max() <= 1 / 16


def test_filter_initialisation():
    hidden, L = 4096, 3
    fourier, gabor, magnet = FourierNet(2, hidden, L), GaborNet(2, hidden, L), MAGNet(2, hidden, L)
    assert len(fourier.filters) == L + 1 and len(fourier.weights) == L
    om = 256 / math.sqrt(L + 1) / math.sqrt(2)
    for net in (fourier, gabor, magnet):
        for f in net.filters:
            assert f.bias.abs().max() <= math.pi and f.bias.std().item() == pytest.approx(
                math.pi / math.sqrt(3), rel=0.05
            )
    for f in fourier.filters:
        assert 0.99 * om < f.weight.abs().max() <= om
        assert f.weight.std().item() == pytest.approx(om / math.sqrt(3), rel=0.05)
    for index in range(L + 1):
        for net, concentration, shape in ((gabor, 6 / (L + 1), (hidden, 1)), (magnet, 6 / (index + 1), (hidden, 2))):
            f = net.filters[index]
            assert f.gamma.shape == shape and f.gamma.min() > 0
            # Gamma(k, 1) has mean k and variance k.
            assert f.gamma.mean().item() == pytest.approx(concentration, rel=0.08)
            assert f.gamma.var().item() == pytest.approx(concentration, rel=0.15)
            assert f.mu.abs().max() <= 1 and f.mu.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.05)
            ratio = (f.weight / f.gamma).abs()
            assert ratio.max() <= om * 1.0001 and ratio.mean().item() == pytest.approx(om / 2, rel=0.05)


def _count(net, channels):
    return sum(p.numel() for p in net.parameters()) + channels * (net.hidden + 1)


@pytest.mark.parametrize(
    ("kind", "d_group", "d_point", "width", "theta", "total"),
    [
        ("magnet", 3, 1, 10, 5, 48_845),
        ("fourier", 3, 1, 20, 0, 104_422),
        ("magnet", 4, 2, 10, 10, 51_154),
    ],
)
def test_published_parameter_counts_of_small_nets(kind, d_group, d_point, width, theta, total):
    """Residual nets of constant width: lifting, 4 block convs, 2 shortcuts, last conv, 4 norms, classifier."""
    lift = _count(kernel_nets.get(kind, 2), width) + width
    group = _count(kernel_nets.get(kind, d_group), width * width) + width
    point = _count(kernel_nets.get(kind, d_point, hidden=16), width * width)
    assert lift + 5 * group + 2 * point + 4 * 2 * width + (width + 1) * 2 + theta == total


def test_published_parameter_count_of_siren_net():
    """RotMNIST residual net, SE(2) partial: 32 channels, second block 64."""
    group = lambda ci, co: _count(SIREN(3), ci * co) + co  # noqa: E731
    point = lambda ci, co: _count(SIREN(1, hidden=16), ci * co)  # noqa: E731
    total = _count(SIREN(2), 32) + 32 + 2 * group(32, 32) + group(32, 64) + 2 * group(64, 64)
    total += point(32, 32) + point(32, 64) + 2 * (32 + 32 + 64 + 64) + 65 * 10 + 5
    assert total == 467_791


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize("activation", PACKED)
def test_pack_round_trip_and_gradient(activation, layers):
    net = _randomise(PACKED[activation](3, 6, layers)).double()
    spec = packing.NetSpec.parse(net.net_spec)
    assert str(spec) == net.net_spec == f"{activation}:3:6:{layers}"
    params = net.pack()
    assert params.shape == (spec.num_params,) and spec.num_params == sum(p.numel() for p in net.parameters())
    layers_, omega0 = packing.unpack(net.net_spec, params)
    for (A, b), weight, bias in zip(layers_, net.weights, net.biases, strict=True):
        assert torch.equal(A, weight) and torch.equal(b, bias)
    assert (omega0 is None) == (activation != "sin")
    if omega0 is not None:
        assert omega0.item() == net.omega0.item() == params[-1].item()
    assert torch.equal(params[: 6 * 3], net.weights[0].reshape(-1))

    coords = torch.randn(7, 3, dtype=torch.float64)
    cotangent = torch.randn(7, 6, dtype=torch.float64)
    own = torch.autograd.grad((net.features(coords) * cotangent).sum(), list(net.parameters()))
    free = params.detach().requires_grad_()
    (flat,) = torch.autograd.grad((packing.features(net.net_spec, free, coords) * cotangent).sum(), free)
    through = torch.autograd.grad(net.pack(), list(net.parameters()), flat)
    for a, b in zip(own, through, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_gradcheck(name):
    net = _randomise(kernel_nets.get(name, 2, hidden=3)).double()
    with torch.no_grad():  # tame frequencies so that finite differences are meaningful
        for key, p in net.named_parameters():
            if key.startswith("filters") and key.endswith("weight"):
                p.mul_(0.01)
    parameters = dict(net.named_parameters())

    def run(coords, *values):
        return torch.func.functional_call(net, dict(zip(parameters, values)), (coords,))

    coords = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    values = [p.detach().clone().requires_grad_() for p in parameters.values()]
    assert torch.autograd.gradcheck(run, (coords, *values))
    assert torch.autograd.gradgradcheck(run, (coords, *values))


def test_learned_omega0_receives_its_gradient():
    net = _randomise(SIREN(2, 4, omega0=5.0, learn_omega0=True)).double()
    coords = torch.randn(9, 2, dtype=torch.float64)
    net(coords).sum().backward()
    value, step = net.omega0.item(), 1e-6
    with torch.no_grad():
        net.omega0.fill_(value + step)
        up = net(coords).sum()
        net.omega0.fill_(value - step)
        down = net(coords).sum()
    assert net.omega0.grad.item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-6)
    assert "omega0" not in dict(SIREN(2).named_parameters()) and "omega0" in SIREN(2).state_dict()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETS)
def test_low_precision_parameters_compute_in_fp32(name, dtype):
    net = kernel_nets.get(name, 3, hidden=16).to(dtype)
    coords = torch.rand(50, 3) * 2 - 1
    out = net(coords)
    assert out.dtype == dtype
    upcast = copy.deepcopy(net).float()
    assert torch.equal(out, upcast(coords).to(dtype))
    if net.net_spec is not None:
        assert net.pack().dtype == torch.float32
        assert packing.features(net.net_spec, net.pack().to(dtype), coords).dtype == dtype


@pytest.mark.parametrize("name", NETS)
def test_autocast_does_not_lower_precision(name):
    net = kernel_nets.get(name, 3, hidden=16)
    coords = torch.rand(20, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = net(coords)
    assert inside.dtype == torch.float32 and torch.equal(inside, net(coords))


@pytest.mark.parametrize("name", NETS)
def test_coords_are_cast_to_the_compute_dtype(name):
    net = kernel_nets.get(name, 2, hidden=4)
    coords = torch.rand(5, 2, dtype=torch.float64)
    assert torch.equal(net(coords), net(coords.float()))
    assert net.double()(coords.float()).dtype == torch.float64


def test_lowered_matmul_precision_leaves_first_layer_exact():
    x, W, b = torch.rand(100, 3) * 50, torch.randn(8, 3), torch.randn(8)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        out = packing.exact_affine(x, W, b)
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(out.double(), x.double() @ W.double().T + b.double(), rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("name", NETS)
def test_no_coordinates_gives_constants(name):
    net = kernel_nets.get(name, 0, hidden=4)
    out = net(torch.empty(5, 3, 0))
    assert out.shape == (5, 3, 4) and torch.equal(out, out[:1, :1].expand_as(out))
    out.sum().backward()
    if name == "siren":
        assert all(p.grad.abs().sum() > 0 for p in net.biases[-1:])


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 0, 3), (1, 1, 1, 3)])
def test_any_leading_shape(name, shape):
    net = kernel_nets.get(name, 3, hidden=5)
    assert net(torch.zeros(shape)).shape == (*shape[:-1], 5)
    assert net(torch.zeros(2, 6, 3)[:, ::2]).shape == (2, 3, 5)


@pytest.mark.parametrize("name", NETS)
def test_nan_in_gives_nan_out(name):
    net = kernel_nets.get(name, 2, hidden=4)
    out = net(torch.tensor([[float("nan"), 0.0], [0.1, 0.2]]))
    assert out[0].isnan().all() and out[1].isfinite().all()


@pytest.mark.parametrize("name", NETS)
def test_state_dict_round_trip_and_deepcopy(name):
    net, other = _randomise(kernel_nets.get(name, 3, hidden=4)), kernel_nets.get(name, 3, hidden=4)
    coords = torch.rand(5, 3)
    other.load_state_dict(net.state_dict())
    clone = copy.deepcopy(net)
    assert torch.equal(net(coords), other(coords)) and torch.equal(net(coords), clone(coords))
    with torch.no_grad():
        next(clone.parameters()).add_(1.0)
    assert torch.equal(net(coords), other(coords)) and not torch.equal(net(coords), clone(coords))
    net.reset_parameters()
    assert not torch.equal(net(coords), other(coords))


def test_siren_state_carries_omega0():
    net = SIREN(2, 4, omega0=10.0)
    net.load_state_dict(SIREN(2, 4, omega0=30.0).state_dict())
    assert net.pack()[-1].item() == 30.0


@pytest.mark.parametrize("name", NETS)
def test_full_graph_compile(name):
    net = kernel_nets.get(name, 3, hidden=4)
    coords = torch.rand(5, 3)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(coords), net(coords))
    assert net.to("meta")(coords.to("meta")).shape == (5, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SIREN(-1), "SIREN: coord_dim must be an integer >= 0, got -1"),
        (lambda: MAGNet(2, hidden=0), "MAGNet: hidden must be an integer >= 1, got 0"),
        (lambda: MLP(2, layers=1), "MLP: layers must be an integer >= 2 .layers counts the head., got 1"),
        (lambda: SIREN(2.0), "coord_dim must be an integer"),
        (lambda: SIREN(2, omega0=0.0), "omega0 must be a positive finite number, got 0.0"),
        (lambda: SIREN(2, omega0=float("nan")), "omega0"),
        (lambda: MLP(2, activation="sin"), "silu, relu, gelu, tanh, got 'sin'; for sines use SIREN"),
        (lambda: kernel_nets.get("sirene", 2), "unknown name 'sirene'; choose one of siren, mlp"),
        (lambda: kernel_nets.get("mlp", 2, omega0=1.0), r"unknown options \['omega0'\]"),
        (lambda: SIREN(3)(torch.zeros(4, 2)), r"coords must be \[..., D=3\], got \[4, 2\]"),
        (lambda: GaborNet(3)(torch.zeros(4, 2)), r"coords must be \[..., D=3\], got \[4, 2\]"),
        (lambda: SIREN(0)(torch.tensor(1.0)), r"coords must be \[..., D=0\], got \[\]"),
        (lambda: MLP(3)(torch.zeros(4, 3, dtype=torch.int64)), "floating-point tensor, got torch.int64"),
        (lambda: SIREN(3).reset_head_(torch.zeros(4, 3)), r"weight must be \[..., H=32\], got \[4, 3\]"),
        (lambda: FourierNet(3).pack(), "FourierNet has no packed form"),
        (lambda: packing.NetSpec.parse("sin:3:32"), "expected 'activation:coord_dim:hidden:layers'"),
        (lambda: packing.NetSpec.parse("cos:3:32:3"), "activation is 'cos'; choose one of sin, silu"),
        (lambda: packing.NetSpec.parse("sin:3:-2:3"), "expected"),
        (lambda: packing.NetSpec.parse("sin:3:0:3"), "hidden must be"),
        (lambda: packing.unpack("sin:1:2:2", torch.zeros(4)), r"\[P=5\], got \[4\]"),
        (lambda: packing.features("relu:1:2:2", torch.zeros(4), torch.zeros(3, 2)), r"D=1\], got \[3, 2\]"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_nets_without_packed_form_say_so():
    assert [kernel_nets.get(name, 2).net_spec for name in NETS] == ["sin:2:32:3", "silu:2:32:3", None, None, None]
