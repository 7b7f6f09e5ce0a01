"""A quick run takes some of the expensive tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sampling import SEED, VARIABLE

ROOT = Path(__file__).resolve().parents[2]

TESTS = """
import pytest

@pytest.mark.parametrize("x", range(50))
def test_cheap(x): pass

@pytest.mark.expensive
@pytest.mark.parametrize("x", range(200))
def test_expensive(x): pass

@pytest.mark.expensive(seconds=60)
@pytest.mark.parametrize("x", range(200))
def test_long(x): pass
"""


@pytest.fixture
def run(tmp_path: Path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = expensive")
    (tmp_path / "test_it.py").write_text(TESTS)

    def run(*arguments: str) -> tuple[list[str], str]:
        """The tests marked `expensive` that pytest takes, and all that it prints."""
        plugins = ("-p", "no:cacheprovider", "-p", "xdist", "-p", "tests.plugins.few_expensive")
        environment = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", VARIABLE: "quick", SEED: "7"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *plugins, "-v", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return sorted(set(re.findall(r"test_expensive\[\d+\]", done.stdout))), done.stdout

    return run


@pytest.mark.expensive
def test_all_workers_take_the_same_part(run) -> None:
    """pytest-xdist would refuse to run the tests of which another worker has others."""
    chosen, text = run("-n", "2")
    assert len(chosen) == 10 and "60 passed" in text and "PROCLINE_TEST_SEED=7" in text


def test_one_that_is_named_is_taken(run) -> None:
    chosen, text = run("-k", "test_expensive and 133")
    assert chosen == ["test_expensive[133]"] and "1 passed" in text
