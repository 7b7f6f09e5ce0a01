"""What is kept of the live tests under other kernels, and the table that is made of it."""

from __future__ import annotations

import re

import live

ROWS = {
    "tests/a/test_b.py::test_1": {"outcome": "passed", "date": "2026-11-30"},
    "tests/a/test_b.py::test_2": {"outcome": "passed", "date": "2026-11-29"},
    "tests/a/test_b.py::test_3": {"outcome": "skipped", "why": "needs x (this kernel has no x)", "date": "2026-11-30"},
    "tests/a/test_b.py::test_4": {"outcome": "failed", "why": "assert 1 == 2", "date": "2026-11-30"},
}


def test_a_module_is_kept_by_numbers_and_what_did_not_pass_by_name() -> None:
    found = live.summary(ROWS)
    assert found == {
        "passed": 2,
        "skipped": {"needs x (this kernel has no x)": 1},
        "others": {"tests/a/test_b.py::test_4": "failed: assert 1 == 2"},
        "date": "2026-11-29",
    }
    assert live.counts_of(found) == {"passed": 2, "skipped": 1, "failed": 1}
    assert live.is_whole(found, list(ROWS)) and not live.is_whole(found, [*ROWS, "tests/a/test_b.py::test_5"])
    assert not live.is_whole(None, [])


def test_the_table_has_each_kernel_in_the_order_of_versions() -> None:
    later = {"passed": 1, "date": "2026-12-01"}
    modules = {"tests/a/test_b.py": list(ROWS), "tests/a/test_c.py": ["tests/a/test_c.py::test_1"]}
    kernels = {
        "6.1.0-50-cloud-amd64": {},
        "5.10.0-32-cloud-amd64": {"tests/a/test_b.py": live.summary(ROWS), "tests/a/test_d.py": later},
        "7.2.13+deb14-cloud-amd64": {"tests/a/test_d.py": later},
    }
    text = live.table(kernels, modules)
    assert "| tests | 5.10.0-32-cloud-amd64 | 6.1.0-50-cloud-amd64 | 7.2.13+deb14-cloud-amd64 |" in text
    assert "| `tests/a/test_b.py` | 2 passed, 1 skipped, 1 failed | - | - |" in text
    assert "- 5.10.0-32-cloud-amd64: 2026-11-29 to 2026-12-01\n" in text
    assert "- 6.1.0-50-cloud-amd64: -\n- 7.2.13+deb14-cloud-amd64: 2026-12-01\n" in text
    assert "- 5.10.0-32-cloud-amd64, `a/test_b.py`, skipped: needs x\n" in text
    assert "- 5.10.0-32-cloud-amd64, `a/test_b.py::test_4`, failed: assert 1 == 2\n" in text
    assert "Not run yet: 1 other modules of 2." in text


def test_the_page_shows_what_is_kept() -> None:
    page = live.PAGE.read_text().partition(live.BEGIN)[2].partition(live.END)[0]
    kernels = live.ordered(live.kept())
    assert f"| tests | {' | '.join(kernels)} |" in page
    shown = {row[1]: row[2].split(" | ") for row in re.finditer(r"^\| `([^`]+)` \| (.*) \|$", page, re.MULTILINE)}
    assert set(shown) == {module for mine in kernels.values() for module in mine}
    for module, cells in shown.items():
        assert cells == [live.cell(mine.get(module, {})) for mine in kernels.values()], module
