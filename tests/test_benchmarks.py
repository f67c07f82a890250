"""The benchmarks: names, baselines equal to the reference, complete rows, and a gate that times nothing wrong."""

import csv
import itertools
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch
from benchmark_suites import CLOUD, IMAGES, NAMES, QUICK, SUITES, TINY, command, with_wrong_baseline

from benchmarks import __main__ as benchmarks
from benchmarks import (
    engine,
    features,
    gate,
    group_conv2d,
    implementations,
    memory,
    point_conv,
    timing,
)
from benchmarks.implementations import Implementation, Skipped
from benchmarks.report import CsvWriter, Report
from pgconv import ops
from pgconv.ops.plan import costs
from pgconv.spec import ConvGeometry

EACH = [
    (suite, way, case)
    for suite in SUITES
    for way in suite.baselines
    for case in suite.cases
    if way.name != "channels-last" or not case.per_example
]
BASELINES = group_conv2d.SUITE.baselines


def _function(way):
    # Compiling to native code takes long; what is traced is the same.
    return way.make("aot_eager") if way.compiled else way.make()


@pytest.fixture
def quick_main(monkeypatch):
    return command(monkeypatch)


@pytest.mark.parametrize("tiny", [TINY, CLOUD], ids=NAMES)
def test_names_are_unique_and_say_every_field(tiny):
    changed = {
        "padding": "valid",
        "per_example": True,
        "shared": True,
        "depthwise": True,
        "large": True,
        "dtype": "bfloat16",
        "device": "cuda",
        "needs": ("phi",),
        "bias": True,
        "layer": "x",
        "group": "SE(2)",
        "activation": "silu",
    }
    for field in fields(tiny):
        if field.name not in ("source", "published", "gpu_batch"):
            value = changed.get(field.name, 9)
            assert replace(tiny, **{field.name: value}).name != tiny.name, field.name
    for suite in (group_conv2d.SUITE, point_conv.SUITE):
        assert len({case.name for case in suite.cases}) == len(suite.cases)


def test_every_case_names_its_source_and_the_asked_layers_are_there():
    for case in group_conv2d.CASES:
        assert case.source.startswith("nearest: ") is not case.published, case.name
        assert set(case.needs) <= set(case.OPERANDS)
    assert {case.dtype for case in group_conv2d.CASES} == {"float32", "bfloat16"}
    assert any(case.per_example for case in group_conv2d.CASES) and any(case.nv == 1 for case in group_conv2d.CASES)
    assert all(case.source and case.needs == case.OPERANDS for case in point_conv.CASES)
    assert {case.group for case in point_conv.CASES} == {"T(3)", "SE(2)", "SE(3)"}
    assert [case.nv for case in point_conv.CASES if case.large] == [65536]


def test_a_reduced_case_keeps_everything_but_its_size():
    for case in group_conv2d.CASES:
        small = case.shrink(gate.REDUCED_FLOPS)
        assert replace(small, batch=case.batch) == case
        assert small.batch >= (2 if case.per_example else 1)
    for case in point_conv.CASES:
        small = case.shrink(gate.REDUCED_FLOPS)
        assert replace(small, batch=case.batch, nu=case.nu) == case
        assert small.batch == min(case.batch, 2) and 2 <= small.nu <= case.nu
        assert small.flops <= gate.REDUCED_FLOPS or small.nu == 2


@pytest.mark.parametrize("suite, way, case", EACH, ids=[f"{way.name}-{case.name}" for _, way, case in EACH])
def test_baselines_equal_the_reference_in_values_and_gradients(suite, way, case):
    torch.compiler.reset()
    exact = gate.evaluate(gate.reference(suite), case, torch.float64)
    found = gate.evaluate(_function(way), case, torch.float64, way.arrange)
    assert found["out"].is_contiguous() or way.name == "channels-last"
    assert set(found) == {"out", *case.needs}
    assert max(gate.errors(found, exact).values()) < 1e-12
    assert way.flops(case) > 0 and way.why_not(replace(case, device="cuda")) is None


