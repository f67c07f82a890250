"""What is not fused runs on a few outputs at a time: the same numbers, and memory that does not grow with the pairs."""

import subprocess
import sys

import pytest
import torch
from cases import build, point_case
from test_backends import error

import pgconv
from pgconv.backends.reference import pieces

LISTS = (None, "padded", "padded-each", "csr", "csr-each", "ragged")


def call(neighbors, **fields):
    more = {"neighbors": neighbors} if neighbors else {}
    more |= {"batch": 1} if neighbors == "ragged" else {}
    return build(point_case(f"pieces-{neighbors}", nv=6, nu=11, **more, **fields)).to(torch.float64, grad=True)


@pytest.fixture
def few(monkeypatch):
    """Pieces of three outputs or so, and how many there were."""
    seen = []
    original = pieces.pieces

    def counted(*operands):
        for piece in original(*operands):
            seen.append(piece)
            yield piece

    def limit(numbers):
        monkeypatch.setattr(pieces, "FEATURES", numbers)
        for module in ("pgconv.ops.point_conv", "pgconv.functional._unfused"):
            monkeypatch.setattr(sys.modules[module], "pieces", counted)
        return seen

    return limit


def first_and_second(case):
    """Output, all gradients, and the gradients of a number made of these."""
    leaves = list(case.leaves().values())
    out = case()
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    first = torch.autograd.grad((out * weight).sum(), leaves, create_graph=True)
    score = sum((g * torch.linspace(1, 2, g.numel(), dtype=g.dtype).view_as(g)).sum() for g in first)
    second = torch.autograd.grad(score, leaves, allow_unused=True)
    return [out, *first], [torch.zeros_like(x) if g is None else g for g, x in zip(second, leaves)]


@pytest.mark.parametrize("neighbors", LISTS)
@pytest.mark.parametrize("net", ["siren", "gabor"])
def test_pieces_make_up_the_whole(neighbors, net, few):
    """The first net is fused, so that only second derivatives come in pieces; the second never is."""
    case = call(neighbors, net=net)
    expected = first_and_second(case)
    seen = few(30)
    for found, wanted in zip(first_and_second(case), expected):
        for x, y in zip(found, wanted):
            assert error(x, y) <= 1e-12
    assert len(seen) >= 2
    assert sum(p.rows.stop - p.rows.start for p in seen) % 11 == 0


def dependent(leaf, net):
    """Elements, weights and the head all computed from the signal; parameters of the net put in from outside."""
    f = leaf[:1]
    u = (f[..., :1] * 0.3).expand(-1, -1, 3)
    weight = f[0, :4].sum() * torch.linspace(-1, 1, 24, dtype=f.dtype).view(3, 2, 4)
    values = {name: x.detach() + f.mean() for name, x in net.named_parameters()}
    module = Convolution(net)
    return torch.func.functional_call(module, {f"net.{k}": x for k, x in values.items()}, (f, u, weight))


class Convolution(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, f, u, weight):
        return pgconv.functional.point_conv(f, u, u, self.net, weight, group="SE(2)")


@pytest.mark.parametrize("net", ["siren", "gabor"])
def test_operands_and_parameters_that_depend_on_one_tensor(net, few):
    """Gradients reach it through every operand, once; also of parameters that are not the module's own."""
    module = call(None, net=net).net.double()
    leaf = torch.linspace(-1, 1, 22, dtype=torch.float64).sin().view(1, 11, 2).requires_grad_()

    def gradients():
        out = dependent(leaf, module)
        first = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
        return [out, *first, *torch.autograd.grad(first[0].square().sum(), leaf)]

    expected = gradients()
    few(100)
    for found, wanted in zip(gradients(), expected):
        assert error(found, wanted) <= 1e-12


def test_recomputation_is_autocast_as_the_result_was(few, monkeypatch):
    case = call(None, net="gabor").to(torch.float32, grad=True)
    features, seen = type(case.net).features, []

    def watched(self, coords):
        seen.append(torch.is_autocast_enabled("cpu"))
        return features(self, coords)

    monkeypatch.setattr(type(case.net), "features", watched)
    few(100)
    with torch.autocast("cpu", torch.bfloat16):
        out = case()
    assert len(seen) > 1
    torch.autograd.grad(out.float().sum(), list(case.leaves().values()))
    assert len(seen) > 2 * out.shape[0]
    assert all(seen)


def test_results_that_nobody_asks_gradients_of_keep_nothing(few):
    case = call(None, net="gabor")
    few(100)
    with torch.no_grad():
        assert not case().requires_grad


RAGGED = """
import resource, torch, pgconv
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def step(points):
    v = torch.rand(1, points, 1)
    f, weight = torch.randn(1, points, 4, requires_grad=True), torch.randn({out}, 4, 4, requires_grad=True)
    offsets = torch.tensor([0, 3, points])
    pgconv.functional.point_conv(f, v, v, net, weight, group="T(1)", offsets=offsets).sum().backward()
net = pgconv.kernel_nets.MLP(1, hidden=4, layers=2)
step(100)
before = peak()
step(6000)
print(peak() - before)
"""


@pytest.mark.parametrize("out", [4, 40], ids=["adjoint", "straight"])
def test_ragged_batches_store_no_pairs(out):
    """36 million pairs, which took 288 MB if they were listed; C to O chooses how the gradients are computed."""
    run = subprocess.run([sys.executable, "-c", RAGGED.format(out=out)], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 40
