"""Image convolutions by the CUDA kernels through their Python side, on a GPU where there is one, else with the emulator in place of
the native operators, on CPU tensors; and what they are compared with."""

from types import SimpleNamespace

import pytest
import torch
from gpu_machines import machines

from pgconv.backends.cuda import conv_gradients, conv_operands, group_conv2d, kernel_gradient, signals
from pgconv.backends.reference.group_conv2d import group_conv2d as reference
from pgconv.spec import ConvGeometry

MACHINES = machines()
HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
KERNELS = ("chain", "head_gradient", "feature_gradient", "kernel_gradient")
UNIT = {torch.float16: 2.0**-12, torch.bfloat16: 2.0**-9, torch.float32: 0.0}
TYPE_OF_ERRORS = {torch.float32: torch.float16}
"""float32 may have the errors of TF32, whose operands have as many bits as those of float16."""


CAPABILITIES = 80, 90
"""Of GPUs whose kernels differ. Where not said otherwise, gradients of features and head go through chains on the first, through
their kernel on the second."""


def operators(machine):
    own = {f"conv_{name}": getattr(machine, f"conv_{name}") for name in KERNELS}
    reasons = {f"cuda_why_not_{name}": getattr(machine, f"why_not_{name}") for name in KERNELS}
    others = {"group_last": machine.group_last, "cuda_capability": lambda _: machine.capability}
    return SimpleNamespace(**own, **reasons, **others)


def use(monkeypatch, native):
    for module in (group_conv2d, conv_operands, conv_gradients, signals):
        monkeypatch.setattr(module, "ops", lambda: native)


def go_through_kernel(monkeypatch, wanted):
    """Gradients of features and head through that of their kernel where it is possible at all, or not."""
    monkeypatch.setattr(kernel_gradient, "pays", lambda *sizes: wanted)
    monkeypatch.setattr(kernel_gradient, "fits", lambda *sizes: True)


@pytest.fixture(
    params=[(name, capability) for name in MACHINES for capability in CAPABILITIES], ids=lambda p: f"{p[0]}{p[1]}"
)
def device(request, monkeypatch):
    """Device of the tensors, with operators that run on them."""
    name, capability = request.param
    go_through_kernel(monkeypatch, capability == CAPABILITIES[1])
    if name == "gpu":
        monkeypatch.setenv("PGCONV_CUDA_CAPABILITY", str(capability))
        return "cuda"
    native = operators(MACHINES[name].with_capability(capability))
    use(monkeypatch, native)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return "cpu"


def make(dtype, b=2, c=3, o=5, nv=2, nu=3, hidden=8, size=(9, 11), geometry=None, per_example=False):
    geometry = geometry or ConvGeometry.make("test", 3, 1, "same", 1, "disc")
    generator = torch.Generator().manual_seed(0)
    shapes = (b, c, nv, *size), (b if per_example else 1, nu, nv, len(geometry.taps()), hidden), (o, c, hidden)
    f, phi, weight = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return (f, phi.sin(), weight), geometry


def assert_close(found, want, same, dtype):
    """Twice the error of the definition in 16 bits, and a rounding of the result."""
    assert found.shape == want.shape and found.dtype == dtype
    if want.numel():
        own = (same.double() - want).norm()
        assert (found.double().cpu() - want).norm() <= 2 * own + UNIT[dtype] * want.norm()


def expected(tensors, geometry):
    """Of out, and of the gradients from one of it: the definition in float64, and in the tensors' type."""
    results, dtype = [], tensors[0].dtype
    for cast, order in ((torch.float64, "direct"), (TYPE_OF_ERRORS.get(dtype, dtype), "aggregate")):
        leaves = [x.detach().to(cast).requires_grad_() for x in tensors]
        out = reference(*leaves, geometry, order)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        results.append((out.detach(), *torch.autograd.grad(out, leaves, grad.to(cast))))
    return grad, zip(*results)


def check(device, tensors, geometry, needs=(True, True, True)):
    grad, wanted = expected(tensors, geometry)
    on = [x.to(device) for x in tensors]
    found = group_conv2d.forward("aggregate", *on, geometry)
    gradients = group_conv2d.backward("aggregate", grad.to(device), *on, geometry, needs)
    assert [x is not None for x in gradients] == list(needs)
    for x, (want, same) in zip((found, *gradients), wanted):
        if x is not None:
            assert_close(x, want, same, tensors[0].dtype)
