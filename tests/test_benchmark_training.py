"""The benchmark of training steps: every way is the way it says, and takes the same steps."""

import csv

import pytest
import torch

import pgconv
from benchmarks import memory, training
from benchmarks.group_conv2d import baselines
from pgconv.ops import dispatch

RUN = "digits6-180-se2-partial"


def test_ways_are_what_they_say(monkeypatch):
    own, called = pgconv.ops.group_conv2d, []
    monkeypatch.setattr(baselines, "materialised", lambda *operands: called.append(operands))
    for way, plan in (("fused", "auto:auto"), ("materialize", "auto:materialize"), ("pytorch", "reference:auto")):
        with training.WAYS[way]():
            assert dispatch.request("group_conv2d") == plan
            assert (pgconv.ops.group_conv2d is own) == (way != "pytorch")
    with pytest.raises(ZeroDivisionError), training.WAYS["pytorch"]():
        raise ZeroDivisionError
    assert pgconv.ops.group_conv2d is own and dispatch.request("group_conv2d") == "auto:auto"
    torch.manual_seed(0)
    with training.WAYS["pytorch"]():
        conv = pgconv.nn.LiftingConv2d(1, 2, kernel_size=3, group="SE(2)", num_samples=2)
        with pytest.raises(AttributeError):
            conv(torch.randn(1, 1, 4, 4))
    assert len(called) == 1


def test_all_ways_take_the_same_steps():
    rows = list(training.losses(RUN, 4, 4, []))
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        want = row["float64"]
        assert all(row[way] == pytest.approx(want, rel=1e-4) for way in training.WAYS)
    assert len({row["fused"] for row in rows}) == 4, "images differ from step to step"
    whole = list(training.losses(RUN, 4, 2, ["schedule=constant"]))
    assert whole[0]["fused"] == rows[0]["fused"] and whole[1]["fused"] != rows[1]["fused"], "the first rate is not 0"
    text = training.differences([{"case": "x", "fused": 1.0, "materialize": 1.5, "pytorch": 1.0, "float64": 1.25}])
    assert "fused - float64 2.5e-01" in text and "fused - materialize 5.0e-01" in text


def test_rows_of_times_memory_and_losses(tmp_path, capsys):
    times, losses = tmp_path / "times.csv", tmp_path / "losses.csv"
    command = ["--runs", RUN, "--batch", "2", "--rounds", "1", "--losses", "2", "--losses-batch", "2"]
    assert training.main([*command, "--csv", str(times), "--losses-csv", str(losses)]) == 0
    rows, curves = ([*csv.DictReader(path.open(encoding="utf-8"))] for path in (times, losses))
    assert [row["implementation"] for row in rows] == list(training.WAYS) and len(curves) == 2
    by_way = {row["implementation"]: row for row in rows}
    for row in rows:
        assert set(row) == set(training.COLUMNS) and float(row["extra_mb"]) > 0 and float(row["live_mb"]) > 0
        ratio = float(by_way["pytorch"]["median_ms"]) / float(row["median_ms"])
        assert float(row["over_pytorch"]) == pytest.approx(ratio)
    assert "2 losses from" in capsys.readouterr().out
    assert training.main(["--list"]) == 0 and capsys.readouterr().out.split() == list(training.RUNS)


def test_stored_results_are_those_of_the_command():
    stored = sorted((memory.ROOT / "benchmarks" / "results").glob("*-training*.csv"))
    assert stored
    for path in stored:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert {row["case"] for row in rows} <= set(training.RUNS)
        if path.stem.endswith("-losses"):
            assert set(rows[0]) == {"case", "batch", "step", *training.WAYS, "float64"}
            continue
        assert set(rows[0]) == set(training.COLUMNS)
        for fused, *others in (rows[at : at + len(training.WAYS)] for at in range(0, len(rows), len(training.WAYS))):
            assert [row["implementation"] for row in (fused, *others)] == list(training.WAYS)
            for row in others:
                ratio = float(row["median_ms"]) / float(fused["median_ms"])
                assert float(fused["over_" + row["implementation"]]) == pytest.approx(ratio)
