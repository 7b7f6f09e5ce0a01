"""Tests of what the controller counts and prints when workers report less."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sampling import times

ROOT = Path(__file__).resolve().parents[2]

TESTS = """
import pytest

@pytest.fixture
def broken_before():
    assert 1 == 2, "set-up"

@pytest.fixture
def broken_behind():
    yield
    assert 3 == 4, "tear-down"

@pytest.mark.parametrize("x", range(5))
def test_passes(x): pass

def test_fails(): assert 5 == 6, "call"
def test_cannot_begin(broken_before): pass
def test_cannot_end(broken_behind): pass
def test_fails_twice(broken_behind): assert 7 == 8, "call again"
def test_skips(): pytest.skip("nothing here")
@pytest.mark.xfail
def test_is_expected_to_fail(): assert 0
@pytest.mark.xfail
def test_passes_against_expectation(): pass
"""


@pytest.mark.expensive
def test_the_controller_learns_the_same_of_each_test(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "test_it.py").write_text(TESTS)

    def summary(*arguments: str) -> tuple[int, set[str], str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "-p", "xdist", *arguments, tmp_path]
        environment = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        lines = re.findall(r"^(?:PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) .*$", ended.stdout, re.MULTILINE)
        # The line fills its width with "=", so its length varies with the time that it states.
        counts = re.sub(r" in \d.*", "", ended.stdout.splitlines()[-1]).strip("= ")
        return ended.returncode, set(lines), counts

    plain, few = summary("-n", str(times(1, 0))), summary("-n", "1", "-p", "tests.plugins.few_reports")
    assert few == plain
    assert plain[0] == 1 and "3 errors" in plain[2] and len(plain[1]) == 5 + 2 + 3 + 1 + 1 + 1 + 1
