"""The head's bias as a convolution of its own against the bias as one more feature: the same function."""

import pytest
import torch
from cases import IMAGE_CASES, build, params
from torch.testing import assert_close

from pgconv import ops

CASES = [case for case in IMAGE_CASES if case.bias and not case.op.startswith("depthwise")]


@pytest.fixture
def placed(monkeypatch):
    """Evaluates a call, the bias placed as asked for: the value, and what can be differentiated."""

    def run(case, apart, dtype=torch.float64, **options):
        monkeypatch.setattr(ops, "bias_apart", lambda *_: apart)
        call = build(case).to(dtype, grad=True)
        return call(**options), call.leaves()

    return run


@pytest.mark.parametrize("case", params(CASES))
def test_a_bias_apart_is_the_same_function(placed, case):
    results = []
    for apart in (False, True):
        value, leaves = placed(case, apart)
        cotangent = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).reshape(value.shape).cos()
        grads = torch.autograd.grad(value, list(leaves.values()), cotangent, allow_unused=True, materialize_grads=True)
        results.append({"value": value} | dict(zip(leaves, grads)))
    inside, apart = results
    assert inside.keys() == apart.keys()
    for name, want in inside.items():
        assert_close(apart[name], want, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


def test_a_bias_apart_counts(placed):
    """The test above could not fail if the bias were left out of both."""
    value, leaves = placed(next(case for case in CASES if case.id == "k3"), True)
    (grad,) = torch.autograd.grad(value.sum(), leaves["weight_bias"])
    assert grad.abs().min() > 1e-3


def test_a_bias_apart_under_autocast(placed):
    case = next(case for case in CASES if case.id == "k3")
    want, _ = placed(case, False, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = placed(case, True, torch.float32)
    assert found.dtype == torch.bfloat16
    assert_close(found.float(), want, rtol=0, atol=0.05 * want.abs().max().item())


def test_a_bias_apart_compiles_in_one_graph(placed):
    case = next(case for case in CASES if case.id == "k3")
    want, _ = placed(case, True, torch.float32)
    call = build(case).to(torch.float32)
    torch.testing.assert_close(torch.compile(lambda: call(), backend="aot_eager", fullgraph=True)(), want.detach())


def test_a_cpu_keeps_the_bias_inside():
    f, phi, weight = torch.ones(1, 1, 1, 3, 3).bfloat16(), torch.ones(1, 1, 1, 1, 8), torch.ones(1, 1, 8)
    assert not ops.bias_apart(f, phi, weight, None, "auto:auto")
