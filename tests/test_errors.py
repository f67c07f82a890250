"""Every argument of every public function and layer, spoiled in every way: the message says which, what and how."""

from __future__ import annotations

import re

import pytest
import torch
from mutations import (
    CONSTRUCTORS,
    FUNCTIONS,
    LAYERS,
    NU,
    NV,
    SIZE,
    B,
    C,
    H,
    O,
    elements,
    net,
    randn,
    samples,
    spoiled,
)
from own_groups import Heisenberg

import pgconv
from pgconv import functional, groups, kernel_nets, sampling
from pgconv.kernel_nets import packing
from pgconv.nn import (
    GlobalGroupPool,
    GroupBatchNorm2d,
    GroupConv2d,
    GroupInstanceNorm2d,
    GroupLayerNorm2d,
    GroupMaxPool2d,
    LiftingConv2d,
    PointGroupConv,
    PointLift,
    PointwiseGroupConv2d,
)
from pgconv.sampling import Samples

# What a message says besides the name; the verbs are those of the library's messages.
EXPECTED = re.compile(
    r"must|should|choose|needs|takes|expected|only for|is a tensor|not elements of|build|convert|move|pass |pad |use "
)
RECEIVED = re.compile(r"received|got | is | has |reads|unknown|does not fit|holds|chooses|needs a")


def assert_refused(call, *names, shows=None):
    """A ValueError (and no other exception) that names the argument, what was expected and what was received."""
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    assert any(re.search(rf"(?<![\w]){re.escape(name)}(?![\w])", text) for name in names), (names, text)
    assert EXPECTED.search(text) and RECEIVED.search(text), text
    if shows is not None:
        assert str(shows) in text, (shows, text)


TENSORS = [
    pytest.param(target, argument, value, names, id=f"{target.id}-{mutation}")
    for target in (*FUNCTIONS, *LAYERS)
    for mutation, argument, value, names in spoiled(target)
]


@pytest.mark.parametrize("target", [*FUNCTIONS, *LAYERS], ids=lambda t: t.id)
def test_the_call_that_is_spoiled_is_valid(target):
    target.run()
    for name in target.optional:
        target.run(**{name: None})


@pytest.mark.parametrize("target,argument,value,names", TENSORS)
def test_spoiled_tensor(target, argument, value, names):
    assert_refused(lambda: target.run(**{argument: value}), *names)


ANY = (None, 3, "nonsense", [1])
# argument: values that no function accepts
OPTIONS = {
    "net": (None, "siren", 3, [1], torch.nn.Linear(3, 3), net(7)),
    "group": ("SE(4)", None, 3, [1], "SO(2)"),
    "chart": (*ANY, "Product"),
    "form": (*ANY, "cross"),
    "reduction": (*ANY, "max"),
    "support": (*ANY, "ball"),
    "kernel_size": (0, -3, 4, 3.0, "3", (3, 3), None, True),
    "stride": (0, -1, 1.5, "2", (1, 1, 1), None, (1, 0)),
    "dilation": (0, -1, 1.5, "2", (1, 1, 1), None, (1, 0)),
    "padding": (-1, 1.5, "full", (1, 1, 1), None, (0, -1)),
    "backend": ("nonsense", 3, ["cpp"]),
    "plan": ("nonsense", 3, ["direct"]),
    "radius": (-1.0, float("nan"), float("inf"), "1", None, True),
    "count": (0, -1, 1.5, "3", None, True),
    "start": (-1, 1.5, "0", None, True, NV),
    "stabilizer_weight": (-1.0, float("nan"), float("inf"), "1", None, True),
}


def _takes(call, option):
    return option in call.__code__.co_varnames[: call.__code__.co_argcount + call.__code__.co_kwonlyargcount]


@pytest.mark.parametrize(
    "target,option,value",
    [
        pytest.param(target, option, value, id=f"{target.id}-{option}-{_i}")
        for target in FUNCTIONS
        for option, values in OPTIONS.items()
        if _takes(target.call, option)
        for _i, value in enumerate(values)
        if not (
            value == "SO(2)" and ("mask" in target.arguments)
        )  # fits no elements of SE(2), which says the next argument
    ],
)
def test_spoiled_option_of_a_function(target, option, value):
    if option == "net" and isinstance(value, torch.nn.Module):
        assert_refused(lambda: target.run(net=value), "net")
    else:
        assert_refused(lambda: target.run(**{option: value}), option, shows=value)


