"""Arithmetic of the native library, at every instruction-set level this machine runs, without going through an operator."""

import math

import numpy as np
import pytest
import torch
from scipy import special

from pgconv import groups

native = pytest.importorskip("pgconv._lib._testing", reason="built without the test module")

LEVELS = native.levels()
PI = np.longdouble("3.14159265358979323846264338327950288")

# Largest error of value and derivative per activation: absolute for bounded functions, relative to max(1, |x|) for the others.
BOUNDS = {
    np.float32: {"sin": 2e-7, "silu": 3e-7, "relu": 0.0, "gelu": 3e-7, "tanh": 4e-7},
    np.float64: {"sin": 6e-16, "silu": 5e-16, "relu": 0.0, "gelu": 1.2e-15, "tanh": 9e-16},
}


def exact(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and derivative in extended precision (gelu: double); "sin" takes half turns, its derivative is the cosine."""
    x = x.astype(np.longdouble)
    if name == "sin":
        angle = PI * (x - 2 * np.round(x / 2))
        return np.sin(angle), np.cos(angle)
    if name == "relu":
        return np.maximum(x, 0), (x > 0).astype(np.longdouble)
    if name == "tanh":
        y = np.tanh(x)
        return y, 1 / np.cosh(np.clip(x, -5000, 5000)) ** 2
    if name == "silu":
        s = 1 / (1 + np.exp(-np.clip(x, -11000, 11000)))
        return x * s, s * (1 + x * (1 - s))
    d = x.astype(np.float64)
    cdf = special.ndtr(d)
    return d * cdf, cdf + d * np.exp(-d * d / 2) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize("name", BOUNDS[np.float32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("level", LEVELS)
def test_activation_errors_over_wide_ranges(level, dtype, name):
    rng = np.random.default_rng(0)
    for reach in (1e-6, 1.0, 10.0, 100.0, 5000.0):
        grid = np.linspace(-reach, reach, 20001)
        x = np.concatenate([grid, reach * rng.uniform(-1, 1, 20000), [0.0, 0.25, 0.5, -0.5, reach]]).astype(dtype)
        value, slope = native.activation(level, name, x)
        want_value, want_slope = exact(name, x)
        scale = np.maximum(1, np.abs(x.astype(np.float64))) if name in ("silu", "gelu") else 1.0
        bound = BOUNDS[dtype][name]
        assert np.max(np.abs(value - want_value) / scale) <= bound
        assert np.max(np.abs(slope - want_slope) / scale) <= 2 * bound


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("level", LEVELS)
def test_sine_and_cosine_in_units_of_the_last_place(level, dtype):
    # Away from its zeros a function of one rounding error each in reduction, polynomial and product stays within 4 ulp.
    x = np.linspace(-40, 40, 200001).astype(dtype)
    for got, want in zip(native.activation(level, "sin", x), exact("sin", x)):
        large = np.abs(want) > 0.25
        ulp = np.spacing(np.abs(want[large].astype(dtype))).astype(np.longdouble)
        assert np.max(np.abs(got[large] - want[large]) / ulp) <= 4


@pytest.mark.parametrize("name", BOUNDS[np.float32])
@pytest.mark.parametrize("level", LEVELS)
def test_activations_at_special_values(level, name):
    x = np.array([np.nan, 0.0, -0.0] + [1e30, -1e30] * (name != "sin"), dtype=np.float32)
    value, slope = native.activation(level, name, np.tile(x, 16))
    assert np.isnan(value[0])
    assert value[1] == 0 and value[2] == 0
    if name != "sin":
        limit = {"tanh": (1, -1)}.get(name, (x[3], 0))
        # The exponential is clamped at e^-87, which 1e30 lifts to 1e-8: nothing beside the size of the argument.
        assert value[3] == limit[0] and abs(value[4] - limit[1]) <= 1e-7
        assert slope[3] == (0 if name == "tanh" else 1) and abs(slope[4]) <= 1e-7


def _elements(group, count, dtype, seed):
    g = group.sample(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return g.to(dtype)


LAWS = [
    (name, chart, part)
    for name in groups.names()
    for chart in groups.get(name).charts
    for part in ("all", "translation", "stabilizer")
    if groups.get(name).coord_dim_of(chart, part)
]


@pytest.mark.parametrize(("name", "chart", "part"), LAWS, ids=["-".join(law) for law in LAWS])
@pytest.mark.parametrize("level", LEVELS)
def test_group_laws_and_charts_with_their_derivatives(level, name, chart, part):
    group, count = groups.get(name), native.TILE
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        a, b = _elements(group, count, dtype, 1), _elements(group, count, dtype, 2)
        coords = native.coordinates(level, name, chart, part, a.numpy(), b.numpy())
        wide_a, wide_b = (x.double().clone().requires_grad_() for x in (a, b))
        want = group.coordinates(group.relative(wide_a, wide_b), chart, part)
        difference = torch.from_numpy(coords).T.double() - want.detach()
        assert difference.abs().max() <= bound * want.detach().abs().max().clamp(min=1)
        grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
        found = native.coordinates_backward(level, name, chart, part, a.numpy(), b.numpy(), grad.T.contiguous().numpy())
        expected = torch.autograd.grad(want, (wide_a, wide_b), grad.double(), allow_unused=True, materialize_grads=True)
        for x, y in zip(found, expected):
            assert (torch.from_numpy(x).double() - y).abs().max() <= 10 * bound * y.abs().max().clamp(min=1)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-4, 1e-2, math.pi - 1e-2, math.pi - 1e-4])
def test_rotation_logarithm_near_the_identity_and_near_pi(level, angle):
    axis = torch.tensor([0.6, -0.48, 0.64], dtype=torch.float64)
    q = torch.cat([torch.tensor([math.cos(angle / 2)], dtype=torch.float64), math.sin(angle / 2) * axis])
    b = q.expand(native.TILE, 4).contiguous()
    a = groups.get("SO(3)").identity(dtype=torch.float64).expand(native.TILE, 4).contiguous()
    for dtype, bound in ((torch.float64, 1e-14), (torch.float32, 5e-7)):
        x = native.coordinates(level, "SO(3)", "lie", "all", a.to(dtype).numpy(), b.to(dtype).numpy())
        # float32 cannot hold w = cos(angle/2) better than half an ulp, which near pi is an angle of about 1e-7.
        assert np.max(np.abs(x[:, 0] - angle * axis.numpy())) <= bound * max(angle, 1e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_regular_grids_never_land_on_minus_pi(level, dtype):
    group = groups.get("SO(2)")
    for n in range(1, 17):
        grid = group.grid(n, dtype=dtype) + 0.3
        a, b = (x.reshape(-1, 1) for x in torch.broadcast_tensors(grid[:, None, 0], grid[None, :, 0]))
        pad = -len(a) % native.TILE
        a, b = (torch.cat([x, x[:1].expand(pad, 1)]).contiguous() for x in (a, b))
        x = native.coordinates(level, "SO(2)", "product", "all", a.numpy(), b.numpy())
        assert x.min() > -1 + 1e-3 / n
