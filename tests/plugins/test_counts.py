"""The counts of several runs, and which tests may run a second time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugins import counts

Row = tuple[str, bool, str]
PASSED: Row = ("tests/a.py::test_a", False, "passed")


Counted = Callable[..., tuple[int, str]]


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Counted:
    """The program, run in this process: its exit code, and what it prints."""

    def run(rows: list[Row], *arguments: str) -> tuple[int, str]:
        file = tmp_path / "counts"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setattr(sys, "argv", ["counts", str(file), *arguments])
        return counts.main(), capsys.readouterr().out

    return run


def failures(number: int, *, is_live: bool = True) -> list[Row]:
    return [(f"tests/b.py::test_b[{i} x]", is_live, "failed") for i in range(number)]


def test_few_failures_of_the_live_kernel_may_run_again(counted: Counted) -> None:
    rows = [PASSED, *failures(2)]
    assert counted(rows, "--again") == (0, "tests/b.py::test_b[0 x]\ntests/b.py::test_b[1 x]\n")


@pytest.mark.parametrize(
    "failed", [[], failures(4), failures(1, is_live=False), [*failures(1), ("tests/c.py::test_c", False, "failed")]]
)
def test_other_failures_stand(counted: Counted, failed: list[Row]) -> None:
    assert counted([PASSED, *failed], "--again")[1] == ""


def test_a_test_that_passes_only_alone_is_named(counted: Counted) -> None:
    (node, *_), *_ = failures(1)
    code, text = counted([PASSED, *failures(1), (node, True, "passed")])
    assert code == 0 and "2 passed, 0 failed" in text
    assert f"NOT RELIABLE: {node} failed beside other tests and passed alone" in text


def test_a_test_that_fails_twice_has_failed(counted: Counted) -> None:
    text = counted([PASSED, *failures(1), *failures(1)])[1]
    assert "1 passed, 1 failed" in text and "NOT RELIABLE" not in text


def test_no_test_is_a_failure(counted: Counted) -> None:
    assert counted([])[0] == 1
