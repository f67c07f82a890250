"""The emulator of a GPU finds the mistakes it is there to find, in kernels that have one each."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

emulated = pytest.importorskip("pgconv._lib._emulated", reason="the test module was not built")

SEEDS = range(6)
NUMBERS = np.arange(128, dtype=np.float32)
REVERSED = NUMBERS.reshape(2, 64)[:, ::-1].ravel()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_right_kernel_passes(seed):
    found, sums = emulated.planted(seed, "none", NUMBERS)
    np.testing.assert_array_equal(found, REVERSED)
    np.testing.assert_array_equal(sums, REVERSED.reshape(-1, 32).sum(1))


@pytest.mark.parametrize("mistake", ["missing barrier", "reads unwritten"])
def test_reading_what_is_not_there_yet_gives_nan(mistake):
    """Shared memory begins as NaN, and no schedule lets every thread write before any reads."""
    for seed in SEEDS:
        found, _ = emulated.planted(seed, mistake, NUMBERS)
        assert np.isnan(found).any()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("barrier for some", "wait for ever in sync_block"),
        ("two instructions", "wait for each other in"),
    ],
)
def test_threads_that_miss_each_other_are_an_error(mistake, message):
    for seed in SEEDS:
        with pytest.raises(RuntimeError, match=message):
            emulated.planted(seed, mistake, NUMBERS)


def test_shared_memory_is_that_of_the_smallest_gpu():
    with pytest.raises(RuntimeError, match="not every GPU"):
        emulated.planted(0, "too much shared", NUMBERS)


def test_an_error_leaves_the_emulator_usable():
    with pytest.raises(RuntimeError):
        emulated.planted(0, "barrier for some", NUMBERS)
    np.testing.assert_array_equal(emulated.planted(0, "none", NUMBERS)[0], REVERSED)


@pytest.mark.parametrize("seed", SEEDS)
def test_lanes_that_do_not_wait_read_what_is_not_there_yet(seed):
    rows = np.arange(128, dtype=np.uint32).reshape(32, 4)
    want = rows[::-1].reshape(4, 32)  # a lane's word of each matrix: row lane / 4, word lane % 4
    np.testing.assert_array_equal(emulated.planted_matrices(seed, True, rows), want)
    assert not np.array_equal(emulated.planted_matrices(seed, False, rows), want)


@pytest.fixture
def product():
    """Of a warpgroup, by a kernel with a mistake, and what it is without."""
    rng = np.random.default_rng(0)
    left, right = (rng.integers(-3, 4, shape).astype(np.float16) for shape in ((64, 128), (32, 128)))
    want = left.astype(np.float32) @ right.astype(np.float32).T
    bits = left.view(np.uint16), right.view(np.uint16)
    return lambda seed, mistake: (emulated.planted_product(seed, mistake, *bits), want)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_right_product_passes(product, seed):
    np.testing.assert_array_equal(*product(seed, "none"))


@pytest.mark.parametrize("mistake", ["missing turn", "registers reused", "buffer reused"])
def test_wrong_operands_give_wrong_products(product, mistake):
    """Products run as late as they may: what is written before their wait is what they read."""
    for seed in SEEDS:
        found, want = product(seed, mistake)
        assert not np.array_equal(found, want)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("missing wait", "products that nobody waits for"),
        ("missing begin", "a product without warpgroup_begin"),
        ("missing fence", "reads copies without fence_shared"),
    ],
)
def test_products_that_are_not_ordered_are_an_error(product, mistake, message):
    for seed in SEEDS:
        with pytest.raises(RuntimeError, match=message):
            product(seed, mistake)
    np.testing.assert_array_equal(*product(0, "none"))


def test_the_sanitizer_is_there_when_asked_for():
    assert (os.environ.get("PGCONV_SANITIZED") == "1") == emulated.SANITIZED


@pytest.mark.skipif(not emulated.SANITIZED, reason="needs the address sanitizer: make test-sanitize")
def test_the_sanitizer_sees_the_end_of_shared_memory():
    code = "import numpy as np; from pgconv._lib import _emulated as e; e.planted(0, 'past shared memory', np.zeros(64, 'f'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr and "planted" in done.stderr


def test_rounding_to_16_bits():
    """Halfway cases, subnormal numbers, the largest ones and beyond, against numpy and torch."""
    torch = pytest.importorskip("torch")
    bits = np.arange(0, 1 << 16, 7, dtype=np.uint32)
    wide = np.concatenate([bits << 16, (bits << 16) + 0x8000, (bits << 16) + 0x8001]).astype(np.uint32).view(np.float32)
    halves = np.arange(0, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[1:].astype(np.float64) + halves[:-1]) / 2
    x = np.concatenate([wide, halves, between.astype(np.float32), np.float32([65519, 65520, 1e-8, 3e-8, np.inf])])
    x = np.concatenate([x, -x]).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(emulated.round_to(True, x), x.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(emulated.round_to(False, x), torch.from_numpy(x).bfloat16().float().numpy())


def test_warps_that_run_ahead_are_seen():
    stages = np.arange(8 * 128 * 4, dtype=np.uint32).reshape(8, 128, 4)
    want = np.roll(stages[:, :, 0].sum(0, dtype=np.uint32), -32)
    assert all((emulated.planted_pipeline(seed, True, stages) == want).all() for seed in range(8))
    for seed in range(4, 8):
        # Warps in step bring everything in time.
        assert (emulated.planted_pipeline(seed, False, stages) == want).all() == (seed % 2 == 0)


def test_the_special_function_unit_errs():
    """As much as a GPU's does at most: results that need more must not be seen as right."""
    worst = [0.0] * 4
    for k in range(-2000, 2000):
        x = float(np.float32(0.0015731 * k + 1e-4))
        found, right = emulated.special(x), (math.sin(x), math.cos(x), 2.0**x, 1 / x)
        scale = 1.0, 1.0, right[2], abs(right[3])
        worst = [max(w, abs(y - z) / s) for w, y, z, s in zip(worst, found, right, scale)]
    assert all(2.0**-23 < w < 2.0**-20 for w in worst[:2]) and all(2.0**-24 < w < 2.0**-21 for w in worst[2:])
    assert math.isnan(emulated.special(math.inf)[0]) and emulated.special(0.0)[3] == math.inf