def test_chunks_of_any_size_add_up(monkeypatch):
    torch.compiler.reset()
    (expert,) = (way for way in point_conv.SUITE.baselines if way.name == "expert")
    for pairs, case in ((20, CLOUD), (8, replace(CLOUD, shared=True)), (7, replace(CLOUD, neighbors=3))):
        monkeypatch.setitem(point_conv.baselines.CHUNK_PAIRS, "cpu", pairs)
        exact = gate.evaluate(gate.reference(point_conv.SUITE), case, torch.float64)
        assert max(gate.errors(gate.evaluate(_function(expert), case, torch.float64), exact).values()) < 1e-12


@pytest.mark.parametrize("apart", [False, True])
def test_a_bias_goes_either_way(monkeypatch, apart):
    case = replace(TINY, bias=True)
    exact = gate.evaluate(_function(BASELINES[0]), case, torch.float64)
    monkeypatch.setattr(ops, "bias_apart", lambda *_: apart)
    assert case.facts().size("Hb") == case.hidden + (not apart)
    found = gate.evaluate(gate.reference(group_conv2d.SUITE), case, torch.float64)
    assert max(gate.errors(found, exact).values()) < 1e-12


@pytest.mark.parametrize("way", BASELINES, ids=[way.name for way in BASELINES])
def test_baselines_know_stride_and_dilation(way):
    geometry = group_conv2d.cases.Walk(**vars(ConvGeometry.make("test", 3, (2, 1), (1, 2), (1, 2), "square")))
    f, phi, weight = (x.double() for x in TINY.operands())
    phi = torch.cat([phi, phi[:, :, :, :4]], 3)
    function = _function(way)
    exact = gate.reference(group_conv2d.SUITE)(f, phi, weight, geometry)
    torch.testing.assert_close(function(f, phi, weight, geometry), exact)


def test_baselines_say_why_not(monkeypatch):
    by_name = {way.name: way for way in BASELINES}
    large = replace(group_conv2d.CASES[0], batch=512)
    assert "above the limit" in by_name["factored"].why_not(large)
    assert "for GPUs" in by_name["channels-last"].why_not(TINY)
    on_gpu = replace(TINY, device="cuda")
    assert by_name["channels-last"].why_not(on_gpu) is None
    assert "groups" in by_name["channels-last"].why_not(replace(on_gpu, per_example=True))
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: False)
    assert "bfloat16 on this CPU" in by_name["materialised"].why_not(replace(TINY, dtype="bfloat16"))
    assert by_name["materialised"].why_not(replace(on_gpu, dtype="bfloat16")) is None
    assert by_name["materialised"].why_not(large) is None
    cloud = point_conv.CASES[-1]
    assert "above the limit" in point_conv.BASELINES[0].why_not(cloud) and point_conv.BASELINES[2].why_not(cloud)
    assert not any(way.why_not(case) for way in point_conv.BASELINES for case in point_conv.CASES[:-1])
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "compiler" in by_name["compiled"].why_not(TINY)


@pytest.mark.parametrize("suite", SUITES, ids=NAMES)
def test_plans_are_resolved_and_refusals_have_reasons(suite):
    case = suite.cases[0]
    (best,) = implementations.select(suite, case, "best", "none")
    assert isinstance(best, Implementation) and best.name == "pgconv" and "auto" not in best.plan
    every = implementations.select(suite, case, "all", "none")
    assert best.plan.partition("+")[0] in [x.plan for x in every] and all(isinstance(x, Implementation) for x in every)
    (refused,) = implementations.select(suite, case, "cpp:nonsense", "none")
    assert isinstance(refused, Skipped) and refused.reason
    with pytest.raises(implementations.UnknownName, match="baselines must be"):
        implementations.select(suite, case, "best", f"{suite.baselines[0].name},nonsense")


def test_work_counts_what_is_computed():
    way = Implementation("way", "", lambda *_: None, 5.0, 8.0, lambda case: None)
    assert implementations.work(way, TINY.OPERANDS, "forward") == 5
    assert implementations.work(way, TINY.OPERANDS, "forward+backward") == 13
    assert implementations.work(way, ("phi", "weight"), "forward+backward") == 9
    for suite, factors in zip(SUITES, ((2, 2, 2, 2, 2), (2, 2, 3))):
        case = suite.cases[0]
        for way, factor in zip(suite.baselines, factors):
            found = implementations.baseline(replace(way, refuses=lambda case: None), case)
            assert found.backward_flops == factor * found.flops


