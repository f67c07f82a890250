"""Moments over neighbour lists on a GPU against the definition in float64, on every machine there is."""

from itertools import pairwise

import pytest
import torch
from feature_checks import make_net, operands
from gpu_machines import machines
from list_checks import FORMS, LENGTHS, draw, written
from point_checks import EVERY_GROUP_CHART_AND_FORM, HALVES, assert_close, call, random

from pgconv import groups
from pgconv.backends.lists import Lists
from pgconv.backends.reference.features import pair_features
from pgconv.kernel_nets import packing
from pgconv.spec import FeatureSpec

MACHINES = machines()
if not MACHINES:
    pytest.skip("neither the emulator nor a GPU", allow_module_level=True)


@pytest.fixture(params=MACHINES)
def machine(request):
    return MACHINES[request.param]


def moments(f, v, u, params, rows, spec):
    """The definition, with the features rounded to the signal's type."""

    def one(b, i):
        of_v, of_u = (x[b % x.shape[0]] for x in (v, u))
        numbers = rows[b % len(rows)][i]
        phi = pair_features(of_v[numbers], of_u[i], params, spec).to(f.dtype)
        return phi.T @ f[b, numbers]

    return torch.stack([torch.stack([one(b, i) for i in range(u.shape[1])]) for b in range(f.shape[0])])


def check(machine, spec, batch, channels, v, u, params, rows, dtype, form="csr"):
    f = random((batch, v.shape[1], channels), dtype, 7)
    found = machine.point_list_moments(f, v, u, params, written(rows, form), spec)
    assert found.dtype == torch.float32
    want = moments(*(x.double() for x in (f, v, u, params)), rows, spec)
    assert_close(found, want, moments(f, v, u, params, rows, spec), dtype)


@EVERY_GROUP_CHART_AND_FORM
def test_every_group_chart_and_form(machine, name, chart, form):
    group, net, spec = call(name, chart=chart, form=form)
    rows = draw(1, (17, 5), 9)
    check(machine, spec, 1, 8, *operands(group, net, 1, 9, 1, 2, torch.float32), rows, torch.float16)


@pytest.mark.parametrize("form", ["convolution", "correlation"])
def test_orbit_coordinates(machine, form):
    orbits = groups.Orbits(groups.get("SO(2)"), 1)
    net = make_net("silu", orbits.coord_dim_of("product"))
    spec = FeatureSpec(orbits.name, "product", "all", form, net.net_spec)
    check(
        machine, spec, 2, 8, *operands(orbits, net, 2, 21, 2, 3, torch.float32), draw(2, (20, 3, 0), 21), torch.float16
    )


@FORMS
@pytest.mark.parametrize("own_lists", [False, True], ids=["shared lists", "own lists"])
@pytest.mark.parametrize(("sv", "su"), [(1, 1), (3, 1), (1, 3), (3, 3)])
def test_every_form_of_lists_and_sets(machine, form, own_lists, sv, su):
    group, net, spec = call("SE(2)")
    rows = draw(3 if own_lists else 1, LENGTHS, 40, form)
    check(machine, spec, 3, 8, *operands(group, net, sv, 40, su, 7, torch.float32), rows, torch.float16, form)


@HALVES
@pytest.mark.parametrize(
    ("activation", "hidden", "layers"),
    [(a, h, n) for a in packing.ACTIVATIONS for h, n in ((1, 2), (32, 3), (33, 3))]
    + [("sin", 7, 3), ("sin", 32, 2), ("sin", 64, 4), ("silu", 32, 5)],
)
def test_every_activation_width_and_depth(machine, activation, hidden, layers, dtype):
    group, net, spec = call("SE(2)", activation, hidden=hidden, layers=layers)
    rows = draw(1, (20, 33, 2), 20)
    check(machine, spec, 1, 8, *operands(group, net, 1, 20, 1, 3, torch.float32), rows, dtype)


@pytest.mark.parametrize("activation", ["sin", "silu"])
@pytest.mark.parametrize("channels", [8, 24, 40, 72])
@pytest.mark.parametrize(("sets", "batch"), [(1, 1), (1, 3), (3, 3)])
def test_columns_in_several_blocks(machine, activation, channels, sets, batch):
    group, net, spec = call("T(2)", activation)
    rows = draw(sets, (18, 1, 0, 4, 35), 18)
    check(machine, spec, batch, channels, *operands(group, net, sets, 18, sets, 5, torch.float32), rows, torch.bfloat16)


def check_parts(machine, spec, v, u, params, rows, form):
    """See the test of parts of float32 for all inputs."""
    f = random((len(rows), v.shape[1], 8), torch.float32, 7)
    high = f.half()
    parts = torch.stack([high, (f - high).half()])
    found = machine.point_list_moments(parts, v, u, params, written(rows, form), spec).double()
    want = moments(*(x.double() for x in (f, v, u, params)), rows, spec)
    own = (moments(f, v, u, params, rows, spec).double() - want).norm()
    assert (found - want).norm() <= max(2 * own, 2 * 15 * 2.0**-24 * want.norm())


@FORMS
@pytest.mark.parametrize(("activation", "hidden", "layers"), [("sin", 32, 3), ("relu", 7, 2), ("gelu", 33, 3)])
def test_parts_of_float32_are_as_accurate(machine, form, activation, hidden, layers):
    group, net, spec = call("SE(2)", activation, hidden=hidden, layers=layers)
    check_parts(machine, spec, *operands(group, net, 1, 70, 2, 3, torch.float32), draw(2, (40, 5, 16), 70, form), form)


