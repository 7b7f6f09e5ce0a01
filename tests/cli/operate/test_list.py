"""Which instances run: `procline list`, `wait`, and the message that one is not running."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli.operate import wait
from pipeline.errors import GivingUpError, HopelessError, ProclineError, UnsupportedError, WriterExistsError
from pipeline.host import failed_start, instances, processes
from pipeline.shm.layout import layout
from tests.cli.conftest import Command
from tests.cli.fakes import FakeTable
from tests.shm.handmade import Tables

#: The time after which a failed start is reported, in tests of it.
HASTY_GRACE_S = 0.1


def run(runtime: Path, name: str, pid: int | None = None) -> Tables:
    """Make the directory of an instance with this process as its supervisor, or with a process that has ended."""
    tables = Tables(runtime / name)
    tables.commit(1)
    roles = {"supervisor": os.getpid() if pid is None else pid}
    (runtime / name / processes.FILE).write_bytes(processes.describe(roles))
    return tables


def test_running_instances_are_listed(procline: Command, runtime: Path) -> None:
    done = procline("list")
    assert (done.code, done.out) == (1, "") and "no instance is running" in done.err
    assert json.loads(procline("list", "--json").out) == []
    run(runtime, "web")
    run(runtime, "db").control["state"] = layout.STATE_FILLING
    run(runtime, "old", pid=0).heartbeat(age_s=60)
    (runtime / "other").mkdir()
    lines = [line.split() for line in procline("list").out.splitlines()]
    assert [line[:3] for line in lines[1:]] == [
        ["db", "starting", str(os.getpid())],
        ["web", "ready", str(os.getpid())],
    ]
    found = json.loads(procline("list", "--json", "--all").out)
    assert [(each["name"], each["state"], each["pid"]) for each in found] == [
        ("db", "starting", os.getpid()), ("old", "ended", None), ("web", "ready", os.getpid()),
    ]  # fmt: skip
    assert abs(found[2]["since_ns"] / 1e9 - time.time()) < 3600


def test_an_instance_without_a_sign_of_life_is_behind(procline: Command, runtime: Path) -> None:
    run(runtime, "web").heartbeat(age_s=30)
    assert procline("list").out.splitlines()[1].split()[:2] == ["web", "behind"]


def test_a_message_names_the_instances_that_run(procline: Command, runtime: Path, table: type[FakeTable]) -> None:
    assert "running:" not in procline("resolve", "1", "--name", "nobody").err
    run(runtime, "web")
    run(runtime, "db")
    err = procline("resolve", "1", "--name", "nobody").err
    assert err.endswith("; running: db, web (choose with --name)\n") and len(err.splitlines()) == 1


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that has failed is reported after a fifth of the time."""
    monkeypatch.setattr(wait, "_GRACE_S", HASTY_GRACE_S)
    monkeypatch.setattr(wait, "_CHECK_S", 0.02)


