"""The native point convolution against the reference: tile edges, instruction sets, thread counts, and millions of pairs."""

import threading

import pytest
import torch
from native import threads
from test_backends import error

import pgconv
from pgconv import kernel_nets
from pgconv.backends.cpp import point_conv as native
from pgconv.backends.lists import Lists
from pgconv.backends.reference.point_conv import point_conv as reference
from pgconv.functional._kernel import KernelArgs

DTYPES = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-12, 1e-11)}
EVERYTHING = (True,) * 6

# group, chart, form, B, sets of v and of u, Nv, Nu, C, O, H, layers, activation, lists, depthwise, bias: sizes around vectors,
# tiles of 64 pairs and blocks of outputs, every way the examples share elements and lists.
SHAPES = {
    "ones": ("T(1)", "product", "convolution", 1, 1, 1, 1, 1, 1, 1, 1, 2, "sin", None, False, True),
    "primes": ("SE(2)", "product", "convolution", 2, 2, 2, 7, 5, 3, 5, 7, 3, "sin", None, False, True),
    "tile-1": ("E(2)", "embed", "correlation", 2, 1, 2, 63, 3, 2, 17, 9, 3, "silu", None, False, False),
    "tile": ("T(3)", "product", "convolution", 3, 1, 1, 64, 65, 16, 16, 16, 3, "relu", None, False, True),
    "tile+1": ("SE(3)", "lie", "convolution", 2, 2, 1, 65, 67, 17, 15, 33, 4, "tanh", None, False, True),
    "many-outputs": ("T(2)", "product", "convolution", 1, 1, 1, 3, 301, 1, 1, 32, 2, "gelu", None, False, False),
    "wide": ("SO(3)", "product", "convolution", 2, 1, 1, 20, 9, 65, 33, 128, 5, "sin", None, False, True),
    "depthwise": ("SE(3)", "product", "correlation", 2, 2, 2, 70, 33, 19, 19, 12, 3, "sin", None, True, True),
    "depthwise-shared": ("Sim(2)", "lie", "convolution", 3, 1, 1, 130, 5, 32, 32, 32, 3, "silu", None, True, False),
    # One value of the kernel for all images: blocks of 8, 2 and 1 of them, several slabs of inputs.
    "depthwise-images": ("SE(2)", "product", "convolution", 11, 1, 1, 300, 37, 19, 19, 12, 3, "sin", None, True, True),
    "depthwise-csr": ("T(3)", "product", "correlation", 10, 1, 1, 90, 71, 33, 33, 9, 2, "silu", "csr", True, True),
    "depthwise-runs": ("O(2)", "embed", "convolution", 2, 1, 1, 190, 71, 3, 3, 8, 3, "sin", "runs", True, False),
    "csr": ("SE(2)", "product", "convolution", 2, 2, 2, 90, 71, 5, 6, 8, 3, "sin", "csr", False, True),
    "csr-shared": ("T(3)", "product", "convolution", 3, 1, 1, 90, 71, 33, 16, 32, 3, "silu", "csr", False, True),
    # Few channels to many outputs: the gradients on the problem itself, else on its adjoint.
    "csr-shared-widening": ("SE(2)", "product", "convolution", 3, 1, 1, 90, 71, 2, 17, 9, 3, "sin", "csr", False, True),
    # Many channels to few outputs: the outputs, too, on the adjoint.
    "narrowing": ("SE(2)", "embed", "correlation", 2, 2, 1, 90, 71, 150, 3, 9, 3, "sin", None, False, True),
    "csr-narrowing": ("SE(2)", "product", "convolution", 3, 1, 1, 90, 71, 130, 17, 9, 3, "sin", "csr", False, True),
    "csr-each-narrowing": (
        "T(3)",
        "product",
        "convolution",
        2,
        2,
        2,
        90,
        71,
        130,
        1,
        8,
        3,
        "silu",
        "csr-each",
        False,
        False,
    ),
    "runs-narrowing": ("T(3)", "product", "convolution", 2, 1, 1, 190, 71, 140, 5, 8, 3, "silu", "runs", False, True),
    "slabs-narrowing": ("T(2)", "product", "convolution", 3, 1, 1, 9, 1500, 150, 4, 8, 3, "silu", None, False, True),
    "slabs-widening": ("T(2)", "product", "convolution", 3, 1, 1, 1500, 9, 3, 17, 8, 3, "silu", None, False, True),
    "csr-each": ("M(2)", "product", "convolution", 3, 1, 1, 90, 71, 4, 4, 5, 3, "sin", "csr-each", False, False),
    "padded": ("O(2)", "embed", "correlation", 2, 1, 2, 40, 33, 3, 9, 16, 2, "tanh", "padded", False, True),
    "padded-each": (
        "R+xSO(2)",
        "product",
        "convolution",
        2,
        2,
        2,
        40,
        33,
        18,
        18,
        17,
        3,
        "gelu",
        "padded-each",
        True,
        True,
    ),
    "runs": ("SE(2)", "product", "convolution", 2, 1, 2, 190, 71, 9, 7, 8, 3, "sin", "runs-each", False, True),
    "steps": ("SE(2)", "product", "convolution", 2, 1, 2, 190, 71, 9, 7, 8, 3, "sin", "steps-each", False, True),
    "steps-shared": ("T(3)", "embed", "correlation", 3, 1, 1, 70, 171, 9, 4, 8, 3, "silu", "steps", False, True),
    "steps-narrowing": (
        "T(2)",
        "product",
        "convolution",
        2,
        2,
        2,
        90,
        71,
        140,
        2,
        8,
        3,
        "sin",
        "steps-each",
        False,
        True,
    ),
    "runs-widening": ("T(3)", "product", "correlation", 2, 1, 1, 190, 71, 3, 18, 8, 3, "silu", "runs", False, False),
    "no-pairs": ("SE(2)", "product", "convolution", 2, 1, 1, 4, 3, 2, 3, 4, 3, "sin", "empty", False, True),
    "no-inputs": ("SE(2)", "product", "convolution", 2, 1, 1, 0, 3, 2, 3, 4, 3, "sin", None, False, True),
    "no-outputs": ("SE(2)", "product", "convolution", 2, 1, 1, 4, 0, 2, 3, 4, 3, "sin", None, False, True),
    "no-examples": ("SE(2)", "product", "convolution", 0, 1, 1, 4, 3, 2, 3, 4, 3, "sin", None, False, True),
}