def test_work_of_points_against_a_count_by_hand():
    """B=2, 7 inputs and 5 outputs, C=3 to O=4, 6 features of 3 coordinates: multiply-adds count two."""
    net, pairs, head = 2 * 6 * (3 + 6), 2 * 35, 2 * 6 * 3 * 4
    forward = pairs * (net + 2 * 3 * 6) + 2 * 5 * head
    assert [way.flops(CLOUD) for way in point_conv.BASELINES] == [forward] * 3
    # Three products with the 3 channels of the inputs against two with the 4 of the outputs.
    straight = pairs * (3 * net + 3 * 2 * 3 * 6) + 2 * 2 * 5 * head
    adjoint = pairs * (3 * net + 2 * 2 * 4 * 6) + 3 * 2 * 7 * head
    (ours,) = implementations.select(point_conv.SUITE, CLOUD, "best", "none")
    assert ours.flops == forward and ours.backward_flops == min(straight, adjoint) == straight
    many = replace(CLOUD, nv=700, nu=500)
    found = costs(many.facts(), "backward")["aggregate"].flops
    assert found == 2 * 350000 * (3 * net + 2 * 2 * 4 * 6) + 3 * 2 * 700 * head
    # One kernel value for both examples; backward three products with it, its gradient and the signal's.
    shared = replace(CLOUD, shared=True, depthwise=True, outputs=3)
    assert point_conv.BASELINES[0].flops(shared) == shared.flops == 35 * (net + 2 * 6 * 3 + 2 * 2 * 3)
    found = costs(shared.facts(), "backward")["aggregate"].flops
    assert found == 35 * (3 * net + 3 * 2 * 6 * 3 + 2 * 2 * 2 * 3)
    lists = replace(CLOUD, neighbors=3)
    assert lists.flops == 2 * 15 * (net + 2 * 3 * 6) + 2 * 5 * head


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


def test_long_calls_are_not_repeated(monkeypatch):
    monkeypatch.setattr(timing, "LONG_SECONDS", 0.0)
    order = []
    prepared = timing.prepare(lambda: order.append("call"))
    prepared.sample()
    assert len(order) == 2
    timing.prepare(lambda: order.append("call"), compiles=True)
    assert len(order) == 4
    timing.once(lambda: order.append("call")).sample()
    assert len(order) == 5


@pytest.mark.parametrize(
    "suite, case, ways", list(zip(SUITES, (IMAGES[-1], CLOUD), (QUICK.baselines, "eager"))), ids=NAMES
)
def test_rows_have_every_column_and_survive_csv(tmp_path, suite, case, ways):
    rows = engine.measure(suite, case, 1, replace(QUICK, baselines=ways)).rows
    table, names = Report.of(suite), ways.split(",")
    assert len(rows) == 2 * (len(names) + 1)
    missing = {f"over_{way.name}" for way in suite.ways} - {f"over_{name}" for name in names}
    for row in rows:
        assert tuple(row) == table.columns
        empty = {name for name, value in row.items() if value is None}
        assert empty == {"extra_mb", "note", *missing, *(("published",) if case is CLOUD else ())}
        assert row["q20_ms"] <= row["median_ms"] <= row["q80_ms"] and row["rounds"] == 2
        assert row["percent_of_peak"] > 0 and 0 < row["peak_min_gflop_per_s"] <= row["peak_median_gflop_per_s"]
    theirs = {row["implementation"]: row["median_ms"] for row in rows[: len(names)]}
    ours = rows[len(names)]
    assert ours[f"over_{names[-1]}"] == pytest.approx(theirs[names[-1]] / ours["median_ms"])
    assert ours["over_best"] == pytest.approx(min(theirs.values()) / ours["median_ms"])
    path = tmp_path / "new" / "rows.csv"
    with CsvWriter(path, table.columns) as writer:
        writer.write(rows)
    assert [{k: v or None for k, v in row.items()} for row in rows] == table.read_csv(path)


