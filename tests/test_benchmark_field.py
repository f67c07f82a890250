"""Other people's libraries in the benchmarks, by stand-ins: they run when named, their results are checked as far as they can be,
and rows say what differs."""

from dataclasses import replace
from types import ModuleType

import pytest
import torch
from benchmark_suites import CLOUD, IMAGES, POINTS, QUICK, SUITES, TINY
from torch import nn

from benchmarks import engine, gate, group_conv2d, implementations, memory, point_conv, suite
from benchmarks.group_conv2d import escnn
from benchmarks.implementations import Implementation, Skipped
from benchmarks.point_conv import message_passing
from benchmarks.report import Report

SQUARE = replace(TINY, nu=3)


class FieldType:
    def __init__(self, space, fields):
        self.channels = sum(fields)


class GeometricTensor:
    def __init__(self, tensor, type):
        assert tensor.shape[1] == type.channels
        self.tensor = tensor


class R2Conv(nn.Module):
    """Two basis windows, a coefficient for each and every pair of channels."""

    def __init__(self, source, target, kernel, padding, bias, initialize):
        super().__init__()
        assert bias and not initialize
        self.pairs, self.padding = (target.channels, source.channels), padding
        self.weights = nn.Parameter(torch.zeros(2 * target.channels * source.channels))
        self.bias = nn.Parameter(torch.zeros(target.channels // 3))
        self.register_buffer("basis", torch.stack([torch.ones(kernel**2), torch.arange(float(kernel**2))]))

    def forward(self, x):
        window = self.weights.reshape(*self.pairs, 2) @ self.basis
        kernel = int(self.basis.shape[1] ** 0.5)
        bias = self.bias.repeat_interleave(3)
        out = torch.conv2d(x.tensor, window.reshape(*self.pairs, kernel, kernel), bias, padding=self.padding)
        return GeometricTensor(out, FieldType(None, [out.shape[1]]))


class NNConv(nn.Module):
    def __init__(self, inputs, outputs, network, aggr, root_weight, bias):
        super().__init__()
        assert aggr == "add" and not root_weight and not bias
        self.sizes, self.nn = (inputs, outputs), network

    def forward(self, x, edges, attributes, size):
        messages = (x[0][edges[0]][:, None] @ self.nn(attributes).reshape(-1, *self.sizes))[:, 0]
        return messages.new_zeros(size[1], self.sizes[1]).index_add(0, edges[1], messages)


class PointNetConv(nn.Module):
    def __init__(self, add_self_loops):
        super().__init__()
        assert not add_self_loops

    def forward(self, x, pos, edges):
        messages = self.local_nn(torch.cat([x[0][edges[0]], pos[0][edges[0]] - pos[1][edges[1]]], 1))
        count = pos[1].shape[0]
        # Every output has as many edges, one after the other.
        return messages.reshape(count, -1, messages.shape[1]).amax(1)


@pytest.fixture
def libraries(monkeypatch):
    """Both as stand-ins of version 9."""
    space = ModuleType("space")
    space.trivial_repr = 1
    space.regular_repr = 3

    def module(name, **contents):
        made = ModuleType(name)
        made.__dict__.update(contents)
        monkeypatch.setitem(__import__("sys").modules, name, made)

    for name in ("lie_learn", "escnn"):
        module(name, __version__="9")
    module("escnn.gspaces", rot2dOnR2=lambda count: space)
    module("escnn.nn", FieldType=FieldType, GeometricTensor=GeometricTensor, R2Conv=R2Conv)
    module("torch_geometric", __version__="9")
    module("torch_geometric.nn", NNConv=NNConv, PointNetConv=PointNetConv)
    monkeypatch.setattr(suite.metadata, "version", _unknown)
    escnn._layer.cache_clear()
    yield
    escnn._layer.cache_clear()


def _unknown(name):
    raise suite.metadata.PackageNotFoundError(name)


def _way(of, name):
    (found,) = (way for way in of.optional if way.name == name)
    return found


def test_others_run_when_named_and_say_when_they_are_missing(monkeypatch):
    monkeypatch.setattr(suite, "installed", lambda module: False)
    for of, case in zip(SUITES, (SQUARE, CLOUD)):
        usual = [way.name for way in of.baselines]
        assert [way.name for way in implementations.named(of, "all")] == usual
        names = [way.name for way in of.optional]
        assert [way.name for way in implementations.named(of, ",".join(["all", *names]))] == usual + names
        for way in of.optional:
            (found, _) = implementations.select(of, case, "best", way.name)
            assert found == Skipped(way.name, "", f"{way.module} is not installed")
    (row, *_) = engine.measure(SUITES[0], SQUARE, 1, replace(QUICK, baselines="escnn")).rows
    assert row["note"] == "not run: escnn is not installed" and row["median_ms"] is None


def test_a_layer_that_differs_says_so_and_is_no_best_baseline(libraries):
    outcome = engine.measure(SUITES[0], SQUARE, 1, replace(QUICK, baselines="materialised,escnn"))
    assert not outcome.failures and len(outcome.rows) == 6
    for plain, other, ours in (outcome.rows[:3], outcome.rows[3:]):
        assert other["implementation"] == "escnn" and other["note"] == f"escnn 9: {escnn.DIFFERS}"
        assert other["error"] is None and plain["error"] is not None and not plain["note"]
        assert ours["over_escnn"] == pytest.approx(other["median_ms"] / ours["median_ms"])
        assert ours["over_best"] == pytest.approx(plain["median_ms"] / ours["median_ms"])
        assert other["gflop"] > 0
    assert "escnn 9: not the same sum" in Report.of(SUITES[0]).text(outcome.rows)


def test_the_layer_is_called_with_its_own_operands_and_equal_shapes(libraries):
    way = implementations.baseline(_way(SUITES[0], "escnn"), SQUARE)
    operands, cotangent = way.inputs(SQUARE)
    f, coefficients, bias = operands
    assert torch.equal(f, SQUARE.operands()[0]) and coefficients.numel() == 2 * 6 * 9 and bias.numel() == 2
    out = way.bind(SQUARE.static)(*operands)
    assert out.shape == cotangent.shape == (2, 2, 3, 5, 6)
    window = (coefficients.reshape(6, 9, 2) @ torch.stack([torch.ones(9), torch.arange(9.0)])).reshape(6, 9, 3, 3)
    exact = torch.conv2d(f.flatten(1, 2), window, bias.repeat_interleave(3), padding=1)
    torch.testing.assert_close(out, exact.reshape(out.shape))
    dense = 2 * 2 * 30 * 6 * 9 * 9
    assert way.flops == dense + 2 * coefficients.numel() * 9 * 9
    lifting = replace(SQUARE, nv=1)
    (f, *_), _ = (lifted := implementations.baseline(_way(SUITES[0], "escnn"), lifting)).inputs(lifting)
    assert f.shape[2] == 1 and gate.Gate(SUITES[0], lifting).check(lifted).wrong is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"per_example": True}, "all images"),
        ({"nv": 2}, "as many samples"),
        ({"dtype": "bfloat16"}, "float32 alone"),
        ({"inputs": 10**8}, "above the limit"),
    ],
)
def test_the_layer_says_why_not(change, words):
    assert words in escnn.refuses(replace(SQUARE, **change))
    assert escnn.refuses(SQUARE) is None


