"""``self_check``: right modules pass, also where everything cancels; wrong ones do not."""

import pytest
import torch
from torch import nn

import pgconv
from pgconv.diagnostics.self_check import GRADIENT_FACTOR, VALUE_TOLERANCE


def points(n=4):
    lift = pgconv.nn.PointLift("SE(2)", n)
    generator = torch.Generator().manual_seed(0)
    return lift(*(torch.randn(2, 5, d, generator=generator) for d in (2, 3)))


def cancelling(dtype=torch.float32):
    """Odd features, and every input at opposite angles: output and gradients are zero but for rounding."""
    torch.manual_seed(0)
    return pgconv.nn.PointGroupConv(3, 4, group="SE(2)", chart="embed", hidden=8, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_cancels_passes(dtype):
    f, samples = points()
    conv, f = cancelling(dtype), f.to(dtype)
    y, _ = conv(f, samples)
    assert y.abs().max() < 1e-5
    report = pgconv.self_check(conv, f, samples)
    assert report.ok, str(report)


class Off(nn.Module):
    """A layer whose result, or the gradient of whose parameters, is off by a share of its largest value; in float64 it is right."""

    def __init__(self, layer, share, what):
        super().__init__()
        self.layer, self.share, self.what = layer, share, what

    def forward(self, *inputs):
        y, samples = self.layer(*inputs)
        if next(self.parameters()).dtype == torch.float32:
            error = self.share * y.abs().amax()
            y = y + error.detach() if self.what == "value" else y + self.share * (y - y.detach())
        return y, samples


@pytest.mark.parametrize("what", ["value", "gradient"])
@pytest.mark.parametrize("name", ["image", "points"])
def test_errors_beyond_the_bounds_are_found(what, name):
    torch.manual_seed(0)
    if name == "image":
        layer = pgconv.nn.LiftingConv2d(2, 3, 3, group="SE(2)", num_samples=4, hidden=8)
        inputs = (torch.randn(2, 2, 6, 6),)
    else:
        layer, inputs = pgconv.nn.PointGroupConv(3, 4, group="SE(2)", hidden=8), points(1)
    assert pgconv.self_check(Off(layer, 0.0, what), *inputs).ok
    bound = VALUE_TOLERANCE[torch.float32] * (1 if what == "value" else GRADIENT_FACTOR)
    report = pgconv.self_check(Off(layer, 1.5 * bound, what), *inputs)
    wrong = [key for key in report.errors if report.errors[key] > report.bounds[key]]
    assert wrong and all(key.startswith("output" if what == "value" else "grad") for key in wrong)
    assert "OUT OF BOUNDS" in str(report)


class Classifier(nn.Module):
    """The layers of the first example in README."""

    def __init__(self):
        super().__init__()
        options = {"kernel_size": 5, "group": "SE(2)", "num_samples": 4}
        self.lift = pgconv.nn.LiftingConv2d(3, 8, **options)
        self.conv = pgconv.nn.GroupConv2d(8, 12, **options, partial=True)
        self.norm, self.pool = pgconv.nn.GroupBatchNorm2d(8), pgconv.nn.GlobalGroupPool("mean")

    def forward(self, x):
        y, samples = self.lift(x)
        return self.pool(*self.conv(torch.relu(self.norm(y, samples)), samples))


SMALL = {"num_samples": 4, "width": 4, "kernel_size": 3}
NETWORKS = {
    "CKResNet": (lambda: pgconv.models.CKResNet(1, 10, **SMALL), [(4, 1, 16, 16)]),
    "CKResNet-partial": (lambda: pgconv.models.CKResNet(1, 10, partial=True, **SMALL), [(4, 1, 16, 16)]),
    "CKResNet-layer": (lambda: pgconv.models.CKResNet(1, 10, norm="layer", **SMALL), [(4, 1, 16, 16)]),
    "GCNN13": (lambda: pgconv.models.GCNN13(1, 10, num_samples=2), [(2, 1, 16, 16)]),
    "LieResNet": (
        lambda: pgconv.models.LieResNet(3, 10, num_samples=2, width=16, blocks=2),
        [(3, 20, 2), (3, 20, 3)],
    ),
    "README": (Classifier, [(2, 3, 16, 16)]),
}


def network(name):
    torch.manual_seed(0)
    make, shapes = NETWORKS[name]
    return make().train(), [torch.randn(shape) for shape in shapes]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_with_norms_pass(name):
    """Before a norm gradients of biases are zero but for rounding."""
    module, inputs = network(name)
    report = pgconv.self_check(module, *inputs)
    assert report.ok, str(report)


class OffGradient(nn.Module):
    """A network whose gradient by one parameter is off by a number in float32."""

    def __init__(self, network, name, error):
        super().__init__()
        self.network, self.name, self.error = network, name, error

    def forward(self, *inputs):
        y, p = self.network(*inputs), self.network.get_parameter(self.name)
        off = self.error / torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).sum()
        return y + off.float() * (p - p.detach()).sum() if p.dtype == torch.float32 else y


