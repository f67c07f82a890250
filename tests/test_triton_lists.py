"""Point convolutions over neighbour lists by Triton kernels against the definition in float64: interpreted, on CPU tensors, and on
a GPU where there is one."""

import importlib.util

import pytest
import torch
from feature_checks import make_net
from list_checks import FORMS, LENGTHS, draw, written
from point_checks import assert_results, by_reference, operands_of, random

import pgconv
from pgconv import groups
from pgconv.backends import list_features, point_lists
from pgconv.backends.lists import Lists
from pgconv.backends.reference.point_conv import point_conv as reference
from pgconv.backends.triton import point_conv
from pgconv.backends.triton import point_lists as triton_lists
from pgconv.backends.triton.pairs import GIVEN, Law, law_of
from pgconv.spec import Facts, FeatureSpec

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
INPUTS, SHORT = 7, (5, 33, 0, 1)
"""Inputs, and lengths of the lists of the four outputs: one of several tiles, which names inputs repeatedly."""
MODULES = {"point_conv": point_conv, "point_lists": point_lists, "list_features": list_features, "triton": triton_lists}


def call(name="T(2)", *args, **changes):
    """Operands f, v, u, params, weight, bias, and what is computed of them."""
    return operands_of(name, *args, **({"nv": INPUTS, "nu": 4, "bias": False} | changes))


def short(form="csr", sets=1):
    """Lists of SHORT lengths, as far as runs can be so long."""
    lengths = [min(n, INPUTS) for n in SHORT] if form == "runs" else SHORT
    return written(draw(sets, lengths, INPUTS, form), form)


def on(device, tensors):
    return [None if x is None else x.to(device) for x in tensors]


def computed(device, tensors, lists, spec, depthwise, grad):
    own, lists = on(device, tensors), Lists(*on(device, lists))
    out = triton_lists.KERNELS.forward(own, lists, spec, depthwise)
    return on("cpu", (out, *triton_lists.KERNELS.backward([True] * 6, grad.to(device), own, lists, spec, depthwise)))


def check(device, lists, tensors, spec, depthwise, pairs_of=None, constants=()):
    """Values and all gradients within the bounds of their type; the pairs are those of ``pairs_of`` where the definition does not
    take the lists. ``constants`` of modules have other values."""
    f, _, u, _, weight, _ = tensors
    grad = random((f.shape[0], u.shape[1], weight.shape[0]), f.dtype, 6)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in dict(constants).items():
            module, constant = name.split(".")
            patch.setattr(MODULES[module], constant, value)
        found = computed(device, tensors, lists, spec, depthwise, grad)
    assert_results(found, tensors, pairs_of or lists, spec, depthwise, grad)


@FORMS
@pytest.mark.parametrize(
    ("own_lists", "sets", "dtype"),
    [
        (False, (1, 1), "float16"),
        (False, (2, 1), "float32"),
        (True, (1, 1), "bfloat16"),
        (True, (2, 2), "float32"),
    ],
    ids=str,
)
def test_every_form_of_lists_and_sets(run, form, own_lists, sets, dtype):
    run(check, short(form, 1 + own_lists), *call("SE(2)", sets=sets, dtype=DTYPES[dtype]))


@FORMS
@pytest.mark.parametrize(("own_lists", "sets"), [(False, (1, 2)), (True, (2, 1))], ids=str)
def test_given_coordinates(run, form, own_lists, sets):
    run(check, short(form, 1 + own_lists), *call("SE(3)", sets=sets, channels=2))


@pytest.mark.parametrize(
    ("name", "chart", "convolution", "dtype", "law"),
    [
        ("SE(2)", "product", "correlation", "float32", Law(2, rotation=1)),
        ("SE(2)", "embed", "convolution", "float16", Law(2, rotation=1, embedded=1)),
        ("E(2)", "product", "correlation", "float32", Law(2, rotation=1, mirror=1)),
        ("Sim(2)", "embed", "convolution", "float32", Law(2, rotation=1, scale=1, embedded=1)),
        ("T(1)", "product", "correlation", "float32", Law(1)),
        ("T(3)", "lie", "convolution", "bfloat16", Law(3)),
        ("SE(2)", "lie", "convolution", "float32", GIVEN),
        ("SO(2)/1", "product", "correlation", "float16", GIVEN),
    ],
)
def test_laws_charts_and_forms(run, name, chart, convolution, dtype, law):
    found = call(name, chart, convolution, dtype=DTYPES[dtype], batch=1)
    assert law_of(name, chart, "all") == law
    run(check, short(), *found)