CONSTRUCTOR_OPTIONS = {
    "in_channels": (0, -1, 1.5, "3", None, True),
    "out_channels": (0, -1, 1.5, "3", None, True),
    "num_samples": (0, -1, 1.5, "4", None),
    "kernel_net": ("nonsense", 3, None, lambda d: None, lambda d: kernel_nets.MLP(d + 1), torch.nn.Linear(3, 3)),
    "hidden": (0, -1, 2.5, "8", None),
    "layers": (1, 0, 2.5, "3", None),
    "omega0": (0.0, -1.0, float("inf"), float("nan"), "10", None),
    "compat": ("v1", 3),
    "sampling": ("nonsense", 3),
    **{k: OPTIONS[k] for k in ("group", "support", "kernel_size", "stride", "dilation", "padding", "backend")},
    **{k: tuple(v for v in OPTIONS[k] if v is not None) for k in ("chart", "form", "reduction")},
}


@pytest.mark.parametrize(
    "name,option,value",
    [
        pytest.param(name, option, value, id=f"{name}-{option}-{_i}")
        for name, (cls, arguments) in CONSTRUCTORS.items()
        for option, values in CONSTRUCTOR_OPTIONS.items()
        if option in arguments
        or option in ("kernel_net", "hidden", "layers", "omega0", "compat", "chart", "form", "reduction", "backend")
        or (option in ("stride", "support", "padding", "dilation") and "kernel_size" in arguments)
        or (option == "sampling" and "num_samples" in arguments)
        for _i, value in enumerate(values)
        if not (name == "PointGroupConv" and value == "SO(2)")
    ],
)
def test_spoiled_option_of_a_layer(name, option, value):
    cls, arguments = CONSTRUCTORS[name]
    changes = {option: value} | ({"partial": False} if option == "sampling" and "partial" in arguments else {})
    if option == "group" and value == "SO(2)":  # a group without translations: refused by the first call at the latest
        assert_refused(lambda: _first_call(cls(**(arguments | changes))), "group")
        return
    words = (option,) if option != "kernel_net" else ("kernel_net", "kernel net", "net")
    assert_refused(lambda: cls(**(arguments | changes)), *words)


def _first_call(layer):
    if isinstance(layer, LiftingConv2d):
        return layer(randn(B, C, SIZE, SIZE))
    return layer(randn(B, C, NV, SIZE, SIZE), Samples(groups.get("SO(2)").grid(NV)[None], torch.ones(1, NV)))