def lists(kind, batch, nv, nu, generator):
    """Rows of 0 to 100 inputs, which begin and end anywhere in a tile."""
    if kind is None:
        return Lists()
    rows = batch * nu if kind.endswith("each") else nu
    counts = torch.randint(0, 101, (rows,), generator=generator) * (torch.arange(rows) % 7 != 0)
    if kind == "empty":
        counts *= 0
    if kind.startswith("padded"):
        table = torch.randint(0, nv, (rows, 100), generator=generator)
        table[torch.rand(rows, 100, generator=generator) < 0.3] = -1
        return Lists(table.reshape(-1, nu, 100))
    if kind.startswith(("runs", "steps")):
        first = torch.randint(0, nv + 1, (rows,), generator=generator)
        counts = counts.minimum(nv - first)
    if kind.startswith("steps"):  # neither end of a run goes back from an output to the next
        first = first.view(-1, nu).sort(-1).values.flatten()
        counts = (first + counts.minimum(nv - first)).view(-1, nu).cummax(-1).values.flatten() - first
    rowptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    if kind.startswith(("runs", "steps")):
        return Lists(None, rowptr, first)
    return Lists(torch.randint(0, max(nv, 1), (int(rowptr[-1]),), generator=generator), rowptr)


def call(shape, dtype):
    """Operands (f, v, u, params, weight, bias), and what stands behind them in a native call."""
    name, chart, form, b, sv, su, nv, nu, c, o, h, layers, activation, kind, depthwise, bias = SHAPES[shape]
    generator = torch.Generator().manual_seed(len(shape))
    group = pgconv.groups.get(name)
    dim = group.coord_dim_of(chart)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if activation == "sin":
            net = kernel_nets.SIREN(dim, hidden=h, layers=layers, omega0=3.0, learn_omega0=True)
        else:
            net = kernel_nets.MLP(dim, hidden=h, layers=layers, activation=activation)
    net = net.double()
    args = KernelArgs("point_conv", name, net, chart, form, "all", None)
    v, u = (
        group.sample(sets * n, generator=generator).double().reshape(sets, n, group.element_dim)
        for sets, n in ((sv, nv), (su, nu))
    )
    v, u, params = args.operands(v, u)

    def normal(*dims):
        return torch.randn(*dims, generator=generator, dtype=torch.float64)

    head = (c,) if depthwise else (o, c)
    tensors = [normal(b, nv, c), v, u, params.detach(), normal(*head, h), normal(*head) if bias else None]
    tensors = [None if x is None else x.to(dtype) for x in tensors]
    return tensors, (lists(kind, b, nv, nu, generator), args.fused_spec(), depthwise)


