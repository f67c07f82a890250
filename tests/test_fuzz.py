"""Random calls of the native CPU code, see ``fuzzing``. In processes of their own: a call may end one.

``PGCONV_FUZZ_SECONDS`` is the time of each test, ``PGCONV_FUZZ_SEED`` the first call; with their defaults a run makes the calls of
the run before. ``make test-fuzz`` runs them on a library built with sanitizers, which see what reads or writes out of bounds.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fuzz_broken
import fuzz_calls
import fuzzing
import pytest
import torch
from fuzz_compare import Mismatch, image_convolution
from fuzz_draws import Draw

import pgconv
from pgconv import backends
from pgconv.backends import native_features
from pgconv.backends.cpp import group_conv2d, library, point_conv
from pgconv.backends.reference.group_conv2d import group_conv2d as reference
from pgconv.spec import ConvGeometry

if "cpp" not in backends.available("cpu"):
    pytest.skip(f"no native library: {library.load_error()}", allow_module_level=True)

SECONDS = float(os.environ.get("PGCONV_FUZZ_SECONDS", "12"))
SEED = int(os.environ.get("PGCONV_FUZZ_SEED", "0"))


def fuzz(kind, *options):
    """Number of calls that were made, and None or what went wrong with the last one."""
    places = [str(Path(pgconv.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    # What no memory can hold is an exception elsewhere, and the sanitizer's end of the process by default.
    given = [os.environ.get("ASAN_OPTIONS"), "allocator_may_return_null=1"]
    environment["ASAN_OPTIONS"] = ":".join(filter(None, given))
    command = [sys.executable, fuzzing.__file__, kind, *map(str, options)]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    lines = [line for line in run.stdout.splitlines() if line.startswith(f"{kind} --seed")]
    if run.returncode == 0:
        return len(lines), None
    report = re.split(r"(?==+\d+=+ERROR)", run.stderr)[-1]  # of the sanitizer, if there is one
    return len(lines), f"{lines[-1] if lines else command}\nexit {run.returncode}\n{report[:3000]}\n{report[-1500:]}"


@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_random_calls(kind):
    calls, failure = fuzz(kind, "--seed", SEED, "--seconds", SECONDS)
    assert failure is None, failure
    assert calls > 0


def test_a_call_that_ends_the_process_is_named():
    calls, failure = fuzz("abort", "--seed", 7, "--calls", 3)
    assert calls == 1 and "abort --seed 7 " in failure


# A function whose results are off by a thousandth, and calls that use it.
PLANTED = {
    "conv": (group_conv2d, "forward"),
    "points": (point_conv, "forward"),
    "features": (native_features, "relative_features"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_wrong_results_are_noticed(kind, monkeypatch):
    module, name = PLANTED[kind]
    right = getattr(module, name)

    def wrong(*args):
        out = right(*args)
        return out + 1e-3 * (out.abs().max() if out.numel() else 0)

    monkeypatch.setattr(module, name, wrong)
    noticed = 0
    for seed in range(60):
        try:
            fuzzing.one(kind, seed)
        except Mismatch:
            noticed += 1
    assert noticed > 5, noticed


def test_the_comparison_is_with_the_reference():
    for seed in range(20):
        draw = Draw(seed)
        g = fuzz_calls.geometry_of(draw)
        if min(g.out_size(9, 8)) > 0:
            operands = (
                draw.normal(2, 3, 2, 9, 8),
                draw.normal(1 + seed % 2, 4, 2, len(g.taps()), 3),
                draw.normal(5, 3, 3),
            )
            torch.testing.assert_close(image_convolution(*operands, g), reference(*operands, g, "direct"))


@pytest.mark.skipif("PGCONV_SANITIZED" not in os.environ, reason="on the usual library")
def test_the_library_has_the_sanitizers():
    assert b"__asan_report_load" in library.PATH.read_bytes()


def test_a_broken_call_that_is_taken_is_noticed(monkeypatch):
    operators = SimpleNamespace(**{name: lambda *args: None for name in fuzz_broken.CALLS})
    monkeypatch.setattr(fuzz_broken, "library", SimpleNamespace(ops=lambda: operators))
    with pytest.raises(AssertionError, match="took"):
        for seed in range(40):
            fuzzing.one("broken", seed)


# What random calls found.

BIGGEST = (1 << 63) - 1


def test_runs_of_inputs_end_inside_even_where_their_end_has_no_number():
    tensors = [torch.zeros(shape) for shape in ((1, 3, 2), (1, 3, 3), (1, 1, 3), (fuzz_broken.PARAMS,), (1, 2, 8))]
    lists = torch.tensor([0, 1]), None, torch.tensor([BIGGEST])
    with pytest.raises(RuntimeError, match="index"):
        library.ops().point_conv(*tensors, None, *lists, False, *fuzz_broken.SPEC.values())


# Reach of the window: 2^33 times 2^31, and what is added to the image's height.
@pytest.mark.parametrize(
    ("tap", "padding", "dilation", "words"),
    [
        (1 << 33, 1, 1 << 31, "taps"),
        (1, 1 << 62, 1, "geometry"),
        (1, BIGGEST, 1, "geometry"),
        (1, 1, 1 << 62, "geometry"),
    ],
)
def test_windows_whose_size_has_no_number_are_refused(tap, padding, dilation, words):
    tensors = [torch.zeros(shape) for shape in ((1, 1, 1, 3, 3), (1, 1, 1, 2, 1), (1, 1, 1))]
    taps = torch.tensor([[1, 0], [tap, 0]])
    with pytest.raises(RuntimeError, match=words):
        library.ops().group_conv2d(*tensors, taps, [1, 1, padding, 0, dilation, 1], "direct")


@pytest.mark.parametrize("order", fuzz_calls.ORDERS)
@pytest.mark.parametrize("stride", [(1000, 1 << 40), (1 << 40, 1)])
def test_a_stride_past_the_image_leaves_the_first_pixel(order, stride):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, 2, 9, 33), (1, 2, 2, 9, 4), (5, 3, 4)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]

    def call(*stride):
        geometry = ConvGeometry(3, stride, (1, 1), (1, 1), "square")
        leaves = [x.clone().requires_grad_() for x in tensors]
        out = group_conv2d.forward(order, *tensors, geometry)
        return out, group_conv2d.backward(order, torch.ones_like(out), *leaves, geometry, (True,) * 3)

    out, grads = call(*stride)
    every, _ = call(1, 1)
    torch.testing.assert_close(out, every[..., :: stride[0], :: stride[1]])
    assert all(x.isfinite().all() for x in grads)


@pytest.mark.parametrize("sets", [1 << 52, 1 << 62])
def test_sets_without_elements_are_counted(sets):
    v, u, params = torch.zeros(sets, 0, 3), torch.zeros(1, 5, 3), torch.zeros(fuzz_broken.PARAMS)
    with pytest.raises(RuntimeError, match="too large"):
        library.ops().relative_features(v, u, params, *fuzz_broken.SPEC.values())


@pytest.mark.parametrize("order", fuzz_calls.ORDERS)
@pytest.mark.parametrize("empty", ["taps", "features", "channels", "elements", "rows", "columns"])
def test_sums_of_nothing_are_zero(order, empty):
    sizes = {"taps": 9, "features": 4, "channels": 3, "elements": 2, "rows": 6, "columns": 7} | {empty: 0}
    taps, features, channels, elements, rows, columns = sizes.values()
    f, phi = torch.ones(2, channels, elements, rows, columns), torch.ones(1, 2, elements, taps, features)
    call = f, phi, torch.ones(5, channels, features), torch.tensor([(i, j) for i in range(3) for j in range(3)])[:taps]
    out = library.ops().group_conv2d(*call, [1, 1, 2, 2, 1, 1], order)
    assert out.numel() and not out.any()
    grads = library.ops().group_conv2d_backward(torch.ones_like(out), *call, [1, 1, 2, 2, 1, 1], order, 7)
    assert not any(x.any() for x in grads)


def test_points_without_channels_give_zero():
    shapes = (1, 5, 0), (1, 5, 3), (1, 4, 3), (fuzz_broken.PARAMS,), (3, 0, 8)
    tensors, lists = (
        [torch.ones(shape) for shape in shapes],
        (torch.tensor([0, 2, 2, 3, 5]), torch.tensor([0, 4, 1, 2, 3])),
    )
    out = library.ops().point_conv(*tensors, torch.ones(3, 0), *lists, None, False, *fuzz_broken.SPEC.values())
    assert out.shape == (1, 4, 3) and not out.any()