# id: (call, a name in the message)
MORE = {
    "partial-and-sampling": (lambda: GroupConv2d(C, O, 3, partial=True, sampling="haar"), "sampling"),
    "partial-without-stabiliser": (lambda: GroupConv2d(C, O, 3, group="T(2)", num_samples=1, partial=True), "T(2)"),
    "per-example-without-sampler": (lambda: GroupConv2d(C, O, 3, samples_per_example=True), "samples_per_example"),
    "no-regular-grid": (lambda: LiftingConv2d(C, O, 3, group="M(2)", num_samples=3), "n"),
    "odd-mirror-pairs": (lambda: LiftingConv2d(C, O, 3, group="E(2)", num_samples=3), "n"),
    "release-of-SE(3)": (lambda: PointGroupConv(C, O, "SE(3)", compat="release"), "chart"),
    "depthwise-channels": (lambda: PointGroupConv(C, O, "SE(2)", depthwise=True), "out_channels"),
    "max-pool-size": (lambda: GroupMaxPool2d(0), "kernel_size"),
    "max-pool-stride": (lambda: GroupMaxPool2d(2, 0), "stride"),
    "max-pool-padding": (lambda: GroupMaxPool2d(2, padding=-1), "padding"),
    "max-pool-padding-too-large": (lambda: GroupMaxPool2d(2, padding=2), "padding"),
    "max-pool-larger-than-image": (lambda: GroupMaxPool2d(9)(randn(B, C, NV, SIZE, SIZE)), "x"),
    "pool-mode": (lambda: GlobalGroupPool("median"), "mode"),
    "pool-of-nothing": (lambda: GlobalGroupPool("max")(randn(B, C, 0, SIZE, SIZE)), "x"),
    "batch-norm-features": (lambda: GroupBatchNorm2d(0), "num_features"),
    "instance-norm-features": (lambda: GroupInstanceNorm2d(-1), "num_features"),
    "layer-norm-features": (lambda: GroupLayerNorm2d(2.0), "num_features"),
    "norm-eps": (lambda: GroupBatchNorm2d(C, eps=-1.0), "eps"),
    "lift-own-group": (lambda: PointLift(Heisenberg()), "group"),
    "lift-orbit-coordinates": (lambda: PointLift("SE(2)/1"), "group"),
    "lift-origin": (lambda: PointLift("R+xSO(2)")(torch.zeros(B, NV, 2), randn(B, NV, C)), "x"),
    "orbits-of-orbits": (lambda: groups.Orbits(groups.get("SO(2)/1"), 1), "group"),
    "orbits-none": (lambda: groups.get("SO(2)/0"), "orbit_dim"),
    "orbits-many": (lambda: groups.get("SO(2)/5"), "orbit_dim"),
    "lift-turns": (lambda: PointLift("SE(2)", 4, turns="none"), "turns"),
    "lift-no-grid": (lambda: PointLift("SE(3)", 5), "num_samples"),
    "lift-samples": (lambda: PointLift("SE(2)", 0), "num_samples"),
    "lift-positions-and-features": (lambda: PointLift("SE(2)", 2)(randn(B, NV, 2), randn(B, NV + 1, C)), "f"),
    "lift-dimension": (lambda: PointLift("SE(3)")(randn(B, NV, 2), randn(B, NV, C)), "x"),
    "lift-half": (lambda: PointLift("SE(2)")(randn(B, NV, 2).half(), randn(B, NV, C)), "x"),
    "lift-mask-float": (lambda: PointLift("T(2)")(randn(B, NV, 2), randn(B, NV, C), torch.ones(B, NV)), "mask"),
    "groups-get": (lambda: groups.get("SE(5)"), "group"),
    "groups-get-list": (lambda: groups.get(["SE(2)"]), "group"),
    "groups-register": (lambda: groups.register("SE(2)"), "group"),
    **{
        f"grid-{name}-{n}": (lambda name=name, n=n: groups.get(name).grid(n), "n")
        for name in groups.names()
        for n in (0, -1, "4", 2.5)
    },
    "grid-mirror-3": (lambda: groups.get("M(2)").grid(3), "n"),
    "grid-O(2)-5": (lambda: groups.get("O(2)").grid(5), "n"),
    "grid-SO(3)-7": (lambda: groups.get("SO(3)").grid(7), "n"),
    "sample-negative": (lambda: groups.get("SE(2)").sample(-1), "n"),
    "coordinates-chart": (lambda: groups.get("SE(2)").coordinates(torch.zeros(3), "nonsense"), "chart"),
    "coordinates-part": (lambda: groups.get("SE(2)").coordinates(torch.zeros(3), part="nonsense"), "part"),
    "coordinates-release-of-T(3)": (lambda: groups.get("T(3)").coordinates(torch.zeros(3), "release"), "chart"),
    "element-size": (lambda: groups.get("SE(2)").product(torch.zeros(3), torch.zeros(4)), "SE(2)"),
    "kernel-nets-get": (lambda: kernel_nets.get("nonsense", 3), "kernel net"),
    "kernel-nets-get-list": (lambda: kernel_nets.get(["siren"], 3), "kernel net"),
    "kernel-nets-option": (lambda: kernel_nets.get("mlp", 3, omega0=1.0), "omega0"),
    "kernel-nets-coord-dim": (lambda: kernel_nets.get("siren", -1), "coord_dim"),
    "kernel-nets-activation": (lambda: kernel_nets.get("mlp", 3, activation="nonsense"), "activation"),
    "kernel-nets-coords": (lambda: kernel_nets.get("siren", 3)(torch.zeros(2, 4)), "coords"),
    "kernel-nets-coords-dtype": (lambda: kernel_nets.get("magnet", 3)(torch.zeros(2, 3).long()), "coords"),
    "kernel-nets-coords-none": (lambda: kernel_nets.get("siren", 3)(None), "coords"),
    "kernel-nets-pack": (lambda: packing.unpack("sin:3:4:3", torch.zeros(7)), "params"),
    "kernel-nets-spec": (lambda: packing.NetSpec.parse("sin:3"), "net_spec"),
    "sampling-get": (lambda: sampling.get("nonsense", groups.get("SE(2)"), 4), "sampler"),
    "sampling-get-list": (lambda: sampling.get(["haar"], groups.get("SE(2)"), 4), "sampler"),
    "sampling-group": (lambda: sampling.get("fixed", "SE(2)", 4), "group"),
    "sampling-n": (lambda: sampling.get("fixed", groups.get("SE(2)"), 0), "n"),
    "sampling-n-float": (lambda: sampling.get("haar", groups.get("SE(2)"), 4.0), "n"),
    "sampling-dtype": (lambda: sampling.get("haar", groups.get("SE(2)"), 4, dtype=torch.half), "dtype"),
    "sampling-compat": (lambda: sampling.get("fixed", groups.get("SE(2)"), 4, compat="v1"), "compat"),
    "sampling-compat-SE(3)": (lambda: sampling.get("fixed", groups.get("SE(3)"), 12, compat="release"), "compat"),
    "sampling-identity": (lambda: sampling.get("identity", groups.get("SE(2)"), 2), "n"),
    "sampling-learned-trivial": (lambda: sampling.get("learned", groups.get("T(2)"), 1), "T(2)"),
    "sampling-generator": (lambda: sampling.get("haar", groups.get("SE(2)"), 4)(1, generator=3), "generator"),
    "sampling-batch": (lambda: sampling.get("haar", groups.get("SE(2)"), 4, per_example=True)(-1), "batch_size"),
    "anneal-nan": (lambda: sampling.anneal(GroupConv2d(C, O, 3, sampling="subset"), float("nan")), "fraction"),
    "anneal-text": (lambda: sampling.anneal(GroupConv2d(C, O, 3, sampling="subset"), "half"), "fraction"),
    "use-backend": (lambda: pgconv.use_backend("nonsense").__enter__(), "backend"),
    "use-backend-list": (lambda: pgconv.use_backend(["cpp"]).__enter__(), "backend"),
    "backends-load": (lambda: pgconv.backends.load("nonsense"), "backend"),
    "explain-text": (lambda: pgconv.explain("conv"), "module_or_call"),
    "self-check-function": (lambda: pgconv.self_check(lambda x: x, torch.zeros(1)), "module"),
    "equivariance-module": (lambda: pgconv.diagnostics.equivariance_error(3, randn(1, C, 5, 5), "SE(2)"), "module"),
    "equivariance-group": (lambda: pgconv.diagnostics.equivariance_error(_LIFT, randn(1, C, 5, 5), "SO(2)"), "group"),
    "equivariance-images": (lambda: pgconv.diagnostics.equivariance_error(_LIFT, randn(C, 5, 5), "SE(2)"), "x"),
    "equivariance-integer": (
        lambda: pgconv.diagnostics.equivariance_error(_LIFT, randn(1, C, 5, 5).long(), "SE(2)"),
        "x",
    ),
    "equivariance-elements": (
        lambda: pgconv.diagnostics.equivariance_error(_LIFT, randn(1, C, 5, 5), "SE(2)", torch.zeros(3)),
        "elements",
    ),
    "equivariance-output": (
        lambda: pgconv.diagnostics.equivariance_error(lambda x: 3, randn(1, C, 5, 5), "SE(2)"),
        "module",
    ),
}
_LIFT = LiftingConv2d(C, O, 3, num_samples=4).eval()


