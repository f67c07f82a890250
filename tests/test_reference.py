"""The reference backend against nested loops over the formulas, for every group, chart, form and option."""

import math

import numpy as np
import oracles
import pytest
import torch
from cases import GROUP_CASES, IMAGE_CASES, POINT_CASES, Call, build, params

import pgconv
from pgconv import groups
from pgconv.spec import ORDERS, ConvGeometry


def assert_close(found, expected, tolerance=1e-10):
    """Largest difference relative to the largest expected value."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    assert found.shape == expected.shape
    scale = expected.abs().max().item() if expected.numel() else 0.0
    assert (found - expected).abs().max().item() <= tolerance * (scale or 1.0) if expected.numel() else True


@pytest.mark.parametrize("case", params(GROUP_CASES, IMAGE_CASES, POINT_CASES))
def test_equals_nested_loops(case):
    call = build(case)
    with torch.no_grad():
        assert_close(call(backend="reference"), oracles.evaluate(call))


ORDER_CASES = params(
    tuple(c for c in IMAGE_CASES if c.op in ("group_conv2d", "lifting_conv2d", "pointwise_group_conv"))
)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", ORDER_CASES)
def test_every_order_is_the_same_sum(case, order):
    call = build(case)
    with torch.no_grad():
        expected = call(backend="reference", plan="direct")
        assert_close(call(backend="reference", plan=order), expected, 1e-12)


@pytest.mark.parametrize(("size", "count"), [(1, 1), (3, 5), (5, 13), (7, 29), (9, 49), (11, 81)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_disc_has_the_same_taps_for_every_rotation(size, count, dtype):
    """With the kernel constant 1 the response at the centre of an image of ones counts the taps."""
    assert len(ConvGeometry.make("test", size, 1, "same", 1, "disc").taps()) == count
    net = pgconv.kernel_nets.SIREN(2, hidden=2).to(dtype)
    u = torch.zeros(1, 50, 3, dtype=dtype)
    u[..., 2] = torch.rand(50, generator=torch.Generator().manual_seed(size)) * 6
    out = pgconv.functional.lifting_conv2d(
        torch.ones(1, 1, size, size, dtype=dtype), u, net, torch.zeros(1, 1, 2, dtype=dtype),
        torch.ones(1, 1, dtype=dtype), group="SE(2)", kernel_size=size, padding="valid", backend="reference",
    )  # fmt: skip
    assert torch.equal(out.flatten(), torch.full((50,), float(count), dtype=dtype))


def clockwise(angle, mirror):
    """(matrix on (row, col), element of this library) of the element diag(1, m) R(a), a clockwise."""
    matrix = np.diag([1, mirror]) @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    x_y = np.array([[0, 1], [-1, 0]]) @ matrix @ np.array([[0, -1], [1, 0]])
    return matrix, math.atan2(x_y[1, 0], x_y[0, 0])


@pytest.mark.parametrize("sets", [1, 2], ids=["S=1", "S=B"])
@pytest.mark.parametrize("group", ["T(2)", "SE(2)", "E(2)"])
def test_explicit_double_loop_of_the_paper(group, sets):
    """out = bias + sum_j sum_d K(R(u_i)^-1 d/c, coord(u_i^-1 v_j)) f[.., p+d] in (row, col) with clockwise angles."""
    rng = np.random.default_rng(5)
    batch, channels, out_channels, nv, nu, k, size = 2, 2, 3, 5, 3, 7, 8
    rotates, mirrors = group != "T(2)", group == "E(2)"

    def draw(n):
        angles = rng.uniform(0, 2 * math.pi, (sets, n)) * rotates
        return angles, rng.choice([-1.0, 1.0], (sets, n)) if mirrors else np.ones((sets, n))

    def ours(angles, marks):
        angle = np.vectorize(lambda a, m: clockwise(a, m)[1])(angles, marks)
        parts = [np.zeros((sets, angles.shape[1], 2))]
        parts += [angle[..., None]] * rotates + [marks[..., None]] * mirrors
        return torch.from_numpy(np.concatenate(parts, -1))

    (va, vm), (ua, um) = draw(nv), draw(nu)
    torch.manual_seed(0)
    net = pgconv.kernel_nets.SIREN(groups.get(group).coord_dim_of("release"), hidden=4).double()
    weight, kernel_bias = torch.randn(out_channels, channels, 4).double(), torch.randn(out_channels, channels).double()
    f, bias = torch.from_numpy(rng.normal(size=(batch, channels, nv, size, size))), rng.normal(size=out_channels)
    found = pgconv.functional.group_conv2d(
        f, ours(va, vm), ours(ua, um), net, weight, kernel_bias, group=group, kernel_size=k,
        form="correlation", chart="release", reduction="sum", backend="reference",
    )  # fmt: skip
    expected = np.zeros(found.shape) + bias[:, None, None, None]
    grid = np.linspace(-1, 1, k)
    signal = np.pad(f.numpy(), [(0, 0)] * 3 + [(3, 3)] * 2)
    for s in range(sets):
        for i in range(nu):
            matrix, _ = clockwise(ua[s, i], um[s, i])
            for j in range(nv):
                # Product of the paper: (a1, m1)(a2, m2) = (a2 + m2 a1, m1 m2), inverse (-m a, m).
                angle = va[s, j] - vm[s, j] * um[s, i] * ua[s, i]
                for row in range(k):
                    for col in range(k):
                        if (row - 3) ** 2 + (col - 3) ** 2 > 9:
                            continue
                        z = list(np.linalg.inv(matrix) @ [grid[row], grid[col]])
                        z += [angle % (2 * math.pi) / math.pi - 1] * rotates + [um[s, i] * vm[s, j]] * mirrors
                        value = weight.numpy() @ oracles.features(net, np.array(z)) + kernel_bias.numpy()
                        window = signal[:, :, j, row : row + size, col : col + size]
                        term = np.einsum("oc,bcyx->boyx", value, window)
                        for b in range(batch) if sets == 1 else [s]:
                            expected[b, :, i] += term[b]
    assert_close(found.detach() + torch.from_numpy(bias)[:, None, None, None], expected)


EITHER = pytest.mark.parametrize("backend", [None, "reference"], ids=["best", "reference"])
RUNS = params(tuple(c for c in (*IMAGE_CASES, *POINT_CASES) if c.id in (
    "k3", "sets-both-each", "weights-each-shared-elements", "gate-each-elements-each", "lifting", "pointwise", "own-group",
    "depthwise-lifting", "dense", "dense-both-each", "dense-own-group", "padded-each", "csr-weights-mask-each", "csr-each",
)))  # fmt: skip


@EITHER
@pytest.mark.parametrize("case", RUNS)
def test_layout_in_memory_does_not_matter(case, backend):
    call = build(case)
    expected = call(backend=backend)
    for name, x in call.tensors.items():
        # Axes in reverse order, and every second number of memory is a stranger's.
        reverse = tuple(reversed(range(x.dim())))
        storage = torch.full((*x.permute(reverse).shape, 2), math.nan, dtype=x.dtype)
        call.tensors[name] = storage[..., 0].permute(reverse).copy_(x)
        assert call.tensors[name].numel() < 2 or not call.tensors[name].is_contiguous()
    assert_close(call(backend=backend), expected.detach(), 1e-12)


def without_examples(call: Call, keep_shared: bool) -> Call:
    """The call with no example in its batch; shared tensors keep their set, or lose it too."""
    small = call.to(torch.float64, grad=True)
    batch = call.tensors["f"].shape[0]
    for name, x in small.tensors.items():
        if "weight" in name and name != "sample_weight":
            continue
        if x.shape[0] == batch or not keep_shared:
            small.tensors[name] = x.detach()[:0].requires_grad_()
    for name in ("mask", "neighbors"):
        value = small.options.get(name)
        if isinstance(value, tuple) and value[0].shape[0] != small.tensors["u"].shape[1] + 1:
            small.options = small.options | {name: (value[0][:1], value[1][:0])}
        elif isinstance(value, torch.Tensor) and value.shape[0] == batch:
            small.options = small.options | {name: value[:0]}
    return small


@EITHER
@pytest.mark.parametrize("keep_shared", [True, False], ids=["shared-sets", "no-sets"])
@pytest.mark.parametrize("case", RUNS)
def test_empty_batch(case, keep_shared, backend):
    call = build(case)
    shape = call(backend=backend).shape
    small = without_examples(call, keep_shared)
    out = small(backend=backend)
    assert out.shape == (0, *shape[1:])
    leaves = small.leaves()
    grads = torch.autograd.grad(out.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    for (name, leaf), grad in zip(leaves.items(), grads):
        assert grad.shape == leaf.shape, name
        assert not grad.any(), name


@EITHER
@pytest.mark.parametrize("case", RUNS)
@pytest.mark.parametrize("name", ["f", "u", "weight", "net"])
def test_nan_in_gives_nan_out(case, name, backend):
    call = build(case).to(torch.float64)
    call.options.pop("mask", None)
    clean = call(backend=backend).detach()
    target = next(call.net.parameters()) if name == "net" else call.tensors[name]
    with torch.no_grad():
        target.view(-1)[-1] = math.nan
        out = call(backend=backend)
    assert clean.isfinite().all()
    assert out.isnan().any()


@EITHER
@pytest.mark.parametrize(
    "id",
    [
        "dense-mask",
        "dense-mask-weights-sum",
        "dense-depthwise-no-bias-mask",
        "padded-weights-mask-each",
        "csr-each-weights-mask-each",
    ],
)
def test_masked_points_may_hold_nan(id, backend):
    call = build(next(c for c in POINT_CASES if c.id == id)).to(torch.float64, grad=True)
    expected = call(backend=backend)
    expected.sum().backward()
    spoiled = call.to(torch.float64, grad=True)
    with torch.no_grad():
        spoiled.tensors["f"][~call.options["mask"]] = math.nan
    out = spoiled(backend=backend)
    out.sum().backward()
    assert_close(out.detach(), expected.detach(), 1e-15)
    for (name, x), y in zip(call.leaves().items(), spoiled.leaves().values()):
        assert torch.equal(x.grad, y.grad), name


@EITHER
@pytest.mark.parametrize("id", ["weights-zero", "dense-weights-zero", "padded-weights-zero", "csr-each-weights-zero"])
def test_nothing_to_average_is_zero_with_zero_gradient(id, backend):
    call = build(next(c for c in (*IMAGE_CASES, *POINT_CASES) if c.id == id)).to(torch.float64, grad=True)
    out = call(backend=backend)
    assert not out.any()
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in call.leaves().values())