def values_and_gradients(tensors, rest):
    """Reference in float64: output, cotangent, gradients (zeros where the output does not depend on an operand)."""
    leaves = [None if x is None else x.double().requires_grad_() for x in tensors]
    out = reference(*leaves, *rest)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(tensors[0].dtype)
    wanted = [x for x in leaves if x is not None]
    grads = torch.autograd.grad(out, wanted, grad.double(), allow_unused=True) if out.requires_grad else [None] * 6
    grads = iter([torch.zeros_like(x) if g is None else g for g, x in zip(grads, wanted)])
    return out.detach(), grad, [None if x is None else next(grads) for x in leaves]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_the_reference(shape, dtype, level):
    tensors, rest = call(shape, dtype)
    expected, grad, expected_grads = values_and_gradients(tensors, rest)
    value_bound, gradient_bound = DTYPES[dtype]
    out = native.forward(tensors, *rest)
    assert out.dtype == dtype and error(out, expected) <= value_bound
    needs = [x is not None for x in tensors]
    found = native.backward(needs, grad, tensors, *rest)
    for i, wanted in enumerate(expected_grads):
        if wanted is None:
            continue
        assert error(found[i], wanted) <= gradient_bound, i
        alone = native.backward([i == k for k in range(6)], grad, tensors, *rest)
        assert [x is None for x in alone] == [i != k for k in range(6)]
        assert error(alone[i], wanted) <= gradient_bound, (i, "alone")


# Groups, forms, B, Nv, Nu, C, O, depthwise, bias: examples with elements of their own and few pairs.
FEW_PAIRS = {
    "pairs-1": ("SE(2)", "convolution", 5, 1, 1, 3, 2, False, True),
    "pairs-3x7": ("SE(3)", "correlation", 70, 3, 7, 5, 17, False, True),
    "pairs-8x4": ("T(3)", "convolution", 33, 8, 4, 70, 3, False, False),
    "pairs-depthwise": ("E(2)", "convolution", 19, 5, 6, 4, 4, True, True),
    "pairs-no-channels": ("T(2)", "convolution", 3, 2, 5, 0, 4, False, True),
    "pairs-no-outputs": ("T(2)", "convolution", 3, 2, 5, 4, 0, False, False),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", FEW_PAIRS)
@pytest.mark.parametrize("most", [0, 1 << 20])
def test_examples_of_few_pairs_one_by_one_and_together(shape, dtype, most, monkeypatch, level):
    monkeypatch.setattr(native, "MOST_PAIRS", most)
    monkeypatch.setattr(native, "MOST_PAIRS_BACKWARD", most)
    group, form, b, nv, nu, c, o, depthwise, bias = FEW_PAIRS[shape]
    monkeypatch.setitem(
        SHAPES, shape, (group, "product", form, b, b, b, nv, nu, c, o, 9, 3, "sin", None, depthwise, bias)
    )
    asked = []
    together = native._together
    monkeypatch.setattr(native, "_together", lambda operands: asked.append(1) or together(operands))
    test_agrees_with_the_reference(shape, dtype, level)
    assert bool(asked) == (most > 0)


def test_few_pairs_share_nothing_and_keep_nan_to_themselves(monkeypatch):
    monkeypatch.setitem(
        SHAPES, "x", ("SE(2)", "product", "convolution", 9, 9, 9, 4, 5, 3, 2, 8, 3, "sin", None, False, True)
    )
    tensors, rest = call("x", torch.float32)
    tensors[0][4, 2, 1] = float("nan")
    out = native.forward(tensors, *rest)
    assert out[4].isnan().all() and not out[[0, 1, 2, 3, 5, 6, 7, 8]].isnan().any()
    empty = [x[:0] if i < 3 else x for i, x in enumerate(tensors)]
    assert native.forward(empty, *rest).shape == (0, 5, 2)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("shape", ["tile", "tile+1", "many-outputs", "depthwise-shared", "csr-shared", "csr-each"])
def test_any_number_of_threads_gives_the_same(shape, count):
    tensors, rest = call(shape, torch.float64)
    # More examples, so that the native code finds the call worth several threads.
    if SHAPES[shape][-3] != "csr-each":
        tensors[0] = tensors[0].repeat_interleave(7, 0)
    if tensors[1].shape[0] > 1:
        tensors[1:3] = [x.repeat_interleave(7, 0) if x.shape[0] > 1 else x for x in tensors[1:3]]
    results = []
    for n in (1, count):
        with threads(n):
            out = native.forward(tensors, *rest)
            needs = [x is not None for x in tensors]
            results.append([out, *native.backward(needs, torch.ones_like(out), tensors, *rest)])
    for one, many in zip(*results):
        assert one is many is None or error(many, one) <= 1e-13


@pytest.mark.parametrize("shape", ["tile+1", "csr"])
def test_strided_views_and_repeated_calls(shape):
    tensors, rest = call(shape, torch.float64)
    strided = [
        None if x is None else torch.cat([x, x], -1)[..., : x.shape[-1]].transpose(0, -1).contiguous().transpose(0, -1)
        for x in tensors
    ]
    first = native.forward(tensors, *rest)
    for _ in range(3):  # workspaces come back with what earlier calls left in them
        native.forward([torch.full_like(tensors[0], float("nan")), *tensors[1:]], *rest)
        assert torch.equal(native.forward(strided, *rest), first)


@pytest.mark.parametrize("shape", ["tile+1", "depthwise", "csr-each"])
def test_nan_reaches_the_outputs_that_see_it(shape):
    tensors, rest = call(shape, torch.float32)
    clean = native.forward(tensors, *rest)
    tensors[0][0, 5, 1] = float("nan")
    out = native.forward(tensors, *rest)
    expected = reference(*tensors, *rest)
    assert expected.isnan().any() and torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out[~out.isnan()], clean[~out.isnan()])


