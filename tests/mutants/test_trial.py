"""Trials of mutants of bodies: which tests run, and which outcome they have."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout_copy import ROOT
from tests.mutants import trial as trials
from tests.mutants.bodies import instrumented
from tests.mutants.mutants import Mutant
from tests.mutants.place import Place
from tests.mutants.reach import Reach
from tests.mutants.trial import Trial
from tests.sampling import chosen

MODULE = """\"\"\"A module.\"\"\"


def tested() -> int:
    return 1


def called() -> int:
    return 2


def unused() -> int:
    return 3


def listed() -> list[int]:
    return [4]


def counted() -> int:
    return 5


def flaky() -> int:
    return 6


VALUES = listed()
"""
TEST = """
import pathlib
import time

from pipeline import example

def test_tested():
    assert example.tested() == 1

def test_called():
    example.called()
    assert example.VALUES

def test_counted():
    while example.counted() != 5:
        time.sleep(0.01)

def test_never():
    assert example.called() == 3

def test_flaky():
    example.flaky()
    mark = pathlib.Path(__file__).with_name("mark")
    try:
        assert mark.read_text() != "fail"
    finally:
        mark.write_text("pass")
"""


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """A copy of almost nothing."""
    for name in ("sampling.py", "plugins", "mutants", "__init__.py"):
        source, target = ROOT / "tests" / name, tmp_path / "tests" / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    for directory in ("pipeline", "tests/example"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "__init__.py").touch()
    (tmp_path / "pipeline/_mutant.py").write_text((ROOT / "tests/mutants/switch.py").read_text())
    (tmp_path / "pipeline/example.py").write_text(instrumented(MODULE, ".py", "", 1))
    (tmp_path / "tests/example/test_example.py").write_text(TEST)
    (tmp_path / "tests/example/mark").write_text("pass")
    monkeypatch.setattr(trials, "TIME_LIMIT_S", 2)
    monkeypatch.setattr(trials, "QUICK_S", 0)  # every test must fail twice
    trial = Trial(tmp_path, ["tests/example"], "not slow", "quick", 1)
    yield trial
    trial.close()


@pytest.mark.expensive
@pytest.mark.slow
def test_what_becomes_of_a_mutant(trial: Trial, tmp_path: Path) -> None:
    assert trial.measure(time.monotonic() + 60)
    assert trial.reach.failing == ["tests/example/test_example.py::test_never"]
    outcomes = {
        1: ("killed", "test_tested"), 2: ("survived", ""), 3: ("unreached", ""), 4: ("killed", "test_called"),
        5: ("killed", "test_counted"), 6: ("survived", ""),
    }  # fmt: skip
    for number in chosen(outcomes, 2):
        if number == 6:
            (tmp_path / "tests/example/mark").write_text("fail")
        result = trial.attempt(Place("pipeline/example.py", Mutant(1, "", "")), number, ["tests/example"], "quick")
        assert (result.outcome, result.by.rpartition("::")[2]) == outcomes[number], number


@pytest.mark.expensive
@pytest.mark.slow
def test_what_is_known_of_the_reach_is_kept(trial: Trial, tmp_path: Path) -> None:
    assert not trial.measure(0)
    assert trial.measure(time.monotonic() + 60)
    test = "tests/example/test_example.py"
    assert trial.reach.tests(2, [test]) == [f"{test}::test_called"]
    assert Reach(tmp_path, [f"{test}::test_called"], 1).tests(2, [test]) == [f"{test}::test_called"]
    (tmp_path / test).write_text(TEST + "\n")
    assert Reach(tmp_path, [f"{test}::test_called"], 1).unknown == [f"{test}::test_called"]
