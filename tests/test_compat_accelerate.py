"""``accelerate`` on whole models: what it replaces, what it leaves, and that nothing else notices."""

import copy
import io
import pickle
import re
from pathlib import Path

import lieconv_doubles
import pytest
import release_doubles
import torch
from release_doubles import E2, SE2, GroupConv, LiftingConv, Method, ResNet
from torch import nn

from pgconv import compat


def _model(*args, **options):
    torch.manual_seed(0)
    return ResNet(*args, **options).double()


def _images():
    return torch.randn(4, 1, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _steps(model, optimiser, count=3):
    losses = []
    torch.manual_seed(1)
    for _ in range(count):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(_images()), torch.tensor([0, 1, 2, 0]))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("group", [SE2, E2])
@pytest.mark.parametrize("method", Method)
def test_training_goes_on_with_the_optimiser_that_was_there(group, method):
    own = _model(group, partial=True, method=method)
    fast = copy.deepcopy(own)
    optimisers = [torch.optim.Adam(model.parameters(), lr=0.02) for model in (own, fast)]
    identities = [id(p) for p in fast.parameters()]
    report = compat.accelerate(fast, strict=True)
    assert list(report.replaced) == ["lift", "conv", "shortcut"]
    assert [id(p) for p in fast.parameters()] == identities
    start = copy.deepcopy(fast.state_dict())
    found, expected = (_steps(model, optimiser) for model, optimiser in zip((fast, own), optimisers[::-1]))
    assert found == pytest.approx(expected, rel=1e-8)
    state = own.state_dict()
    assert list(fast.state_dict()) == list(state)
    for name, x in fast.state_dict().items():
        torch.testing.assert_close(x, state[name], rtol=1e-6, atol=1e-8)
    assert not torch.equal(fast.conv.kernelnet.kernel_net[0].weight, start["conv.kernelnet.kernel_net.0.weight"])


def test_checkpoints_go_both_ways():
    own, fast = _model(), _model()
    keys = [(name, x.shape) for name, x in fast.state_dict().items()]
    compat.accelerate(fast, strict=True)
    assert [(name, x.shape) for name, x in fast.state_dict().items()] == keys
    with torch.no_grad():
        for p in own.parameters():
            p.add_(0.1)
    fast.load_state_dict(own.state_dict())
    results = []
    for model in (fast, own):
        torch.manual_seed(0)
        results.append(model.eval()(_images()))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    own.load_state_dict(fast.state_dict())


def test_copies_and_files_are_fast_too():
    fast = _model(partial=True)
    compat.accelerate(fast, strict=True)
    fast(_images())
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    results = []
    for model in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), torch.load(file, weights_only=False)):
        assert type(model.conv) is type(fast.conv) and type(model.conv) is not GroupConv
        torch.manual_seed(0)
        results.append(model(_images()))
    assert all(torch.equal(x, results[0]) for x in results)
    copied = copy.deepcopy(fast)
    with torch.no_grad():
        copied.conv.kernelnet.kernel_net[4].weight.zero_()
    torch.manual_seed(0)
    assert not torch.equal(copied(_images()), results[0])


def test_layers_are_what_they_were():
    fast = _model(partial=True)
    group, hooked = fast.conv.group, []
    fast.conv.register_forward_hook(lambda *_: hooked.append(1))
    compat.accelerate(fast, strict=True)
    assert isinstance(fast.conv, GroupConv) and fast.conv.group is group
    assert fast.conv.probs.requires_grad and fast.conv.kernel_size == "5"
    fast(_images())
    assert hooked == [1]
    assert "FusedGroupConv" in repr(fast)
    half = copy.deepcopy(fast).float()
    assert half(_images().float()).dtype == torch.float32


def test_nothing_is_left_behind():
    """Random numbers, counters and statistics are as before; so are models that are refused."""
    model = _model(E2, partial=True)
    broken = _model(E2, partial=True)
    broken.conv.padding = "circular"
    for one, strict in ((model, True), (broken, False)):
        state, before = copy.deepcopy(one.state_dict()), torch.get_rng_state()
        compat.accelerate(one, strict=strict)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(x, state[name]) for name, x in one.state_dict().items())
        assert all(p.grad is None for p in one.parameters())
    lieconv = lieconv_doubles.LieConv(3, 4)
    before = torch.get_rng_state()
    compat.accelerate(lieconv, strict=True)
    assert lieconv.r == 1.5 and torch.equal(torch.get_rng_state(), before)


def test_strict_changes_all_or_nothing():
    model = _model()
    model.conv.padding = "circular"
    with pytest.raises(ValueError, match=r"strict=True.*(.|\n)*conv: GroupConv: its padding is 'circular'"):
        compat.accelerate(model, strict=True)
    assert type(model.lift) is LiftingConv
    report = compat.accelerate(model)
    assert list(report.replaced) == ["lift", "shortcut"] and list(report.kept) == ["conv"]
    assert type(model.conv) is GroupConv
    assert str(report).splitlines() == [
        "2 of 3 layers replaced",
        "  lift: LiftingConv, 1 to 4 channels on SE2",
        "  shortcut: PointwiseGroupConv, 4 to 4 channels on SE2",
        "left as they are",
        "  conv: GroupConv: its padding is 'circular', not 'same' or 'valid'",
    ]


