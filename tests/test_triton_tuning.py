"""Block sizes of Triton kernels: when they are tried, which are taken, who learns of them, and ``warmup``."""

import copy
import importlib.util
import json
from typing import NamedTuple

import pytest
import torch
from torch import nn

import pgconv
from pgconv.backends.triton import BACKEND, conv_tiles, tiles, tuning
from pgconv.backends.triton.tuning import Tuning

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)

from triton.errors import TritonError
from triton_process import interpreting


class Block(NamedTuple):
    """Like those of the kernels."""

    rows: int
    stages: int


USUAL = Block(32, 2)
WIDE = Tuning(("rows", "stages"), lambda b: 1 <= b.rows <= 256 and 1 <= b.stages <= 4)
CALL = ("kernel", "torch.float32", 3)


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path):
    """A machine on which nothing is known, and its file."""
    path = tmp_path / "tiles.json"
    monkeypatch.setenv("PGCONV_TILES", str(path))
    monkeypatch.setattr(tuning, "machine", lambda: "a GPU")
    tuning._known.cache_clear()
    yield path
    tuning._known.cache_clear()


class Kernel:
    """Takes a time that depends on the block; ``seconds_of`` runs it and reads that."""

    def __init__(self, monkeypatch, seconds):
        self.seconds, self.ran = seconds, []
        monkeypatch.setattr(tuning, "seconds_of", lambda run: (run(), self.seconds(self.ran[-1]))[1])

    def __call__(self, tile):
        self.ran.append(tile)
        return torch.arange(6.0)


def best_at(rows, stages):
    return lambda b: 1.0 + abs(b.rows - rows) + abs(b.stages - stages)


def test_nothing_is_tried_outside_a_search(monkeypatch, kept):
    kernel = Kernel(monkeypatch, best_at(64, 2))
    assert tuning.choose(CALL, USUAL, WIDE, kernel) == USUAL
    assert not kernel.ran and not kept.exists()


@pytest.mark.parametrize("best", [(64, 2), (256, 4), (8, 1), (32, 2), (128, 1)])
def test_a_search_finds_the_fastest_and_remembers_it(monkeypatch, kept, best):
    kernel = Kernel(monkeypatch, best_at(*best))
    with tuning.search(60) as found:
        assert tuning.choose(CALL, USUAL, WIDE, kernel) == best
        tried = len(kernel.ran)
        assert tuning.choose(CALL, USUAL, WIDE, kernel) == best and len(kernel.ran) == tried
    (choice,) = found
    assert choice.call == CALL and choice.usual == USUAL and choice.taken == best
    assert choice.usual_seconds >= choice.taken_seconds
    assert f"{choice.usual_seconds / choice.taken_seconds:.2f}x" in str(choice)
    # Here, and in a later process, without a search.
    for _ in range(2):
        assert tuning.choose(CALL, USUAL, WIDE, kernel) == best and len(kernel.ran) == tried
        tuning._known.cache_clear()


def test_a_gain_within_noise_is_none(monkeypatch):
    kernel = Kernel(monkeypatch, lambda b: 1.0 - 0.001 * b.rows / 32)
    with tuning.search(60):
        assert tuning.choose(CALL, USUAL, WIDE, kernel) == USUAL


def test_a_search_is_bounded_by_blocks_and_by_time(monkeypatch):
    endless = Tuning(("rows", "stages"), lambda b: True)
    kernel = Kernel(monkeypatch, lambda b: 1.0 / b.rows)
    with tuning.search(60) as found:
        tuning.choose(CALL, USUAL, endless, kernel)
    assert found[0].tried == tuning.MOST
    with tuning.search(0) as found:
        ran = len(kernel.ran)
        assert tuning.choose(("another",), USUAL, endless, kernel) == USUAL
        assert not found and len(kernel.ran) == ran


def test_blocks_that_fail_or_compute_something_else_are_not_taken(monkeypatch):
    def run(tile):
        kernel(tile)
        if tile.rows > 32:
            raise TritonError("out of shared memory")
        return torch.arange(6.0) + (0.1 if tile.rows < 32 else torch.nan if tile.stages == 3 else 0.0)

    kernel = Kernel(monkeypatch, lambda b: 0.5 if b != USUAL else 1.0)
    with tuning.search(60) as found:
        assert tuning.choose(CALL, USUAL, WIDE, run) == (32, 1)
    assert found[0].tried == 5


