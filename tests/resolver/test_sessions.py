"""Where an ssh session begins, who belongs to it, what is not believed. Live ones: tests/live/test_contexts.py."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from story import instance
from test_apply import World

from pipeline.resolver import sessions
from pipeline.resolver._apply import Applier
from pipeline.resolver._encode import Encoder
from pipeline.resolver.sessions import SshSessions, session_of
from pipeline.shm import ssh
from pipeline.shm.validate import validate_tables

ENVIRON = b"USER=alice\0SSH_CONNECTION=192.0.2.7 50022 198.51.100.1 22\0"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (ENVIRON, ("alice", "192.0.2.7", 50022)),
        (b"SSH_CLIENT=192.0.2.7 50022 22", (None, "192.0.2.7", 50022)),
        (b"SSH_CONNECTION=2001:DB8::1 1 :: 22\0LOGNAME=b\0USER=a", ("b", "2001:db8::1", 1)),
        (b"SSH_CONNECTION=fe80::1%eth0 1 :: 22", (None, "fe80::1", 1)),
        (b"SSH_CONNECTION=192.0.2.7 50022 198.51.100.1 22\0USER=\xff", ("\udcff", "192.0.2.7", 50022)),
        (b"USER=alice", None),
        (b"", None),
        (b"=\0=\0x", None),
        (b"SSH_CONNECTION=", None),
        (b"SSH_CONNECTION=host 50022 x 22", None),
        (b"SSH_CONNECTION=192.0.2.7 0 x 22", None),
        (b"SSH_CONNECTION=192.0.2.7 65536 x 22", None),
        (b"SSH_CONNECTION=192.0.2.7 -1 x 22", None),
        (b"SSH_CONNECTION=\xff 1 x 22", None),
    ],
)
def test_environment(environment: bytes, expected: tuple[Any, ...] | None) -> None:
    found = session_of(environment.split(b"\0"))
    assert (None if found is None else tuple(found.values())) == expected


class Sessions(SshSessions):
    """Processes that are not there, with an environment."""

    def _start(self, tgid: int) -> int | None:
        return self.starts.get(tgid)  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with instance() as directory:
        world = World(directory)
        world.init()
        world.directory = directory
        world.encoder = Encoder(bytes(16))
        world.applier = Applier(world.tables, world.encoder)
        world.sessions = Sessions(world.tables, world.encoder, directory)
        world.sessions.starts = {}
        monkeypatch.setattr(sessions, "read_session", lambda tgid, proc: session_of(ENVIRON.split(b"\0")))
        yield world
        validate_tables(world.tables)
        world.tables.close()


def look(w: World) -> None:
    w.sessions.starts = {tgid: process.start // 10_000_000 for tgid, process in w.story.processes.items()}
    w.sessions.begin()


def sshd(w: World, tgid: int, owner: int = 0, path: bytes = b"/usr/sbin/sshd") -> None:
    w.fork(1, tgid)
    event = w.story.exec(tgid, path)
    event.body["file_uid"] = owner
    event.apply(w.applier)


def test_a_session_begins_below_sshd_and_is_inherited(w: World) -> None:
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    w.fork(4, 5)
    look(w)
    number = w.proc(4).user_session
    assert number and w.proc(5).user_session == number, "also who was forked before it was noticed"
    w.fork(4, 6)
    w.exec(6, b"/bin/ls")
    w.exec(4, b"/bin/bash")
    assert [w.proc(tgid).user_session for tgid in (4, 6, 3, 1)] == [number, number, 0, 0]
    found = ssh.session(str(w.directory), number)
    assert found is not None and (found["username"], found["client_ip"]) == ("alice", "192.0.2.7")
    look(w)
    assert w.proc(4).user_session == number


def test_an_exec_below_sshd_is_noted_by_the_encoder_and_looked_at_then(w: World) -> None:
    sshd(w, 3)
    w.fork(3, 4)
    assert w.encoder.take_logins() == []
    w.exec(4, b"/bin/sh")
    w.fork(4, 5)
    w.exec(5, b"/bin/ls")
    w.sessions.starts = {4: w.story.processes[4].start // 10_000_000}
    assert w.encoder.has_logins
    told: list[tuple[int, dict[str, Any]]] = []
    w.sessions._tell = lambda row, body: told.append((row, body))
    w.sessions.poll()
    assert not w.encoder.has_logins
    number = w.proc(4).user_session
    assert number == w.proc(5).user_session != 0
    # Who subscribes is told what the number stands for, once.
    body = {"ssh_username": "alice", "ssh_client_ip": "192.0.2.7", "ssh_client_port": 50022}
    assert told == [(w.proc(4).row, {"ssh_session_id": number, **body})]
    w.exec(5, b"/bin/ls")
    w.sessions.poll()
    assert len(told) == 1
    for _ in range(100):
        w.exec(4, b"/bin/sh")
    assert len(w.encoder.take_logins()) == 100
    for _ in range(1030):
        w.exec(4, b"/bin/sh")
    assert len(w.encoder.take_logins()) == 1024 and w.tables.counter("sessions_unread") == 6, "bounded, and counted"


def test_a_session_that_execs_twice_before_it_is_looked_at_is_told_once(w: World) -> None:
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    w.exec(4, b"/bin/bash")
    w.sessions.starts = {4: w.story.processes[4].start // 10_000_000}
    told: list[int] = []
    w.sessions._tell = lambda row, body: told.append(row)
    w.sessions.poll()
    assert told == [w.proc(4).row] and w.proc(4).user_session


def test_an_sshd_that_was_started_from_within_a_session(w: World) -> None:
    """Whom it lets in is in a session of its own, not in that of who restarted it."""
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    look(w)
    first = w.proc(4).user_session
    w.fork(4, 5)
    w.exec(5, b"/usr/sbin/sshd")
    assert w.proc(5).user_session == first
    w.fork(5, 6)
    w.exec(6, b"/bin/sh")
    w.fork(6, 7)
    look(w)
    second = w.proc(6).user_session
    assert second not in {0, first} and w.proc(7).user_session == second
    assert [w.proc(tgid).user_session for tgid in (4, 5)] == [first] * 2
    w.exec(6, b"/bin/bash")
    look(w)
    assert w.proc(6).user_session == second, "it began once"
    # What it runs without a client, such as AuthorizedKeysCommand, is whose the daemon is.
    w.fork(5, 8)
    w.exec(8, b"/bin/keys")
    sessions.read_session = lambda tgid, proc: None  # type: ignore[assignment]  # the fixture puts it back
    look(w)
    assert w.proc(8).user_session == first


def test_what_is_no_session(w: World) -> None:
    w.fork(1, 3)  # not sshd
    w.exec(3, b"/bin/sh")
    w.fork(3, 4)
    w.exec(4, b"/bin/ls")
    sshd(w, 5, owner=1000)  # somebody's own
    w.fork(5, 6)
    w.exec(6, b"/bin/sh")
    sshd(w, 7, path=b"/usr/bin/sshdump")
    w.fork(7, 8)
    w.exec(8, b"/bin/sh")
    sshd(w, 9)
    w.fork(9, 10)  # still sshd
    look(w)
    assert {w.proc(tgid).user_session for tgid in range(3, 11)} == {0}


def test_a_pid_that_is_somebody_elses_by_now_is_not_believed(w: World) -> None:
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    w.sessions.starts = {4: w.story.processes[4].start // 10_000_000 + 5}
    w.sessions.begin()
    assert w.proc(4).user_session == 0


def test_sessions_are_bounded_and_the_file_has_its_mode(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 2)
    w.sessions._mode = 0o640
    sshd(w, 3)
    for tgid in range(4, 9):
        w.fork(3, tgid)
        w.exec(tgid, b"/bin/sh")
        look(w)
    assert len(w.sessions._known) == 2
    assert (Path(w.directory) / ssh.FILE).stat().st_mode & 0o777 == 0o640
    assert ssh.session(str(w.directory), w.proc(8).user_session) is not None
    assert ssh.session(str(w.directory), w.proc(4).user_session) is None
    assert not list(Path(w.directory).glob(".*.new"))


CLIENT = (b"PATH=/bin", b"USER=alice", b"SSH_CONNECTION=192.0.2.7 50022 198.51.100.1 22")


@pytest.mark.parametrize(
    ("recorded", "is_session", "unread"),
    [
        (CLIENT, True, 0),
        ((b"PATH=/bin", b"USER=root"), False, 0),  # a helper of sshd
        ((b"PATH", b"USER", b"SSH_CONNECTION"), False, 1),  # values are not shown
        ((), False, 1),  # not captured
    ],
)
@pytest.mark.parametrize("has_left", [False, True])
def test_a_command_that_ended_before_it_was_looked_at(
    w: World, recorded: tuple[bytes, ...], is_session: bool, unread: int, has_left: bool
) -> None:
    """Its environment in `/proc` is gone, or the pid is somebody else's; the record of the exec may have it."""
    if not has_left:
        sessions.read_session = lambda tgid, proc: None  # type: ignore[assignment]  # the fixture puts it back
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh", envs=recorded)
    w.exec(4, b"/bin/true", envs=recorded)
    w.exit(4)
    told: list[dict[str, Any]] = []
    w.sessions._tell = lambda row, body: told.append(body)
    w.sessions.poll()
    assert bool(w.proc(4).user_session) is is_session
    assert w.tables.counter("sessions_unread") == unread
    body = {"ssh_session_id": w.proc(4).user_session, "ssh_username": "alice", "ssh_client_ip": "192.0.2.7"}
    assert told == ([body | {"ssh_client_port": 50022}] if is_session else [])


