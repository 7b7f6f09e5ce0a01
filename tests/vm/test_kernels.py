"""The tables of what each kernel can do, and the rows that they are made of."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import kernels
import pytest

ROW: dict[str, Any] = {
    "release": "5.10.0-32-cloud-amd64",
    "is_rt": False,
    "lacks": [],
    "tiers": {name: None if name == "cred_kprobe" else "what it records" for name in kernels.FEATURES},
    "made": {"fork": 2, "exec": 1, "exit": 2},
    "recorded": {"fork": 2, "exec": 1, "exit": 2},
    "lost": {"fork": 0, "exec": 0, "exit": 0},
    "head_only": 0,
    "differs": [],
    "changes": {"user": True, "login": False},
    "misses_calls": False,
    "features": {name: name != "capability" for name in kernels.FEATURES},
    "is_exact": True,
    "from": "Debian bullseye",
    "date": "2026-12-01",
}


def test_the_tables_of_the_page_are_made_from_the_rows() -> None:
    rows = json.loads(kernels.ROWS.read_text())
    page = kernels.PAGE.read_text()
    assert page.partition(kernels.BEGIN)[2].partition(kernels.END)[0].strip() == kernels.table(rows).strip()


def test_each_kernel_of_the_documents_has_a_row() -> None:
    shown = {row["from"] for row in json.loads(kernels.ROWS.read_text())}
    assert shown == {kernels.origin(suite, flavour) for suite, flavour in kernels.KERNELS}


def test_the_kernels_of_the_rows_capture_exactly() -> None:
    assert all(row["is_exact"] for row in kernels.kept())


def without(*path: str) -> dict[str, Any]:
    """Return the row of a kernel that does not support one thing more."""
    row = copy.deepcopy(ROW)
    *first, last = path
    inner = row
    for name in first:
        inner = inner[name]
    inner[last] = None if "tiers" in path else False
    return row


@pytest.mark.parametrize("name", [name for name in kernels.FEATURES if name != "capability"])
def test_a_tier_that_the_kernel_rejects_is_lost(name: str) -> None:
    row = without("features", name)
    row["tiers"][name] = None
    assert kernels.lost(row, ROW) == [f"{name}: {kernels.FEATURES[name]}"]
    assert kernels.lost(ROW, row) == []


def test_what_worked_and_does_not_is_lost() -> None:
    assert kernels.lost(copy.deepcopy(ROW), ROW) == []
    assert kernels.lost(without("changes", "user"), ROW) == ["a change at once: user"]
    assert kernels.lost(without("tiers", "cred_fentry"), ROW) == ["cred_fentry with the settings of this test"]
    assert kernels.lost({**ROW, "lacks": ["x", "y"]}, ROW) == ["the newer set of programs: x, y"]
    assert kernels.lost({**ROW, "lacks": ["x", "y"]}, {**ROW, "lacks": ["x"]}) == []


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep rows and page apart from the committed ones; return the file of the rows, which has one."""
    rows, page = tmp_path / "kernels.json", tmp_path / "kernels.md"
    rows.write_text(json.dumps([ROW]))
    page.write_text(f"before\n{kernels.BEGIN}\n{kernels.END}\nafter\n")
    monkeypatch.setattr(kernels, "ROWS", rows)
    monkeypatch.setattr(kernels, "PAGE", page)
    monkeypatch.setattr(kernels, "workload", lambda: tmp_path)
    return rows


def tried(monkeypatch: pytest.MonkeyPatch, row: dict[str, Any], *arguments: str) -> int:
    """Return the exit code of a trial if its guest prints this row and ends with 0."""
    monkeypatch.setattr(kernels, "in_guest", lambda *_args, **_kwargs: (copy.deepcopy(row), 0))
    monkeypatch.setattr(sys, "argv", ["kernels", "--suite", "bullseye", *arguments])
    return kernels.main()


@pytest.mark.parametrize("arguments", [(), ("--no-table",)])
@pytest.mark.parametrize("name", ["context", "iter", "signal", "calls", "cred_fentry"])
def test_a_kernel_that_rejects_a_tier_fails_and_its_row_stays(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    arguments: tuple[str, ...],
) -> None:
    before = here.read_text()
    assert tried(monkeypatch, without("features", name), *arguments) == 1
    assert f"(Debian bullseye) NO LONGER SUPPORTS {name}: " in capsys.readouterr().out
    assert here.read_text() == before


def test_a_kernel_that_supports_as_much_passes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = here.read_text()
    assert tried(monkeypatch, ROW, "--no-table") == 0
    assert here.read_text() == before
    assert tried(monkeypatch, ROW) == 0
    (row,) = json.loads(here.read_text())
    assert {**row, "date": ROW["date"]} == ROW


def test_a_newer_kernel_of_a_suite_is_compared_with_the_one_before(here: Path) -> None:
    newer = {**ROW, "release": "5.11.0-1-cloud-amd64"}
    here.write_text(json.dumps([ROW, newer, {**ROW, "from": "Debian sid"}]))
    assert kernels.committed({**ROW, "release": "5.10.0-99-cloud-amd64"}) == ROW
    assert kernels.committed({**ROW, "release": "5.12.0-1-cloud-amd64"}) == newer
    assert kernels.committed({**ROW, "from": "Debian forky"}) is None


def test_each_row_has_what_a_trial_finds_now() -> None:
    """A row that was made before a trial found more is not comparable: `tests/vm/kernels --all` makes all again."""
    for row in kernels.kept():
        assert set(row) == set(kernels.ROW), row["from"]
        assert set(row["features"]) == set(kernels.FEATURES), row["from"]
        assert set(row["tiers"]) == set(kernels.FEATURES), row["from"]
        assert set(row["changes"]) == set(kernels.kept()[0]["changes"]), row["from"]
        assert not row["misses_calls"] and not row["differs"], row["from"]
