"""Tests of the stored results of live tests under other kernels, and of the table that is made from them."""

from __future__ import annotations

import re
from pathlib import Path

import live
import pytest

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


def test_a_summary_names_the_programs_if_all_tests_ran_with_the_same() -> None:
    new = {test: {**row, "programs": "aa"} for test, row in ROWS.items()}
    assert live.summary(new)["programs"] == "aa"
    assert not live.is_earlier(live.summary(new), "aa") and live.is_earlier(live.summary(new), "bb")
    one_older = {**new, "tests/a/test_b.py::test_2": ROWS["tests/a/test_b.py::test_2"]}
    one_other = {**new, "tests/a/test_b.py::test_2": {**ROWS["tests/a/test_b.py::test_2"], "programs": "bb"}}
    for rows in (ROWS, one_older, one_other):
        assert "programs" not in live.summary(rows)
        assert live.is_earlier(live.summary(rows), "aa")


def test_the_digest_is_that_of_the_programs_for_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {path.name for path in live.OBJECTS}
    assert {"procline.bpf.o", "procline.old.bpf.o", "cred_fentry.old.bpf.o"} <= names
    assert not [name for name in names if "aarch64" in name]
    one = tmp_path / "a.bpf.o"
    one.write_bytes(b"1")
    monkeypatch.setattr(live, "OBJECTS", [one])
    before = live.programs()
    assert live.programs() == before and re.fullmatch("[0-9a-f]{12}", before)
    one.write_bytes(b"2")
    assert live.programs() != before


def test_stale_runs_what_ran_with_earlier_programs_and_keeps_results_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = {f"tests/a/test_{name}.py": [f"tests/a/test_{name}.py::test_{n}" for n in (1, 2)] for name in "bcdefg"}
    b, c, d, e, f, _ = tests.values()
    monkeypatch.setattr(live, "programs", lambda: "earlier")
    results = live.Results(tmp_path / "5.10.json")
    for test in (*b, *c):
        results.add(test, {"outcome": "passed"})
    results.begun(d[0])
    results.begun(d[0])
    monkeypatch.setattr(live, "programs", lambda: "present")
    results = live.Results(tmp_path / "5.10.json")
    for test in (c[0], *e):
        results.add(test, {"outcome": "passed"})
    # Results from other checkouts: f, and b with the present programs, which is enough.
    ended = {
        "tests/a/test_b.py": {"passed": 2, "date": "2026-12-01", "programs": "present"},
        "tests/a/test_f.py": {"passed": 2, "date": "2026-11-30"},
    }
    assert live.stale(tests, results, ended) == [*f, *c, *d]
    del ended["tests/a/test_b.py"]
    assert live.stale(tests, results, ended) == [*f, *b, *c, *d]
    # What ran with the present programs does not run again, and other results are still there.
    left = [test for test in (*c, *d, *f) if not results.is_done(test, is_stale_done=False)]
    assert left == [c[1], *d, *f]
    assert results.is_done(c[1]) and results.is_done(d[0])
    # Ends of guests with earlier programs are no reason to leave a test out.
    results.begun(d[0])
    assert not results.is_done(d[0])
    results.begun(d[0])
    assert results.is_done(d[0], is_stale_done=False)
    results.add(c[1], {"outcome": "passed"})
    assert live.stale(tests, results, {}) == [*b]


def test_the_table_has_each_kernel_in_the_order_of_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "programs", lambda: "present")
    later = {"passed": 1, "date": "2026-12-01", "programs": "present"}
    modules = {"tests/a/test_b.py": list(ROWS), "tests/a/test_c.py": ["tests/a/test_c.py::test_1"]}
    kernels = {
        "6.1.0-50-cloud-amd64": {},
        "5.10.0-32-cloud-amd64": {"tests/a/test_b.py": live.summary(ROWS), "tests/a/test_d.py": later},
        "7.2.13+deb14-cloud-amd64": {"tests/a/test_d.py": later},
    }
    text = live.table(kernels, modules)
    assert "| tests | 5.10.0-32-cloud-amd64 | 6.1.0-50-cloud-amd64 | 7.2.13+deb14-cloud-amd64 |" in text
    assert "| `tests/a/test_b.py` | 2 passed, 1 skipped, 1 failed | - | - |" in text
    assert "- 5.10.0-32-cloud-amd64: 2026-11-29 to 2026-12-01, 1 of 2 modules with earlier programs\n" in text
    assert "- 6.1.0-50-cloud-amd64: -\n- 7.2.13+deb14-cloud-amd64: 2026-12-01, all with the present programs\n" in text
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


def test_the_page_says_how_much_ran_with_the_present_programs() -> None:
    """When the programs change, that is no longer true: `tests/vm/live --table` writes it again."""
    page = live.PAGE.read_text().partition(live.BEGIN)[2].partition(live.END)[0]
    assert "\n".join(live.when(live.ordered(live.kept()))) in page