def test_calls_from_many_threads_do_not_meet():
    tensors, rest = call("csr-shared", torch.float64)
    expected = native.forward(tensors, *rest)
    found = [None] * 6

    def work(i):
        found[i] = native.forward(tensors, *rest)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(found))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(x, expected) for x in found)


def test_half_precision_signals_are_summed_in_single():
    tensors, rest = call("tile", torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        low = [x.to(dtype) if i in (0, 4, 5) else x for i, x in enumerate(tensors)]
        exact = native.forward([x.float() for x in low], *rest)
        out = native.forward(low, *rest)
        assert out.dtype == dtype and torch.equal(out, exact.to(dtype))
        grads = native.backward(EVERYTHING, torch.ones_like(out), low, *rest)
        assert [g.dtype for g in grads] == [x.dtype for x in low]


@pytest.mark.parametrize("lists", [False, True])
def test_single_precision_at_millions_of_pairs(lists):
    """Sums over 4 million pairs keep six digits; the native float64 code, equal to the reference above, says what is right."""
    generator = torch.Generator().manual_seed(0)
    points, channels, width = 2048, 8, 16
    group = pgconv.groups.get("SE(2)")
    # A chart without a jump: a rounded angle may lie on the other side of one.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = kernel_nets.SIREN(group.coord_dim_of("embed"), hidden=width, layers=3, omega0=5.0).double()
    args = KernelArgs("point_conv", "SE(2)", net, "embed", "convolution", "all", None)
    v, u, params = args.operands(*(group.sample(points, generator=generator)[None].double() for _ in range(2)))

    def normal(*dims):
        return torch.randn(*dims, generator=generator)

    single = [
        normal(1, points, channels),
        v.float(),
        u.float(),
        params.detach().float(),
        normal(8, channels, width),
        None,
    ]
    index = rowptr = None
    if lists:
        rowptr = torch.arange(points + 1) * points
        index = torch.randint(0, points, (points * points,), generator=generator)
    rest = Lists(index, rowptr), args.fused_spec(), False
    grad = normal(1, points, 8)
    double = [None if x is None else x.double() for x in single]
    needs = (True,) * 5 + (False,)
    assert error(native.forward(single, *rest), native.forward(double, *rest)) <= 5e-6
    exact = native.backward(needs, grad.double(), double, *rest)
    for i, (found, wanted) in enumerate(zip(native.backward(needs, grad, single, *rest), exact)):
        assert wanted is None or error(found, wanted) <= 5e-6, i


def test_runs_of_consecutive_inputs_are_lists_of_them(level):
    tensors, (lists, *rest) = call("runs", torch.float64)
    expected = native.forward(tensors, lists.written_out(), *rest)
    assert torch.equal(native.forward(tensors, lists, *rest), expected)
    grad = torch.ones_like(expected)
    wanted = native.backward(EVERYTHING, grad, tensors, lists.written_out(), *rest)
    found = native.backward(EVERYTHING, grad, tensors, lists, *rest)
    assert all(error(x, y) <= 1e-13 for x, y in zip(found, wanted))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, r: (t, (Lists(torch.tensor([0, 4]), torch.tensor([0, 5])), *r[1:])), "rowptr"),
        (lambda t, r: (t, (r[0]._replace(index=torch.full_like(r[0].index, 99)), *r[1:])), "index"),
        (lambda t, r: (t, (r[0]._replace(rowptr=r[0].rowptr.flip(0)), *r[1:])), "rowptr"),
        (lambda t, r: ([t[0][:, 1:], *t[1:]], r), "f:"),
        (lambda t, r: ([*t[:4], t[4][:, 1:], t[5]], r), "weight"),
        (lambda t, r: ([*t[:5], t[5][1:]], r), "bias"),
        (lambda t, r: ([t[0][:1].repeat(3, 1, 1), *t[1:]], r), "sets"),
    ],
)
def test_raw_calls_check_what_they_read(change, words):
    tensors, rest = change(*call("csr", torch.float32))
    with pytest.raises(RuntimeError, match=words):
        native.forward(tensors, *rest)
