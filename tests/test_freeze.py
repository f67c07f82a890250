"""``freeze``: the same outputs from plain convolutions alone, and what it refuses."""

import pytest
import torch
from contract import IMAGE, LAYERS, draw, layer_inputs
from torch import nn

import pgconv
from pgconv.deploy import FrozenConv2d
from pgconv.sampling import Samples

IMAGE_LAYERS = ["LiftingConv2d", "GroupConv2d", "PointwiseGroupConv2d", "SeparableGroupConv2d"]
NETWORKS = {
    "residual-partial-E(2)": lambda: pgconv.models.CKResNet(
        2, 3, group="E(2)", num_samples=4, width=4, kernel_size=3, partial=True
    ),
    "residual-full": lambda: pgconv.models.CKResNet(
        2, 3, num_samples=3, width=4, kernel_size=3, one_grid=True, factors=(1, 1)
    ),
    "residual-last-translations": lambda: pgconv.models.CKResNet(
        2, 3, num_samples=2, width=4, kernel_size=3, last_translations=True
    ),
    "residual-positions": lambda: pgconv.models.CKResNet(
        2, 3, num_samples=2, width=4, kernel_size=3, final_positions=8
    ),
    "13-layer": lambda: pgconv.models.GCNN13(2, 3, num_samples=3, width=4, partial=True),
    "translations": lambda: pgconv.models.CKResNet(2, 3, group="T(2)", num_samples=1, width=4, kernel_size=3),
}


def trained(network):
    """With running statistics, gates and ranges that are not those of the start."""
    torch.manual_seed(0)
    model = network()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(-p if "gates" in name or "alpha" in name else p + 0.1 * torch.randn_like(p))
        model.train()(draw(4, 2, 16, 16).float())
    return model.eval()