def test_what_differs_must_still_run(libraries, monkeypatch):
    check = gate.Gate(SUITES[0], SQUARE)
    way = implementations.baseline(_way(SUITES[0], "escnn"), SQUARE)
    assert check.check(way).wrong is None
    assert "shape" in check.check(replace(way, function=lambda *call: way.function(*call)[:, :1])).wrong
    assert "out" in check.check(replace(way, function=lambda *call: way.function(*call) * float("nan"))).wrong
    unused = replace(
        way, function=lambda f, c, b, walk: way.function(f, c, b, walk) + 0 * c.sum() - way.function(f, c, b, walk)
    )
    assert "zero or not finite" in check.check(unused).wrong
    assert "raised" in check.check(replace(way, function=lambda f, *others: f.nonsense)).wrong
    with pytest.raises(ValueError, match="operands of its own"):
        replace(_way(SUITES[0], "escnn"), own=None)


def test_a_missing_package_of_rotations_in_space_is_no_obstacle(libraries, monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "lie_learn")
    monkeypatch.setattr(escnn, "installed", lambda module: False)
    for end in (1, 2, 3, 4):
        name = ".".join(escnn._WIGNER.split(".")[:end])
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.delitem(sys.modules, name)
    try:
        assert escnn.load()[1].R2Conv is R2Conv
        assert sys.modules[escnn._WIGNER].wigner_D_matrix is None
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "lie_learn"]:
            del sys.modules[name]


