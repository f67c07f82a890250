"""Pictures of results, the list of all benchmarks, and the entry for pytest-benchmark."""

import csv
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from matplotlib import pyplot

from benchmarks import __main__ as benchmarks
from benchmarks import group_conv2d, memory, plot, point_conv

CASE = next(case for case in group_conv2d.CASES if case.batch == 1)
ROW = {
    "case": CASE.name,
    "dtype": "float32",
    "direction": "forward",
    "implementation": "pgconv",
    "plan": "cpp:aggregate",
    "threads": "2",
    "median_ms": "10",
    "q20_ms": "9",
    "q80_ms": "11",
    "gflop": "2",
    "gflop_per_s": "200",
    "peak_median_gflop_per_s": "400",
    "bandwidth_gb_per_s": "20",
    "moved_mb": "40",
    "isa": "avx2",
    "cpu": "one",
    "gpu": "",
}
OTHER = ROW | {"implementation": "disc", "plan": "", "gflop_per_s": "50", "direction": "forward+backward"}


def _write(path, *rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_points_and_roof():
    (panel,) = plot.panels([ROW, OTHER, ROW | {"gflop_per_s": "", "gflop": ""}])
    assert panel.title == "one, avx2, 2 thread(s), float32" and (panel.peak, panel.bandwidth) == (400, 20)
    first, second = panel.points
    assert first == plot.Point(CASE.name, "pgconv aggregate", "forward", 2.0, 200.0, 50.0) and second.way == "disc"
    _, axes = pyplot.subplots()
    plot.draw(panel, "roofline", axes)
    assert [tuple(place) for scatter in axes.collections for place in scatter.get_offsets()] == [(50, 200), (50, 50)]
    (roof,) = axes.lines
    x, y = roof.get_data()
    assert list(y) == [20 * x[0], 400, 400] and x[1] == 20 and x[0] < 50 < x[2] + 1e-9
    # A way that computes four times as much in the same time is no faster.
    (panel,) = plot.panels(
        [ROW, ROW | {"implementation": "disc", "plan": "", "gflop": "8", "gflop_per_s": "800"}, OTHER]
    )
    _, axes = pyplot.subplots()
    plot.draw(panel, "speed", axes)
    places = [tuple(place) for scatter in axes.collections for place in scatter.get_offsets()]
    assert places == [(2, 200), (2, 200), (2, 50)]
    pyplot.close("all")


def test_old_files_get_their_bytes_from_the_case():
    old = {name: value for name, value in ROW.items() if name not in ("moved_mb", "bandwidth_gb_per_s")}
    (panel,) = plot.panels([old, old | {"case": "nothing we know"}])
    assert panel.bandwidth is None and panel.points[1].intensity is None
    assert panel.points[0].intensity == pytest.approx(2e9 / CASE.moved("forward"))


def test_threads_types_and_cards_have_pictures_of_their_own(tmp_path, capsys):
    path = _write(
        tmp_path / "rows.csv", ROW, OTHER, ROW | {"threads": "1"}, ROW | {"gpu": "card, CUDA 13", "dtype": "bfloat16"}
    )
    assert benchmarks.main(["plot", str(path), "--out", str(tmp_path / "new")]) == 0
    names = {line.rpartition("/")[2] for line in capsys.readouterr().out.split()}
    stems = ("one-avx2-2-thread-s-float32", "one-avx2-1-thread-s-float32", "card-bfloat16")
    assert names == {f"rows-{stem}-{kind}.png" for stem in stems for kind in ("roofline", "speed")}
    assert all((tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_nothing_to_draw_is_said(tmp_path, capsys):
    path = _write(tmp_path / "rows.csv", ROW | {"gflop_per_s": "", "gflop": ""})
    assert plot.main([str(path), "--out", str(tmp_path)]) == 1
    assert "no row has GFLOP/s" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        plot.main([str(tmp_path / "nowhere.csv")])


@pytest.mark.parametrize("name", ["amd-epyc-zen4-2-cores", "amd-epyc-zen4-2-cores-points", "nvidia-h200-images"])
def test_stored_results_have_pictures(name):
    rows = plot.verdicts.read(memory.ROOT / "benchmarks" / "results" / f"{name}.csv")
    found = plot.panels(rows)
    assert sum(len(panel.points) for panel in found) == len(rows)
    assert all(point.intensity for panel in found for point in panel.points)


def test_one_list_of_all(capsys):
    with pytest.raises(SystemExit) as stop:
        benchmarks.main(["--list"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name, what in benchmarks.BENCHMARKS.items():
        assert f"{name}: {what}" in text
    for word in (*(case.name for case in (*group_conv2d.CASES, *point_conv.CASES)), "SeparableGroupConv2d", "import"):
        assert word in text
    with pytest.raises(SystemExit):
        benchmarks.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in benchmarks.BENCHMARKS) and "bench_pytest.py" in text


# Stands for the plugin: calls once and prints what it was told.
PLUGIN = """
import pytest

@pytest.fixture
def benchmark():
    class Benchmark:
        extra_info = {}
        def __call__(self, call):
            assert call() is not None
            print("measured", self.group, sorted(self.extra_info))
    return Benchmark()
"""


def _pytest(path, *arguments):
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "benchmarks/bench_pytest.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=memory.ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(find_spec("pytest_benchmark") is not None, reason="the plugin itself is here")
def test_entry_for_pytest_benchmark(tmp_path):
    without = _pytest(tmp_path)
    assert without.returncode == 5 and "1 skipped" in without.stdout
    (tmp_path / "pytest_benchmark.py").write_text(PLUGIN)
    run = _pytest(tmp_path, "-p", "pytest_benchmark", "-k", "shortcut")
    assert run.returncode == 0 and "2 passed" in run.stdout
    assert run.stdout.count("measured group_conv2d shortcut-B16") == 2
    assert "['gflop', 'plan', 'source', 'threads']" in run.stdout
