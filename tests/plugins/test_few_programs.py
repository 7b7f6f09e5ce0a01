"""A quick run takes some of the tests that run programs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sampling import SEED

ROOT = Path(__file__).resolve().parents[2]

TESTS = """
import pytest

@pytest.mark.parametrize("x", range(50))
def test_cheap(x): pass

@pytest.mark.programs
@pytest.mark.parametrize("x", range(200))
def test_program(x): pass
"""


@pytest.fixture
def run(tmp_path: Path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = programs")
    (tmp_path / "test_it.py").write_text(TESTS)

    def run(seed: str, *arguments: str) -> tuple[list[str], str]:
        """The tests marked `programs` that pytest takes, and all that it prints."""
        plugins = ("-p", "no:cacheprovider", "-p", "tests.plugins.few_programs")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *plugins, "-v", *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PROCLINE_TEST_LEVEL": "quick", SEED: seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return sorted(set(re.findall(r"test_program\[\d+\]", done.stdout))), done.stdout

    return run


def test_a_seed_chooses_the_same_part_in_each_worker(run) -> None:
    chosen, text = run("7")
    assert len(chosen) == 10 and text.count("test_cheap[") == 50
    assert "190 deselected" in text and "PROCLINE_TEST_SEED=7" in text
    assert run("7", "-n", "2")[0] == chosen
    assert run("8")[0] != chosen


def test_one_that_is_named_is_taken(run) -> None:
    assert run("7", "-k", "test_program and 133")[0] == ["test_program[133]"]
