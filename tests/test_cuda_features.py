"""The features kernels of the GPU against the float64 reference, on every machine there is (see ``gpu_machines``)."""

import pytest
import torch
from feature_checks import DTYPES, check, check_net, make_net, operands
from gpu_machines import machines

from pgconv import groups
from pgconv.kernel_nets import packing
from pgconv.spec import FeatureSpec

MACHINES = machines()
if not MACHINES:
    pytest.skip("neither the emulator nor a GPU", allow_module_level=True)


@pytest.fixture(params=MACHINES)
def machine(request):
    return MACHINES[request.param]


@DTYPES
@pytest.mark.parametrize("form", ["convolution", "correlation"])
@pytest.mark.parametrize("chart", ["product", "embed", "lie", "release"])
@pytest.mark.parametrize("name", groups.names())
def test_every_group_chart_part_and_form(machine, name, chart, form, dtype):
    group = groups.get(name)
    if chart not in group.charts:
        pytest.skip("no such chart on this group")
    for part in ("all", "translation", "stabilizer"):
        net = make_net("sin", group.coord_dim_of(chart, part), hidden=5)
        spec = FeatureSpec(name, chart, part, form, net.net_spec)
        check(machine, spec, operands(group, net, 2, 7, 2, 5, dtype), dtype)


@pytest.mark.parametrize("form", ["convolution", "correlation"])
@pytest.mark.parametrize("name", ["SO(2)", "R+xSO(2)", "SO(3)"])
def test_orbit_coordinates(machine, name, form):
    orbits = groups.Orbits(groups.get(name), 1)
    net = make_net("silu", orbits.coord_dim_of("product"), hidden=5)
    spec = FeatureSpec(orbits.name, "product", "all", form, net.net_spec)
    check(machine, spec, operands(orbits, net, 2, 4, 2, 3, torch.float64), torch.float64)


@DTYPES
@pytest.mark.parametrize("activation", packing.ACTIVATIONS)
@pytest.mark.parametrize(("hidden", "layers"), [(1, 2), (7, 2), (16, 3), (33, 4)])
def test_every_activation_width_and_depth(machine, activation, hidden, layers, dtype):
    net = make_net(activation, 3, hidden, layers)
    spec = FeatureSpec("SE(2)", "product", "all", "convolution", net.net_spec)
    check(machine, spec, operands(groups.get("SE(2)"), net, 1, 7, 1, 11, dtype), dtype)


def test_the_widest_and_deepest_net(machine):
    net = make_net("sin", 3, 128, 5)
    spec = FeatureSpec("SE(2)", "product", "all", "convolution", net.net_spec)
    check(machine, spec, operands(groups.get("SE(2)"), net, 1, 5, 1, 7, torch.float32), torch.float32)


@pytest.mark.parametrize(("sv", "su"), [(1, 1), (3, 3), (1, 3), (3, 1)])
@pytest.mark.parametrize(("nv", "nu"), [(0, 3), (3, 0), (1, 1), (1, 33), (33, 1), (8, 4), (31, 2), (5, 26), (65, 3)])
def test_awkward_sizes_and_shared_or_own_elements(machine, sv, su, nv, nu):
    net = make_net("silu", 6, hidden=5)
    spec = FeatureSpec("SE(3)", "lie", "all", "convolution", net.net_spec)
    check(machine, spec, operands(groups.get("SE(3)"), net, sv, nv, su, nu, torch.float64), torch.float64)


@DTYPES
@pytest.mark.parametrize("activation", packing.ACTIVATIONS)
@pytest.mark.parametrize(
    ("coord_dim", "shape"), [(0, (5,)), (1, (1,)), (2, (3, 0)), (3, (2, 33)), (12, (64,)), (20, (65,))]
)
def test_kernel_net_at_given_coordinates(machine, activation, coord_dim, shape, dtype):
    check_net(machine, activation, coord_dim, shape, dtype)


def test_many_blocks_and_several_pairs_of_a_warp(machine):
    """More pairs than the warps of the backward, of which each then sums over several tiles."""
    check_net(machine, "sin", 2, (70001,), torch.float32, hidden=2, layers=2)


def test_every_schedule_gives_the_same_bits(machine):
    net = make_net("sin", 3)
    spec = FeatureSpec("SE(2)", "product", "all", "convolution", net.net_spec)
    tensors = operands(groups.get("SE(2)"), net, 2, 17, 2, 19, torch.float32)
    grad = torch.randn(2, 19, 17, 9, generator=torch.Generator().manual_seed(5))

    def results(seed):
        seeded = machine.with_seed(seed)
        backward = seeded.relative_features_backward(grad, *tensors, spec)
        return [seeded.relative_features(*tensors, spec), *backward]

    first = results(0)
    for seed in range(1, 5):
        for x, y in zip(first, results(seed)):
            assert torch.equal(x, y)


def test_nan_stays_nan(machine):
    net = make_net("sin", 2)
    coords = torch.zeros(40, 2)
    coords[33, 1] = torch.nan
    found = machine.kernel_net(coords, net.pack().detach(), net.net_spec)
    assert found[33].isnan().all()
    assert not found[torch.arange(40) != 33].isnan().any()
