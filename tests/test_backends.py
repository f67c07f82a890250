"""Every backend against the reference in float64: values and all gradients, for every operator call the tables cause."""

import sys
import threading
import types

import pytest
import torch
from cases import GROUP_CASES, IMAGE_CASES, LARGE_CASES, POINT_CASES, build, params
from cases import image_case as image
from cases import point_case as point
from torch.utils._python_dispatch import TorchDispatchMode

import pgconv
from pgconv import backends
from pgconv.backends import available
from pgconv.backends.reference import BACKEND as REFERENCE
from pgconv.ops import dispatch
from pgconv.ops._define import FAMILIES
from pgconv.ops.plan import costs
from pgconv.spec import ORDERS, ConvGeometry, Facts, FeatureSpec, Plan

FAST = [name for name in available("cpu") if name != "reference"]
BOUNDS = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-10, 1e-10)}
DTYPES = pytest.mark.parametrize("dtype", BOUNDS, ids=["float32", "float64"])

CASES = params(GROUP_CASES, IMAGE_CASES, POINT_CASES, LARGE_CASES)


class Recorder(TorchDispatchMode):
    """Collects the forward operator calls of this library."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("pgconv::")
        if func.name().startswith("pgconv::") and name in FAMILIES:
            self.calls.append((FAMILIES[name], args))
        return func(*args, **(kwargs or {}))


def recorded(call):
    """(family, tensors, static arguments) of every operator call."""
    with torch.no_grad(), Recorder() as recorder:
        call(backend="reference")
    return [(family, args[: len(family.tensors)], args[len(family.tensors) : -1]) for family, args in recorder.calls]


def error(found, expected):
    """Largest difference relative to the largest expected value; infinite for another shape or a stray NaN.

    A gradient that vanishes by cancellation (that of a list with one weighted point in a mean, say) has no scale of its
    own; the data here are of order one, so 0.01 is taken for it.
    """
    if found.shape != expected.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    worst = (found.double() - expected).abs().max().item() / max(expected.abs().max().item(), 1e-2)
    return worst if worst == worst else float("inf")


def cast(tensors, dtype):
    return [t.to(dtype) if t is not None and t.is_floating_point() else t for t in tensors]


def values_and_gradients(family, tensors, statics, plan, needs=None):
    needs = needs or [t is not None for t in tensors[: family.differentiable]]
    out = family.forward_op(*tensors, *statics, plan)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
        torch.float32
    )
    grads = family.backward_op(cotangent.to(out), *tensors, *statics, plan, needs)
    names = [n.rstrip("?") for n in family.tensors]
    grads = [grads] if isinstance(grads, torch.Tensor) else grads
    return out, {name: g for name, g, needed in zip(names, grads, needs) if needed}


def plans_of(backend, family, tensors, statics):
    """(plan, reason why it cannot run or None) for every evaluation order of a backend."""
    facts = family.facts(*tensors, *family.decode(*statics))
    return [(str(plan), reason) for plan, reason in dispatch.candidates(facts) if plan.backend == backend]


@pytest.mark.parametrize("backend", FAST)
@DTYPES
@pytest.mark.parametrize("case", CASES)
def test_operators_agree_with_the_reference(case, dtype, backend):
    value_bound, gradient_bound = BOUNDS[dtype]
    for family, tensors, statics in recorded(build(case)):
        tensors = cast(tensors, dtype)
        expected, expected_grads = values_and_gradients(family, cast(tensors, torch.float64), statics, "reference:auto")
        for plan, reason in plans_of(backend, family, tensors, statics):
            if reason is not None:
                with pytest.raises(ValueError, match="cannot run this call") as raised:
                    family.forward_op(*tensors, *statics, plan)
                assert reason in str(raised.value)
                continue
            out, grads = values_and_gradients(family, tensors, statics, plan)
            assert out.dtype == dtype
            assert error(out, expected) <= value_bound, plan
            for name, grad in grads.items():
                assert grad.dtype == dtype
                assert error(grad, expected_grads[name]) <= gradient_bound, (plan, name)


@DTYPES
@pytest.mark.parametrize("case", params(IMAGE_CASES, POINT_CASES, LARGE_CASES))
def test_calls_on_the_best_backend_agree_with_the_reference(case, dtype):
    """Whole functions, where the planner chooses; rounding of coordinates is part of the fp32 error here."""
    value_bound, gradient_bound = BOUNDS[dtype]
    call = build(case).to(dtype, grad=True)
    exact = call.to(torch.float64, grad=True)
    expected, out = exact(backend="reference"), call()
    assert out.dtype == dtype
    assert error(out.detach(), expected.detach()) <= value_bound
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(out, list(call.leaves().values()), cotangent.to(dtype))
    expected_grads = torch.autograd.grad(expected, list(exact.leaves().values()), cotangent.double())
    for name, grad, reference in zip(call.leaves(), grads, expected_grads):
        assert error(grad, reference) <= gradient_bound, name


ONE_OF_EACH = params(tuple(c for c in (*IMAGE_CASES, *POINT_CASES) if c.id in (
    "k3", "own-group", "sets-both-each", "sets-v-each", "pointwise", "dense", "dense-both-each", "dense-depthwise",
    "dense-no-bias-sum", "padded-each", "csr", "csr-each")))  # fmt: skip


@pytest.mark.parametrize("backend", available("cpu"))
@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_single_gradients_equal_those_computed_together(case, backend):
    for family, tensors, statics in recorded(build(case)):
        for plan, reason in plans_of(backend, family, tensors, statics):
            if reason is not None:
                continue
            _, together = values_and_gradients(family, tensors, statics, plan)
            for i, name in enumerate(n.rstrip("?") for n in family.tensors[: family.differentiable]):
                if name in together:
                    needs = [j == i for j in range(family.differentiable)]
                    _, alone = values_and_gradients(family, tensors, statics, plan, needs)
                    assert list(alone) == [name]
                    assert error(alone[name], together[name]) <= 1e-12, (plan, name)


@pytest.mark.parametrize("backend", FAST)
def test_every_operation_runs_somewhere_on_every_backend(backend):
    """A backend that refuses everything would pass all comparisons."""
    ran = set()
    for case in (
        image("runs-image", kernel_size=3),
        image("runs-own", kernel_size=3, group="Shear(2)"),
        point("runs-point"),
    ):
        for family, tensors, statics in recorded(build(case)):
            plans = plans_of(backend, family, tensors, statics)
            ran |= {family.name} if any(reason is None for _, reason in plans) else set()
    assert ran == set(FAMILIES)


@pytest.mark.parametrize("backend", available("cpu"))
@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_repeated_runs_are_bitwise_equal(case, backend):
    for family, tensors, statics in recorded(build(case)):
        for plan, reason in plans_of(backend, family, tensors, statics):
            if reason is None:
                (first, grads), (second, again) = (
                    values_and_gradients(family, tensors, statics, plan) for _ in range(2)
                )
                assert torch.equal(first, second)
                assert all(torch.equal(grads[name], again[name]) for name in grads)


class Toy:
    """A backend that runs dense point convolutions in float64, and says no to everything else."""

    name = "toy"
    devices = ("cpu",)
    only_by_name = ()
    planned = True

    def __init__(self):
        self.ran = []

    def unavailable(self, device):
        return None if device == "cpu" else "toy has no such device"

    def orders(self, op):
        return REFERENCE.orders(op)

    def why_not(self, facts, order):
        if facts.op != "point_conv":
            return f"toy does not know {facts.op}"
        return None if set(facts.dtypes) == {"float64"} else "toy counts in float64 only"

    def function(self, op):
        def run(order, *args):
            self.ran.append(op)
            return REFERENCE.function(op)(order, *args)

        return run


@pytest.fixture
def toy(monkeypatch):
    """The toy as the best backend, and dispatch without memories of it before or after."""
    backend = Toy()
    monkeypatch.setattr(backends, "NAMES", ("toy", *backends.NAMES))
    monkeypatch.setitem(sys.modules, "pgconv.backends.toy", types.SimpleNamespace(BACKEND=backend))
    monkeypatch.delenv("PGCONV_BACKEND", raising=False)
    for cached in (dispatch.resolve, backends._load):
        cached.cache_clear()
    yield backend
    for cached in (dispatch.resolve, backends._load):
        cached.cache_clear()


@pytest.fixture
def calls():
    dense = build(point("use-backend-dense"))
    return types.SimpleNamespace(
        dense=dense, single=dense.to(torch.float32), image=build(image("use-backend", kernel_size=3))
    )


def test_best_backend_runs_what_it_can_and_others_the_rest(toy, calls):
    assert available("cpu")[0] == "toy"
    calls.dense()
    assert toy.ran == ["point_conv"]
    calls.single()
    calls.image()
    assert toy.ran == ["point_conv"]


def test_backward_runs_on_the_backend_of_the_forward(toy, calls):
    with pgconv.use_backend("reference"):
        out = calls.dense.to(torch.float64, grad=True)()
    out.sum().backward()
    assert toy.ran == []
    with pgconv.use_backend("toy"):
        out = calls.dense.to(torch.float64, grad=True)()
    with pgconv.use_backend("reference"):
        out.sum().backward()
    assert toy.ran == ["point_conv", "point_conv_backward"]


@pytest.mark.parametrize("how", ["argument", "context", "environment"])
def test_a_named_backend_that_cannot_run_raises_with_its_reason(toy, calls, how, monkeypatch):
    def run(call):
        if how == "argument":
            return call(backend="toy")
        if how == "environment":
            monkeypatch.setenv("PGCONV_BACKEND", "toy")
            return call()
        with pgconv.use_backend("toy"):
            return call()

    run(calls.dense)
    assert toy.ran == ["point_conv"]
    with pytest.raises(
        ValueError, match=r"backend 'toy' cannot run this call: toy counts in float64 only.*backend=None"
    ):
        run(calls.single)
    with pytest.raises(ValueError, match="toy does not know relative_features"):
        run(calls.image)


def test_innermost_choice_wins(toy, calls, monkeypatch):
    monkeypatch.setenv("PGCONV_BACKEND", "reference")
    calls.dense()
    assert toy.ran == []
    with pgconv.use_backend(None):
        calls.dense()
        assert len(toy.ran) == 1
        with pgconv.use_backend("reference"):
            calls.dense()
            assert len(toy.ran) == 1
            calls.dense(backend="toy")
            assert len(toy.ran) == 2
        calls.dense()
        assert len(toy.ran) == 3
    calls.dense()
    assert len(toy.ran) == 3


def test_an_order_for_a_block_is_taken_by_image_convolutions_alone(calls):
    taken = []
    with dispatch.recording(lambda facts, asked, plan: taken.append((facts.op, plan.order))):
        with pgconv.use_backend(None, "mix"):
            calls.image()
            calls.image(plan="direct")
            calls.dense()
        calls.image()
    orders = [order for op, order in taken if op == "group_conv2d"]
    assert orders[:2] == ["mix", "direct"] and len(orders) == 3
    assert ("point_conv", "aggregate") in taken
    with pytest.raises(ValueError, match="order must be one of"), pgconv.use_backend(None, "spiral"):
        pass


def test_use_backend_ends_with_its_block_even_after_an_error(toy, calls):
    with pytest.raises(KeyError), pgconv.use_backend("reference"):
        raise KeyError
    calls.dense()
    assert toy.ran == ["point_conv"]


def asked(op="group_conv2d"):
    return dispatch.request(op)


def test_blocks_may_end_in_any_order():
    first, second, third = (pgconv.use_backend(*choice) for choice in (("reference",), (None, "mix"), ("reference",)))
    found = []
    for step in (first.__enter__, second.__enter__, third.__enter__):
        step()
        found.append(asked())
    for block in (second, first, third):
        block.__exit__(None, None, None)
        found.append(asked())
    assert found == ["reference:auto", "auto:mix", *["reference:auto"] * 3, "auto:auto"]


@pytest.mark.parametrize("breaks", [True, False])
def test_a_named_backend_in_compiled_code(calls, fresh_compiler, breaks):
    plans = []

    def function():
        with pgconv.use_backend("reference"):
            y = calls.image()
            if breaks:
                torch._dynamo.graph_break()
            return y + calls.image()

    compiled = torch.compile(function, backend="eager")
    with dispatch.recording(lambda facts, asked, plan: plans.append(str(asked))):
        compiled()
        compiled()
    assert len(plans) >= 4 and set(plans) == {"reference:auto"} and asked() == "auto:auto"


def test_code_is_compiled_once_for_each_choice(calls, fresh_compiler):
    plans = []

    def backend(graph, _):
        plans.extend(node.args[-1] for node in graph.graph.nodes if "group_conv2d" in str(node.target))
        return graph

    compiled = torch.compile(lambda: calls.image(), fullgraph=True, backend=backend)
    compiled()
    with pgconv.use_backend("reference"):
        compiled()
    with pgconv.use_backend(None, "mix"):
        compiled()
    compiled()
    assert plans == ["auto:auto", "reference:auto", "auto:mix"]


def test_a_choice_in_compiled_code(calls, fresh_compiler):
    def both():
        with pgconv.use_backend(None, "mix"):
            inside = asked()
        return inside, asked()

    compiled = torch.compile(both, fullgraph=True, backend="eager")
    assert compiled() == both() == ("auto:mix", "auto:auto")
    with pgconv.use_backend("reference"):
        assert compiled() == both() == ("auto:mix", "reference:auto")


class Nested(torch.autograd.Function):
    """Whose gradient is that of another one inside: autograd takes what is nested deeply to threads of its own."""

    @staticmethod
    def forward(ctx, x, depth, visit):
        ctx.depth, ctx.visit = depth, visit
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if ctx.depth == 0:
            ctx.visit()
            return grad, None, None
        with torch.enable_grad():
            x = torch.ones(1, requires_grad=True)
            Nested.apply(x, ctx.depth - 1, ctx.visit).sum().backward()
        return x.grad, None, None


def test_threads_of_a_backward_pass_have_the_choice_of_its_caller():
    """They make again what was not kept."""
    found = []
    x = torch.ones(1, requires_grad=True)
    out = Nested.apply(x, 70, lambda: found.append((threading.get_ident(), asked())))
    with pgconv.use_backend("reference", "mix"):
        out.sum().backward()
    ((thread, plan),) = found
    assert thread != threading.get_ident() and plan == "reference:mix"


@pytest.mark.parametrize("how", ["argument", "context", "environment"])
def test_unknown_backend_lists_the_names(calls, how, monkeypatch):
    with pytest.raises(ValueError, match=r"backend must be one of .*'reference'.*received 'abacus'"):
        if how == "argument":
            calls.dense(backend="abacus")
        elif how == "context":
            with pgconv.use_backend("abacus"):
                pass
        else:
            monkeypatch.setenv("PGCONV_BACKEND", "abacus")
            calls.dense()


def test_an_order_that_a_backend_lacks_is_named_with_those_it_has(calls):
    names = ", ".join(map(repr, ORDERS))
    with pytest.raises(ValueError, match=f"plan must be one of {names}"):
        calls.image(plan="spiral")
    with pytest.raises(ValueError, match="plan must be one of"):
        calls.image(backend="reference", plan="spiral")


@pytest.mark.parametrize("order", ORDERS)
def test_explain_reports_every_call_and_order(toy, calls, order):
    report = pgconv.explain(calls.image, plan=order)
    assert [step.facts.op for step in report.steps] == ["relative_features", "group_conv2d"]
    features, conv = report.steps
    assert conv.plan.order == order
    assert conv.plan.backend in available("cpu")
    assert set(conv.costs) == set(ORDERS)
    assert all(cost.flops > 0 and cost.bytes > 0 for cost in conv.costs.values())
    text = str(report)
    assert f"plan {conv.plan}" in text and f"* {order}" in text
    assert all(f"{name}={value}" in text for name, value in conv.facts.sizes)
    assert features.refused["toy:direct"] == "toy does not know relative_features"
    assert "not toy:direct: toy does not know relative_features" in text


def test_explain_counts_the_work_of_a_known_call():
    """B=2 C=3 Nv=4 H=5 W=6, k=3 on a disc, Nu=7 O=8, head of 4 features and a bias: multiply-adds count two."""
    call = build(image("explain-flops", kernel_size=3, channels=3, nv=4, size=(5, 6), nu=7, out=8))
    found = {order: cost.flops for order, cost in pgconv.explain(call).steps[-1].costs.items()}
    build_kernel = 2 * 7 * 8 * 3 * 4 * 5 * 5
    assert found["direct"] == 2 * 2 * 7 * 8 * 3 * 4 * 5 * 30 + build_kernel
    assert found["materialize"] == 2 * 2 * 7 * 8 * 3 * 4 * 9 * 30 + build_kernel
    assert found["aggregate"] == 2 * 2 * 3 * 7 * 5 * 4 * 5 * 30 + 2 * 2 * 7 * 8 * 3 * 5 * 30
    assert found["mix"] == 2 * 2 * 4 * 8 * 3 * 5 * 30 + 2 * 2 * 8 * 7 * 5 * 4 * 5 * 30


@pytest.mark.parametrize("nu, adjoint", [(5, False), (500, True)])
def test_explain_counts_the_work_of_points(nu, adjoint):
    """B=2 C=3 Nv=7, head to O=4 of 6 features on 3 coordinates, all gradients: features again and twice reversed; then three
    products with the inputs' channels and two with the head, or two with the outputs' channels and three with the head."""
    net = pgconv.kernel_nets.MLP(3, hidden=6, layers=3)
    f, v, u, weight = torch.ones(2, 7, 3), torch.zeros(1, 7, 3), torch.zeros(1, nu, 3), torch.ones(4, 3, 6)
    (step,) = pgconv.explain(pgconv.functional.point_conv, f, v, u, net, weight, group="T(3)").steps
    pairs, features, head = 2 * 7 * nu, 2 * 6 * (3 + 6) * 7 * nu, 2 * 4 * 3 * 6
    assert step.costs["aggregate"].flops == features + pairs * 2 * 3 * 6 + 2 * nu * head
    heads = 3 * 2 * 7 if adjoint else 2 * 2 * nu
    products = pairs * 2 * 6 * (2 * 4 if adjoint else 3 * 3)
    assert step.backward_costs["aggregate"].flops == 3 * features + products + heads * head
    # Nothing of the pairs goes to memory.
    assert step.costs["aggregate"].bytes == 4 * (2 * 7 * 3 + 2 * nu * 4)


def test_explain_of_something_else():
    assert str(pgconv.explain(torch.relu, torch.zeros(2))) == "no pgconv operator was called"


@pytest.mark.parametrize("asked", ["auto:auto", "reference:auto", *(f"auto:{order}" for order in ORDERS)])
def test_planning_is_pure(asked):
    facts = []
    with dispatch.recording(lambda fact, *_: facts.append(fact)):
        build(image("plan-purity", kernel_size=5))()
    conv = facts[-1]
    again = Facts(conv.op, conv.device, conv.dtypes, conv.sizes, conv.features, ConvGeometry.parse(str(conv.geometry)))
    assert again == conv and hash(again) == hash(conv)
    first = dispatch.resolve(conv, Plan.parse(asked))
    dispatch.resolve.cache_clear()
    assert dispatch.resolve(again, Plan.parse(asked)) == first
    assert costs(conv) == costs(again)
    assert first.order == asked.split(":")[1] or asked.endswith("auto")


@pytest.mark.parametrize(
    "value",
    [
        Plan("cpp", "materialize"),
        Plan(),
        FeatureSpec("R+xSO(2)", "lie", "stabilizer", "correlation", "sin:3:32:3"),
        ConvGeometry.make("test", 7, (2, 3), (0, 4), (1, 2), "square"),
        ConvGeometry.make("test", 5, 1, "same", 2, "disc"),
    ],
    ids=str,
)
def test_text_forms_round_trip(value):
    assert type(value).parse(str(value)) == value
