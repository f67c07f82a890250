"""Calls around the dispatcher: the same bits as through the operators, and whatever looks at operators gets them."""

import copy

import pytest
import torch
from contract import INPUTS, draw
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import pgconv
from pgconv.ops import _direct
from pgconv.ops._define import FAMILIES

VARIANTS = [pytest.param(op, variant, id=f"{op}-{variant}") for op, table in INPUTS.items() for variant in table]
AUTO = "auto:auto"


def leaves_of(op, variant):
    tensors, statics = INPUTS[op][variant]
    count = FAMILIES[op].differentiable
    return [x if x is None else x.clone().requires_grad_(i < count) for i, x in enumerate(tensors)], statics


def public(op):
    return getattr(pgconv.ops, op)


class Seen(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.fixture
def only_direct(monkeypatch):
    """The dispatcher is not asked: operators that are called all the same fail."""

    def refuse(self):
        raise AssertionError(f"{self.name} went through the dispatcher")

    monkeypatch.setattr(type(FAMILIES["point_conv"]), "backward_op", property(refuse))
    monkeypatch.setattr(pgconv.ops.transforms, "run", refuse)


def derivatives(function, leaves, statics):
    """Value, gradients, and gradients of these, of all that can have one."""
    asked = [x for x in leaves if x is not None and x.requires_grad]
    out = function(*leaves, *statics, AUTO)
    grad = torch.ones_like(out).requires_grad_()
    first = torch.autograd.grad(out, asked, grad, create_graph=True)
    second = torch.autograd.grad(sum(x.square().sum() for x in first), [grad, *asked], allow_unused=True)
    return [out, *first, *second]


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_values_and_derivatives_are_to_the_bit_the_operators(op, variant, only_direct, monkeypatch):
    leaves, statics = leaves_of(op, variant)
    found = derivatives(public(op), leaves, statics)
    assert found[0].grad_fn.name() == f"{op}Backward"
    monkeypatch.undo()
    expected = derivatives(FAMILIES[op].forward_op, leaves, statics)
    for x, y in zip(found, expected, strict=True):
        assert (x is None) == (y is None)
        assert x is None or (torch.equal(x, y) and x.stride() == y.stride())


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
@pytest.mark.parametrize("number", range(3))
def test_a_gradient_alone_is_the_one_among_all(op, variant, number):
    leaves, statics = leaves_of(op, variant)
    chosen = [x for x in leaves if x is not None and x.requires_grad][number % FAMILIES[op].differentiable]
    every = public(op)(*leaves, *statics, AUTO)
    grad = draw(*every.shape).to(every)
    (expected,) = torch.autograd.grad(every, chosen, grad)
    for x in leaves:
        if x is not None and x is not chosen:
            x.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(public(op)(*leaves, *statics, AUTO), chosen, grad)[0], expected)


@pytest.mark.parametrize("op", INPUTS)
def test_nothing_is_recorded_where_nothing_is_asked(op):
    leaves, statics = leaves_of(op, next(iter(INPUTS[op])))
    with torch.no_grad():
        assert not public(op)(*leaves, *statics, AUTO).requires_grad
    with torch.inference_mode():
        assert public(op)(*leaves, *statics, AUTO).is_inference()
    constants = [x if x is None else x.detach() for x in leaves]
    out = public(op)(*constants, *statics, AUTO)
    assert not out.requires_grad and torch.equal(out, FAMILIES[op].forward_op(*constants, *statics, AUTO))


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("direct", [True, False])
def test_results_can_be_changed_in_place(op, variant, recorded, direct):
    leaves, statics = leaves_of(op, variant)
    function = public(op) if direct else FAMILIES[op].forward_op
    with torch.set_grad_enabled(recorded):
        out = function(*leaves, *statics, AUTO)
        assert not out._is_view()
        expected = out.relu()
        assert torch.equal(out.relu_(), expected)
    if recorded:
        out.sum().backward()


def test_an_operand_changed_before_the_backward_pass_is_found():
    leaves, statics = leaves_of("group_conv2d", "shared")
    out = public("group_conv2d")(*leaves, *statics, AUTO)
    with torch.no_grad():
        leaves[2].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("op", INPUTS)
def test_modes_see_the_operators(op):
    leaves, statics = leaves_of(op, next(iter(INPUTS[op])))
    with Seen() as mode:
        out = public(op)(*leaves, *statics, AUTO)
    assert mode.names == [f"pgconv::{op}"]
    out = public(op)(*leaves, *statics, AUTO)
    with Seen() as mode:
        out.sum().backward()
    assert f"pgconv::{op}_backward" in mode.names


def test_profiles_name_the_operators():
    leaves, statics = leaves_of("point_conv", "dense")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        public("point_conv")(*leaves, *statics, AUTO).sum().backward()
    assert {"pgconv::point_conv", "pgconv::point_conv_backward"} <= {event.key for event in profile.key_averages()}


class Function(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Own(torch.Tensor):
    pass


def test_who_looks_at_operators_does_not_get_around_them():
    x = torch.ones(3)
    assert _direct.is_equivalent((x, None, torch.nn.Parameter(x)))
    others = x.to("meta"), x.as_subclass(Own), torch._subclasses.FakeTensorMode().from_tensor(x)
    assert not any(_direct.is_equivalent((x, other)) for other in others)
    for mode in (Seen(), Function(), torch.device("cpu"), torch.profiler.profile(), forward_ad.dual_level()):
        with mode:
            assert not _direct.is_equivalent((x,))
        assert _direct.is_equivalent((x,))
    inside = []

    def function(x):
        inside.append(_direct.is_equivalent((x,)) or _direct.is_equivalent((torch.zeros(2),)))
        return x.sum()

    torch.func.grad(function)(x)
    torch.jit.trace(function, x, check_trace=False)
    torch.fx.experimental.proxy_tensor.make_fx(function)(x)
    assert inside and not any(inside)


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_autocast_as_the_operators(op, variant, monkeypatch):
    """Same dtypes and values, also of the gradients; no backend is run while autocasting is on."""
    leaves, statics = leaves_of(op, variant)
    leaves = [
        x if x is None or not x.is_floating_point() else x.detach().float().requires_grad_(x.requires_grad)
        for x in leaves
    ]
    expected_leaves = copy.deepcopy(leaves)
    run = pgconv.ops.dispatch.run

    def watched(*args):
        assert not torch.is_autocast_enabled("cpu")
        return run(*args)

    monkeypatch.setattr(pgconv.ops.dispatch, "run", watched)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = public(op)(*leaves, *statics, AUTO)
        found.sum().backward()
        expected = FAMILIES[op].forward_op(*expected_leaves, *statics, AUTO)
        expected.sum().backward()
    assert found.dtype == expected.dtype and torch.equal(found, expected)
    for x, y in zip(leaves, expected_leaves):
        if x is not None and x.requires_grad:
            assert x.grad.dtype == y.grad.dtype == torch.float32 and torch.equal(x.grad, y.grad)


@pytest.mark.parametrize("op", INPUTS)
def test_compiled_autograd_takes_the_backward_pass(op, fresh_compiler):
    leaves, statics = leaves_of(op, next(iter(INPUTS[op])))

    def step():
        asked = [x.detach().requires_grad_() if x is not None and x.requires_grad else x for x in leaves]
        public(op)(*asked, *statics, AUTO).square().sum().backward()
        return [x.grad for x in asked if x is not None and x.requires_grad]

    expected = step()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        found = step()
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y)
