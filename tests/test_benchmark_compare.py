"""The comparison of two checkouts or results: what is called slower, what is refused, and that each side runs its own code."""

import csv
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
from benchmark_suites import TINY

from benchmarks import __main__ as benchmarks
from benchmarks import compare, group_conv2d
from benchmarks.comparison import pairs, trees, verdicts
from benchmarks.comparison.verdicts import FASTER, SAME, SLOWER, WRONG, Times

SETTINGS = {"rounds": 4, "threads": 1, "plan": "auto:auto", "tolerance": 1.15}


@pytest.mark.parametrize(
    ("base", "head", "word"),
    [
        ((9, 10, 11), (19, 20, 21), SLOWER),
        ((9, 10, 11), (10.5, 20, 21), SAME),
        ((9, 10, 11), (11.2, 11.4, 11.6), SAME),
        ((9, 10, 11), (11.2, 11.6, 11.7), SLOWER),
        ((19, 20, 21), (9, 10, 11), FASTER),
        ((10.5, 20, 21), (9, 10, 11), SAME),
    ],
)
def test_slower_is_by_the_median_and_by_quantiles_that_do_not_overlap(base, head, word):
    row = verdicts.row({"implementation": "pgconv"}, Times(*base), Times(*head), 1.15)
    assert row["verdict"] == word and verdicts.failed([row]) == (word == SLOWER)
    assert row["ratio"] == head[1] / base[1] and tuple(row) == verdicts.COLUMNS
    assert (row["base_q20_ms"], row["base_ms"], row["base_q80_ms"]) == base
    assert row["ratio_q20"] == head[0] / base[2] and row["ratio_q80"] == head[2] / base[0]
    assert not verdicts.failed([row | {"implementation": "materialised"}]), "of others it tells about the machine"


def test_quantiles_of_samples_and_of_rounds():
    assert verdicts.of_samples([0.001, 0.002, 0.003, 0.004, 0.005, 0.006]) == pytest.approx((2, 3.5, 5))
    assert verdicts.paired([1, 2, 4], [2, 2, 2]) == pytest.approx((0.7, 1, 1.6))


class Side:
    """Answers like a process; remembers what it was asked."""

    def __init__(self, name, log, seconds=1.0, repeats=1, plan="cpp:direct", wrong=None, error=None):
        self.name, self.log, self.seconds, self.repeats = name, log, seconds, repeats
        self.plan, self.wrong, self.error = plan, wrong, error

    def ask(self, do, **request):
        self.log.append((self.name, do))
        if do == "prepare":
            assert request["suite"] == "group_conv2d" and request["case"]["batch"] == TINY.batch
            return {"error": self.error} if self.error else {"plan": self.plan, "repeats": self.repeats}
        if do == "check":
            return {"wrong": self.wrong}
        assert request == {"repeats": 7}
        return {"seconds": self.seconds}


def _compare(*sides):
    return pairs.compare(sides, group_conv2d.SUITE, TINY, "forward", **SETTINGS)


def test_rounds_take_turns_and_repeat_alike():
    log = []
    row = _compare(Side("a", log, 0.010, 3), Side("b", log, 0.012, 7, plan="cpp:aggregate"))
    assert "".join(name for name, do in log if do == "sample") == "abbaabba"
    assert [name for name, do in log if do == "check"] == ["a", "b"]
    assert row["verdict"] == SLOWER and row["ratio"] == pytest.approx(1.2) and row["base_ms"] == pytest.approx(10)
    assert row["plan"] == "cpp:direct > cpp:aggregate" and row["case"] == TINY.name


def test_what_is_wrong_or_missing_is_not_timed():
    log = []
    row = _compare(Side("a", log), Side("b", log, wrong="out is off"))
    assert row["verdict"] == WRONG and "head is not timed" in row["note"] and verdicts.failed([row])
    row = _compare(Side("a", log, wrong="out is off"), Side("b", log))
    assert row["ratio"] is None and not verdicts.failed([row]), "an old mistake is no reason to refuse the new code"
    row = _compare(Side("a", log, error="no such case"), Side("b", log))
    assert row["note"] == "base does not run it: no such case" and not verdicts.failed([row])
    assert "sample" not in {do for _, do in log}