@pytest.mark.parametrize("case", [case for case in POINTS if not case.depthwise], ids=lambda case: case.name)
def test_edge_matrices_equal_the_reference(libraries, case):
    of = point_conv.SUITE
    exact = gate.evaluate(gate.reference(of), case, torch.float64)
    found = gate.evaluate(_way(of, "nnconv").make(), case, torch.float64)
    assert max(gate.errors(found, exact).values()) < 1e-12


def test_points_in_rows(libraries):
    outcome = engine.measure(SUITES[1], POINTS[2], 1, replace(QUICK, baselines="eager,nnconv,pointnet"))
    assert not outcome.failures
    for _, exact, other, ours in (outcome.rows[:4], outcome.rows[4:]):
        assert exact["error"] < 1e-4 and exact["note"] == "torch_geometric 9"
        assert other["note"] == f"torch_geometric 9: {message_passing.DIFFERS}" and other["error"] is None
        assert ours["over_nnconv"] > 0 and ours["over_pointnet"] > 0


def test_pointnet_against_a_loop(libraries):
    case = replace(CLOUD, neighbors=3)
    way = implementations.baseline(_way(point_conv.SUITE, "pointnet"), case)
    assert isinstance(way, Implementation)
    (f, v, u, params, weight), _ = way.inputs(case)
    out = way.bind(case.static)(f, v, u, params, weight)
    w1, b1, w2, b2 = (x.reshape(s) for x, s in zip(params.split([36, 6, 36, 6]), ((6, 6), (6,), (6, 6), (6,))))
    for b, i in ((0, 0), (1, 4)):
        messages = []
        for j in case.static.neighbors[b, i]:
            x = torch.cat([f[b, j], v[b, j] - u[b, i]])
            messages.append(weight @ torch.relu(w2 @ torch.relu(w1 @ x + b1) + b2))
        torch.testing.assert_close(out[b, i], torch.stack(messages).amax(0))


def test_edges_say_why_not():
    nnconv, pointnet = point_conv.SUITE.optional
    lists = next(case for case in point_conv.CASES if case.neighbors)
    assert nnconv.refuses(lists) is None and pointnet.refuses(lists) is None
    assert "above the limit" in nnconv.refuses(point_conv.CASES[0])
    assert "mixes" in nnconv.refuses(replace(lists, depthwise=True))
    # 2 examples of 5 outputs with 7 inputs, 6 features, 3 to 4 channels in space.
    assert nnconv.flops(CLOUD) == 2 * 70 * (6 * (3 + 6) + (6 + 1) * 12)
    assert pointnet.flops(CLOUD) == 2 * 70 * 6 * (3 + 3 + 6 + 4)


def test_bytes_that_any_way_moves():
    for case in (*IMAGES, *POINTS):
        operands, result = case.sizes
        assert operands == sum(x.nbytes for x in case.operands()) and result == case.cotangent().nbytes
        assert case.moved("forward") == operands + result
        assert case.moved("forward+backward") == 3 * operands + 2 * result


def test_memory_of_another_process_knows_them(monkeypatch):
    """What a process is told is enough to make the way again."""
    monkeypatch.setattr(suite, "installed", lambda module: False)
    with pytest.raises(ValueError, match="escnn is not installed"):
        memory.measure(group_conv2d.SUITE, SQUARE, "escnn", "", 1)
