"""What the tests of native kernel-net features share: operands, and comparison with the float64 reference."""

import pytest
import torch

from pgconv import kernel_nets
from pgconv.backends.reference import features as reference
from pgconv.kernel_nets import packing

BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-11}
DTYPES = pytest.mark.parametrize("dtype", BOUNDS, ids=lambda d: str(d).removeprefix("torch."))


def make_net(activation, coord_dim, hidden=9, layers=3):
    torch.manual_seed(0)
    if activation == "sin":
        return kernel_nets.SIREN(coord_dim, hidden, layers, learn_omega0=True)
    return kernel_nets.MLP(coord_dim, hidden, layers, activation=activation)


def operands(group, net, sv, nv, su, nu, dtype):
    generator = torch.Generator().manual_seed(1)
    v = group.sample(sv * nv, generator=generator, dtype=torch.float64).reshape(sv, nv, group.element_dim)
    u = group.sample(su * nu, generator=generator, dtype=torch.float64).reshape(su, nu, group.element_dim)
    with torch.no_grad():
        params = net.pack().double()
        # Biases are 0 after the initialisation of some nets; the test wants every number to matter.
        params = params + 0.1 * torch.randn(params.shape, generator=generator, dtype=torch.float64)
    return [x.to(dtype) for x in (v, u, params)]


def by_reference(tensors, grad, spec):
    """phi and the gradients of v, u and params."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    phi = reference.relative_features(*leaves, spec)
    grads = torch.autograd.grad(phi, leaves, grad.to(phi.dtype), allow_unused=True, materialize_grads=True)
    return [phi.detach(), *grads]


def check(native, spec, tensors, dtype, device="cpu"):
    """Relative errors of the functions of ``native``, on tensors of a device, within the bound, or twice what the reference itself
    loses in this precision (deep sine nets)."""
    on = [x.to(device) for x in tensors]
    phi = native.relative_features(*on, spec)
    grad = torch.randn(phi.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    results = [x.cpu() for x in (phi, *native.relative_features_backward(grad.to(device), *on, spec))]
    exact = by_reference([x.double() for x in tensors], grad, spec)
    same = by_reference(tensors, grad, spec)
    for name, x, y, z, factor in zip(("phi", "v", "u", "params"), results, exact, same, (1, 10, 10, 10)):
        assert x.shape == y.shape and x.dtype == dtype, name
        if y.numel():
            scale = y.abs().max().clamp(min=1e-3)
            error, own = (((t.double() - y).abs().max() / scale).item() for t in (x, z))
            assert error <= max(factor * BOUNDS[dtype], 2 * own), f"{name}: {error:.2e}, reference {own:.2e}"


def check_net(native, activation, coord_dim, shape, dtype, hidden=9, layers=3, device="cpu"):
    """The same for the net at given coordinates ``[*shape, coord_dim]``."""
    net = make_net(activation, coord_dim, hidden, layers)
    generator = torch.Generator().manual_seed(3)
    coords = torch.randn(*shape, coord_dim, generator=generator, dtype=torch.float64).to(dtype)
    params = net.pack().detach().to(dtype)
    wide = [x.double().clone().requires_grad_() for x in (coords, params)]
    want = packing.features(net.net_spec, wide[1], wide[0])
    grad = torch.randn(want.shape, generator=generator, dtype=torch.float64).to(dtype)
    own_grad, *own = (x.to(device) for x in (grad, coords, params))
    results = [
        native.kernel_net(*own, net.net_spec).cpu(),
        *(x.cpu() for x in native.kernel_net_backward(own_grad, *own, net.net_spec)),
    ]
    expected = [want, *torch.autograd.grad(want, wide, grad.double(), allow_unused=True, materialize_grads=True)]
    for x, y in zip(results, expected):
        assert x.shape == y.shape
        if y.numel():
            assert (x.double() - y).abs().max() <= 10 * BOUNDS[dtype] * y.abs().max().clamp(min=1e-3)