def test_an_error_of_the_shipped_block_is_the_callers():
    def run(tile):
        raise TritonError("no such instruction")

    with tuning.search(60) as found, pytest.raises(TritonError, match="no such instruction"):
        tuning.choose(CALL, USUAL, WIDE, run)
    assert not found and not tuning._searches[1:]


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"a GPU": 3}',
        '{"a GPU": [3, [["kernel", "torch.float32", 3], "ab"], [["kernel", "torch.float32", 3], [0, 2]]]}',
        '{"a GPU": [[["kernel", "torch.float32", 3], [64, 2, 1]]]}',
        '{"a GPU": [[["kernel", "torch.float32", 3], [4096, 2]]]}',
        '{"another GPU": [[["kernel", "torch.float32", 3], [64, 2]]]}',
    ],
)
def test_files_of_something_else_are_no_harm(monkeypatch, kept, text):
    kept.write_text(text)
    kernel = Kernel(monkeypatch, best_at(64, 3))
    assert tuning.choose(CALL, USUAL, WIDE, kernel) == USUAL
    with tuning.search(60):
        assert tuning.choose(CALL, USUAL, WIDE, kernel) == (64, 3)
    assert [["kernel", "torch.float32", 3], [64, 3]] in json.loads(kept.read_text())["a GPU"]


def test_what_others_keep_meanwhile_stays(monkeypatch, kept):
    kernel = Kernel(monkeypatch, best_at(64, 2))
    with tuning.search(60):
        tuning.choose(CALL, USUAL, WIDE, kernel)
        entries = {"a GPU": [[["theirs"], [1, 1]]], "another GPU": [[["own"], [2, 2]]]}
        kept.write_text(json.dumps(entries))
        tuning.choose(("second",), USUAL, WIDE, kernel)
    found = json.loads(kept.read_text())
    assert found["another GPU"] == entries["another GPU"]
    assert [call for call, _ in found["a GPU"]] == [["theirs"], list(CALL), ["second"]]


def test_no_file_is_written_where_none_is_wanted(monkeypatch, kept):
    monkeypatch.setenv("PGCONV_TILES", "shipped")
    kernel = Kernel(monkeypatch, best_at(64, 2))
    with tuning.search(60):
        assert tuning.choose(CALL, USUAL, WIDE, kernel) == (64, 2)
    assert not kept.exists()


def test_only_what_was_found_on_the_same_machine_is_adopted():
    tuning.adopt(("another GPU", [(CALL, (64, 2))]))
    assert tuning.known() == ("a GPU", [])
    tuning.adopt(("a GPU", [(CALL, (64, 2))]))
    assert tuning.known() == ("a GPU", [(CALL, (64, 2))])


SIZES = [(s, h, o, k) for s in (1, 3, 8, 16) for h in (1, 8, 32, 40) for o in (1, 40, 128) for k in (9, 392)]


@pytest.mark.parametrize("architecture", [x for x in conv_tiles.TABLE if x != "interpreter"])
@pytest.mark.parametrize("kernel", conv_tiles.TUNING)
def test_shipped_blocks_make_sense_by_the_rules_of_a_search(architecture, kernel):
    for word in (2, 4):
        for sizes in SIZES:
            tile = conv_tiles.tile(architecture, kernel, word, *sizes)
            assert conv_tiles.TUNING[kernel].allowed(tile), tile


@pytest.mark.parametrize("features", [16, 32, 64])
def test_shipped_blocks_of_points_make_sense_by_the_rules_of_a_search(features):
    for dtype in (torch.float32, torch.bfloat16):
        for columns in (1, 32, 64, 1000):
            assert tiles.moments_tuning(features).allowed(tiles.moments_tile(features, columns, dtype))
            assert tiles.gradient_tuning(features, 16, 3).allowed(tiles.gradient_tile(features, columns, dtype))


class Points(nn.Module):
    """A point convolution of given elements."""

    def __init__(self):
        super().__init__()
        self.net = pgconv.kernel_nets.SIREN(2, hidden=8, layers=3)
        self.weight = nn.Parameter(torch.ones(3, 2, 8))

    def forward(self, f, v, u):
        return pgconv.functional.point_conv(f, v, u, self.net, self.weight, group="T(2)")


def case(name):
    """A module and its arguments."""
    torch.manual_seed(0)
    if name == "points":
        return Points(), (torch.randn(1, 20, 2), torch.randn(1, 20, 2).requires_grad_(), torch.randn(1, 5, 2))
    return pgconv.nn.LiftingConv2d(2, 3, kernel_size=3, group="SE(2)", num_samples=2), (torch.randn(1, 2, 4, 4),)