def close(found, want):
    for a, b in zip(torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(want), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_layers(name, dtype):
    torch.manual_seed(0)
    layer = LAYERS[name]().to(dtype)
    x, *samples = (torch.utils._pytree.tree_map(lambda t: t.to(dtype), a) for a in layer_inputs(name))
    with torch.no_grad():
        layer(x, *samples)
        if name != "SeparableGroupConv2d" and layer.bias is not None:
            layer.bias.copy_(draw(*layer.bias.shape))
    frozen = pgconv.freeze(layer, x, *samples)
    assert isinstance(frozen, FrozenConv2d) and not frozen.training and layer.training
    assert len(frozen.convs) == 1 + (name == "SeparableGroupConv2d")
    other = torch.cat([x.flip(0), x.cos()])
    close(frozen(other, *samples), layer.eval()(other, *samples))
    assert all(not p.requires_grad for p in frozen.parameters())


OPTIONS = [
    {"stride": 2},
    {"dilation": 2},
    {"padding": "valid"},
    {"support": "square"},
    {"bias": False},
    {"weight_bias": False},
    {"reduction": "sum"},
    {"form": "correlation", "chart": "embed"},
    {"compat": "release"},
    {"partial": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()))
@pytest.mark.parametrize("layer", [pgconv.nn.GroupConv2d, pgconv.nn.SeparableGroupConv2d])
def test_options(layer, options):
    torch.manual_seed(0)
    conv = layer(3, 4, **(IMAGE | options)).eval()
    group = pgconv.groups.get("E(2)")
    weights = torch.tensor([[1.0, 0.5, 0.0, 2.0]])
    samples = Samples(
        group.sample(4, generator=torch.Generator().manual_seed(1))[None] * torch.tensor([0.0, 0, 1, 1]), weights
    )
    x = draw(2, 3, 4, 7, 8).float()
    close(pgconv.freeze(conv, x, samples)(x, samples), conv(x, samples))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    model = trained(NETWORKS[name])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain = pgconv.freeze(model, draw(1, 2, 16, 16).float())
    x = draw(5, 2, 16, 16).float()
    close(plain(x), model(x))
    kinds = {type(module).__module__ for module in plain.modules()}
    assert not any(
        isinstance(m, (pgconv.nn.GroupConv2d, pgconv.nn.LiftingConv2d, pgconv.kernel_nets.KernelNet))
        for m in plain.modules()
    ), kinds
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_frozen_network_calls_no_operator_of_the_library():
    model = trained(NETWORKS["residual-partial-E(2)"])
    x = draw(2, 2, 16, 16).float()
    plain = pgconv.freeze(model, x)
    with torch.no_grad():
        program = torch.export.export(plain, (x,))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.conv2d.default" in names and not any("pgconv" in name for name in names)
    close(program.module()(x), model(x))


@pytest.mark.parametrize("name", ["residual-partial-E(2)", "13-layer"])
def test_onnx(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = trained(NETWORKS[name])
    x = draw(3, 2, 16, 16).float()
    file, batch = str(tmp_path / "network.onnx"), torch.export.Dim("batch", min=1)
    torch.onnx.export(pgconv.freeze(model, x), (x,), file, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for images in (x, draw(5, 2, 16, 16).float()):
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        close(torch.from_numpy(found), model(images).detach())


def test_other_modules_stay_and_shared_layers_are_one():
    torch.manual_seed(0)
    conv = pgconv.nn.GroupConv2d(3, 3, kernel_size=3, num_samples=4)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.lift, self.conv, self.again = pgconv.nn.LiftingConv2d(1, 3, 3, num_samples=4), conv, conv
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            y, samples = self.lift(x)
            y, samples = self.again(*self.conv(y, samples))
            return self.linear(y.mean((2, 3, 4)))

    model = Twice().eval()
    x = draw(2, 1, 6, 6).float()
    plain = pgconv.freeze(model, x)
    assert plain.conv is plain.again and torch.equal(plain.linear.weight, model.linear.weight)
    close(plain(x), model(x))


class Moving(pgconv.sampling.base.Sampler):
    """Other samples at every call."""

    def forward(self, batch_size=1, generator=None):
        return self._samples(self.group.stabilizer.sample(self.n)[None])


class Wrong(nn.Module):
    """Looks into its layer."""

    def __init__(self):
        super().__init__()
        self.lift = pgconv.nn.LiftingConv2d(1, 3, 3, num_samples=4)

    def forward(self, x):
        y, _ = self.lift(x)
        return y * (1 + isinstance(self.lift, pgconv.nn.LiftingConv2d))


def refused():
    x = draw(2, 1, 8, 8).float()
    group = pgconv.groups.get("SE(2)")
    maps, samples = draw(2, 3, 4, 5, 5).float(), pgconv.sampling.get("fixed", group, 4)(2)
    each = Samples(
        group.sample(8, generator=torch.Generator().manual_seed(0)).reshape(2, 4, 3) * torch.tensor([0.0, 0, 1]),
        torch.ones(2, 4),
    )
    points = Samples(group.sample(5, generator=torch.Generator().manual_seed(0))[None], torch.ones(1, 5))
    moving = pgconv.nn.LiftingConv2d(1, 2, 3, sampling=Moving(group, 4))
    gates = pgconv.nn.GroupConv2d(3, 3, kernel_size=3, num_samples=4, partial="input")
    return {
        "no-module": (ValueError, "torch.nn.Module", lambda: pgconv.freeze(lambda x: x, x)),
        "nothing": (ValueError, "nothing to freeze", lambda: pgconv.freeze(nn.Linear(2, 2), draw(1, 2))),
        "points": (ValueError, "points", lambda: pgconv.freeze(pgconv.nn.PointGroupConv(3, 4, group), draw(2, 5, 3), points)),
        "gates": (ValueError, "by the input", lambda: pgconv.freeze(gates, maps, samples)),
        "each": (ValueError, "each example", lambda: pgconv.freeze(pgconv.nn.GroupConv2d(3, 3, kernel_size=3), maps, each)),
        "moving": (ValueError, "other samples at other calls", lambda: pgconv.freeze(moving, x)),
        "wrong": (RuntimeError, "differ by", lambda: pgconv.freeze(Wrong(), x)),
        "unused": (ValueError, "'1' was not called", lambda: pgconv.freeze(Unused(), x)),
    }  # fmt: skip


class Unused(nn.Sequential):
    """Calls the first of two layers."""

    def __init__(self):
        super().__init__(pgconv.nn.LiftingConv2d(1, 2, 3), pgconv.nn.LiftingConv2d(1, 2, 3))

    def forward(self, x):
        return self[0](x)


@pytest.mark.parametrize("name", refused())
def test_refused(name):
    error, text, call = refused()[name]
    with pytest.raises(error, match=text):
        call()
