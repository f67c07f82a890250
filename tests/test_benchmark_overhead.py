"""The benchmark of overhead: everything is in it, its parts add up, and what is above the goal is named."""

import csv

import pytest
import torch

from benchmarks import __main__ as benchmarks
from benchmarks import memory, overhead, timing
from benchmarks.overhead import calls, processes
from pgconv import nn
from pgconv.ops._define import FAMILIES


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)


def test_every_operator_and_layer_is_here():
    assert set(calls.operands()) == set(FAMILIES)
    assert set(calls.layers()) == set(nn.__all__)
    assert len(calls.table()) == len(FAMILIES) + len(nn.__all__) + 4


@pytest.mark.parametrize("name", calls.table())
def test_recorded_calls_have_a_graph_and_others_none(name):
    call = calls.table()[name]()
    results = {direction: function() for direction, function in call.directions.items()}
    first = {way: x if isinstance(x, torch.Tensor) else x[0] for way, x in results.items()}
    assert not first["forward"].requires_grad
    assert first["recorded"].requires_grad == ("forward+backward" in call.directions)
    assert call.kind == "layer" or first["recorded"].grad_fn is not None
    assert name == "PointLift" or any(x is not None and x.abs().sum() > 0 for x in results["forward+backward"])
    for function in call.parts.values():
        assert function() is not None


def test_the_backend_alone_computes_the_same():
    for name in FAMILIES:
        call = calls.operation(name)
        assert torch.equal(call.parts["kernel"](), call.directions["forward"]())
        assert str(call.parts["planning"]()) == call.plan


def test_parts_add_up():
    row = overhead.split({"kernel": 5.0, "planning": 3.0, "operator": 20.0}, 32.0)
    assert row == {"kernel_us": 5.0, "planning_us": 3.0, "operator_us": 12.0, "autograd_us": 12.0}
    assert list(row) == [f"{name}_us" for name in calls.PARTS]


def test_what_is_above_the_goal_is_named_with_its_largest_part():
    row = {"case": "x", "goal_us": 25.0, "median_ms": 0.026} | overhead.split(
        {"kernel": 5.0, "planning": 3.0, "operator": 20.0}, 26.0
    )
    assert overhead.above([row]) == ["x: 26.0 us, goal 25 us; most is operator, 12.0 us"]
    assert overhead.above([row | {"median_ms": 0.025}, row | {"goal_us": None}]) == []


def test_rows_of_the_command(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    arguments = ["--processes", "0", "--rounds", "2", "--threads", "1", "--filter", "point_conv,PointGroup,linear"]
    assert benchmarks.main(["overhead", *arguments, "--csv", str(path)]) == 0
    text = capsys.readouterr().out
    assert "planning" in text and ("no operator is above" in text or "most is" in text)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == overhead.COLUMNS and {row["threads"] for row in rows} == {"1"}
    assert [(row["case"], row["implementation"], row["direction"]) for row in rows] == [
        (name, kind, way)
        for name, kind in (("point_conv", "op"), ("PointGroupConv", "layer"), ("linear", "pytorch"))
        for way in ("forward", "recorded", "forward+backward")
    ]
    for row in rows:
        assert 0 < float(row["q20_ms"]) <= float(row["median_ms"]) <= float(row["q80_ms"])
        split = row["case"] == "point_conv" and row["direction"] == "recorded"
        assert bool(row["goal_us"]) == split
        if split:
            parts = sum(float(row[f"{name}_us"]) for name in calls.PARTS)
            assert parts == pytest.approx(1e3 * float(row["median_ms"]))
    with pytest.raises(SystemExit):
        overhead.main(["--filter", "nonsense"])
    assert overhead.main(["--list"]) == 0
    assert {"import", *processes.FIRST, *calls.table()} == set(capsys.readouterr().out.splitlines())


def test_imports_take_turns_after_one_of_each_that_is_not_counted():
    asked = []

    def ask(*arguments):
        with_pgconv = "import pgconv" in arguments[1]
        asked.append(with_pgconv)
        return [9.0, 9.0] if len(asked) <= 2 else [2.0, 0.5 if with_pgconv else 0.0]

    found = processes.importing(2, ask)
    assert asked == [False, True] * 3
    assert found == {"import torch": [2.0, 2.0], "pgconv after torch": [0.5, 0.5], "import pgconv": [2.5, 2.5]}


def test_rows_of_processes(monkeypatch):
    monkeypatch.setattr(processes, "importing", lambda rounds: {"import torch": [2.0] * rounds})
    monkeypatch.setattr(processes, "first", lambda name, rounds: {"first call": [0.25] * rounds})
    rows = overhead.of_processes(3, [processes.IMPORT, "first point_conv"])
    assert [(row["case"], row["implementation"], row["median_ms"], row["rounds"]) for row in rows] == [
        ("import", "pytorch", 2000, 3),
        ("first point_conv", "process", 250, 3),
    ]


def test_a_fresh_process_loads_on_its_first_call():
    found = processes.first("first group_conv2d", 1)
    assert 0 < found["second call"][0] < found["first call"][0]


def test_stored_results_are_those_of_the_command():
    for path in sorted((memory.ROOT / "benchmarks" / "results").glob("*-overhead.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert tuple(rows[0]) == overhead.COLUMNS
        names = {processes.IMPORT, *processes.FIRST, *calls.table()}
        assert {row["case"] for row in rows} == names and all(row["cpu"] and row["pgconv"] for row in rows)
