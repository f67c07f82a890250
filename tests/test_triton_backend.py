"""The ``triton`` backend by name, through the public functions: every kernel in its place, values and gradients."""

import importlib.util

import pytest
import torch
from feature_checks import make_net

import pgconv
from pgconv import groups
from pgconv.backends.triton import BACKEND
from pgconv.ops._define import FAMILIES

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)

import triton
import triton.language as tl

OPS = ("group_conv2d", "lifting_conv2d", "pointwise_group_conv", "point_conv")


def results(device, op, backend):
    """Value and all gradients of a call."""
    group, generator = groups.get("SE(2)"), torch.Generator().manual_seed(0)
    part = {"lifting_conv2d": "translation", "pointwise_group_conv": "stabilizer"}.get(op, "all")
    net = make_net("sin", group.coord_dim_of("product", part), hidden=8, layers=3).to(device)
    v, u = (group.sample(count, generator=generator)[None] for count in (5, 3))
    if op != "point_conv":
        v, u = (torch.cat([torch.zeros_like(x[..., :2]), x[..., 2:]], -1) for x in (v, u))
    shape = {"lifting_conv2d": (2, 3, 6, 5), "point_conv": (2, 5, 3)}.get(op, (2, 3, 5, 6, 5))
    f, weight, bias = (torch.randn(size, generator=generator) for size in (shape, (4, 3, 8), (4, 3)))
    f, v, u, weight, bias = (x.to(device).requires_grad_() for x in (f, v, u, weight, bias))
    elements = (u,) if op == "lifting_conv2d" else (v, u)
    options = {} if op in ("point_conv", "pointwise_group_conv") else {"kernel_size": 3}
    out = getattr(pgconv.functional, op)(f, *elements, net, weight, bias, group=group, backend=backend, **options)
    leaves = [f, *elements, weight, bias, *net.parameters()]
    return [x.detach().cpu() for x in (out, *torch.autograd.grad(out.square().sum(), leaves))]


@pytest.mark.parametrize("op", OPS)
def test_public_functions(run, op):
    want = results("cpu", op, "reference")
    found = run(results, op, "triton")
    for number, (x, y) in enumerate(zip(found, want)):
        assert (x - y).norm() <= 1e-4 * y.norm(), number


def choices(device):
    """Backends that a user gets without asking for tensors of a CPU, and whether this one could run there."""
    from pgconv.ops import dispatch

    seen = []
    with dispatch.recording(lambda facts, asked, taken: seen.append(taken.backend)):
        for op in OPS:
            results("cpu", op, None)
    return device == "cpu", BACKEND.unavailable("cpu"), seen


def test_the_interpreter_is_never_chosen_by_itself(run):
    interpreted, unavailable, seen = run(choices)
    assert (unavailable is None) == interpreted and len(seen) >= len(OPS) and "triton" not in seen


@triton.jit
def copy(source, target, count, SIZE: tl.constexpr, WATCHED: tl.constexpr):
    """Reads or writes beyond the end, whichever of both is watched."""
    place = tl.arange(0, SIZE)
    numbers = tl.load(source + place, mask=(place < count) | (WATCHED == "load"), other=0.0)
    tl.store(target + place, numbers, mask=(place < count) | (WATCHED == "store"))


def copied(device, watched):
    """Both operands are parts of one tensor: only the watch knows where they end."""
    numbers = torch.arange(64.0)
    copy[(1,)](numbers[:5], numbers[32:37], 5, 8, watched)
    return numbers[32:40].tolist()


def test_no_address_outside_the_operands_is_taken(run, request):
    if "gpu" in request.node.callspec.id:
        pytest.skip("nobody watches addresses there")
    assert run(copied, "none") == [0, 1, 2, 3, 4, 37, 38, 39]
    for watched in ("load", "store"):
        with pytest.raises(Exception, match=r"addresses .* lie in no operand"):
            run(copied, watched)


def test_every_operation_has_kernels():
    assert all(BACKEND.orders(op) for op in FAMILIES)


def compiled(device, name):
    """Values and gradients of a layer as it is, and as one graph under torch.compile."""
    torch.manual_seed(0)
    if name == "images":
        layer, args = (
            pgconv.nn.LiftingConv2d(2, 3, kernel_size=3, num_samples=2, backend="triton"),
            (torch.randn(2, 2, 5, 4),),
        )
    else:
        layer = pgconv.nn.PointGroupConv(2, 3, group="T(2)", backend="triton")
        args = torch.randn(2, 7, 2), pgconv.sampling.Samples(torch.randn(1, 7, 2), torch.ones(1, 7))
    layer, args, found = layer.to(device), [_on(device, x) for x in args], []
    for run in (layer.eval(), torch.compile(layer, fullgraph=True, backend="aot_eager")):
        out = run(*args)[0]
        found.append(
            [x.detach().cpu() for x in (out, *torch.autograd.grad(out.square().sum(), list(layer.parameters())))]
        )
    return found


def _on(device, x):
    return x.to(device) if isinstance(x, torch.Tensor) else type(x)(*(y.to(device) for y in x))


@pytest.mark.parametrize("name", ["images", "points"])
def test_layers_compile_to_one_graph(run, name):
    plain, one_graph = run(compiled, name)
    for x, y in zip(plain, one_graph, strict=True):
        torch.testing.assert_close(x, y)
