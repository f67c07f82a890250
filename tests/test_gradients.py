"""Derivatives against finite differences in double precision: of every tensor and every parameter of the kernel net."""

import math

import pytest
import torch
from cases import FORMS, IMAGE_GROUPS, Call, build, params
from cases import image_case as image
from cases import point_case as point
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from pgconv import groups
from pgconv.spec import ORDERS

# None is what a user gets; a backend that cannot run a call is left out by it.
BACKENDS = pytest.mark.parametrize("backend", [None, "reference"], ids=["best", "reference"])


class Runner(torch.nn.Module):
    """The call as a module, so that the parameters of its net can be handed in."""

    def __init__(self, call: Call, options: dict):
        super().__init__()
        self.net, self.call, self.options = call.net, call, options

    def forward(self, tensors):
        return Call(self.call.op, self.net, tensors, self.call.options)(**self.options)


def as_function(case, **options):
    """A function of all leaves of the call, those leaves, and their names."""
    call = build(case).to(torch.float64, grad=True)
    runner, leaves = Runner(call, options), call.leaves()

    def function(*values):
        named = dict(zip(leaves, values))
        tensors = {name: named[name] for name in call.tensors}
        replaced = {name: value for name, value in named.items() if name.startswith("net.")}
        return functional_call(runner, replaced, (tensors,))

    return function, tuple(leaves.values()), tuple(leaves)


SMALL = {"batch": 2, "channels": 2, "out": 2, "nv": 2, "nu": 2, "size": (3, 2), "hidden": 3}

# Random elements of these cases keep clear of the jumps of their coordinates.
IMAGE_CASES = (
    image("gradient-k3", kernel_size=3, **SMALL),
    image("gradient-k3-each", kernel_size=3, sets="BB", weights="each", gate="each", **SMALL),
    image("gradient-v-each", kernel_size=3, sets="B1", form="correlation", **SMALL),
    image("gradient-weights-gate-each", kernel_size=3, weights="each", gate="each", **SMALL),
    image("gradient-weights-gate-sum", kernel_size=3, weights="shared", gate="shared", reduction="sum", **SMALL),
    image("gradient-stride-dilation", kernel_size=3, stride=2, dilation=2, **SMALL | {"size": (5, 4)}),
    image(
        "gradient-square-valid-no-bias",
        kernel_size=3,
        support="square",
        padding="valid",
        bias=False,
        **SMALL | {"size": (3, 4)},
    ),
    image("gradient-lifting", op="lifting_conv2d", kernel_size=3, gate="each", **SMALL),
    image("gradient-pointwise", op="pointwise_group_conv", weights="shared", sets="1B", **SMALL),
    image("gradient-silu", kernel_size=3, net="silu", **SMALL),
    image("gradient-gabor", kernel_size=1, net="gabor", **SMALL | {"batch": 1}),
    image("gradient-own-group", kernel_size=3, group="Shear(2)", **SMALL),
)
WITHOUT_ORDERS = (
    image("gradient-depthwise-lifting", op="depthwise_lifting_conv2d", kernel_size=3, **SMALL),
    image(
        "gradient-depthwise-lifting-each", op="depthwise_lifting_conv2d", kernel_size=3, sets="1B", stride=2, **SMALL
    ),
)
POINT_CASES = (
    point("gradient-dense"),
    point("gradient-dense-each", sets="BB", weights="each", gate="each"),
    point("gradient-dense-v-each-sum", sets="B1", weights="shared", reduction="sum", form="correlation"),
    point("gradient-dense-mask", mask=True, weights="shared", gate="shared", sets="1B"),
    point("gradient-dense-depthwise", depthwise=True, weights="each"),
    point("gradient-dense-tanh-no-bias", net="tanh", bias=False),
    point("gradient-dense-gelu", net="gelu"),
    point("gradient-dense-own-group", group="Heisenberg"),
    *(
        point(f"gradient-{kind}{name}", neighbors=kind, **fields)
        for kind in ("padded", "padded-each", "csr", "csr-each")
        for name, fields in {
            "": {"weights": "each"},
            "-mask-each": {"weights": "shared", "mask": True, "sets": "BB", "gate": "each"},
            "-depthwise-sum": {"depthwise": True, "reduction": "sum", "sets": "1B"},
        }.items()
    ),
)
POINT_CASES = tuple(type(c)(**{**vars(c), "nv": 3, "nu": 2, "channels": 2, "out": 2, "hidden": 3}) for c in POINT_CASES)