@pytest.mark.parametrize("activation", ["relu", "sin"])
def test_activations(run, activation):
    run(check, short(), *call(activation=activation, dtype=torch.float16, batch=1))


@pytest.mark.parametrize(
    ("hidden", "layers", "dtype"), [(1, 2, "float32"), (33, 3, "bfloat16"), (7, 5, "float16")], ids=str
)
def test_widths_and_depths(run, hidden, layers, dtype):
    case = call(activation="sin", hidden=hidden, layers=layers, dtype=DTYPES[dtype], batch=1)
    run(check, short(), *case)


@pytest.mark.parametrize(("depthwise", "bias", "dtype"), [(True, True, "float32"), (False, True, "float16")])
def test_depthwise_and_without_bias(run, depthwise, bias, dtype):
    case = call(depthwise=depthwise, bias=bias, dtype=DTYPES[dtype])
    run(check, short("padded", 2), *case)


@pytest.mark.parametrize(("batch", "channels", "own_lists"), [(2, 35, False), (2, 70, True), (3, 24, False)], ids=str)
def test_columns_in_blocks(run, batch, channels, own_lists):
    run(check, short("csr", batch if own_lists else 1), *call(batch=batch, channels=channels, dtype=torch.bfloat16))


def test_places_of_64_bits(run):
    run(check, short(), *call(batch=3, channels=6), None, {"point_conv.FAR": 0})


@FORMS
@pytest.mark.parametrize(("name", "own_lists", "moments"), [("T(2)", False, 100), ("SE(3)", True, 300)], ids=str)
def test_in_pieces(run, form, name, own_lists, moments):
    """Some outputs, or examples, at a time, in the order in which their lists lie."""
    constants = {"point_lists.MOMENTS": moments, "list_features.NUMBERS": 3000, "triton.COORDINATES": 900}
    run(check, short(form, 1 + own_lists), *call(name, channels=3, bias=not own_lists), None, constants)


def most_coordinates(device, form, own_lists):
    """The most numbers in coordinates of pairs that are given to the kernel at a time, and how many in all."""
    lists, seen, own = written(draw(2 if own_lists else 1, LENGTHS, 40, form), form), [], triton_lists._given

    def given(*call):
        found = own(*call)
        seen.append(found.v.numel())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_lists, "_given", given)
        patch.setattr(triton_lists, "COORDINATES", 3000)
        tensors, spec, depthwise = call("SE(3)", nv=40, nu=7, channels=1, hidden=2, layers=2)
        triton_lists.KERNELS.forward(on(device, tensors), Lists(*on(device, lists)), spec, depthwise)
    return max(seen), sum(seen)


@FORMS
@pytest.mark.parametrize("own_lists", [False, True], ids=["shared lists", "own lists"])
def test_given_coordinates_do_not_grow_with_the_pairs(run, form, own_lists):
    most, total = run(most_coordinates, form, own_lists)
    entries = (33 + 3) * 7 if form == "padded" else sum(LENGTHS)
    assert most <= 3000 / 5 and total == 6 * entries * (1 + own_lists)


@pytest.mark.parametrize(
    ("form", "dtype", "programs"),
    [
        ("csr", "float32", 1),
        ("padded", "bfloat16", 1),
        ("runs", "float16", 1),
        ("csr", "bfloat16", 9),
        ("runs", "float32", 9),
    ],
)
def test_long_sums_are_cut(run, form, dtype, programs):
    """Over programs where there are few outputs, and in a program where they are longer than an accumulator's precision allows."""
    constants = {"point_conv.MOST_TERMS": 32, "triton.MOST_HALF_TERMS": 32}
    constants |= {"point_conv.LEAST_INPUTS": 32, "point_conv.PROGRAMS": programs}
    lists = written(draw(1, (40 if form == "runs" else 90,), 40, form), form)
    case = call(nv=40, nu=1, batch=1, channels=2, hidden=2, layers=2, dtype=DTYPES[dtype])
    run(check, lists, *case, None, constants)