@pytest.mark.parametrize("name", MORE)
def test_refused(name):
    call, word = MORE[name]
    assert_refused(call, word)


BAD_ELEMENTS = {
    "mirror-0": ("E(2)", 3, 0.0),
    "mirror-2": ("M(2)", 2, 2.0),
    "zero-quaternion": ("SE(3)", slice(3, 7), 0.0),
    "long-quaternion": ("SO(3)", 0, 3.0),
    "infinite-scale": ("Sim(2)", 3, 1e4),
    "infinite-angle": ("SE(2)", 2, float("inf")),
    "infinite-position": ("T(3)", 0, float("-inf")),
}


@pytest.mark.parametrize("which", ["v", "u"])
@pytest.mark.parametrize("name", BAD_ELEMENTS)
def test_values_that_are_not_elements(name, which):
    group, component, value = BAD_ELEMENTS[name]
    arguments = {"v": elements(group, NV), "u": elements(group, NU)}
    arguments[which] = arguments[which].clone()
    arguments[which][0, 1, component] = value
    f, head = randn(B, NV, C), randn(O, C, H)
    kernel_net = net(groups.get(group).coord_dim)
    assert_refused(lambda: functional.point_conv(f, **arguments, net=kernel_net, weight=head, group=group), which)


@pytest.mark.parametrize("values", [[-2], [NV], [-1]], ids=["below", "above", "padding-in-csr"])
def test_neighbor_values(values):
    target = next(t for t in FUNCTIONS if t.id == "point_conv")
    index = torch.tensor(values).expand(1, NU, 1)
    if values == [-1]:
        lists = (torch.arange(NU + 1), torch.tensor(values * NU))
    else:
        lists = index
    assert_refused(lambda: target.run(neighbors=lists), "neighbors", shows=values[0])


