"""The counts of several runs, and which tests may run a second time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

Row = tuple[str, bool, str]
PASSED: Row = ("tests/a.py::test_a", False, "passed")


def counted(tmp_path: Path, rows: list[Row], *arguments: str) -> tuple[int, str]:
    file = tmp_path / "counts"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "tests.plugins.counts", file, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


def failures(number: int, *, is_live: bool = True) -> list[Row]:
    return [(f"tests/b.py::test_b[{i} x]", is_live, "failed") for i in range(number)]


@pytest.mark.medium
def test_few_failures_of_the_live_kernel_may_run_again(tmp_path: Path) -> None:
    rows = [PASSED, *failures(2)]
    assert counted(tmp_path, rows, "--again") == (0, "tests/b.py::test_b[0 x]\ntests/b.py::test_b[1 x]\n")


@pytest.mark.parametrize(
    "failed", [[], failures(4), failures(1, is_live=False), [*failures(1), ("tests/c.py::test_c", False, "failed")]]
)
@pytest.mark.medium
def test_other_failures_stand(tmp_path: Path, failed: list[Row]) -> None:
    assert counted(tmp_path, [PASSED, *failed], "--again")[1] == ""


@pytest.mark.medium
def test_a_test_that_passes_only_alone_is_named(tmp_path: Path) -> None:
    (node, *_), *_ = failures(1)
    code, text = counted(tmp_path, [PASSED, *failures(1), (node, True, "passed")])
    assert code == 0 and "2 passed, 0 failed" in text
    assert f"NOT RELIABLE: {node} failed beside other tests and passed alone" in text


@pytest.mark.medium
def test_a_test_that_fails_twice_has_failed(tmp_path: Path) -> None:
    text = counted(tmp_path, [PASSED, *failures(1), *failures(1)])[1]
    assert "1 passed, 1 failed" in text and "NOT RELIABLE" not in text


@pytest.mark.medium
def test_no_test_is_a_failure(tmp_path: Path) -> None:
    assert counted(tmp_path, [])[0] == 1
