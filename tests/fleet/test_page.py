"""docs/fleet.md has every question, view and column."""

from __future__ import annotations

from tests.fleet.page import PAGE, filled


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    page = PAGE.read_text()
    assert filled(page) == page, "run: python tests/fleet/page.py"
