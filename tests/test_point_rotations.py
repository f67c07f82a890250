"""Point convolutions whose relative rotations are tiny or nearly half a turn, where logarithms are delicate."""

import math

import pytest
import torch
from test_backends import error

from pgconv import groups, kernel_nets
from pgconv.functional import point_conv

ANGLES = [0.0, 1e-12, 1e-8, 1e-6, 1e-4, 1e-3, 0.0199, 0.0201, 0.1]
NAMES = ("SO(2)", "SE(2)", "E(2)", "Sim(2)", "R+xSO(2)", "SO(3)", "SE(3)")


def clouds(name, dtype):
    """Inputs anywhere; output i is input i turned by an angle near 0 or near half a turn about a random axis, and moved."""
    group = groups.get(name)
    generator = torch.Generator().manual_seed(0)
    angles = torch.tensor([*ANGLES, *(math.pi - a for a in ANGLES[1:]), -1e-3, -math.pi + 1e-3], dtype=torch.float64)
    v = group.sample(len(angles), generator=generator, dtype=torch.float64)
    d, rest = group.translation_dim, len(angles)
    turn = group.identity(torch.float64).repeat(rest, 1)
    if name.endswith("(3)"):
        axis = torch.nn.functional.normalize(torch.randn(rest, 3, generator=generator, dtype=torch.float64), dim=-1)
        turn[:, d] = torch.cos(angles / 2)
        turn[:, d + 1 :] = torch.sin(angles / 2)[:, None] * axis
    else:
        turn[:, d] = angles
    if d:
        turn[:, :d] = 0.3 * torch.randn(rest, d, generator=generator, dtype=torch.float64)
    return [x[None].to(dtype) for x in (v, group.product(v, turn))]


def gradients(name, chart, form, backend, dtype, base=None):
    """Every output sees the one input it was turned from: no other pair hides an error."""
    group = groups.get(name)
    torch.manual_seed(0)
    net = kernel_nets.MLP(group.coord_dim_of(chart), hidden=8, activation="tanh").double()
    v, u = clouds(name, base or dtype)
    v, u = (x.to(dtype).requires_grad_() for x in (v, u))
    f, weight = (
        torch.randn(s, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for s in ((1, v.shape[1], 3), (4, 3, 8))
    )
    f, weight = (x.to(dtype).requires_grad_() for x in (f, weight))
    net = net.to(dtype)
    lists = torch.arange(v.shape[1])[None, :, None]
    out = point_conv(
        f, v, u, net, weight, group=group, chart=chart, form=form, neighbors=lists, reduction="sum", backend=backend
    )
    score = (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)).sum()
    return [out, *torch.autograd.grad(score, [f, v, u, weight, *net.parameters()])]


@pytest.mark.parametrize("form", ["convolution", "correlation"])
@pytest.mark.parametrize(("name", "chart"), [(n, c) for n in NAMES for c in groups.get(n).charts if c != "release"])
def test_native_equals_reference(name, chart, form):
    wanted = gradients(name, chart, form, "reference", torch.float64)
    for found, exact in zip(gradients(name, chart, form, "cpp", torch.float64), wanted):
        assert found.isfinite().all() and error(found, exact) <= 1e-8


@pytest.mark.parametrize("form", ["convolution", "correlation"])
@pytest.mark.parametrize("name", NAMES)
def test_single_precision_on_the_chart_without_a_jump(name, form):
    """The same rounded elements in both precisions."""
    wanted = gradients(name, "embed", form, "reference", torch.float64, base=torch.float32)
    bounds = [1e-5] + [1e-4] * 20
    for found, exact, bound in zip(gradients(name, "embed", form, "cpp", torch.float32), wanted, bounds):
        assert found.isfinite().all() and error(found, exact) <= bound
