"""Weights of the release and of LieConv in this library's own layers."""

import lieconv_doubles
import pytest
import torch
from release_doubles import E2, SE2, TURN, GroupConv, LiftingConv, Method, PointwiseGroupConv
from torch import nn

from pgconv import compat, groups
from pgconv.kernel_nets import MLP
from pgconv.nn import GroupConv2d, LiftingConv2d, PointGroupConv, PointwiseGroupConv2d
from pgconv.sampling import Samples, get
from pgconv.sampling.base import from_release

GROUPS = {"SE(2)": SE2, "E(2)": E2}
NETS = ("siren", "mlp", "mlp-relu", "fourier", "gabor", "magnet")


def _images():
    return torch.randn(2, 3, 4, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _ours(name, samples):
    """The release's samples as this library's."""
    angle, mirror = (samples[..., 0], samples[..., 1]) if name == "E(2)" else (samples, torch.ones_like(samples))
    h = from_release(angle, mirror)[..., None]
    h = torch.cat([h, mirror[..., None]], -1) if name == "E(2)" else h
    return Samples(groups.get(name).embed_stabilizer(h), torch.ones_like(angle))


class Given(nn.Module):
    """A sampler that has its samples."""

    def __init__(self, samples):
        super().__init__()
        self.samples = samples

    def forward(self, batch_size=1, generator=None):
        return self.samples


def _samples(name, n=4):
    angle = torch.rand(1, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * 6
    mirror = torch.tensor([[1.0, -1.0]], dtype=torch.float64).repeat(1, n // 2)
    return torch.stack([angle, mirror], -1) if name == "E(2)" else angle


def _net(net):
    """Options of ours for a net of the release."""
    kind, _, activation = net.partition("-")
    if kind != "mlp":
        return {"kernel_net": kind, "hidden": 6}

    return {"kernel_net": lambda coord_dim: MLP(coord_dim, 6, 3, activation or "silu")}


def _double(cls, *args, **options):
    torch.manual_seed(3)
    return cls(*args, **options).double().eval()


def _assert_close(found, expected):
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max() / expected.detach().abs().max()) <= 1e-10


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", GROUPS)
def test_layers_compute_the_same(name, net):
    x, v, u = _images(), _samples(name), _samples(name, 2)
    options = {"group": name, "compat": "release", "dtype": torch.float64, **_net(net)}

    release = _double(LiftingConv, GROUPS[name](), net, 3, 2)
    layer = LiftingConv2d(3, 2, 5, num_samples=4, **options)
    assert compat.load_release(release.state_dict(), layer) is layer
    expected, drawn = release(x[:, :, 0])
    layer.sampler = Given(_ours(name, drawn))
    _assert_close(layer(x[:, :, 0])[0], expected)

    release = _double(GroupConv, GROUPS[name](), net, 3, 2, per_layer=False)
    layer = compat.load_release(release.state_dict(), GroupConv2d(3, 2, 5, **options))
    _assert_close(layer(x, _ours(name, v))[0], release((x, v))[0])

    release = _double(PointwiseGroupConv, GROUPS[name](), net, 3, 2, bias=False)
    layer = compat.load_release(release.state_dict(), PointwiseGroupConv2d(3, 2, bias=False, **options))
    _assert_close(layer(x, _ours(name, v), _ours(name, u))[0], release(x, v, u)[0])


@pytest.mark.parametrize("name", GROUPS)
def test_learned_ranges_are_loaded(name):
    options = {"compat": "release", "group": name, "partial": True, "hidden": 6}
    release = _double(GroupConv, GROUPS[name](), "siren", 3, 2, partial=True)
    with torch.no_grad():
        release.probs.copy_(torch.tensor([0.4, -0.3])[: release.probs.numel()])
    layer = compat.load_release(release.state_dict(), GroupConv2d(3, 2, 5, num_samples=4, **options))
    assert layer.sampler.theta.item() == pytest.approx(0.4)
    if name == "E(2)":
        assert layer.sampler.alpha_mirror.item() == pytest.approx(-0.3)

    release = _double(GroupConv, GROUPS[name](), "siren", 3, 2, partial=True, method=Method.DETERMINISTIC)
    with torch.no_grad():
        release.probs.copy_(torch.arange(release.probs.numel()))
    subset = get("subset", groups.get(name), 4, compat="release")
    layer = GroupConv2d(3, 2, 5, sampling=subset, group=name, compat="release", hidden=6)
    compat.load_release(release.state_dict(), layer)
    assert torch.equal(layer.sampler.alpha, torch.arange(release.probs.numel(), dtype=torch.float32))
    with pytest.raises(ValueError, match=r"'probs' is .* a learned range, but the layer learns none"):
        compat.load_release(release.state_dict(), GroupConv2d(3, 2, 5, group=name, compat="release", hidden=6))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("how", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weight_norm_is_multiplied_out(how):
    release = _double(GroupConv, SE2(), "siren", 3, 2, per_layer=False)
    for module in list(release.kernelnet.modules()):
        if hasattr(module, "weight"):
            how(module)
    layer = GroupConv2d(3, 2, 5, compat="release", hidden=6, dtype=torch.float64)
    compat.load_release(release.state_dict(), layer)
    x, v = _images(), _samples("SE(2)")
    _assert_close(layer(x, _ours("SE(2)", v))[0], release((x, v))[0])


def _state():
    return _double(GroupConv, SE2(), "siren", 3, 2).state_dict()


def _layer(**options):
    return GroupConv2d(3, 2, 5, **{"compat": "release", "hidden": 6, **options})


def test_prefixes_files_and_several_layers(tmp_path):
    state = {f"net.conv.{name}": x for name, x in _state().items()} | {"net.other": torch.zeros(1)}
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": state}, file)
    layers = [compat.load_release(source, _layer(), "net.conv.") for source in (state, file, str(file))]
    assert all(torch.equal(layer.weight, layers[0].weight) for layer in layers)
    assert torch.equal(layers[0].weight[1, 2], state["net.conv.kernelnet.kernel_net.4.weight"][5].flatten().float())

    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(7.0)
    state |= {f"net.bn.{name}": x for name, x in norm.state_dict().items()}
    model = nn.ModuleDict({"first": _layer(), "norm": nn.BatchNorm2d(2)})
    assert compat.load_release(state, model, {"first": "net.conv.", "norm": "net.bn."}) is model
    assert torch.equal(model["first"].weight, layers[0].weight) and model["norm"].running_mean[0] == 7
    with pytest.raises(ValueError, match="no submodule 'last'"):
        compat.load_release(state, model, {"last": "net.conv."})
    with pytest.raises(ValueError, match=r"entry 'net\.cn\.weight' is missing"):
        compat.load_release(state, model, {"norm": "net.cn."})


def test_a_file_of_other_things_is_refused(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "model.pt")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        compat.load_release(tmp_path / "model.pt", _layer())
    for state in (3, [torch.ones(1)], {"a": 1}):
        with pytest.raises(ValueError, match="state must be a state dict"):
            compat.load_release(state, _layer())


SPOILED = {
    "missing": (lambda s: s.pop("kernelnet.kernel_net.2.bias"), {}, "hidden linear layers|'kernelnet.kernel_net.2'|bias"),
    "missing bias": (lambda s: s.pop("bias"), {}, "entry 'bias' is missing"),
    "unknown": (lambda s: s.update(extra=torch.ones(1)), {}, "entries 'extra' are not known"),
    "unknown in the net": (
        lambda s: s.update({"kernelnet.kernel_net.2.scale": torch.ones(1)}), {}, "'kernelnet.kernel_net.2' must be a linear",
    ),
    "shape": (lambda s: s.update({"kernelnet.kernel_net.2.weight": torch.ones(6, 5)}), {}, r"'net.weights.1'.* \[6, 6\].*\[6, 5\]"),
    "hidden": (lambda s: None, {"hidden": 8}, r"'net.weights.0' of the layer is \[8, 3\]"),
    "layers": (lambda s: None, {"layers": 4}, "has 2 hidden linear layers, the layer's has 3"),
    "net": (lambda s: None, {"kernel_net": "mlp"}, "kernel net MLP, but the state is that of a SIREN"),
    "filters": (lambda s: None, {"kernel_net": "magnet"}, "kernel net MAGNet, but the state is that of a SIREN"),
    "bias": (lambda s: None, {"bias": False}, "the layer has no 'bias'"),
    "weight_bias": (lambda s: None, {"weight_bias": False}, "the layer has no 'weight_bias'"),
    "group": (lambda s: None, {"group": "E(2)"}, r"'net.weights.0' of the layer is \[6, 4\]"),
    "partial": (lambda s: s.pop("probs"), {"partial": True}, "entry 'probs' is missing"),
    "conventions": (lambda s: None, {"compat": None}, "must have form='correlation', received 'convolution'.*compat='release'"),
    "reduction": (lambda s: None, {"reduction": "mean"}, "must have reduction='sum'"),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(what):
    spoil, options, reason = SPOILED[what]
    state = dict(_state())
    spoil(state)
    layer = _layer(**options)
    before = {name: x.clone() for name, x in layer.state_dict().items()}
    if what == "missing":
        # A linear layer may do without a bias.
        compat.load_release(state, layer)
        assert not layer.net.biases[1].any()
        return
    with pytest.raises(ValueError, match=reason):
        compat.load_release(state, layer)
    assert all(torch.equal(x, before[name]) for name, x in layer.state_dict().items())


def test_only_layers_of_the_kinds_it_knows():
    with pytest.raises(ValueError, match="model must be a LiftingConv2d, GroupConv2d, PointwiseGroupConv2d"):
        compat.load_release(_state(), nn.Linear(1, 1))


def _points(d, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 9, d, generator=generator, dtype=dtype), torch.randn(
        2, 9, 3, generator=generator, dtype=dtype
    )


def _lieconv(mean=False, bn=False, d=2):
    torch.manual_seed(3)
    layer = lieconv_doubles.LieConv(3, 4, d=d, mc_samples=9, knn=True, mean=mean, bn=bn).double().eval()
    layer.divides_bias = False
    return layer


def _point_layer(group="T(2)", **options):
    options = {"kernel_net": "mlp", "hidden": 32, "layers": 4, "chart": "lie", "weight_bias": False, **options}
    return PointGroupConv(3, 4, group=group, dtype=torch.float64, **options)


@pytest.mark.parametrize("hidden", [32, 40])
@pytest.mark.parametrize("bn", [False, True])
@pytest.mark.parametrize("mean", [False, True])
def test_lieconv(mean, bn, hidden):
    lieconv = _lieconv(mean, bn)
    layer = _point_layer(reduction="mean" if mean else "sum", hidden=hidden)
    state = {f"conv.{name}": x for name, x in lieconv.state_dict().items()}
    assert compat.load_lieconv(state, layer, "conv.") is layer
    x, f = _points(2)
    pairs = x[:, :, None] - x[:, None]
    expected = lieconv((pairs, f, torch.ones(2, 9, dtype=torch.bool)))[1]
    _assert_close(layer(f, Samples(x, torch.ones(2, 9).double()))[0], expected)


def test_lieconv_with_its_coordinates_in_another_order():
    lieconv, layer, group = _lieconv(d=3), _point_layer("SE(2)", reduction="sum"), groups.get("SE(2)")
    compat.load_lieconv(lieconv.state_dict(), layer, order=(1, 2, 0))
    g = group.sample(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[None]
    log = group.log(group.relative(g[:, None], g[:, :, None]))
    pairs = torch.cat([log[..., 2:], log[..., :2]], -1)  # the angle first
    f = _points(3)[1][:1]
    expected = lieconv((pairs, f, torch.ones(1, 9, dtype=torch.bool)))[1]
    _assert_close(layer(f, Samples(g, torch.ones(1, 9).double()))[0], expected)


WRONG = {
    "missing": (lambda s: s.pop("linear.weight"), {}, {}, "entry 'linear.weight' is missing"),
    "unknown": (lambda s: s.update(extra=torch.ones(1)), {}, {}, "entries 'extra' are not known"),
    "shape": (
        lambda s: s.update({"linear.weight": torch.ones(4, 47)}), {}, {},
        r"'linear.weight' must have shape \[4, 48\], received \[4, 47\]",
    ),
    "coordinates": (lambda s: None, {"group": "T(3)"}, {}, r"'net.weights.0' of the layer is \[32, 3\]"),
    "narrow": (lambda s: None, {"hidden": 16}, {}, "build the layer with hidden=32, layers=4"),
    "layers": (lambda s: None, {"layers": 3}, {}, "build the layer with hidden=32, layers=4"),
    "chart": (lambda s: None, {"chart": "product"}, {}, "must have chart='lie', received 'product'"),
    "form": (lambda s: None, {"form": "correlation"}, {}, "must have form='convolution'"),
    "net": (lambda s: None, {"kernel_net": "siren"}, {}, "kernel_net='mlp'"),
    "order": (lambda s: None, {}, {"order": (0, 0)}, "order must hold the numbers 0 to 1 once each"),
    "bias": (lambda s: None, {"bias": False}, {}, "the layer has no 'bias'"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_lieconv_that_does_not_fit(what):
    spoil, options, arguments, reason = WRONG[what]
    state = dict(_lieconv().state_dict())
    spoil(state)
    layer = _point_layer(**options)
    before = {name: x.clone() for name, x in layer.state_dict().items()}
    with pytest.raises(ValueError, match=reason):
        compat.load_lieconv(state, layer, **arguments)
    assert all(torch.equal(x, before[name]) for name, x in layer.state_dict().items())


def test_a_grid_of_the_release_is_one_of_ours():
    """The library's own sampler has the release's elements: a loaded layer needs nothing else."""
    release = _double(LiftingConv, SE2(), "siren", 3, 2, method=Method.DETERMINISTIC)
    layer = LiftingConv2d(3, 2, 5, num_samples=4, sampling="fixed", compat="release", hidden=6, dtype=torch.float64)
    compat.load_release(release.state_dict(), layer)
    x = _images()[:, :, 0]
    found, samples = layer(x)
    expected, drawn = release(x)
    _assert_close(found, expected)
    torch.testing.assert_close(torch.remainder(-samples.elements[..., 2], TURN), drawn)
