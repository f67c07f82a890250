"""The benchmarks: names, baselines equal to the reference, complete rows, and a gate that times nothing wrong."""

import csv
import dataclasses
import itertools
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import baselines, features, gate, group_conv2d, implementations, machine, memory, report, timing
from benchmarks.baselines import BASELINES
from benchmarks.cases import CASES, OPERANDS, Case, shrink
from benchmarks.implementations import Implementation, Skipped
from pgconv.spec import ConvGeometry

TINY = Case(
    "tiny", "no network", False, batch=2, inputs=3, outputs=2, nv=3, nu=2, kernel=3, hidden=4, height=5, width=6
)
TABLE = (
    TINY,
    replace(TINY, batch=1, bias=True),
    replace(TINY, per_example=True),
    replace(TINY, kernel=7, height=7, width=7, padding="valid"),
    replace(TINY, kernel=7, height=7, width=7, padding="valid", per_example=True),
    replace(TINY, kernel=1, hidden=1),
    replace(TINY, inputs=1, nv=1, kernel=5, needs=("phi", "weight")),
)
QUICK = group_conv2d.Settings(rounds=2, baselines="materialised,factored,disc", memory=False)


def _names(table):
    return [case.name for case in table]


@pytest.fixture
def quick_main(monkeypatch):
    """The command on the tiny table, with samples too short to mean anything."""
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(machine, "PROBE_MILLISECONDS", 1)

    def run(*arguments):
        return group_conv2d.main(["--rounds", "1", "--no-memory", "--baselines", "materialised", *arguments], TABLE)

    return run


def test_names_are_unique_and_say_every_field():
    assert len(set(_names(CASES))) == len(CASES)
    changed = {
        "padding": "valid",
        "per_example": True,
        "dtype": "bfloat16",
        "needs": ("phi",),
        "bias": True,
        "layer": "x",
    }
    for field in fields(Case):
        if field.name not in ("source", "published"):
            value = changed.get(field.name, 9)
            assert replace(TINY, **{field.name: value}).name != TINY.name, field.name


def test_every_case_names_its_source_and_the_asked_layers_are_there():
    for case in CASES:
        assert case.source.startswith("nearest: ") is not case.published, case.name
        assert set(case.needs) <= set(OPERANDS)
    assert {case.dtype for case in CASES} == {"float32", "bfloat16"}
    assert any(case.per_example for case in CASES) and any(case.nv == 1 for case in CASES)


def test_a_reduced_case_keeps_everything_but_the_batch():
    for case in CASES:
        small = shrink(case, gate.REDUCED_FLOPS)
        assert replace(small, batch=case.batch) == case
        assert small.batch >= (2 if case.per_example else 1)


@pytest.mark.parametrize("case", TABLE, ids=_names(TABLE))
@pytest.mark.parametrize("way", BASELINES, ids=[way.name for way in BASELINES])
def test_baselines_equal_the_reference_in_values_and_gradients(way, case):
    # Compiling to native code takes long; what is traced is the same.
    function = baselines.Compiled("aot_eager") if way.compiled else way.make()
    exact = gate.evaluate(gate.reference, case, torch.float64)
    found = gate.evaluate(function, case, torch.float64)
    assert found["out"].is_contiguous() and set(found) == {"out", *case.needs}
    assert max(gate.errors(found, exact).values()) < 1e-12
    assert way.why_not(case) is None and way.flops(case) > 0


@pytest.mark.parametrize("way", BASELINES, ids=[way.name for way in BASELINES])
def test_baselines_know_stride_and_dilation(way):
    geometry = ConvGeometry.make("test", 3, (2, 1), (1, 2), (1, 2), "square")
    f, phi, weight = (x.double() for x in TINY.operands())
    phi = torch.cat([phi, phi[:, :, :, :4]], 3)
    function = baselines.Compiled("aot_eager") if way.compiled else way.make()
    torch.testing.assert_close(function(f, phi, weight, geometry), gate.reference(f, phi, weight, geometry))


def test_baselines_say_why_not(monkeypatch):
    by_name = {way.name: way for way in BASELINES}
    large = replace(CASES[0], batch=512)
    assert "above the limit" in by_name["factored"].why_not(large)
    assert by_name["materialised"].why_not(large) is None
    monkeypatch.setattr(baselines.shutil, "which", lambda name: None)
    assert "compiler" in by_name["compiled"].why_not(TINY)