# Every group and chart: the whole path from elements to output.
CHARTS = tuple(
    point(f"gradient-points-{name}-{chart}-{form}", group=name, chart=chart, form=form, batch=1, nv=2, nu=2, hidden=3)
    for name in groups.names()
    for chart in groups.get(name).charts
    for form in FORMS
) + tuple(
    image(
        f"gradient-image-{name}-{chart}",
        group=name,
        chart=chart,
        kernel_size=3,
        weights="shared",
        **SMALL | {"batch": 1},
    )
    for name in IMAGE_GROUPS
    for chart in groups.get(name).charts
)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(IMAGE_CASES))
def test_image_gradients_in_every_order(case, order):
    function, leaves, _ = as_function(case, plan=order)
    assert gradcheck(function, leaves, fast_mode=True)


@BACKENDS
@pytest.mark.parametrize("case", params(IMAGE_CASES[:2], WITHOUT_ORDERS, POINT_CASES[:5]))
def test_gradients_entry_by_entry(case, backend):
    function, leaves, _ = as_function(case, backend=backend)
    assert gradcheck(function, leaves)


@BACKENDS
@pytest.mark.parametrize("case", params(IMAGE_CASES, POINT_CASES, CHARTS))
def test_gradients(case, backend):
    function, leaves, _ = as_function(case, backend=backend)
    assert gradcheck(function, leaves, fast_mode=True)


@BACKENDS
@pytest.mark.parametrize("case", params(IMAGE_CASES, POINT_CASES))
def test_double_backward(case, backend):
    function, leaves, _ = as_function(case, backend=backend)
    assert gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("order", ORDERS)
def test_image_double_backward_in_every_order(order):
    function, leaves, _ = as_function(IMAGE_CASES[1], plan=order)
    assert gradgradcheck(function, leaves, fast_mode=True)


def test_third_derivative_exists():
    function, leaves, names = as_function(POINT_CASES[0])
    u = leaves[names.index("u")]
    first = torch.autograd.grad(function(*leaves).square().sum(), u, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), u, create_graph=True)[0]
    third = torch.autograd.grad(second.square().sum(), u)[0]
    assert third.isfinite().all() and third.abs().max() > 0


def some_subsets(names):
    """Every single leaf, every leaf left out, and the elements alone."""
    yield from ((name,) for name in names)
    yield from (tuple(n for n in names if n != name) for name in names)
    yield tuple(n for n in names if n in ("u", "v"))


@BACKENDS
@pytest.mark.parametrize("case", params(IMAGE_CASES, WITHOUT_ORDERS, POINT_CASES))
def test_gradients_do_not_depend_on_which_are_asked_for(case, backend):
    function, leaves, names = as_function(case, backend=backend)
    cotangent = torch.randn(function(*leaves).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = dict(zip(names, torch.autograd.grad(function(*leaves), leaves, cotangent)))
    for wanted in some_subsets(names):
        values = [x.detach().requires_grad_(name in wanted) for name, x in zip(names, leaves)]
        asked = [x for x in values if x.requires_grad]
        grads = torch.autograd.grad(function(*values), asked, cotangent)
        for name, grad in zip([n for n in names if n in wanted], grads):
            scale = together[name].abs().max().item() or 1.0
            assert (grad - together[name]).abs().max().item() <= 1e-12 * scale, (name, wanted)


@pytest.mark.parametrize("case", params(tuple(c for c in IMAGE_CASES + POINT_CASES if c.id in (
    "gradient-k3", "gradient-lifting", "gradient-dense", "gradient-padded", "gradient-csr"))))  # fmt: skip
def test_no_graph_is_kept_when_nothing_needs_a_gradient(case):
    assert not build(case).to(torch.float64)().requires_grad


def test_range_of_rotations_is_learned_through_both_layers():
    """A parameter that moves elements u of one layer, which are v of the next, receives the sum of both gradients."""
    first = build(image("gradient-lifting-chain", op="lifting_conv2d", kernel_size=3, nu=3, out=2))
    second = build(image("gradient-conv-chain", kernel_size=3, nv=3, channels=2))
    unit = torch.zeros(1, 3, 3, dtype=torch.float64)
    unit[0, :, 2] = torch.tensor([-0.9, 0.1, 0.8]) * math.pi

    def loss(theta):
        elements = unit * theta
        first.tensors["u"], second.tensors["v"] = elements, elements
        second.tensors["f"] = first()
        return second().square().sum()

    theta = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(loss, theta)
    assert gradgradcheck(loss, theta)