def warm(name, order=None):
    """The report of a warm-up where kernels are interpreted, calls tuned, and errors of the module with what was found. Times are
    such that blocks are changed."""
    number = iter(range(10**6))

    def faster(run):
        run()
        return 1.0 / (1 + next(number))

    tuning.seconds_of, tuning.MOST = faster, 5
    module, inputs = case(name)
    with pgconv.use_backend("triton", order):
        report = pgconv.warmup(module, *inputs)
        check = pgconv.self_check(module, *inputs)
        again = pgconv.warmup(module, *inputs)
    return report, again, BACKEND.tuned(), check


@pytest.fixture
def call():
    """In a process of its own, which leaves no trace in others."""
    with interpreting() as call:
        yield call


@pytest.mark.parametrize(
    ("name", "order", "kernels"),
    [
        ("images", "aggregate", {"chain", "head_gradient", "feature_gradient"}),
        ("images", "direct", {"direct", "head_gradient", "feature_gradient"}),
        ("points", None, {"moments", "gradients"}),
    ],
)
def test_warmup_tunes_every_kernel_once_and_results_stay_right(call, kept, name, order, kernels):
    report, again, (machine, known), check = call(warm, name, order)
    assert {choice.call[0] for choice in report.choices} == {found[0] for found, _ in known} == kernels
    assert all(choice.taken != choice.usual and choice.tried > 1 for choice in report.choices)
    assert not again.choices and again.first_seconds > 0 and again.seconds > 0
    assert check.ok, str(check)
    assert machine.startswith("interpreter, Triton") and len(json.loads(kept.read_text())[machine]) == len(known)
    assert len(str(report).splitlines()) == 1 + len(report.choices)


@pytest.mark.skipif("triton" not in pgconv.backends.available("cuda"), reason="needs a GPU")
@pytest.mark.parametrize(("name", "order"), [("images", "aggregate"), ("images", "direct"), ("points", None)])
def test_warmup_by_time_on_a_gpu(no_tf32, kept, name, order):
    module, inputs = case(name)
    module, inputs = module.cuda(), [x.detach().cuda() for x in inputs]
    with pgconv.use_backend("triton", order):
        report = pgconv.warmup(module, *inputs, seconds=30)
        assert report.choices and kept.exists()
        assert all(choice.taken_seconds <= choice.usual_seconds for choice in report.choices)
        assert pgconv.self_check(module, *inputs).ok


def quiet():
    """What is tuned with either turned off."""
    module, inputs = case("images")
    with pgconv.use_backend("triton", "aggregate"):
        off = pgconv.warmup(module, *inputs, tune=False)
        forward = pgconv.warmup(module, *inputs, backward=False, seconds=1e-9)
        some = pgconv.warmup(module, *inputs, backward=False)
    return off.choices, forward.choices, {choice.call[0] for choice in some.choices}


def test_warmup_does_what_it_is_asked_for(call):
    assert call(quiet) == ((), (), {"chain"})


def test_warmup_leaves_the_module_and_the_random_numbers_alone():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    report = pgconv.warmup(module, x)
    assert report.choices == () and "first run" in str(report)
    assert all(torch.equal(y, before[name]) for name, y in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert x.grad is None and all(p.grad is None for p in module.parameters())


def test_warmup_takes_modules():
    with pytest.raises(ValueError, match=r"module must be a torch\.nn\.Module, received"):
        pgconv.warmup(lambda x: x, torch.ones(1))


def rank(number, address, fails):
    """One of two: the first tunes, the other may not, and both know the same."""
    import torch.distributed as distributed

    distributed.init_process_group("gloo", init_method=address, rank=number, world_size=2)
    tuning.MOST = 3
    if number:
        tuning.seconds_of = None
    module, inputs = case("images")
    try:
        with pgconv.use_backend("triton"):
            report = pgconv.warmup(module, *inputs[: 0 if fails and not number else None])
        return len(report.choices), BACKEND.tuned()
    except TypeError:
        return "failed", BACKEND.tuned()
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("fails", [False, True], ids=["", "first fails"])
def test_ranks_compute_with_the_same_blocks(kept, tmp_path, fails):
    from concurrent.futures import ThreadPoolExecutor

    with interpreting() as one, interpreting() as two, ThreadPoolExecutor(2) as both:
        address = f"file://{tmp_path}/meeting"
        first, second = (both.submit(ask, rank, n, address, fails) for n, ask in enumerate((one, two)))
        (found, tuned), (others, adopted) = first.result(timeout=240), second.result(timeout=240)
    assert others == 0 and tuned == adopted
    assert (found, len(tuned[1])) == (("failed", 0) if fails else (3, 3))
