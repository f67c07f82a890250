"""The ``triton`` backend by name, through the public functions: every kernel in its place, values and gradients."""

import importlib.util

import pytest
import torch
from feature_checks import make_net
from triton_process import interpreting

import pgconv
from pgconv import groups
from pgconv.backends.triton import BACKEND
from pgconv.ops._define import FAMILIES

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)

OPS = ("group_conv2d", "lifting_conv2d", "pointwise_group_conv", "point_conv")


@pytest.fixture(scope="module")
def call():
    """Runs a function of this module where kernels are interpreted."""
    with interpreting() as call:
        yield call


def results(op, backend, device="cpu"):
    """Value and all gradients of a call."""
    group, generator = groups.get("SE(2)"), torch.Generator().manual_seed(0)
    part = {"lifting_conv2d": "translation", "pointwise_group_conv": "stabilizer"}.get(op, "all")
    net = make_net("sin", group.coord_dim_of("product", part), hidden=8, layers=3)
    v, u = (group.sample(count, generator=generator)[None].requires_grad_() for count in (5, 3))
    if op != "point_conv":
        v, u = (torch.cat([torch.zeros_like(x[..., :2]), x[..., 2:]], -1).detach().requires_grad_() for x in (v, u))
    shape = {"lifting_conv2d": (2, 3, 6, 5), "point_conv": (2, 5, 3)}.get(op, (2, 3, 5, 6, 5))
    f, weight, bias = (torch.randn(size, generator=generator) for size in (shape, (4, 3, 8), (4, 3)))
    net = net.to(device)
    f, v, u, weight, bias = (x.detach().to(device).requires_grad_() for x in (f, v, u, weight, bias))
    elements = (u,) if op == "lifting_conv2d" else (v, u)
    options = {} if op in ("point_conv", "pointwise_group_conv") else {"kernel_size": 3}
    out = getattr(pgconv.functional, op)(f, *elements, net, weight, bias, group=group, backend=backend, **options)
    leaves = [f, *elements, weight, bias, *net.parameters()]
    return [x.detach().cpu() for x in (out, *torch.autograd.grad(out.square().sum(), leaves))]


DEVICES = ["cpu", *(["cuda"] if "triton" in pgconv.backends.available("cuda") else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", OPS)
def test_public_functions(call, op, device):
    want = results(op, "reference")
    found = call(results, op, "triton") if device == "cpu" else full_precision(op, device)
    for number, (x, y) in enumerate(zip(found, want)):
        assert (x - y).norm() <= 1e-4 * y.norm(), number


def full_precision(op, device):
    """On a GPU, with convolutions kept from cutting operands to TF32."""
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        return results(op, "triton", device)
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


def choices():
    """Backends that a user gets without asking, where the interpreter could run them."""
    from pgconv.ops import dispatch

    seen = []
    with dispatch.recording(lambda facts, asked, taken: seen.append(taken.backend)):
        for op in OPS:
            results(op, None)
    return BACKEND.unavailable("cpu"), seen


def test_the_interpreter_is_never_chosen_by_itself(call):
    unavailable, seen = call(choices)
    assert unavailable is None and len(seen) >= len(OPS) and "triton" not in seen


def test_every_operation_has_kernels():
    assert all(BACKEND.orders(op) for op in FAMILIES)
