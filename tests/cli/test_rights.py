"""A reader that may not read arguments gets a message, and still sees those of its own processes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import common
from tests.cli.conftest import Command
from tests.cli.fakes import FakeEntry, FakeTable, entry

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


class OurView:
    pids_are_ours = True


@pytest.fixture
def hidden(runtime: Path, monkeypatch: pytest.MonkeyPatch, table: type[FakeTable]) -> Path:
    """The arguments of an instance, which the caller may not read."""
    (runtime / "default").mkdir()
    file = runtime / "default" / "args"
    file.touch(0o640)
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    monkeypatch.setattr(table, "view", OurView())
    return file


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        # The kernel closes the pipe that Popen waits for before the new image has its arguments.
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"sleep"):
            time.sleep(0.001)
        yield process
        process.kill()


def unreadable(pid: int, comm: str = "sleep", **changes: object) -> FakeEntry:
    """Return an entry without arguments, as it is read without permission; by default one of the caller."""
    made = entry(pid, 1, comm, **{"argv": None, "uid": os.getuid()} | changes)
    for name, value in made.to_dict().items():
        setattr(made, name, value)
    made.is_foreign, made.start_boot_ns = False, 0  # type: ignore[attr-defined]
    return made


@needs_root
def test_the_group_is_named_once(procline: Command, hidden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grp.getgrgid", lambda gid: type("Group", (), {"gr_name": f"group{gid}"}))
    os.chown(hidden, -1, 77)
    for command in (["tree"], ["resolve", "40"], ["children", "1"], ["dump", "--json"]):
        done = procline(*command)
        assert done.code == 0
        assert done.err == (
            "procline: arguments hidden: join group group77; only those of your own processes are shown\n"
        ), command
    assert procline("stat").err == ""


@needs_root
@pytest.mark.parametrize(("mode", "said"), [(0o600, "only root may read them"), (0o640, "only the group root")])
def test_where_no_group_helps_the_setting_is_named(procline: Command, hidden: Path, mode: int, said: str) -> None:
    os.chown(hidden, 0, 0)
    hidden.chmod(mode)
    assert said in procline("tree").err


def test_a_user_with_permission_gets_no_message(procline: Command, runtime: Path, table: type[FakeTable]) -> None:
    assert procline("tree").err == ""
    (runtime / "default").mkdir()
    (runtime / "default" / "args").touch(0o600)
    assert procline("tree").err == ""


def test_own_processes_show_their_arguments(
    procline: Command, hidden: Path, table: type[FakeTable], sleeper: subprocess.Popen[bytes]
) -> None:
    table.entries = (unreadable(sleeper.pid), unreadable(41, "other", uid=os.getuid() + 1))
    out = procline("tree").out
    assert "sleep 1000" in out and "/usr/bin/other" in out
    table.entries = (unreadable(sleeper.pid, exit_time_ns=5),)
    assert "sleep 1000" not in procline("tree", "--exited").out


def test_another_process_with_the_pid_is_not_shown(
    procline: Command, hidden: Path, table: type[FakeTable], sleeper: subprocess.Popen[bytes]
) -> None:
    stranger = unreadable(sleeper.pid)
    stranger.start_boot_ns = 10**9  # type: ignore[attr-defined]
    table.entries = (stranger,)
    assert "sleep 1000" not in procline("tree").out


def test_nothing_is_read_from_proc_after_the_command(procline: Command, hidden: Path) -> None:
    procline("tree")
    assert not common._rights.reads_own