def test_stored_results_are_read_and_shown():
    tables = [Report.of(suite) for suite in SUITES]
    stored = sorted((memory.ROOT / "benchmarks" / "results").glob("*.csv"))
    # Others have their own columns: test_benchmark_training.py, test_benchmark_overhead.py.
    stored = [path for path in stored if "-training" not in path.name and "-overhead" not in path.name]
    assert stored
    for path in stored:
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        (table,) = (table for table in tables if set(header.split(",")) <= set(table.columns))
        found = table.read_csv(path)
        assert len(found) == len(rows) and "GFLOP/s" in table.text(found)


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


def test_command_on_points(quick_main, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    arguments = ["--filter", "K3,SE(3)-B2-N7to5-C3-O4", "--csv", str(path)]
    assert quick_main(*arguments, suite=SUITES[1]) == 0
    out = capsys.readouterr().out
    assert "% peak" in out and "x eager" in out and "published" not in out
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 4 and all(float(row["error"]) < 1e-4 for row in rows)
    assert quick_main("--from-csv", str(path), "--plot", str(tmp_path / "plot.png"), suite=SUITES[1]) == 0


def test_large_cases_run_when_named_and_once(quick_main, capsys):
    large = replace(CLOUD, nu=6, large=True)
    suite = replace(point_conv.SUITE, cases=(CLOUD, large))
    for arguments, names in (
        ([], {CLOUD.name}),
        (["--filter", "T(3)"], {CLOUD.name}),
        (["--filter", "N7to6"], {large.name}),
        (["--large"], {CLOUD.name, large.name}),
    ):
        assert quick_main("--rounds", "2", "--direction", "forward", *arguments, suite=suite) == 0
        out = capsys.readouterr().out
        assert {line.split("  [")[0] for line in out.splitlines() if "[no network]" in line} == names
    rows = engine.measure(suite, large, 1, engine.Settings(baselines="none", memory=False)).rows
    assert [row["rounds"] for row in rows] == [1, 1]


@pytest.mark.parametrize("factor", [1 + 1e-3, float("nan")])
@pytest.mark.parametrize("suite", SUITES, ids=NAMES)
def test_what_is_wrong_is_not_timed(quick_main, capsys, suite, factor):
    wrong = with_wrong_baseline(suite, lambda right: lambda *operands: factor * right(*operands))
    (name, case), first = (suite.name, suite.cases[0]), suite.baselines[0].name
    wrong = replace(wrong, cases=(case,))
    assert quick_main("--direction", "forward", suite=wrong) == 1
    captured = capsys.readouterr()
    assert f"{first}: not timed" in captured.out, name
    assert "wrong: " + case.name in captured.err
    assert f"x {first}" not in captured.out


def test_a_wrong_gradient_alone_is_found():
    suite = point_conv.SUITE

    def halved(right):
        # The value is right, the gradient of the elements is not.
        return lambda f, v, *others: right(f, (v + v.detach()) / 2, *others)

    (way, *_) = with_wrong_baseline(suite, halved).baselines
    verdict = gate.Gate(suite, CLOUD).check(implementations.baseline(way, CLOUD))
    assert verdict.wrong.startswith("v is off by") and verdict.value < 1e-6


def test_an_error_at_full_size_is_reported(quick_main, capsys):
    def failing(right):
        def fails(*operands):
            if torch.is_grad_enabled():
                return right(*operands)
            raise RuntimeError("not enough memory")

        return fails

    assert quick_main("--filter", TINY.name, suite=with_wrong_baseline(SUITES[0], failing)) == 1
    assert "forward raised RuntimeError: not enough memory" in capsys.readouterr().err


def test_low_precision_is_held_to_the_reference_in_that_precision():
    case = replace(TINY, dtype="bfloat16")
    check = gate.Gate(SUITES[0], case)
    (way,) = implementations.select(SUITES[0], case, "reference:direct", "none")
    verdict = check.check(way)
    assert verdict.wrong is None and verdict.checked == case.batch
    # Results are rounded to 8 bits.
    assert 2**-12 < verdict.value <= 2**-7 and 2**-12 < verdict.gradient <= 2**-6
    assert "out is off" in check.check(replace(way, function=lambda *t: 1.1 * way.function(*t))).wrong


def test_no_time_left_is_said(quick_main, capsys):
    assert quick_main("--filter", TINY.name, "--time-limit", "0") == 0
    assert "time limit" in capsys.readouterr().out


@pytest.mark.parametrize(
    "suite, case",
    [
        (SUITES[0], replace(TINY, batch=8, inputs=16, outputs=64, height=64, width=64)),
        (SUITES[1], replace(CLOUD, batch=1, nv=512, nu=8192, inputs=64, outputs=128)),
    ],
    ids=NAMES,
)
def test_peak_memory_counts_the_result_and_not_the_operands(suite, case):
    # Not the vendor's convolution: what it needs beside its result depends on the machine.
    (way,) = implementations.select(suite, case, "cpp:aggregate", "none")
    peaks = memory.peak_extra(suite.name, case, way, 1)
    result = 4 * case.cotangent().numel()
    operands = sum(4 * x.numel() for x in case.operands())
    # The system counts pages in batches: a few may be missing.
    assert 0.95 * result < peaks["forward"] < 3 * result
    assert 0.9 * operands < peaks["forward+backward"] < 4 * (result + operands)


def test_memory_of_a_process_that_does_not_finish_is_unknown(monkeypatch):
    monkeypatch.setattr(memory, "TIMEOUT_SECONDS", 0.01)
    (way,) = implementations.select(SUITES[0], TINY, "best", "none")
    assert memory.peak_extra("group_conv2d", TINY, way, 1) == {}


def test_features_benchmark(capsys, tmp_path):
    path = tmp_path / "features.csv"
    arguments = ["--filter", "E(2)-product-sin-H8", "--rounds", "1", "--threads", "1", "--csv", str(path)]
    assert benchmarks.main(["features", *arguments]) == 0
    assert "ns/pair" in capsys.readouterr().out
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == features.COLUMNS and float(row["forward_ratio"]) > 0


def test_help_and_list(capsys):
    for name in benchmarks.BENCHMARKS:
        with pytest.raises(SystemExit) as stop:
            benchmarks.main([name, "--help"])
        assert stop.value.code == 0
        assert name in ("record", "plot") or benchmarks.main([name, "--list"]) == 0
    text = capsys.readouterr().out
    assert all(case.name in text for case in (*group_conv2d.CASES, *point_conv.CASES))
    for option in ("--filter", "--rounds", "--threads", "--csv", "--plans", "--time-limit", "--plot", "--large"):
        assert option in text
    with pytest.raises(SystemExit):
        benchmarks.main(["group_conv2d", "--filter", "nonsense"])
    with pytest.raises(SystemExit):
        benchmarks.main(["group_conv2d", "--baselines", "nonsense", "--filter", "shortcut"])


def test_both_ways_to_start():
    file = str(memory.ROOT / "benchmarks" / "features.py")
    for start, words in ((["-m", "benchmarks", "--help"], "group_conv2d"), ([file, "--list"], "SE(2)")):
        run = subprocess.run([sys.executable, *start], cwd=memory.ROOT, capture_output=True, text=True, check=True)
        assert words in run.stdout


def test_signal_and_head_alone_are_in_low_precision():
    case = replace(CLOUD, dtype="bfloat16")
    assert [x.dtype for x in case.operands()] == [torch.bfloat16, *3 * [torch.float32], torch.bfloat16]
    assert case.facts().dtypes == ("bfloat16", *3 * ("float32",), "bfloat16")
    for way in ("eager", "expert"):
        outcome = engine.measure(point_conv.SUITE, case, 1, replace(QUICK, baselines=way))
        assert not outcome.failures and len(outcome.rows) == 4


def test_a_type_for_all_cases(quick_main, capsys):
    assert quick_main("--dtype", "bfloat16", "--filter", "B2-N7to5-C3-O4-H6-sin-bfloat16", suite=SUITES[1]) == 0
    assert "T(3)-B2-N7to5-C3-O4-H6-sin-bfloat16" in capsys.readouterr().out
