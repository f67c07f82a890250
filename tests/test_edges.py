"""What is not an error: an empty batch, and NaN, which comes out where it went in and nowhere else."""

from __future__ import annotations

import pytest
import torch
from mutations import CONVOLUTIONS, LAYERS, NU, NV, SIZE, B, C, H, O, elements, net, planar, randn, samples

import pgconv
from pgconv import functional, groups
from pgconv.nn import (
    GlobalGroupPool,
    GroupBatchNorm2d,
    GroupConv2d,
    LiftingConv2d,
    PointGroupConv,
    PointLift,
    SeparableGroupConv2d,
)
from pgconv.sampling import Samples

BACKENDS = pytest.mark.parametrize("backend", [None, "reference"], ids=["best", "reference"])


def _of_batch(target, count):
    """The arguments with ``count`` examples; what is shared by the batch stays."""
    return {
        name: value[:count] if isinstance(value, torch.Tensor) and name in ("f", "x", "mask") else value
        for name, value in target.arguments.items()
    }


@BACKENDS
@pytest.mark.parametrize("target", CONVOLUTIONS, ids=lambda t: t.id)
def test_empty_batch_of_a_function(target, backend):
    arguments = _of_batch(target, 0)
    for name in ("f", "v", "u", "weight"):
        if name in arguments:
            arguments[name] = arguments[name].clone().requires_grad_()
    out = target.call(**arguments, backend=backend)
    full = target.run(backend=backend)
    assert out.shape == (0, *full.shape[1:])
    out.sum().backward()
    assert arguments["f"].grad.shape == arguments["f"].shape
    assert arguments["weight"].grad.abs().sum() == 0


@BACKENDS
@pytest.mark.parametrize("target", CONVOLUTIONS, ids=lambda t: t.id)
def test_empty_batch_with_sets_per_example(target, backend):
    arguments = _of_batch(target, 0)
    for name in ("v", "u", "sample_weight", "out_gate", "neighbors"):
        if name in arguments:
            arguments[name] = arguments[name][:0]
    assert target.call(**arguments, backend=backend).shape[0] == 0


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("target", LAYERS, ids=lambda t: t.id)
def test_empty_batch_of_a_layer(target, training):
    target.call.train(training)
    try:
        out = target.call(**_of_batch(target, 0))
    finally:
        target.call.train()
    assert (out[0] if isinstance(out, tuple) else out).shape[0] == 0


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("name", "n"), [("T(2)", 1), ("SE(2)", 2), ("E(2)", 4), ("O(2)", 2), ("R+xSO(2)", 1), ("SE(3)", 12), ("SO(3)", 2)]
)
def test_lifting_nothing(name, n, training):
    lift = PointLift(name, n).train(training)
    e = lift.group.element_dim
    for batch, points in ((1, 0), (0, 3), (0, 0)):
        y, samples = lift(torch.zeros(batch, points, lift.group.spatial_dim), torch.zeros(batch, points, C))
        assert y.shape == (batch, points * n, C)
        assert samples.elements.shape == (batch, points * n, e) and samples.weights.shape == (batch, points * n)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("near", [None, pgconv.neighbors.Nearest(3), pgconv.neighbors.Within(1.0)], ids=str)
def test_no_examples_through_a_network_on_points(near, training):
    model = pgconv.models.LieResNet(C, O, num_samples=2, width=8, blocks=1, neighborhood=near).train(training)
    f = torch.zeros(0, 5, C, requires_grad=True)
    for mask in (None, torch.ones(0, 5, dtype=torch.bool)):
        y = model(torch.zeros(0, 5, 2), f, mask)
        y.sum().backward()
        assert y.shape == (0, O) and all(b.isfinite().all() for b in model.buffers())


def test_empty_batch_through_a_per_example_network():
    options = {"num_samples": 4, "samples_per_example": True}
    lift = LiftingConv2d(C, O, 3, **options)
    conv, separable = (make(O, O, 3, partial=True, **options) for make in (GroupConv2d, SeparableGroupConv2d))
    y = GlobalGroupPool()(*separable(*conv(*lift(torch.zeros(0, C, SIZE, SIZE)))))
    assert y.shape == (0, O)
    y.sum().backward()


def _finite(out):
    """Which examples of the result are finite."""
    return out.flatten(1).isfinite().all(1).tolist()


@BACKENDS
@pytest.mark.parametrize("target", CONVOLUTIONS, ids=lambda t: t.id)
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_one_bad_example_leaves_the_others_alone(target, value, backend):
    f = target.arguments["f"].clone()
    f[0, 0, 0] = value
    clean, out = target.run(backend=backend), target.run(f=f, backend=backend)
    assert _finite(out) == [False, True]
    assert torch.allclose(out[1], clean[1], rtol=1e-5, atol=1e-5)


@BACKENDS
@pytest.mark.parametrize("target", [t for t in CONVOLUTIONS if "v" in t.arguments], ids=lambda t: t.id)
def test_nan_in_one_output_element_stays_there(target, backend):
    u = target.arguments["u"].clone()
    u[0, 2] = float("nan")
    out = target.run(u=u, backend=backend)
    per_sample = out.transpose(0, 2 if out.dim() == 5 else 1).flatten(1).isfinite().all(1)
    assert per_sample.tolist() == [i != 2 for i in range(NU)]