def after_a_look(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Let something happen after the command has read the instance for the first time."""
    find, looks = instances.find, []

    def look(name: str) -> instances.Instance | None:
        found = find(name)
        looks.append(found)
        if len(looks) == 1:
            do()
        return found

    monkeypatch.setattr(instances, "find", look)


def test_waiting_ends_if_the_instance_ends_while_it_starts(
    procline: Command, runtime: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(runtime, "web").control["state"] = layout.STATE_FILLING
    after_a_look(monkeypatch, lambda: shutil.rmtree(runtime / "web"))
    begin = time.monotonic()
    done = procline("wait", "--name", "web", "--timeout", "60")
    assert done.code == 3 and "has ended during its start" in done.err and len(done.err.splitlines()) == 1
    assert time.monotonic() - begin < 40


def test_waiting_ends_if_a_start_fails_before_there_is_a_directory(
    procline: Command, runtime: Path, hasty: None
) -> None:
    begin = time.monotonic()
    assert procline("run", "--name", "web", "--set", "tables.nonesuch=1").code == 2
    done = procline("wait", "--name", "web", "--timeout", "60")
    assert done.code == 3 and "could not start: see the output" in done.err and len(done.err.splitlines()) == 1
    assert time.monotonic() - begin < 40
    assert "is not running after" in procline("wait", "--name", "other", "--timeout", "0.3").err


def test_a_start_that_failed_earlier_is_not_the_one_to_wait_for(
    procline: Command, runtime: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed_start.note("web")
    monkeypatch.setattr("pipeline.cli.operate.wait.now_boot_ns", lambda: failed_start.boot_ns("web") + 6 * 10**9)
    assert "is not running after" in procline("wait", "--name", "web", "--timeout", str(3 * HASTY_GRACE_S)).err


@pytest.mark.parametrize(
    ("error", "is_noted"),
    [
        (UnsupportedError("no BTF", feature="btf"), True),
        (HopelessError("a wrong setting", role="resolver"), True),
        (GivingUpError("it ended 4 times", role="shard-0"), False),
        (WriterExistsError("it is running"), False),
    ],
)
def test_a_start_is_noted_if_another_one_would_fail_too(
    procline: Command, runtime: Path, monkeypatch: pytest.MonkeyPatch, error: ProclineError, is_noted: bool
) -> None:
    def fail(*given: object) -> int:
        raise error

    monkeypatch.setattr("pipeline.cli.operate.run._run", fail)
    assert procline("run", "--name", "web").code != 0
    assert (failed_start.boot_ns("web") > 0) == is_noted


def test_a_note_that_others_can_write_does_not_count(procline: Command, runtime: Path, tmp_path: Path) -> None:
    note = failed_start.path_of("web")
    assert note.parent == runtime
    failed_start.note("web")
    assert failed_start.boot_ns("web") > 0
    note.chmod(0o666)
    assert failed_start.boot_ns("web") == 0
    note.unlink()
    (tmp_path / "elsewhere").write_text("123456789")
    note.symlink_to(tmp_path / "elsewhere")
    assert failed_start.boot_ns("web") == 0
    note.unlink()
    failed_start.note("web")
    note.parent.chmod(0o777)
    assert failed_start.boot_ns("web") == 0
    note.unlink()
    failed_start.note("web")
    assert not note.exists()


def test_the_next_start_removes_the_note(procline: Command, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed_start.note("web")
    noted: list[int] = []
    monkeypatch.setattr("pipeline.cli.operate.run._run", lambda *given: noted.append(failed_start.boot_ns("web")) or 0)
    assert procline("run", "--name", "web").code == 0
    assert noted == [0]
    failed_start.path_of("web").write_text("not a number")
    assert failed_start.boot_ns("web") == 0


def test_waiting_continues_while_an_instance_is_restarted(
    procline: Command, runtime: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of an instance that was ready is not a failed start."""
    run(runtime, "web").control["state"] = layout.STATE_STOPPED

    start = threading.Timer(3 * HASTY_GRACE_S, run, [runtime, "web"])

    def restart() -> None:
        shutil.rmtree(runtime / "web")
        start.start()

    after_a_look(monkeypatch, restart)
    assert procline("wait", "--name", "web", "--timeout", "30").code == 0
    start.join()


def test_a_resolver_of_a_killed_supervisor_is_about_to_end_and_not_ready(procline: Command, runtime: Path) -> None:
    run(runtime, "web")
    roles = {"supervisor": 0, "resolver": os.getpid()}
    (runtime / "web" / processes.FILE).write_bytes(processes.describe(roles))
    done = procline("wait", "--name", "web", "--timeout", "0.1")
    assert done.code == 3 and "not ready" in done.err


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"processes": [{}]}'])
def test_a_broken_list_of_processes_is_no_error(procline: Command, runtime: Path, content: bytes) -> None:
    run(runtime, "web")
    (runtime / "web" / processes.FILE).write_bytes(content)
    assert procline("list").out.splitlines()[1].split()[:3] == ["web", "ready", "-"]