def test_shared_layers_are_replaced_once_and_a_second_call_finds_nothing():
    layer = GroupConv(SE2(), "siren", 4, 4)
    model = nn.ModuleDict({"one": layer, "two": layer, "three": nn.Sequential(layer)})
    assert list(compat.accelerate(model).replaced) == ["one"]
    assert model["two"] is layer and "Fused" in type(layer).__name__
    again = compat.accelerate(model, strict=True)
    assert not again.replaced and not again.kept


def test_models_without_such_layers():
    class GroupConv(nn.Conv2d):  # only the name is the same
        pass

    model = nn.Sequential(nn.Linear(2, 2), GroupConv(1, 1, 3))
    report = compat.accelerate(model, strict=True)
    assert "nothing to replace" in str(report)
    with pytest.raises(ValueError, match=r"(?s)model must be a torch.nn.Module, received .*\(list\)"):
        compat.accelerate([model])


class Windowed(GroupConv):
    """With a learned window that the formula does not have."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.window = nn.Parameter(torch.ones(1))


class Strided(GroupConv):
    def forward(self, pair):
        y, u = super().forward(pair)
        return y[..., ::2, ::2], u


class Scaled(GroupConv):
    def forward(self, pair):
        y, u = super().forward(pair)
        return 1.1 * y, u


class Greedy(GroupConv):
    """Its samples depend on what it convolves."""

    def draw(self, x, v):
        return super().draw(x, v) + 0.1 * x.shape[1]


class Failing(GroupConv):
    def forward(self, pair):
        raise RuntimeError("not today")


def _with(layer, **attributes):
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


def _unknown_net(layer):
    layer.kernelnet = nn.Sequential(nn.Conv3d(3, 16, 1))
    return layer


REFUSED = {
    "padding": (lambda: _with(GroupConv(SE2(), "siren", 4, 4), padding="reflect"), "padding is 'reflect'"),
    "size": (lambda: _with(GroupConv(SE2(), "siren", 4, 4), kernel_size="half"), "kernel_size is 'half'"),
    "even": (lambda: GroupConv(SE2(), "siren", 4, 4, kernel_size="4"), "even kernels have no centre pixel"),
    "net": (lambda: _unknown_net(GroupConv(SE2(), "siren", 4, 4)), "not one of SIREN, MLP, Fourier, Gabor, MAGNet"),
    "coordinates": (lambda: _with(GroupConv(SE2(), "siren", 4, 4), group=E2()), "reads 3 coordinates, not the 4 of E2"),
    "channels": (lambda: _with(GroupConv(SE2(), "siren", 4, 4), in_channels=3), "has 16 outputs, not 4 x 3"),
    "window": (lambda: Windowed(SE2(), "siren", 4, 4), "entries 'window' are not known"),
    "norm": (lambda: GroupConv(SE2(), "mlp", 4, 4), "batch norm in training mode"),
    "stride": (lambda: Strided(SE2(), "siren", 4, 4), "output has the shape"),
    "formula": (lambda: Scaled(SE2(), "siren", 4, 4), "differs from the formula's by 9.*e-02|1.0e-01"),
    "samples": (lambda: Greedy(SE2(), "siren", 4, 4), "differs|samples are others"),
    "error": (lambda: Failing(SE2(), "siren", 4, 4), "RuntimeError: not today"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_reasons(what):
    build, reason = REFUSED[what]
    torch.manual_seed(0)
    layer = build()
    cls = type(layer)
    report = compat.accelerate(nn.ModuleDict({"conv": layer}))
    assert not report.replaced and list(report.kept) == ["conv"]
    assert re.search(reason, report.kept["conv"]), report.kept["conv"]
    assert type(layer) is cls and "_facts" not in vars(layer)


def test_a_group_of_another_name():
    group = type("SO3", (nn.Module,), {"mirrored": False, "dimension": 3})()
    layer = _with(GroupConv(SE2(), "siren", 4, 4), group=group)
    assert "group is SO3, not one of SE2, E2" in compat.accelerate(layer).kept[""]


def test_an_activation_of_another_name():
    class Bent(nn.Module):
        def forward(self, x):
            return x.abs()

    layer = GroupConv(SE2(), "mlp", 4, 4).eval()
    layer.kernelnet.kernel_net[2] = layer.kernelnet.kernel_net[5] = Bent()
    assert "Bent between linear layers, no known activation" in compat.accelerate(layer).kept[""]


def test_norms_of_the_kernel_net_train_by_the_layers_own_code():
    torch.manual_seed(0)
    own = GroupConv(SE2(), "mlp", 4, 4).double().eval()
    fast = copy.deepcopy(own)
    compat.accelerate(fast, strict=True)
    x, v = torch.randn(2, 4, 3, 6, 6).double(), torch.rand(1, 3).double()
    for mode in (True, False, True):
        results = []
        for model in (fast, own):
            torch.manual_seed(0)
            results.append(model.train(mode)((x, v))[0])
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(a, b) for a, b in zip(fast.buffers(), own.buffers()))


def test_the_doubles_know_nothing_of_the_library():
    for module in (release_doubles, lieconv_doubles):
        source = Path(module.__file__).read_text()
        assert "import pgconv" not in source and "from pgconv" not in source