@pytest.mark.parametrize(
    ("strings", "read", "session"),
    [
        # Gone: what the record tells. Of another client: what the program has put there meanwhile.
        (b"SSH_CONNECTION=192.0.2.7 50022 198.51.100.1 22\0\0", None, (None, "192.0.2.7", 50022)),
        (b"SSH_CLIENT=192.0.2.7 50022 22\0\0", {}, (None, "192.0.2.7", 50022)),
        (b"SSH_CLIENT=192.0.2.7 50022 22\0\0", ("alice", "192.0.2.7", 50022), ("alice", "192.0.2.7", 50022)),
        (b"SSH_CLIENT=192.0.2.7 50022 22\0\0", ("bob", "192.0.2.8", 50022), (None, "192.0.2.7", 50022)),
        (b"SSH_CLIENT=192.0.2.7 50022 22\0\0", ("bob", "192.0.2.7", 50023), (None, "192.0.2.7", 50022)),
        # A helper of sshd, whatever it says of itself later.
        (b"\0", None, None),
        (b"\0", ("bob", "192.0.2.8", 50022), None),
        (b"SSH_CLIENT=x\0\0", None, None),
    ],
)
def test_the_record_of_what_sshd_executed_tells(w: World, strings: bytes, read: Any, session: Any) -> None:
    names = ("username", "client_ip", "client_port")
    found = dict(zip(names, read, strict=True)) if read else read
    sessions.read_session = lambda tgid, proc: found  # type: ignore[assignment]  # the fixture puts it back
    sshd(w, 3)
    w.fork(3, 4)
    start = w.story.processes[4].start
    w.sessions.starts = {4: start // 10_000_000}
    w.sessions.take(4, start, strings)
    w.sessions.take(4, start, b"SSH_CLIENT=192.0.2.99 1 22\0\0")  # what that one executed
    w.exec(4, b"/bin/sh")
    w.sessions.poll()
    known = ssh.session(str(w.directory), w.proc(4).user_session)
    assert (None if known is None else tuple(known[name] for name in names)) == session
    assert w.tables.counter("sessions_unread") == 0
    w.exec(4, b"/bin/bash")
    w.sessions.poll()
    assert bool(w.proc(4).user_session) is (session is not None), "nor does its next exec begin one"


def test_who_outlives_a_command_is_in_its_session(w: World) -> None:
    """`ssh HOST 'daemon &'`: when it is looked at, the command has ended and what it left behind is init's."""
    sshd(w, 3)
    for command in (4, 14):
        w.fork(3, command)
        w.sessions.take(command, w.story.processes[command].start, b"SSH_CLIENT=192.0.2.7 50022 22\0\0")
        w.exec(command, b"/bin/sh")
    w.fork(4, 5)
    w.exec(5, b"/usr/bin/daemon")
    w.fork(5, 6)
    w.fork(6, 7)
    w.fork(1, 8)
    w.fork(14, 15)
    for tgid in (4, 5):
        w.exit(tgid)
    assert w.proc(6).ppid == 1
    w.sessions.poll()
    numbers = {tgid: w.proc(tgid).user_session for tgid in (3, 4, 5, 6, 7, 8, 14, 15)}
    first, second = numbers[4], numbers[14]
    assert numbers == {3: 0, 4: first, 5: first, 6: first, 7: first, 8: 0, 14: second, 15: second}
    assert len({first, second, 0}) == 3


def test_what_records_tell_is_bounded(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "TOLD_MAX", 3)
    for tgid in range(10):
        w.sessions.take(tgid, 5, b"\0")
    assert list(w.sessions._told) == [(7, 5), (8, 5), (9, 5)]


def test_the_environment_of_who_has_ended_cannot_be_read() -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert sessions.read_session(child.pid) is None
    assert sessions.read_session(child.pid) is None
    with subprocess.Popen(["/bin/sleep", "60"], env={"PATH": "/bin"}) as child:
        deadline = time.monotonic() + 10  # Popen returns in the middle of the exec
        while sessions.read_session(child.pid) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sessions.read_session(child.pid) == {}
        child.kill()


def test_tracers_may_tell_of_more_logins_than_there_is_time_to_look_for(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes over /proc are apart: what came too early is looked at with the next one."""

    class Pids:
        is_due = False

        def refresh(self) -> bool:
            return self.is_due

    w.sessions._pids = pids = Pids()
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    w.sessions.starts = {tgid: process.start // 10_000_000 for tgid, process in w.story.processes.items()}
    w.sessions.poll()
    assert w.sessions.is_waiting and not w.proc(4).user_session
    monkeypatch.setattr(sessions, "ROWS_MAX", 1)
    for tgid in (5, 6):
        w.fork(3, tgid)
        w.exec(tgid, b"/bin/sh")
    w.sessions.poll()
    assert w.tables.counter("sessions_unread") == 2
    pids.is_due = True
    w.sessions.poll()
    assert not w.sessions.is_waiting and w.proc(4).user_session
