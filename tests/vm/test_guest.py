"""Guests, without a machine: what counts as a start, and what happens without one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import guest
import pytest

HANGS = "exec sleep 60"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run shell commands in the place of machines, one for each that is started."""

    @contextlib.contextmanager
    def no_root(work: Path) -> Iterator[Path]:
        yield work

    monkeypatch.setattr(guest, "CACHE", tmp_path)
    monkeypatch.setattr(guest, "shared_root", no_root)

    def run(*machines: str, timeout_s: float = 60) -> tuple[int, int]:
        left = list(machines)

        def machine(directory: Path, work: Path, *_: object) -> list[str]:
            commands = left.pop(0)
            (work / "console").write_text(f"console of {commands}\n")
            # Only a machine that never starts is ended at once: another one can be slow here.
            monkeypatch.setattr(guest, "START_S", 0.0 if commands == HANGS else 60.0)
            return ["sh", "-c", f"cd {work}; {commands}"]

        monkeypatch.setattr(guest, "machine", machine)
        return guest.run(tmp_path, ["true"], timeout_s=timeout_s), len(left)

    return run


def test_the_exit_code_of_the_command_comes_back(run: Any) -> None:
    assert run("echo started > code; echo 3 >> code", HANGS) == (3, 1)


def test_a_machine_that_does_not_start_is_started_once_more(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(HANGS, "echo started > code; echo 0 >> code") == (0, 0)
    said = capfd.readouterr().out
    assert f"console of {HANGS}" in said and "HAS NOT STARTED" in said


def test_it_is_not_started_a_third_time(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(HANGS, HANGS, "echo 0 > code") == (guest.NO_CODE, 1)
    assert "no exit code came back" in capfd.readouterr().out


@pytest.mark.parametrize(("after", "timeout_s"), [(HANGS, 1), ("exit 1", 60)], ids=["hangs", "ends-without-a-code"])
def test_a_machine_that_has_started_is_not_started_again(
    run: Any, capfd: pytest.CaptureFixture[str], after: str, timeout_s: int
) -> None:
    assert run(f"echo started > code; {after}", "echo 0 > code", timeout_s=timeout_s) == (guest.NO_CODE, 1)
    said = capfd.readouterr().out
    assert "console of" in said and "no exit code came back" in said
    assert ("within 1 s" in said) == (after == HANGS)


def test_the_time_of_cpus_counts_for_each_two_of_the_guest(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.touch()
    assert guest.Start(code, 1).is_hopeless(guest.START_CPU_S + 1)
    assert not guest.Start(code, 32).is_hopeless(guest.START_CPU_S + 1)
    code.write_text(guest.Start.SIGN)
    assert not guest.Start(code, 1).is_hopeless(guest.START_CPU_S + 1)