@pytest.mark.parametrize("name", ["T(2)", "SE(3)"])
def test_numbers_of_no_input_are_no_pairs(run, name):
    far = 1 << 40
    clean = written([[[3, 6], [], [2], [4]]], "csr")
    csr = Lists(torch.tensor([3, 7, -1, 6, far, -far, 2, 4, -2]), torch.tensor([0, 4, 6, 7, 9]))
    padded = Lists(torch.tensor([[[3, 7, 6], [far, -1, -far], [-2, -1, 2], [10, 4, -1]]]))
    for lists in (csr, padded):
        run(check, lists, *call(name, batch=1, bias=True), clean)
    runs = Lists(None, torch.tensor([0, 2, 4, 5, 8]), torch.tensor([5, -2, far, 6]))
    run(check, runs, *call(name, batch=1, bias=True), written([[[5, 6], [], [], [6]]], "csr"))


def test_entries_beyond_the_last_are_no_pairs(run):
    lists = Lists(torch.tensor([3, 6, 2]), torch.tensor([0, 2, 5, 9, 20]))
    assert lists.index.shape[0] < lists.rowptr[-1]
    tensors, spec, depthwise = call()
    want = reference(*tensors, written([[[3, 6], [2], [], []]], "csr"), spec, depthwise)
    torch.testing.assert_close(run(forward, tensors, lists, spec, depthwise), want, atol=1e-4, rtol=1e-4)


def forward(device, tensors, lists, spec, depthwise):
    return triton_lists.KERNELS.forward(on(device, tensors), Lists(*on(device, lists)), spec, depthwise).cpu()