def test_a_net_that_leaves_room_for_few_warps(machine):
    """As many coordinates, fields and features as there can be."""
    orbits = groups.Orbits(groups.get("SE(3)"), 4)
    net = make_net("silu", orbits.coord_dim_of("embed"), 64, 4)
    spec = FeatureSpec(orbits.name, "embed", "all", "convolution", net.net_spec)
    check_parts(machine, spec, *operands(orbits, net, 1, 35, 1, 7, torch.float32), draw(1, LENGTHS, 35), "csr")


def test_no_pairs_and_no_outputs(machine):
    group, net, spec = call("T(2)")
    for nv, nu in ((0, 3), (3, 0), (3, 3)):
        rows = [[[] for _ in range(nu)]]
        v, u, params = operands(group, net, 1, nv, 1, nu, torch.float32)
        f = random((2, nv, 8), torch.float16, 7)
        for form in ("csr", "runs") + (("padded",) if nu else ()):
            found = machine.point_list_moments(f, v, u, params, written(rows, form), spec)
            assert found.shape == (2, nu, 32, 8) and not found.any()


def test_every_schedule_gives_the_same_bits(machine):
    group, net, spec = call("SE(2)")
    v, u, params = operands(group, net, 1, 50, 1, 7, torch.float32)
    f, lists = random((1, 50, 8), torch.float16, 1), written(draw(1, (70, *LENGTHS[1:]), 50), "csr")
    first, *others = (machine.with_seed(seed).point_list_moments(f, v, u, params, lists, spec) for seed in range(4))
    for other in others:
        assert torch.equal(first, other)


def test_long_sums_are_cut(machine):
    """All terms of one sign: in one accumulator the cut-off of every step would add up."""
    group, net, spec = call("T(1)", "relu", hidden=1, layers=2)
    v, u, params = operands(group, net, 1, 9000, 1, 1, torch.float32)
    params = params.abs()
    f = torch.full((1, 9000, 8), 1.0009765625).half()
    high = torch.stack([f, torch.zeros_like(f)])
    rows = [[list(range(9000))]]
    want = moments(f.double(), v.double().abs(), u.double() + 2, params.double(), rows, spec)
    found = machine.point_list_moments(high, v.abs(), u + 2, params, written(rows, "runs"), spec)
    assert ((found.double() - want).abs() <= 1e-5 * want.abs()).all()


def test_numbers_of_no_input_are_no_pairs(machine):
    group, net, spec = call("T(2)")
    v, u, params = operands(group, net, 1, 20, 1, 2, torch.float32)
    f, lists = (
        random((1, 20, 8), torch.float16, 1),
        Lists(torch.tensor([3, 20, -1, 7, 1 << 40, -(1 << 40)]), torch.tensor([0, 4, 6])),
    )
    found = machine.point_list_moments(f, v, u, params, lists, spec)
    want = machine.point_list_moments(f, v, u, params, written([[[3, 7], []]], "csr"), spec)
    torch.testing.assert_close(found, want)
    assert not found[0, 1].any()


def test_nan_reaches_the_outputs_that_list_it_and_no_others(machine):
    group, net, spec = call("T(2)")
    v, u, params = operands(group, net, 1, 20, 1, 4, torch.float32)
    v[0, 0], u[0, 3] = torch.nan, torch.nan
    f = torch.ones(1, 20, 8).half()
    f[0, 1] = torch.nan
    rows = [[[0, 5], [1, 2], [2, 3], []]]
    found = machine.point_list_moments(f, v, u, params, written(rows, "padded"), spec)[0]
    assert found[0].isnan().all() and found[1].isnan().all()
    assert not found[2].isnan().any() and not found[3, ..., 0].any()


def test_points_far_from_the_origin(machine):
    """What pads a list has features of its own, which must be finite: there hidden features of the origin are beyond float16."""
    group, net, spec = call("T(2)", "relu")
    v, u, params = operands(group, net, 1, 20, 1, 3, torch.float32)
    v, u = (1e6 + 4 * torch.round(4 * x) for x in (v, u))
    check(machine, spec, 1, 8, v, u, params, draw(1, (3, 18, 0), 20), torch.float16, "padded")


def test_what_has_a_reason_is_refused(machine):
    group, net, spec = call("T(2)", hidden=65)
    with pytest.raises(RuntimeError, match="too wide"):
        check(machine, spec, 1, 8, *operands(group, net, 1, 9, 1, 2, torch.float32), draw(1, (3, 2), 9), torch.float16)


@FORMS
@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("advancing", [False, True])
def test_transposed_lists(form, sets, advancing):
    """Of runs that advance they are runs, too."""
    rows = draw(sets, LENGTHS, 40, form)
    if form == "runs" and advancing:
        rows = [[list(range(2 * i, 2 * i + 3 * (i != 4))) for i in range(7)] for _ in range(sets)]
    want = [[[i for i, row in enumerate(of_set) for k in row if k == j] for j in range(40)] for of_set in rows]
    found = written(rows, form).transposed(7, 40)
    assert (found.first is not None) == (form == "runs" and advancing)
    if found.first is not None:
        found = found.written_out()
    bounds, index = found.rowptr.tolist(), found.index.tolist()
    flat = [index[begin:end] for begin, end in pairwise(bounds)]
    assert flat == [row for of_set in want for row in of_set]