@BACKENDS
@pytest.mark.parametrize("target", [t for t in CONVOLUTIONS if "v" in t.arguments], ids=lambda t: t.id)
def test_nan_in_elements_of_one_example_stays_there(target, backend):
    v = target.arguments["v"].expand(B, -1, -1).clone()
    v[1] = float("nan")
    assert _finite(target.run(v=v, backend=backend)) == [True, False]


@BACKENDS
@pytest.mark.parametrize("target", CONVOLUTIONS, ids=lambda t: t.id)
def test_nan_in_the_head_stays_in_its_output_channel(target, backend):
    weight = target.arguments["weight"].clone()
    weight[1] = float("nan")
    out = target.run(weight=weight, backend=backend)
    channels = out.transpose(0, 1 if out.dim() == 5 else 2).flatten(1).isfinite().all(1)
    assert channels.tolist() == [i != 1 for i in range(len(channels))]


@BACKENDS
def test_masked_points_may_hold_anything(backend):
    """A point that does not exist is not read: NaN there changes nothing, also in the gradient."""
    f = randn(B, NV, C)
    mask = torch.tensor([[True, True, False, True]] * B)
    options = {
        "u": elements("SE(2)", NU),
        "net": net(3),
        "weight": randn(O, C, H),
        "group": "SE(2)",
        "backend": backend,
    }
    v = elements("SE(2)", NV)
    clean = functional.point_conv(f, v, mask=mask, **options)
    f[:, 2] = float("nan")
    f.requires_grad_()
    out = functional.point_conv(f, v, mask=mask, **options)
    assert torch.equal(out, clean)
    (grad,) = torch.autograd.grad(out.sum(), f)
    assert grad.isfinite().all() and grad[:, 2].abs().max() == 0


def test_nothing_to_average_gives_zero():
    f, v = randn(B, NV, C), elements("SE(2)", NV)
    weight = randn(O, C, H).requires_grad_()
    mask = torch.tensor([[False] * NV, [True] * NV])
    out = functional.point_conv(f, v, v, net(3), weight, group="SE(2)", mask=mask)
    assert out[0].abs().max() == 0 and out[1].abs().max() > 0
    out.sum().backward()
    assert weight.grad.isfinite().all()
    maps = functional.group_conv2d(
        randn(B, C, NV, SIZE, SIZE),
        planar("SE(2)", NV),
        planar("SE(2)", NU),
        net(3),
        weight,
        group="SE(2)",
        kernel_size=3,
        sample_weight=torch.zeros(1, NV),
    )
    assert maps.abs().max() == 0


def test_nan_example_in_layers():
    lift = LiftingConv2d(C, O, 3, num_samples=NV)
    conv = GroupConv2d(O, O, 3, partial=True)
    norm = GroupBatchNorm2d(O).eval()
    x = randn(B, C, SIZE, SIZE)
    x[0, 1, 2, 3] = float("nan")
    y, s = lift(x)
    y, s = conv(norm(y, s), s)
    assert _finite(y) == _finite(GlobalGroupPool("max")(y, s)) == [False, True]


def test_nan_in_a_point_spreads_to_its_own_example_only():
    lift, conv = PointLift("SE(3)"), PointGroupConv(C, O, "SE(3)")
    x, f = randn(B, 5, 3), randn(B, 5, C)
    x[1, 0, 0] = float("nan")
    assert _finite(conv(*lift(x, f))[0]) == [True, False]


@pytest.mark.parametrize("kernel_size", [1, 3, 7, 13])
def test_one_pixel_images(kernel_size):
    """Every tap but the centre reads padding."""
    lift = LiftingConv2d(C, O, kernel_size, num_samples=3)
    y, s = lift(randn(B, C, 1, 1))
    z, _ = GroupConv2d(O, O, kernel_size)(y, s)
    assert y.shape == z.shape == (B, O, 3, 1, 1) and z.isfinite().all()


def test_noncontiguous_inputs_give_the_same():
    f = randn(B, SIZE, NV, C, SIZE).permute(0, 3, 2, 1, 4)
    u = planar("E(2)", 2 * NV)[:, ::2]
    weight = randn(H, C, O).permute(2, 1, 0)
    call = lambda f, u, weight: functional.group_conv2d(  # noqa: E731
        f, u, u, kernel_net, weight, group="E(2)", kernel_size=3
    )
    kernel_net = net(groups.get("E(2)").coord_dim)
    out = call(f.contiguous(), u.contiguous(), weight.contiguous())
    assert torch.allclose(call(f, u, weight), out, rtol=1e-5, atol=1e-6)


def test_meta_tensors_give_shapes_without_values():
    target = next(t for t in CONVOLUTIONS if t.id == "group_conv2d")
    moved = {k: a.to("meta") if isinstance(a, torch.Tensor) else a for k, a in target.arguments.items()}
    moved["net"] = net(3).to("meta")
    out = target.call(**moved)
    assert out.device.type == "meta" and out.shape == target.run().shape


def test_elements_and_weights_are_not_changed():
    s = samples()
    before = Samples(*(t.clone() for t in s))
    x = randn(B, C, NV, SIZE, SIZE)
    kept = x.clone()
    with pgconv.use_backend(None):
        GroupConv2d(C, O, 3, partial=True)(x, s)
    assert torch.equal(x, kept) and all(torch.equal(a, b) for a, b in zip(s, before))
