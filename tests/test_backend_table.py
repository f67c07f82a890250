"""The page of what backends run says what they say."""

import pytest
from backend_table import PAGE, page

emulated = pytest.importorskip("pgconv._lib._emulated", reason="the test module was not built")


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(emulated), "run: python tests/backend_table.py"