@pytest.mark.parametrize(("form", "name"), [("padded", "T(2)"), ("padded", "SE(3)"), ("csr", "SE(3)")])
def test_nan_reaches_the_outputs_that_list_it_and_no_others(run, form, name):
    (f, v, u, params, weight, bias), spec, depthwise = call(name, batch=1, bias=True)
    v[0, 0], u[0, 3], f[0, 1], f[0, 6], v[0, 5] = (torch.nan,) * 5
    rows = [[[0, 2], [1, 2], [2, 3, 4, 4], []]]
    tensors, grad = (f, v, u, params, weight, bias), random((1, 4, 3), torch.float32, 6)
    out, *grads = run(computed, tensors, written(rows, form), spec, depthwise, grad)
    assert out[0, :2].isnan().all() and not out[0, 2:].isnan().any()
    # Of what is no pair's nothing is seen in any gradient either.
    rows[0][:2] = [2], [4]
    out, *grads = run(computed, tensors, written(rows, form), spec, depthwise, grad)
    clean = [x.nan_to_num(0.5) for x in tensors]
    clean[2][0, 3] = clean[2][0, 2]
    want = by_reference(clean, written(rows, "csr"), spec, depthwise, grad)
    for x, y in zip((out, *grads), want):
        torch.testing.assert_close(x, y, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("form", ["padded", "csr"])
def test_points_far_from_the_origin(run, form):
    """What pads a list has features of its own, which must be finite: there hidden features of the origin are beyond float16."""
    (f, v, u, *rest), spec, depthwise = call(activation="relu", dtype=torch.float16, batch=1)
    v, u = (1e6 + 4 * torch.round(4 * x) for x in (v, u))
    run(check, short(form), (f, v, u, *rest), spec, depthwise)


@pytest.mark.parametrize(
    ("sizes", "form"),
    [
        ({"nv": 0}, "csr"),
        ({"nv": 0}, "runs"),
        ({"nv": 0}, "padded"),
        ({"nu": 0}, "csr"),
        ({"nu": 0}, "runs"),
        ({"batch": 0}, "csr"),
        ({"batch": 0}, "padded"),
        ({"channels": 0}, "runs"),
        ({}, "csr"),
        ({}, "padded"),
        ({}, "runs"),
        ({"name": "SE(3)"}, "csr"),
        ({"name": "SE(3)", "nv": 0}, "padded"),
        ({"name": "SE(3)", "batch": 0, "sets": (0, 0)}, "csr"),
    ],
    ids=str,
)
def test_lists_of_nothing(run, sizes, form):
    tensors, spec, depthwise = call(**({"bias": True} | sizes))
    grad = torch.ones(tensors[0].shape[0], tensors[2].shape[1], 3)
    lists = written([[[]] * tensors[2].shape[1]], form)
    out, *grads = run(computed, tensors, lists, spec, depthwise, grad)
    assert out.shape == grad.shape and not out.any()
    for x, own in zip(grads, tensors):
        assert x.shape == own.shape and not x.any()


def only_what_is_needed(device, bias):
    tensors, spec, depthwise = call(bias=bias, batch=1)
    tensors, lists = on(device, tensors), Lists(*on(device, short()))
    grad = torch.ones(1, 4, 3, device=device)
    every = triton_lists.KERNELS.backward([True] * 6, grad, tensors, lists, spec, depthwise)
    for one in range(6):
        only = triton_lists.KERNELS.backward([k == one for k in range(6)], grad, tensors, lists, spec, depthwise)
        for k, (x, y) in enumerate(zip(only, every)):
            assert x is None if k != one or y is None else torch.equal(x, y)


@pytest.mark.parametrize("bias", [True, False])
def test_what_is_not_needed_is_not_computed(run, bias):
    run(only_what_is_needed, bias)


def through_the_public_function(device, backend, form):
    """Value and all gradients of a call with neighbours, or of a ragged batch."""
    group, net = groups.get("SE(2)"), make_net("sin", 3, 8)
    generator = torch.Generator().manual_seed(0)
    v, u = (group.sample(count, generator=generator)[None].to(device).requires_grad_() for count in (9, 5))
    shapes = (1, 9, 3), (4, 3, 8), (4, 3)
    f, weight, bias = (torch.randn(s, generator=generator).to(device).requires_grad_() for s in shapes)
    net = net.to(device)
    lists = written(draw(1, (2, 0, 9, 1, 4), 9, "csr"), form) if form != "ragged" else Lists()
    options = {
        "padded": {"neighbors": lists.index},
        "csr": {"neighbors": (lists.rowptr, lists.index)},
        "ragged": {"offsets": (torch.tensor([0, 4, 4, 9]), torch.tensor([0, 1, 2, 5]))},
    }[form]
    options = {k: tuple(on(device, x)) if isinstance(x, tuple) else x.to(device) for k, x in options.items()}
    call = f, v, u, net, weight, bias
    out = pgconv.functional.point_conv(*call, group=group, backend=backend, **options)
    leaves = [f, v, u, weight, bias, *net.parameters()]
    return [x.detach().cpu() for x in (out, *torch.autograd.grad(out.square().sum(), leaves))]


@pytest.mark.parametrize("form", ["padded", "csr", "ragged"])
def test_through_the_public_function(run, form):
    want = through_the_public_function("cpu", "reference", form)
    for number, (x, y) in enumerate(zip(run(through_the_public_function, "triton", form), want)):
        assert (x - y).norm() <= 1e-4 * y.norm(), number


@pytest.mark.parametrize("form", ["csr", "runs"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_real_sizes(run, request, dtype, form):
    if "interpreted" in request.node.name:
        pytest.skip("for GPUs")
    case = call("SE(2)", activation="sin", hidden=32, dtype=dtype, nv=3000, nu=700, channels=32, outputs=16)
    run(check, written(draw(1, (40, *range(0, 699)), 3000, form), form), *case)


def facts(signal="float16", inputs=1000, listed=20, net="sin:3:32:3"):
    sizes = (("lists", 1), ("Nv", inputs), ("B", 2), ("Nu", 50), ("pairs", 100 * listed))
    dtypes = (signal, "float32", "float32", "float32", signal)
    return Facts("point_conv", "cuda", dtypes, sizes, FeatureSpec("SE(2)", "product", "all", "convolution", net))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"inputs": 20000}, None),
        ({"listed": 20000}, "bfloat16 has it"),
        ({"listed": 20000, "signal": "bfloat16"}, None),
        ({"net": "sin:3:65:3"}, "too wide"),
    ],
)
def test_calls_that_no_kernel_takes_have_a_reason(changed, reason):
    found = point_conv.why_not(facts(**changed))
    assert found is None if reason is None else reason in found
