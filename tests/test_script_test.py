"""script/test runs pytest once or twice, with what its options select, and hands on the other arguments."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import sampling

ROOT = Path(__file__).parent.parent
SHARED = "level= -n auto --dist worksteal -m not alone and not vm"
QUICK = "level=quick -n auto --dist worksteal -p tests.plugins.few_expensive -m not live and not alone and not vm"
ALONE = "level= -n 0 -m alone and not vm"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing is set up and pytest only says how it was called."""
    for path, body in {
        "script/setup": "exit 0",
        ".venv/bin/python": '[ "$2" = pytest ] || exit 0\nshift 2\n'
        "while [ $1 = -p ]; do shift 2; done\n"
        f'echo "level=$PROCLINE_TEST_LEVEL $*" >> "{tmp_path}/called"\nexit "${{CODE:-0}}"',
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / path).chmod(0o755)
    shutil.copy(ROOT / "script" / "test", tmp_path / "script" / "test")
    return tmp_path


def run(checkout: Path, *arguments: str, code: int = 0) -> tuple[int, list[str]]:
    done = subprocess.run([checkout / "script/test", *arguments], env={"CODE": str(code)}, timeout=60, check=False)
    return done.returncode, (checkout / "called").read_text().splitlines()


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ([], [SHARED, ALONE]),
        (["tests/shm", "-k", "arena"], [f"{SHARED} tests/shm -k arena", f"{ALONE} tests/shm -k arena"]),
        (["--shared"], [SHARED]),
        (["--alone", "-x"], [f"{ALONE} -x"]),
        (["--again", "--sampled", "--shared"], [SHARED.replace("=", "=sampled")]),
        (["--deep"], [SHARED.replace("=", "=deep"), ALONE.replace("=", "=deep")]),
        (["--quick"], [QUICK]),
        (["--quick", "-x"], [f"{QUICK} -x"]),
    ],
)
def test_the_commands_that_are_run(checkout: Path, arguments: list[str], called: list[str]) -> None:
    assert run(checkout, *arguments) == (0, called)


@pytest.mark.parametrize("arguments", [[], ["--quick"], ["--shared"], ["--alone"]])
def test_a_failure_is_its_exit_code(checkout: Path, arguments: list[str]) -> None:
    assert run(checkout, *arguments, code=1)[0] == 1


def test_no_test_selected_by_one_of_two_runs_is_no_failure(checkout: Path) -> None:
    assert run(checkout, code=5)[0] == 0


@pytest.mark.parametrize(("level", "count"), [("quick", 10), ("sampled", 50), ("", 200), ("deep", 4000)])
def test_a_level_scales_the_examples(monkeypatch: pytest.MonkeyPatch, level: str, count: int) -> None:
    monkeypatch.setenv(sampling.VARIABLE, level)
    assert sampling.examples(200) == count
    assert sampling.examples(3) >= 3


def test_an_unknown_level_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sampling.VARIABLE, "fast")
    with pytest.raises(ValueError, match="'fast' is unknown; set it to one of quick, sampled, deep"):
        sampling.examples(1)


@pytest.mark.parametrize(("level", "count"), [("quick", 2), ("sampled", 9), ("", 9), ("deep", 9)])
def test_a_quick_run_chooses_some_cases(monkeypatch: pytest.MonkeyPatch, level: str, count: int) -> None:
    monkeypatch.setenv(sampling.VARIABLE, level)
    cases = sampling.chosen(iter(range(9)), 2)
    assert cases == sorted({*cases}) and len(cases) == count


@pytest.mark.parametrize("variable", [sampling.SEED, "PYTEST_XDIST_TESTRUNUID"])
def test_the_workers_of_a_run_choose_the_same_cases(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """pytest-xdist refuses to run tests of which a worker has others."""
    monkeypatch.setenv(sampling.VARIABLE, "quick")
    monkeypatch.delenv(sampling.SEED, raising=False)

    def choice(seed: str) -> tuple[int, ...]:
        monkeypatch.setenv(variable, seed)
        return tuple(sampling.chosen(range(1000)))

    assert choice("one") == choice("one")
    assert len({choice(str(number)) for number in range(9)}) > 1