def _rows(path, *rows):
    fields = ["case", "direction", "implementation", "plan", "threads", "median_ms", "q20_ms", "q80_ms", "cpu"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(fields)
        writer.writerows(rows)
    return str(path)


def _row(case, milliseconds, implementation="pgconv", plan="cpp:direct", cpu="one"):
    spread = 0.99 * milliseconds, 1.01 * milliseconds
    return [case, "forward", implementation, plan, 2, milliseconds, *spread, cpu]


def test_two_files(tmp_path, capsys):
    empty = ["c", "forward", "disc", "", 2, "", "", "", "one"]
    old = _rows(tmp_path / "a.csv", _row("a", 10), _row("b", 10), _row("a", 10, "disc", ""), _row("gone", 1), empty)
    new = _rows(
        tmp_path / "b.csv", _row("a", 11), _row("b", 10, plan="cpp:spectral"), _row("a", 90, "disc", ""), _row("new", 1)
    )
    out = tmp_path / "out.csv"
    assert benchmarks.main(["compare", "--csv", old, new, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "1 slower, 0 faster, 2 same" in text and "2 without times" in text
    assert "in the first file alone" in text and "in the second file alone" in text
    with out.open(newline="") as file:
        found = {(row["case"], row["implementation"]): row for row in csv.DictReader(file)}
    assert found["b", "pgconv"]["plan"] == "cpp:direct > cpp:spectral" and ("c", "disc") not in found
    assert found["a", "disc"]["verdict"] == SLOWER
    assert compare.main(["--csv", old, new, "--tolerance", "1.05"]) == 1
    assert "slower: a forward pgconv: 1.10 times" in capsys.readouterr().out
    assert compare.main(["--csv", old, new, "--tolerance", "1.05", "--filter", "b"]) == 0
    assert compare.main(["--csv", old, new, "--filter", "nonsense"]) == compare.NOTHING


def test_plans_belong_to_a_row_where_a_file_has_several(tmp_path):
    old = [dict(zip(("case", "plan", "q20_ms", "median_ms", "q80_ms"), ("a", plan, 1, 1, 1))) for plan in ("x", "y")]
    new = [old[0] | {"median_ms": 2}, old[1]]
    assert [row["ratio"] for row in verdicts.of_files(old, new, 1.15)] == [2, 1]


def test_files_of_other_machines_and_without_times(tmp_path, capsys):
    old, new = _rows(tmp_path / "a.csv", _row("a", 10)), _rows(tmp_path / "b.csv", _row("a", 10, cpu="two"))
    assert compare.main(["--csv", old, new]) == 0
    assert "different machines: cpu: one in the first, two in the second file" in capsys.readouterr().err
    (tmp_path / "c.csv").write_text("case,loss\na,1\n")
    assert compare.main(["--csv", old, str(tmp_path / "c.csv")]) == compare.NOTHING
    assert "has no columns median_ms" in capsys.readouterr().err
    assert compare.main(["--csv", old, str(tmp_path / "nowhere.csv")]) == compare.NOTHING
    with pytest.raises(SystemExit):
        compare.main(["--csv", old, new, "--tolerance", "0.5"])


# A checkout as small as the worker needs it: the time of a call is a number in the package.
FILES = {
    ".gitignore": "*.so\n__pycache__/\n",
    "csrc/a.cpp": "int a;\n",
    "CMakeLists.txt": "\n",
    "pgconv/__init__.py": "__version__ = '0'\nSECONDS = 0.001\n",
    "pgconv/_lib/__init__.py": "",
    "benchmarks/__init__.py": "",
    "benchmarks/suite.py": """
from types import SimpleNamespace
def get(name):
    own = SimpleNamespace(name="tiny-B2-C3-O2-N3to2-k3-H4-5x6", static=None, asked=[True])
    return SimpleNamespace(cases=[own], case=None)
""",
    "benchmarks/implementations.py": """
from types import SimpleNamespace
def rebuild(of, name, plan, case):
    return SimpleNamespace(function=None, plan="cpp:direct", inputs=lambda case: ([], None), bind=lambda static: None)
""",
    "benchmarks/timing.py": """
import time
import pgconv
def steps(*others):
    print("noise that is no answer")
    return {"forward": lambda: time.sleep(pgconv.SECONDS)}
""",
    "benchmarks/gate.py": """
from types import SimpleNamespace
class Gate:
    def __init__(self, *others):
        pass
    def check(self, made):
        return SimpleNamespace(wrong=None)
""",
}


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    (root / "pgconv" / "_lib" / "libpgconv_cpu.so").write_bytes(b"library")
    return root


def _worktrees(root):
    return trees.git(root, "worktree", "list").splitlines()


def test_a_revision_gets_copies_of_the_libraries_and_is_gone_afterwards(repository):
    (repository / "pgconv" / "__init__.py").write_text("changed")
    with pytest.raises(ZeroDivisionError), trees.revision("HEAD", repository, make=pytest.fail) as base:
        assert (base.root / "pgconv" / "__init__.py").read_text() == FILES["pgconv/__init__.py"]
        assert (base.root / "pgconv" / "_lib" / "libpgconv_cpu.so").read_bytes() == b"library"
        assert base.libraries.startswith("copies") and "HEAD (" in base.label and len(_worktrees(repository)) == 2
        raise ZeroDivisionError
    assert not base.root.exists() and len(_worktrees(repository)) == 1
    assert "with changes" in trees.working(repository).label


@pytest.mark.parametrize("name", ["csrc/a.cpp", "csrc/new.cpp", "CMakeLists.txt"])
def test_other_native_sources_are_built(repository, name):
    (repository / name).write_text("int b;\n")
    said, made = [], []
    with trees.revision("HEAD", repository, said.append, made.append) as base:
        assert made == [base.root] and base.libraries.startswith("built") and "takes minutes" in said[0]
        assert not list((base.root / "pgconv" / "_lib").glob("*.so"))


def test_what_cannot_be_made_ready_is_said(repository, monkeypatch):
    with pytest.raises(trees.NoTree, match="nonsense"), trees.revision("nonsense", repository):
        pass
    (repository / "csrc" / "a.cpp").write_text("int b;\n")
    assert "csrc/a.cpp is newer" in trees.working(repository).libraries
    monkeypatch.setattr("shutil.which", lambda *others, **options: None)
    with pytest.raises(trees.NoTree, match="cmake and ninja"), trees.revision("HEAD", repository, lambda words: None):
        pass
    assert len(_worktrees(repository)) == 1
    (repository / "pgconv" / "_lib" / "libpgconv_cpu.so").unlink()
    assert "there are none" in trees.working(repository).libraries


@pytest.mark.parametrize("cuda", [False, True])
def test_a_build_has_no_test_module_and_gpu_code_if_asked(monkeypatch, tmp_path, cuda):
    commands, status = [], [0, 1]

    def run(command, **options):
        commands.append(command)
        return SimpleNamespace(returncode=status[len(commands) - 1], stdout="", stderr="error: nonsense")

    monkeypatch.setattr(trees.subprocess, "run", run)
    with pytest.raises(trees.NoTree, match="does not build: error: nonsense"):
        trees.build(tmp_path, cuda)
    configure, compile = commands
    assert {"-DPGCONV_BUILD_TESTING=OFF", f"-DPGCONV_CUDA={'ON' if cuda else 'OFF'}"} <= set(configure)
    assert f"-DPGCONV_LIB_DIR={tmp_path / 'pgconv' / '_lib'}" in configure and compile[1] == "--build"


def test_each_side_runs_its_own_code(repository):
    """From git to verdict: the working tree sleeps longer than the commit."""
    (repository / "pgconv" / "__init__.py").write_text("__version__ = '1'\nSECONDS = 0.02\n")
    seen = []
    with trees.revision("HEAD", repository) as base:
        jobs = [(SimpleNamespace(name="group_conv2d"), TINY, way) for way in ("forward", "backward")]
        rows = pairs.run(base, trees.working(repository), jobs, seen.append, **SETTINGS)
    assert rows == seen and rows[0]["verdict"] == SLOWER and rows[0]["ratio"] > 3
    assert rows[1]["note"] == "base does not run it: KeyError: 'backward'"


def test_a_checkout_that_does_not_start_is_said(repository):
    tree = trees.working(repository)
    (repository / "pgconv" / "__init__.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(pairs.Failed, match="ended with status 3"), pairs.Process(tree):
        pass
    (repository / "pgconv" / "__init__.py").write_text("import nowhere\n")
    with pytest.raises(pairs.Failed, match="No module named 'nowhere'"), pairs.Process(tree):
        pass
    (repository / "pgconv" / "__init__.py").write_text("__file__, __version__ = '/elsewhere.py', '1'\n")
    with pytest.raises(pairs.Failed, match="not from the checkout"), pairs.Process(tree):
        pass


@pytest.fixture
def stubbed(monkeypatch):
    """The command without git, tests and processes; the rows are those of the list."""
    rows = []
    tree = trees.Tree(trees.ROOT, "tree", "none")
    monkeypatch.setattr(trees, "working", lambda: tree)
    monkeypatch.setattr(trees, "revision", lambda name, make: _block(tree))
    monkeypatch.setattr(compare, "tests_fail", lambda suites, which: None)

    def run(base, head, jobs, emit, **settings):
        run.jobs, run.settings = jobs, settings
        for row in rows:
            emit(row)
        return rows

    monkeypatch.setattr(pairs, "run", run)
    return rows, run


class _block:
    def __init__(self, value):
        self._value = value

    def __enter__(self):
        return self._value

    def __exit__(self, *error):
        pass


def test_exit_codes_of_the_command(stubbed, capsys, tmp_path):
    rows, run = stubbed
    common = {"case": "x", "direction": "forward", "implementation": "pgconv", "plan": "cpp:direct", "threads": 1}
    rows.append(verdicts.row(common, Times(9, 10, 11), Times(10, 11, 12), 1.15))
    assert compare.main(["--filter", "gcnn13-block1-B1-C128-O128-N8-k3-H8-32x32", "--threads", "3"]) == 0
    assert {case.name for _, case, _ in run.jobs} >= {"gcnn13-block1-B1-C128-O128-N8-k3-H8-32x32"}
    assert {way for _, _, way in run.jobs} == {"forward", "forward+backward"}
    assert run.settings == {"rounds": 9, "threads": 3, "plan": "auto:auto", "tolerance": 1.15}
    rows.append(verdicts.row(common, Times(9, 10, 11), Times(19, 20, 21), 1.15))
    out = tmp_path / "rows.csv"
    assert compare.main(["--filter", "residual", "--suite", "group_conv2d", "--out", str(out)]) == 1
    assert "slower: x forward pgconv: 2.00 times the time of the base" in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 3
    rows[:] = [verdicts.missing(common, "base does not run it")]
    assert compare.main(["--filter", "residual"]) == compare.NOTHING
    with pytest.raises(SystemExit):
        compare.main(["--filter", "nonsense"])
    assert not any(case.large for _, case, _ in run.jobs)


def test_failing_tests_are_a_refusal(stubbed, monkeypatch, capsys):
    monkeypatch.setattr(compare, "tests_fail", lambda suites, which: f"{[of.name for of in suites]} {which} red")
    monkeypatch.setattr(pairs, "run", pytest.fail)
    assert compare.main(["--filter", "residual"]) == compare.NOTHING
    assert "nothing is timed, the tests fail:\n['group_conv2d'] few red" in capsys.readouterr().err


def test_the_tests_of_an_operation_are_run(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_a():\n    pass\ndef test_b():\n    assert 1 == 2\n")
    of = replace(group_conv2d.SUITE, tests=("test_it.py::test_a",))
    assert compare.tests_fail([of], "few", tmp_path) is None
    assert "assert 1 == 2" in compare.tests_fail([of], "all", tmp_path)
    assert compare.tests_fail([of], "none", tmp_path) is None


def test_every_suite_names_tests_that_exist():
    for name in compare.SUITES:
        for test in compare.suite.get(name).tests:
            file, _, function = test.partition("::")
            assert f"def {function}(" in (trees.ROOT / file).read_text(encoding="utf-8")