@pytest.mark.parametrize("parameter", ["lift.bias", "norm.bias", "conv.bias", "lift.weight", "conv.net.biases.0"])
def test_a_wrong_gradient_of_one_parameter_is_found_in_a_network_with_norms(parameter):
    module, inputs = network("README")
    outputs = module(*inputs)
    weights = torch.randn(outputs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).float()
    largest = {
        name: g.abs().max().item()
        for (name, _), g in zip(
            module.named_parameters(), torch.autograd.grad((outputs * weights).sum(), list(module.parameters()))
        )
    }
    # Where the gradient itself is zero, by what another one of its layer would be allowed.
    size = largest["lift.weight" if parameter == "lift.bias" else parameter]
    bound = VALUE_TOLERANCE[torch.float32] * GRADIENT_FACTOR
    assert pgconv.self_check(OffGradient(module, parameter, 0.0), *inputs).ok
    report = pgconv.self_check(OffGradient(module, parameter, 1.5 * bound * size), *inputs)
    name = f"grad network.{parameter}"
    assert [key for key in report.errors if report.errors[key] > report.bounds[key]] == [name], str(report)


def test_a_wrong_value_is_found_where_all_else_cancels():
    class Wrong(Off):
        def forward(self, *inputs):
            y, samples = self.layer(*inputs)
            return (y + 1e-4 if next(self.parameters()).dtype == torch.float32 else y), samples

    assert not pgconv.self_check(Wrong(cancelling(), 0.0, ""), *points()).ok


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_a_number_does_not_pass(broken):
    class Broken(Off):
        def forward(self, *inputs):
            y, samples = self.layer(*inputs)
            return (y * broken if next(self.parameters()).dtype == torch.float32 else y), samples

    layer = pgconv.nn.LiftingConv2d(1, 2, 3, group="SE(2)", num_samples=2, hidden=4)
    assert not pgconv.self_check(Broken(layer, 0.0, ""), torch.ones(1, 1, 4, 4)).ok


def test_the_module_is_left_as_it_was():
    conv, (f, samples) = cancelling(), points()
    before = {name: x.clone() for name, x in conv.state_dict().items()}
    pgconv.self_check(conv, f, samples)
    assert all(torch.equal(x, before[name]) for name, x in conv.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in conv.parameters())


@pytest.mark.parametrize("share", [0.02, -1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_gradient_of_a_full_range_is_found(share, seed):
    """It is at its bound, beyond which there may be none: a rounding must not move it there."""
    torch.manual_seed(seed)
    lift, conv = (
        pgconv.nn.LiftingConv2d(1, 3, 3, num_samples=4),
        pgconv.nn.GroupConv2d(3, 3, 3, num_samples=4, partial=True),
    )

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.lift, self.conv = lift, conv

        def forward(self, x):
            theta = self.conv.sampler.theta
            if theta.dtype == torch.float32 and wrong:
                theta.register_hook(lambda grad: grad * (1 + share))
            return self.conv(*self.lift(x))[0]

    for wrong in (False, True):
        report = pgconv.self_check(Both(), torch.randn(2, 1, 7, 7), seed=seed)
        name = "grad conv.sampler.theta"
        assert (report.errors[name] > report.bounds[name]) == wrong and report.ok != wrong