def test_plans_are_resolved_and_refusals_have_reasons():
    (best,) = implementations.select(TINY, "best", "none")
    assert isinstance(best, Implementation) and best.name == "pgconv" and "auto" not in best.plan
    every = implementations.select(TINY, "all", "none")
    assert best.plan.partition("+")[0] in [x.plan for x in every] and all(isinstance(x, Implementation) for x in every)
    (refused,) = implementations.select(TINY, "cpp:nonsense", "none")
    assert isinstance(refused, Skipped) and refused.reason
    with pytest.raises(implementations.UnknownName, match="baselines must be"):
        implementations.select(TINY, "best", "factored,nonsense")


def test_work_counts_two_or_three_passes():
    way = Implementation("way", "", lambda *_: None, 5.0, lambda case: None)
    assert implementations.work(way, OPERANDS, "forward") == 5
    assert implementations.work(way, OPERANDS, "forward+backward") == 15
    assert implementations.work(way, ("phi", "weight"), "forward+backward") == 10
    counted = dataclasses.replace(way, backward_flops=8.0)
    assert implementations.work(counted, OPERANDS, "forward+backward") == 13


def test_rounds_interleave_and_each_starts_with_another_call():
    order = []
    calls = {name: timing.Prepared(lambda name=name: order.append(name), 1) for name in "abc"}
    ticks = itertools.count()
    times = timing.interleave(calls, 3, lambda: 2.0, tick=lambda: next(ticks))
    assert "".join(order) == "aabbccbbccaaccaabb" and next(ticks) == 3
    assert [len(s) for s in times.samples.values()] == [3, 3, 3] and times.peak == 2.0
    low, middle, high = times.quantiles("a")
    assert 0 < low <= middle <= high


def test_a_deadline_leaves_one_round():
    times = timing.interleave({"a": timing.Prepared(lambda: None, 1)}, 5, lambda: 1.0, deadline=0.0)
    assert len(times.samples["a"]) == 1


def test_short_calls_are_repeated():
    assert timing.prepare(lambda: None).repeats == 1000


def test_rows_have_every_column_and_survive_csv(tmp_path):
    rows = group_conv2d.measure(TABLE[-1], 1, QUICK).rows
    assert len(rows) == 2 * 4
    for row in rows:
        assert tuple(row) == report.COLUMNS
        empty = {name for name, value in row.items() if value is None}
        assert empty == {"over_compiled", "extra_mb", "note"}
        assert row["q20_ms"] <= row["median_ms"] <= row["q80_ms"] and row["rounds"] == 2
        assert row["percent_of_peak"] > 0 and 0 < row["peak_min_gflop_per_s"] <= row["peak_median_gflop_per_s"]
    theirs = {row["implementation"]: row["median_ms"] for row in rows[:3]}
    assert rows[3]["over_factored"] == pytest.approx(theirs["factored"] / rows[3]["median_ms"])
    assert rows[3]["over_best"] == pytest.approx(min(theirs.values()) / rows[3]["median_ms"])
    path = tmp_path / "new" / "rows.csv"
    with report.CsvWriter(path) as writer:
        writer.write(rows)
    assert [{k: v or None for k, v in row.items()} for row in rows] == report.read_csv(path)


def test_command_prints_a_table_and_writes_csv_and_plot(quick_main, tmp_path, capsys):
    table, figure = tmp_path / "rows.csv", tmp_path / "plot.png"
    assert quick_main("--filter", "B1-,7x7-valid-perexample", "--threads", "1,2", "--csv", str(table)) == 0
    captured = capsys.readouterr()
    for words in ("% peak", "x materialised", "forward+backward", "not published; no network", "THP_MEM_ALLOC_ENABLE"):
        assert words in captured.out
    assert "left" in captured.err
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["threads"] for row in rows} == {"1", "2"} and len({row["case"] for row in rows}) == 2
    assert quick_main("--from-csv", str(table), "--filter", "B1-", "--plot", str(figure)) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "B1-" in capsys.readouterr().out