@pytest.mark.parametrize(
    "lists",
    [
        (torch.arange(NU), torch.zeros(NU, dtype=torch.long)),
        (torch.arange(NU + 1) + 1, torch.zeros(NU, dtype=torch.long)),
        (torch.arange(NU + 1).flip(0), torch.zeros(NU, dtype=torch.long)),
        (torch.arange(NU + 1), torch.zeros(NU + 2, dtype=torch.long)),
        (torch.arange(NU + 1), [0] * NU),
        (torch.arange(NU + 1),),
        "all",
    ],
    ids=["short", "from-one", "falling", "length", "list", "single", "text"],
)
def test_neighbor_lists(lists):
    target = next(t for t in FUNCTIONS if t.id == "point_conv")
    assert_refused(lambda: target.run(neighbors=lists), "neighbors", "neighbors[0]", "neighbors[1]")


@pytest.mark.parametrize(
    "offsets",
    [
        torch.tensor([0, 2]),
        torch.tensor([1, NV]),
        torch.tensor([0, 3, 2, NV]),
        torch.tensor([], dtype=torch.long),
        torch.tensor([0.0, NV]),
        (torch.tensor([0, 2, NV]), torch.tensor([0, NU])),
        (torch.tensor([0, NV]),),
        [0, NV],
        "all",
    ],
    ids=["short", "from-one", "falling", "empty", "float", "unequal-examples", "single", "list", "text"],
)
def test_offsets(offsets):
    target = next(t for t in FUNCTIONS if t.id == "point_conv")
    arguments = {
        "f": target.arguments["f"][:1],
        "neighbors": None,
        "mask": None,
        "sample_weight": None,
        "out_gate": None,
    }
    assert_refused(lambda: target.run(**arguments, offsets=offsets), "offsets", "offsets of v", "offsets of u")


def test_offsets_beside_what_they_exclude():
    target = next(t for t in FUNCTIONS if t.id == "point_conv")
    offsets = torch.tensor([0, NV]), torch.tensor([0, NU])
    assert_refused(lambda: target.run(neighbors=None, offsets=offsets), "offsets")
    index = torch.zeros(1, NU, 1, dtype=torch.long)
    assert_refused(lambda: target.run(offsets=offsets, neighbors=index), "offsets")


@pytest.mark.parametrize("target", [t for t in FUNCTIONS if "kernel_size" in t.arguments], ids=lambda t: t.id)
def test_kernel_larger_than_the_image(target):
    assert_refused(lambda: target.run(kernel_size=9, padding="valid"), "kernel_size", shows=9)
    target.run(kernel_size=9, padding="same")


