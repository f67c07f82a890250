"""What the tests of the point convolution's kernels on GPUs share: nets, numbers, and how far a result in 16 bits may be off."""

import pytest
import torch
from feature_checks import make_net

from pgconv import groups
from pgconv.spec import FeatureSpec

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
EVERY_GROUP_CHART_AND_FORM = pytest.mark.parametrize(
    ("name", "chart", "form"),
    [(n, c, f) for n in groups.names() for c in groups.get(n).charts for f in ("convolution", "correlation")],
)
UNIT = {torch.float16: 2.0**-12, torch.bfloat16: 2.0**-9}  # the relative error of one rounding


def call(name, activation="sin", chart="product", part="all", form="convolution", hidden=32, layers=3):
    group = groups.get(name)
    net = make_net(activation, group.coord_dim_of(chart, part), hidden, layers)
    return group, net, FeatureSpec(name, chart, part, form, net.net_spec)


def assert_close(found, want, same, dtype, name=None):
    """Twice the error of the definition in 16 bits (``same``), and a rounding of the result."""
    assert found.shape == want.shape, name
    if want.numel():
        own = (same.double() - want).norm()
        assert (found.double() - want).norm() <= 2 * own + UNIT[dtype] * want.norm() + 1e-9, name


def random(shape, dtype, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