@pytest.mark.parametrize("factor", [1 + 1e-3, float("nan")])
def test_what_is_wrong_is_not_timed(quick_main, monkeypatch, capsys, factor):
    wrong = replace(BASELINES[0], make=lambda: lambda *operands: factor * baselines.materialised(*operands))
    monkeypatch.setattr(implementations, "BASELINES", (wrong, *BASELINES[1:]))
    assert quick_main("--filter", TINY.name, "--direction", "forward") == 1
    captured = capsys.readouterr()
    assert "materialised: not timed" in captured.out
    assert "wrong: " + TINY.name in captured.err
    assert "x materialised" not in captured.out


def test_an_error_at_full_size_is_reported(quick_main, monkeypatch, capsys):
    def fails(*operands):
        if torch.is_grad_enabled():
            return baselines.materialised(*operands)
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(implementations, "BASELINES", (replace(BASELINES[0], make=lambda: fails), *BASELINES[1:]))
    assert quick_main("--filter", TINY.name) == 1
    assert "forward raised RuntimeError: not enough memory" in capsys.readouterr().err


def test_low_precision_is_held_to_the_reference_in_that_precision():
    case = replace(TINY, dtype="bfloat16")
    check = gate.Gate(case)
    (way,) = implementations.select(case, "reference:direct", "none")
    verdict = check.check(way)
    assert verdict.wrong is None and verdict.batch == case.batch
    # Results are rounded to 8 bits.
    assert 2**-12 < verdict.value <= 2**-7 and 2**-12 < verdict.gradient <= 2**-6
    assert "out is off" in check.check(replace(way, function=lambda *t: 1.1 * way.function(*t))).wrong


def test_no_time_left_is_said(quick_main, capsys):
    assert quick_main("--filter", TINY.name, "--time-limit", "0") == 0
    assert "time limit" in capsys.readouterr().out


def test_peak_memory_counts_the_result_and_not_the_operands():
    case = replace(TINY, batch=8, inputs=16, outputs=64, height=64, width=64)
    # Not the vendor's convolution: what it needs beside its result depends on the machine.
    (way,) = implementations.select(case, "cpp:aggregate", "none")
    peaks = memory.peak_extra(case, way, 1)
    result = 4 * case.cotangent().numel()
    operands = sum(4 * x.numel() for x in case.operands())
    assert result < peaks["forward"] < 3 * result
    assert 0.9 * operands < peaks["forward+backward"] < 4 * (result + operands)


def test_memory_of_a_process_that_does_not_finish_is_unknown(monkeypatch):
    monkeypatch.setattr(memory, "TIMEOUT_SECONDS", 0.01)
    assert memory.peak_extra(TINY, implementations.select(TINY, "best", "none")[0], 1) == {}


def test_features_benchmark(capsys, tmp_path):
    path = tmp_path / "features.csv"
    arguments = ["--filter", "E(2)-product-sin-H8", "--rounds", "1", "--threads", "1", "--csv", str(path)]
    assert command.main(["features", *arguments]) == 0
    assert "ns/pair" in capsys.readouterr().out
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == features.COLUMNS and float(row["forward_ratio"]) > 0


def test_help_and_list(capsys):
    for name in command.BENCHMARKS:
        with pytest.raises(SystemExit) as stop:
            command.main([name, "--help"])
        assert stop.value.code == 0
        assert command.main([name, "--list"]) == 0
    text = capsys.readouterr().out
    assert all(case.name in text for case in CASES)
    for option in ("--filter", "--rounds", "--threads", "--csv", "--plans", "--time-limit", "--plot"):
        assert option in text
    with pytest.raises(SystemExit):
        command.main(["group_conv2d", "--filter", "nonsense"])
    with pytest.raises(SystemExit):
        command.main(["group_conv2d", "--baselines", "nonsense", "--filter", "shortcut"])


def test_both_ways_to_start():
    file = str(memory.ROOT / "benchmarks" / "features.py")
    for start, words in ((["-m", "benchmarks", "--help"], "group_conv2d"), ([file, "--list"], "SE(2)")):
        run = subprocess.run([sys.executable, *start], cwd=memory.ROOT, capture_output=True, text=True, check=True)
        assert words in run.stdout
