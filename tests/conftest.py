"""Fixtures that tests of several modules share."""

import pytest
import torch
from pytest import MonkeyPatch

from pgconv.backends.cpp import library


@pytest.fixture(params=library.supported_isas() if library.load_error() is None else [])
def level(request):
    """Each instruction set this machine runs, in use for the test."""
    used = library.isa()
    library.set_isa(request.param)
    yield request.param
    library.set_isa(used)


@pytest.fixture(scope="session", params=["interpreted", *(["gpu"] if torch.cuda.is_available() else [])])
def run(request):
    """``run(function, *args, **options)`` calls a function of a test module where Triton's kernels run, with the device of the
    tensors first: in a process that interprets them, and on a GPU where there is one."""
    if request.param == "gpu":
        with MonkeyPatch.context() as patch:
            # Bounds are those of float32; TF32 would be the default of convolutions.
            patch.setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee")
            yield lambda function, *args, **options: function("cuda", *args, **options)
        return
    from triton_process import interpreting

    with interpreting() as call:
        yield lambda function, *args, **options: call(function, "cpu", *args, **options)
