"""What the benchmarks do for a GPU, as far as it shows without one: batches, layouts, bounds, what compiles, and the record."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from benchmark_suites import IMAGES, POINTS, QUICK, SUITES, TINY, Case, command, with_wrong_baseline

from benchmarks import __main__ as benchmarks
from benchmarks import engine, gate, group_conv2d, implementations, machine, record
from benchmarks.implementations import Implementation, Skipped
from pgconv._layout import is_group_last
from pgconv.spec import Plan

BASELINES = group_conv2d.SUITE.baselines


@pytest.fixture
def quick_main(monkeypatch):
    return command(monkeypatch)


def test_a_network_in_channels_last_copies_no_map(monkeypatch):
    """Signal, result and gradients lie in memory as its convolution has them."""
    (way,) = (way for way in BASELINES if way.name == "channels-last")
    case = replace(TINY, kernel=5)
    (f, phi, weight), cotangent = way.arrange(case.operands(), case.cotangent())
    assert f.shape == case.shapes[0] and torch.equal(f, case.operands()[0])
    assert torch.equal(cotangent, case.cotangent())
    seen = []

    def convolve(signal, values, *others):
        seen.extend((signal, values))
        return torch.conv2d(signal, values, *others)

    monkeypatch.setattr("torch.nn.functional.conv2d", convolve)
    out = way.make()(f, phi, weight, case.geometry)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
    assert seen[0].data_ptr() == f.data_ptr()
    assert out.flatten(1, 2).is_contiguous(memory_format=torch.channels_last) and out._base is not None
    assert cotangent.stride() == out.stride()
    (of_f,) = torch.autograd.grad(way.make()(f.requires_grad_(), phi, weight, case.geometry), f, cotangent)
    assert of_f.stride() == f.stride()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said(quick_main, capsys):
    with pytest.raises(SystemExit):
        quick_main("--device", "cuda")
    assert "torch sees no GPU" in capsys.readouterr().err


def test_a_record_of_a_gpu(tmp_path, quick_main, capsys):
    tables, junit = [tmp_path / name for name in ("images.csv", "points.csv")], tmp_path / "tests.xml"
    for suite, table in zip(SUITES, tables):
        assert quick_main("--csv", str(table), suite=suite) == 0
    junit.write_text('<testsuites><testsuite tests="5" failures="1" errors="0" skipped="2"/></testsuites>')
    options = [
        "--junit",
        str(junit),
        "--csv",
        *map(str, tables),
        "--gpu",
        "NVIDIA H200 (test)",
        "--out",
        str(tmp_path / "out"),
    ]
    assert benchmarks.main(["record", *options]) == 0
    found = json.loads((tmp_path / "out" / "nvidia-h200-test.json").read_text())
    assert found["tests"] == {"tests": 5, "failures": 1, "errors": 0, "skipped": 2}
    assert found["sources"] == record.digest()
    assert {name: len(rows) for name, rows in found["times"].items()} == {
        "images": 4 * len(IMAGES),
        "points": 4 * len(POINTS),
    }
    for table in tables:
        assert (tmp_path / "out" / f"nvidia-h200-test-{table.name}").read_text() == table.read_text()
    tables[0].unlink()
    junit.unlink()
    capsys.readouterr()
    assert benchmarks.main(["record", *options]) == 0
    said = capsys.readouterr().out
    assert f"not there: {tables[0]}" in said and f"not there: {junit}" in said
    found = json.loads((tmp_path / "out" / "nvidia-h200-test.json").read_text())
    assert found["tests"] == {} and list(found["times"]) == ["points"]


def test_the_digest_sees_names_and_contents(tmp_path):
    for name in ("a.cu", "b.cu"):
        (tmp_path / "csrc" / "cuda").mkdir(parents=True, exist_ok=True)
        (tmp_path / "csrc" / "cuda" / name).write_text("x")
    first = record.digest(tmp_path)
    (tmp_path / "csrc" / "cuda" / "b.cu").rename(tmp_path / "csrc" / "cuda" / "c.cu")
    second = record.digest(tmp_path)
    (tmp_path / "csrc" / "cuda" / "c.cu").write_text("y")
    assert len({first, second, record.digest(tmp_path)}) == 3


def test_records_say_whether_the_sources_have_moved_on():
    for path in record.RESULTS.glob("*.json"):
        if json.loads(path.read_text(encoding="utf-8"))["sources"] != record.digest():
            warnings.warn(f"{path.name}: the GPU kernels have changed since; make gpu-record", stacklevel=1)


def test_a_gpu_is_given_the_published_batches():
    def names(*arguments):
        chosen = engine._parser(group_conv2d.SUITE).parse_args(["--device", "cuda", *arguments])
        return [case.name for case in engine.select(group_conv2d.SUITE, chosen)]

    usual = names("--dtype", "bfloat16")
    assert "gcnn13-block1-B128-C128-O128-N8-k3-H8-32x32-bfloat16-cuda" in usual
    assert "residual-B64-C32-O32-N8-k7-H32-28x28-bfloat16-cuda" in usual
    assert len(usual) == len(set(usual)) == sum(case.gpu_batch > 0 for case in group_conv2d.CASES) == 5
    assert names("--filter", "block3") == ["gcnn13-block3-B16-C256-O256-N8-k3-H8-16x16-cuda"]
    assert len(names("--list")) > len(usual)


def test_a_gpu_may_cut_float32_where_torch_lets_it(monkeypatch):
    case, kept = replace(TINY, device="cuda"), torch.backends.cudnn.allow_tf32
    try:
        for allowed in (True, False):
            torch.backends.cudnn.allow_tf32 = allowed
            assert case.tf32 is allowed and not replace(case, dtype="bfloat16").tf32 and not TINY.tf32
    finally:
        torch.backends.cudnn.allow_tf32 = kept
    assert machine.peak_probe(torch.bfloat16, "cuda") == "bfloat16 matmul 8192 x 8192 x 8192"
    assert "TF32 off" in machine.peak_probe(torch.float32, "cuda")
    check = gate.Gate(SUITES[0], TINY)
    (way,) = implementations.select(SUITES[0], TINY, "best", "none")
    rough = replace(way, function=lambda *operands: (1 + 1e-3) * way.function(*operands))
    assert "out is off" in check.check(rough).wrong
    monkeypatch.setattr(Case, "tf32", True)
    assert gate.Gate(SUITES[0], TINY).check(rough).wrong is None


def test_the_vendor_searches_while_a_case_is_measured(monkeypatch):
    seen = []

    def watch(right):
        def watched(*operands):
            seen.append(torch.backends.cudnn.benchmark)
            return right(*operands)

        return watched

    assert not torch.backends.cudnn.benchmark
    engine.measure(with_wrong_baseline(SUITES[0], watch), TINY, 1, replace(QUICK, baselines="materialised"))
    assert all(seen) and seen and not torch.backends.cudnn.benchmark


def test_what_compiles_runs_where_it_is_asked_for(quick_main, capsys):
    case = SUITES[0].cases[1]
    (skipped, *_) = implementations.select(SUITES[0], case, "best", "compiled", "another")
    assert isinstance(skipped, Skipped) and "--compile" in skipped.reason
    (chosen, *_) = implementations.select(SUITES[0], case, "best", "compiled", "another,H4+1")
    assert isinstance(chosen, Implementation)
    (plain, *_) = implementations.select(SUITES[0], case, "best", "disc", "another")
    assert isinstance(plain, Implementation)
    gpu, settings = replace(case, device="cuda"), engine.Settings(compiling="H4+1")
    long, short = (engine._overhead(SUITES[0], c, settings) for c in (gpu, replace(gpu, bias=False)))
    assert long > short > engine._overhead(SUITES[0], case, settings)
    arguments = ["--baselines", "compiled", "--compile", "another", "--filter", "B1-"]
    assert quick_main(*arguments) == 0
    assert "compiled: not run: it compiles for long" in capsys.readouterr().out


def test_whatever_a_compiler_raises_the_others_are_measured(quick_main, capsys):
    def broken(right):
        def fails(*operands):
            raise OSError("no assembler")

        return fails

    assert quick_main("--filter", TINY.name, suite=with_wrong_baseline(SUITES[0], broken)) == 1
    captured = capsys.readouterr()
    assert "raised OSError: no assembler" in captured.err and "pgconv" in captured.out


def test_our_kernels_are_given_maps_with_samples_last():
    (f, *_), cotangent = group_conv2d.SUITE.arrange(Plan("cuda", "aggregate"))(TINY.operands(), TINY.cotangent())
    assert torch.equal(f, TINY.operands()[0]) and torch.equal(cotangent, TINY.cotangent())
    assert is_group_last(f) and is_group_last(cotangent)
    (f, *_), _ = group_conv2d.SUITE.arrange(Plan("cuda", "materialize"))(TINY.operands(), TINY.cotangent())
    assert f.is_contiguous()