SPOILED_SAMPLES = {
    "none": None,
    "tensor": torch.zeros(1, NV, 3),
    "pair-of-lists": ([1], [2]),
    "more-samples": samples(NV + 1),
    "no-samples": samples(0),
    "other-group": samples(NV, "E(2)"),
    "weights-short": Samples(samples().elements, torch.ones(1, NV - 1)),
    "weights-rank": Samples(samples().elements, torch.ones(NV)),
    "three-sets": Samples(samples().elements.expand(3, -1, -1), torch.ones(3, NV)),
    "meta": Samples(*(t.to("meta") for t in samples())),
}


@pytest.mark.parametrize("target", [t for t in LAYERS if "samples" in t.arguments], ids=lambda t: t.id)
@pytest.mark.parametrize("name", SPOILED_SAMPLES)
def test_spoiled_samples(target, name):
    gates_only = isinstance(target.call, (GroupBatchNorm2d, GroupInstanceNorm2d, GroupLayerNorm2d, GlobalGroupPool))
    if gates_only and name in ("none", "other-group"):  # statistics and pooling look at the weights alone
        return
    words = ("samples", "samples.elements", "samples.weights", "x", "f", "v", "u", "sample_weight")
    assert_refused(lambda: target.run(samples=SPOILED_SAMPLES[name]), *words)
    if hasattr(target.call, "in_channels") and name not in ("none", "more-samples", "weights-short"):
        words = ("out_samples", "out_samples.elements", "out_samples.weights", "u", "v")
        assert_refused(lambda: target.run(out_samples=SPOILED_SAMPLES[name]), *words)


UNFIT = {
    "LiftingConv2d": ("M(2)", "1 and 2", lambda g: LiftingConv2d(1, 4, 3, group=g)),
    "GroupConv2d": ("M(2)", "1 and 2", lambda g: GroupConv2d(1, 4, 3, group=g, sampling="fixed")),
    "GroupConv2d-partial": ("M(2)", "1 and 2", lambda g: GroupConv2d(1, 4, 3, group=g, partial=True)),
    "GroupConv2d-partial-nothing": ("T(2)", "SE(2)", lambda g: GroupConv2d(1, 4, 3, group=g, partial=True)),
    "GroupConv2d-input": ("M(2)", "1 and 2", lambda g: GroupConv2d(1, 4, 3, group=g, partial="input")),
    "GroupConv2d-input-nothing": ("T(2)", "SE(2)", lambda g: GroupConv2d(1, 4, 3, group=g, partial="input")),
    "PointwiseGroupConv2d": ("M(2)", "1 and 2", lambda g: PointwiseGroupConv2d(1, 4, group=g, sampling="jittered")),
    "LiftingConv2d-CKResNet": ("T(2)", "1 only", lambda g: pgconv.models.CKResNet(1, 2, group=g)),
    "Augerino": ("M(2)", "1 and 2", lambda g: pgconv.models.Augerino(torch.nn.Flatten(), group=g)),
    "Augerino-nothing": ("T(2)", "SE(2)", lambda g: pgconv.models.Augerino(torch.nn.Flatten(), group=g)),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_default_number_of_samples_that_the_group_does_not_have(case):
    """The number was not passed, so the message has to say whose it is."""
    group, way_out, build = UNFIT[case]
    with pytest.raises(ValueError) as caught:
        build(group)
    text = str(caught.value)
    assert text.startswith(f"{case.partition('-')[0]}: "), text
    for part in ("num_samples=8", f"group={group!r}", way_out):
        assert part in text, (part, text)
    assert ("partial=True" in text) == (case.startswith("GroupConv2d-partial")), text


def test_other_errors_of_samplers_name_the_layer_too():
    for options in ({"sampling": "grid"}, {"sampling": "haar", "compat": "release"}, {"sampling": "identity"}):
        with pytest.raises(ValueError, match=rf"^LiftingConv2d: sampling={options['sampling']!r}.*(choose|use)"):
            LiftingConv2d(1, 4, 3, group="SE(2)", **options)
