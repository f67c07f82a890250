"""Maps with their samples last in memory: the same numbers, and results that lie as the signal does."""

import pytest
import torch
from torch.testing import assert_close

import pgconv
from pgconv import nn
from pgconv._layout import is_group_last
from pgconv.ops import dispatch
from pgconv.spec import ConvGeometry

GEOMETRY = str(ConvGeometry.make("test", 3, 1, "same", 1, "disc"))


def operands(dtype=torch.float64, sets=1, nv=3, nu=2):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, nv, 4, 5), (sets, nu, nv, 5, 4), (6, 3, 4)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def plans():
    f, phi, weight = operands(torch.float32)
    facts = pgconv.ops._define.FAMILIES["group_conv2d"].facts(f, phi, weight, ConvGeometry.parse(GEOMETRY))
    return [str(plan) for plan, why in dispatch.candidates(facts) if why is None]


def test_a_signal_is_moved_once():
    f = torch.randn(2, 3, 4, 5, 6)
    last = pgconv.group_last(f)
    assert torch.equal(last, f) and last.stride() == (360, 120, 1, 24, 4)
    assert pgconv.group_last(last).data_ptr() == last.data_ptr()
    # What lies both ways is contiguous.
    assert not any(map(is_group_last, (f, torch.randn(2, 3, 1, 5, 6), pgconv.group_last(torch.randn(2, 3, 4, 1, 1)))))


def test_what_is_no_signal_is_refused():
    with pytest.raises(ValueError, match="group_last: f must have 5 dimensions"):
        pgconv.group_last(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="group_last: f must be a tensor"):
        pgconv.group_last([1])


@pytest.mark.parametrize("plan", plans())
def test_results_and_gradients_lie_as_the_signal(plan):
    results = []
    for arrange in (torch.Tensor.contiguous, pgconv.group_last):
        f, *factors = operands(torch.float32)
        leaves = [x.requires_grad_() for x in (arrange(f), *factors)]
        out = torch.ops.pgconv.group_conv2d(*leaves, GEOMETRY, plan)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
        assert [is_group_last(x) for x in results[-1][:2]] == [arrange is pgconv.group_last] * 2
    for found, want in zip(*results):
        assert_close(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sets", [1, 2])
def test_the_operator_keeps_its_promise(sets):
    f, phi, weight = (x.requires_grad_() for x in operands(torch.float32, sets))
    last = pgconv.group_last(f.detach()).requires_grad_()
    for signal in (f, last):
        torch.library.opcheck(torch.ops.pgconv.group_conv2d.default, (signal, phi, weight, GEOMETRY, "auto:auto"))


def test_compiled_code_knows_the_layout():
    f, phi, weight = operands(torch.float32)
    last = pgconv.group_last(f).requires_grad_()

    def function(f):
        return torch.ops.pgconv.group_conv2d(f, phi, weight, GEOMETRY, "auto:auto").relu() * 2

    want = function(last)
    found = torch.compile(function, fullgraph=True, backend="aot_eager")(last)
    assert found.stride() == want.stride() and is_group_last(found)
    assert_close(found, want)
    grads = [torch.autograd.grad(x.sum(), last)[0] for x in (found, want)]
    assert is_group_last(grads[0]) and is_group_last(grads[1])
    assert_close(*grads)


@pytest.mark.parametrize("norm", [nn.GroupBatchNorm2d, nn.GroupInstanceNorm2d, nn.GroupLayerNorm2d])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_norms_keep_the_layout(norm, weighted, training):
    x = operands()[0]
    samples = pgconv.sampling.Samples(torch.zeros(1, 3, 3), torch.tensor([[1.0, 0.5, 0.0]])) if weighted else None
    layer = norm(3).double().train(training)
    results = []
    for arrange in (torch.Tensor.contiguous, pgconv.group_last):
        signal = arrange(x).detach().requires_grad_()
        y = layer(signal, samples)
        (grad,) = torch.autograd.grad(y.square().sum() + y[:, 0].sum(), signal)
        assert is_group_last(y) == (arrange is pgconv.group_last)
        results.append((y, grad))
    for found, want in zip(*results):
        assert_close(found, want)


def test_a_network_keeps_the_layout():
    torch.manual_seed(0)
    options = {"kernel_size": 3, "group": "SE(2)", "num_samples": 4}
    lift, conv = nn.LiftingConv2d(2, 3, **options).eval(), nn.GroupConv2d(3, 5, **options).eval()
    norm = nn.GroupBatchNorm2d(3).eval()
    x = torch.randn(2, 2, 6, 7)
    results = []
    for arrange in (lambda f: f, pgconv.group_last):
        f, samples = lift(x)
        f, samples = conv(torch.relu(norm(arrange(f), samples)), samples)
        results.append(f)
    assert is_group_last(results[1]) and not is_group_last(results[0])
    assert_close(results[1], results[0])
