"""Fixtures of the native tests."""

import pytest

from pgconv.backends.cpp import library


@pytest.fixture(params=library.supported_isas() if library.load_error() is None else [])
def level(request):
    """Each instruction set this machine runs, in use for the test."""
    used = library.isa()
    library.set_isa(request.param)
    yield request.param
    library.set_isa(used)
