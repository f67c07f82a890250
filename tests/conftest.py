"""Fixtures that tests of several modules share, and the choice of few of all."""

import os
from contextlib import contextmanager
from zlib import crc32

import pytest
import torch

from pgconv import backends
from pgconv.backends.cpp import library

# What was measured on this machine would change what is tested; in processes that tests start, too.
os.environ["PGCONV_TILES"] = os.environ["PGCONV_RATES"] = "shipped"


@pytest.fixture(params=library.supported_isas() if library.load_error() is None else [])
def level(request):
    """Each instruction set this machine runs, in use for the test."""
    used = library.isa()
    library.set_isa(request.param)
    yield request.param
    library.set_isa(used)


@contextmanager
def full_precision():
    """Convolutions on a GPU do not cut operands to TF32, their default. (A patch would take the setting away at its end.)"""
    setting = torch.backends.cudnn.conv
    before, setting.fp32_precision = setting.fp32_precision, "ieee"
    try:
        yield
    finally:
        setting.fp32_precision = before


@pytest.fixture
def no_tf32():
    """For the test."""
    with full_precision():
        yield


@pytest.fixture
def fresh_compiler():
    """Compiled code and its guards must not leak from one test to the next."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def places():
    """Where Triton's kernels run."""
    gpu = torch.cuda.is_available() and "triton" in backends.available("cuda")
    return ["interpreted", "gpu"] if gpu else ["interpreted"]


@pytest.fixture(scope="session", params=places())
def run(request):
    """``run(function, *args, **options)`` calls a function of a test module where Triton's kernels run, with the device of the
    tensors first: in a process that interprets them, and on a GPU where there is one."""
    if request.param == "gpu":
        with full_precision():
            yield lambda function, *args, **options: function("cuda", *args, **options)
        return
    from triton_process import interpreting

    with interpreting() as call:
        yield lambda function, *args, **options: call(function, "cpu", *args, **options)


def pytest_addoption(parser):
    parser.addoption(
        "--one-each", action="store_true", help="one set of arguments of every test function, chosen by its name"
    )


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--one-each"):
        return
    sets = {}
    for item in items:
        sets.setdefault(item.nodeid.partition("[")[0], []).append(item)
    chosen = [same[crc32(same[0].originalname.encode()) % len(same)] for same in sets.values()]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
