"""Where an ssh session begins, which processes belong to it, and what is rejected.

test_sshd.py tests which process is the host's sshd; tests/live/test_contexts.py tests live sessions.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.records import declared
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.upkeep import kept_sessions, sessions
from pipeline.resolver.upkeep.sessions import SshSessions
from pipeline.resolver.upkeep.ssh_client import session_of
from pipeline.resolver.upkeep.sshd import NAMES
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from pipeline.shm.names import ssh
from tests.resolver.applier_world import World
from tests.resolver.story import instance
from tests.sampling import times

ENVIRON = b"USER=alice\0SSH_CONNECTION=192.0.2.7 50022 198.51.100.1 22\0"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (ENVIRON, ("192.0.2.7", 50022)),
        (b"SSH_CLIENT=192.0.2.7 50022 22", ("192.0.2.7", 50022)),
        (b"SSH_CONNECTION=2001:DB8::1 1 :: 22\0SSH_CLIENT=192.0.2.7 50022 22", ("2001:db8::1", 1)),
        (b"SSH_CONNECTION=fe80::1%eth0 1 :: 22", ("fe80::1", 1)),
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
    """Session detection over processes that do not exist but have an environment."""

    def _start(self, tgid: int) -> int | None:
        return self.starts.get(tgid)  # type: ignore[attr-defined, no-any-return]

    def run(self) -> None:
        """Run all the turns that the work needs."""
        self.do_work()
        while self._logins:
            self.do_work()
        self.kept.write(at_once=True)


def is_hosts_file(record: bytes, root: str) -> bool:
    """Like `sshd.is_hosts_file`, for files that do not exist."""
    file = np.frombuffer(record[: layout.FILE.itemsize], layout.FILE)[0]
    return int(file["file_uid"]) == 0 and record.rpartition(b"/")[2] in NAMES


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with instance() as directory:
        world = World(directory)
        world.init()
        world.directory = directory
        world.encoder = Encoder(bytes(16))
        world.applier = Applier(world.tables, world.encoder)
        users = {0: "root", 1000: "alice", 1001: "bob"}
        world.sessions = Sessions(world.tables, world.applier.followups, directory, user_name=users.get)
        world.sessions.starts = {}
        monkeypatch.setattr("pipeline.resolver.upkeep.sshd.is_hosts_file", is_hosts_file)
        monkeypatch.setattr(sessions, "read_session", lambda tgid: session_of(ENVIRON.split(b"\0")))
        yield world
        validate_tables(world.tables)
        world.tables.close()


def find_sessions(w: World) -> None:
    """Find the existing sessions, as after the start."""
    read(w)
    w.sessions.begin()
    w.sessions.run()


def read(w: World) -> None:
    """From now on, the processes' environments are readable."""
    w.sessions.starts = {tgid: process.start // 10_000_000 for tgid, process in w.story.processes.items()}


def sshd(w: World, tgid: int, owner: int = 0, path: bytes = b"/usr/sbin/sshd", **facts: int) -> None:
    w.fork(1, tgid, **facts)
    event = w.story.exec(tgid, path)
    event.body["file_uid"] = owner
    event.apply(w.applier)


def test_a_session_begins_below_sshd_and_is_inherited(w: World) -> None:
    sshd(w, 3)
    w.fork(3, 4, uid=1000)
    w.exec(4, b"/bin/sh")
    number = w.proc(4).user_session
    assert number and ssh.session(str(w.directory), number) is None, "not known yet: never something else"
    w.fork(4, 5)
    read(w)
    w.sessions.run()
    assert w.proc(4).user_session == w.proc(5).user_session == number
    w.fork(4, 6)
    w.exec(6, b"/bin/ls")
    w.exec(4, b"/bin/bash")
    assert [w.proc(tgid).user_session for tgid in (4, 6, 3, 1)] == [number, number, 0, 0]
    # The user comes from the kernel, not from the environment, which any process can set.
    assert ssh.session(str(w.directory), number) == {
        "id": number, "username": "alice", "client_ip": "192.0.2.7", "client_port": 50022, "client_source": "environ",
        "auth_method": None, "public_key": None,
    }  # fmt: skip
    find_sessions(w)
    assert w.proc(4).user_session == number


@pytest.mark.usefixtures("w")  # files that do not exist are the host's
def test_a_number_is_that_of_every_resolver_of_its_boot() -> None:
    numbers = []
    for boot_id in (bytes(16), bytes(16), b"b" * 16):
        with instance() as directory:
            world = World(directory, boot_id=boot_id)
            world.init()
            Sessions(world.tables, world.applier.followups, directory, user_name=lambda uid: None)
            sshd(world, 3)
            world.fork(3, 4)
            world.exec(4, b"/bin/sh")
            numbers.append(world.proc(4).user_session)
            world.tables.close()
    first, again, other = numbers
    assert first == again != 0 and other not in {0, first}


def test_sessions_from_before_the_start_and_their_descendants(w: World) -> None:
    w.applier.followups.watch_logins(None)
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    w.fork(4, 5)
    w.exec(5, b"/bin/ls")
    assert w.proc(4).user_session == 0
    find_sessions(w)
    number = w.proc(4).user_session
    assert number and w.proc(5).user_session == number and w.proc(3).user_session == 0
    assert ssh.session(str(w.directory), number)["username"] == "root"


def test_a_session_is_found_when_the_exec_below_sshd_is_applied(w: World) -> None:
    sshd(w, 3)
    w.fork(3, 4, uid=1000)
    assert w.applier.followups.take_logins() == 0
    w.exec(4, b"/bin/sh")
    assert w.applier.followups.take_logins() == 1
    w.fork(4, 5)
    w.exec(5, b"/bin/ls")
    assert w.applier.followups.take_logins() == 0
    read(w)
    told: list[tuple[int, dict[str, Any]]] = []
    w.sessions._publish = lambda row, body: told.append((row, body))
    w.sessions.do_work()
    number = w.proc(4).user_session
    assert number == w.proc(5).user_session != 0
    # Subscribers receive the details behind the number once.
    body = {"ssh_username": "alice", "ssh_client_ip": "192.0.2.7", "ssh_client_port": 50022}
    assert told == [(w.proc(4).row, {"ssh_session_id": number, **body})]
    for _ in range(3):
        w.exec(5, b"/bin/ls")
        w.exec(4, b"/bin/sh")
        w.sessions.do_work()
    assert len(told) == 1 and w.applier.followups.take_logins() == 0


def test_a_session_that_execs_twice_before_it_is_read_is_reported_once(w: World) -> None:
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    w.exec(4, b"/bin/bash")
    read(w)
    told: list[int] = []
    w.sessions._publish = lambda row, body: told.append(row)
    w.sessions.do_work()
    assert told == [w.proc(4).row] and w.proc(4).user_session


def test_an_sshd_that_was_started_from_within_a_session(w: World) -> None:
    """The users that it logs in get sessions of their own, not the session of the user that restarted it."""
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    find_sessions(w)
    first = w.proc(4).user_session
    w.fork(4, 5)
    w.exec(5, b"/usr/sbin/sshd")
    assert w.proc(5).user_session == first
    w.fork(5, 6)
    w.exec(6, b"/bin/sh")
    w.fork(6, 7)
    find_sessions(w)
    second = w.proc(6).user_session
    assert second not in {0, first} and w.proc(7).user_session == second
    assert [w.proc(tgid).user_session for tgid in (4, 5)] == [first] * 2
    w.exec(6, b"/bin/bash")
    find_sessions(w)
    assert w.proc(6).user_session == second, "it began once"
    # A command that sshd runs without a client, such as AuthorizedKeysCommand, belongs to the daemon's session.
    w.fork(5, 8)
    w.exec(8, b"/bin/keys")
    w.fork(8, 9)
    sessions.read_session = lambda tgid: {}  # type: ignore[assignment]  # the fixture puts it back
    read(w)
    w.sessions.run()
    assert w.proc(8).user_session == w.proc(9).user_session == first


def test_processes_without_a_session(w: World) -> None:
    w.fork(1, 3)  # not sshd
    w.exec(3, b"/bin/sh")
    w.fork(3, 4)
    w.exec(4, b"/bin/ls")
    sshd(w, 5, owner=1000)  # an unprivileged user's own
    w.fork(5, 6)
    w.exec(6, b"/bin/sh")
    sshd(w, 7, path=b"/usr/bin/sshdump")
    w.fork(7, 8)
    w.exec(8, b"/bin/sh")
    sshd(w, 9)
    w.fork(9, 10)  # still runs sshd
    find_sessions(w)
    assert {w.proc(tgid).user_session for tgid in range(3, 11)} == {0}


def test_a_reused_pid_is_not_used(w: World) -> None:
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    w.sessions.starts = {4: w.story.processes[4].start // 10_000_000 + 5}
    w.sessions.run()
    assert w.proc(4).user_session == 0
    assert w.tables.counter("sessions_unread") == 1


def test_sessions_are_bounded_and_the_file_has_its_mode(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_sessions, "SHARES_MAX", 2)
    w.sessions.kept._mode = 0o640
    sshd(w, 3)
    for tgid in range(4, 9):
        w.fork(3, tgid)
        w.exec(tgid, b"/bin/sh")
        read(w)
        w.sessions.run()
    assert len(w.sessions.kept) == 2 and w.tables.counter("sessions_evicted") == 3
    assert (Path(w.directory) / ssh.FILE).stat().st_mode & 0o777 == 0o640
    assert ssh.session(str(w.directory), w.proc(8).user_session) is not None
    assert w.proc(4).user_session and ssh.session(str(w.directory), w.proc(4).user_session) is None
    assert not list(Path(w.directory).glob(".*.new"))


CLIENT = (b"PATH=/bin", b"USER=alice", b"SSH_CONNECTION=192.0.2.7 50022 198.51.100.1 22")


@pytest.mark.parametrize(
    ("recorded", "is_session", "unread"),
    [
        (CLIENT, True, 0),
        ((b"PATH=/bin", b"USER=root"), False, 0),  # a helper of sshd
        ((b"PATH", b"USER", b"SSH_CONNECTION"), False, 1),  # values are hidden
        ((), False, 1),  # not captured
    ],
)
@pytest.mark.parametrize("has_left", [False, True])
def test_a_command_that_ended_before_it_was_read(
    w: World, recorded: tuple[bytes, ...], is_session: bool, unread: int, has_left: bool
) -> None:
    """If its environment in `/proc` is gone, or belongs to the pid's next owner, the exec record may have it."""
    if not has_left:
        sessions.read_session = lambda tgid: None  # type: ignore[assignment]  # the fixture puts it back
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh", envs=recorded)
    w.exec(4, b"/bin/true", envs=recorded)
    w.exit(4)
    told: list[dict[str, Any]] = []
    w.sessions._publish = lambda row, body: told.append(body)
    w.sessions.do_work()
    assert bool(w.proc(4).user_session) is is_session
    assert w.tables.counter("sessions_unread") == unread
    body = {"ssh_session_id": w.proc(4).user_session, "ssh_username": "root", "ssh_client_ip": "192.0.2.7"}
    assert told == ([body | {"ssh_client_port": 50022}] if is_session else [])


@pytest.mark.parametrize(
    ("strings", "read", "session"),
    [
        # Gone: the record decides. Another client: the program has changed its environment meanwhile.
        (b"SSH_CONNECTION=192.0.2.7 50022 198.51.100.1 22\0\0", None, ("192.0.2.7", 50022, None)),
        (b"SSH_CLIENT=192.0.2.7 50022 22\0\0", {}, ("192.0.2.7", 50022, None)),
        (b"SSH_CLIENT=192.0.2.7 50022 22\0\0", ("192.0.2.7", 50022, "password"), ("192.0.2.7", 50022, "password")),
        (b"SSH_CLIENT=192.0.2.7 50022 22\0\0", ("192.0.2.8", 50022, "password"), ("192.0.2.7", 50022, None)),
        (b"SSH_CLIENT=192.0.2.7 50022 22\0\0", ("192.0.2.7", 50023, "password"), ("192.0.2.7", 50022, None)),
        # A helper of sshd, whatever its environment says later.
        (b"\0", None, None),
        (b"\0", ("192.0.2.8", 50022, None), None),
        (b"SSH_CLIENT=x\0\0", None, None),
    ],
)
def test_the_exec_record_has_the_client(w: World, strings: bytes, read: Any, session: Any) -> None:
    names = ("client_ip", "client_port", "auth_method")
    found = dict(zip(names, read, strict=True)) if read else read
    sessions.read_session = lambda tgid: found  # type: ignore[assignment]  # the fixture puts it back
    sshd(w, 3)
    w.fork(3, 4, uid=1001)
    start = w.story.processes[4].start
    w.sessions.starts = {4: start // 10_000_000}
    w.sessions.keep_client(4, start, strings)
    w.sessions.keep_client(4, start, b"SSH_CLIENT=192.0.2.99 1 22\0\0")  # the record of what that program executed
    w.exec(4, b"/bin/sh")
    w.sessions.do_work()
    known = ssh.session(str(w.directory), w.proc(4).user_session)
    assert (None if known is None else tuple(known[name] for name in names)) == session
    assert known is None or (known["username"], known["client_source"]) == ("bob", "exec")
    assert w.tables.counter("sessions_unread") == 0
    w.exec(4, b"/bin/bash")
    w.sessions.do_work()
    assert bool(w.proc(4).user_session) is (session is not None), "nor does its next exec begin one"


def test_a_daemon_of_an_ended_command_is_in_its_session(w: World) -> None:
    """`ssh HOST 'daemon &'`: before the first read, the command has ended and its daemon has become a child of init."""
    sshd(w, 3)
    for command in (4, 14):
        w.fork(3, command)
        w.sessions.keep_client(command, w.story.processes[command].start, b"SSH_CLIENT=192.0.2.7 50022 22\0\0")
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
    w.sessions.do_work()
    numbers = {tgid: w.proc(tgid).user_session for tgid in (3, 4, 5, 6, 7, 8, 14, 15)}
    first, second = numbers[4], numbers[14]
    assert numbers == {3: 0, 4: first, 5: first, 6: first, 7: first, 8: 0, 14: second, 15: second}
    assert len({first, second, 0}) == 3


def test_kept_records_are_bounded(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "RECORDED_MAX", 3)
    for tgid in range(10):
        w.sessions.keep_client(tgid, 5, b"\0")
    assert list(w.sessions._records) == [(7, 5), (8, 5), (9, 5)]


def test_processes_forked_before_the_login_is_known_are_in_its_session(w: World) -> None:
    """Reading the details may take many turns. Processes that ended or were adopted by then still have the number."""
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    w.fork(4, 5)
    w.fork(5, 6)
    w.exit(5)
    w.exit(4)
    w.fork(6, 7)
    number = w.proc(4).user_session
    assert number and {w.proc(tgid).user_session for tgid in (4, 5, 6, 7)} == {number}


def test_a_number_without_a_session_is_removed(w: World) -> None:
    sessions.read_session = lambda tgid: {}  # type: ignore[assignment]  # the fixture puts it back
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/usr/bin/helper")
    w.fork(4, 5)
    assert w.proc(5).user_session
    read(w)
    w.sessions.run()
    assert {w.proc(tgid).user_session for tgid in (3, 4, 5)} == {0}
    assert w.tables.counter("sessions_unread") == 0 and len(w.sessions.kept) == 0


# -- any size, any user ------------------------------------------------------------------------------------------------


def log_in(w: World, number: int, uid: int = 1000, server: int = 3) -> int:
    """Add a session below an sshd, reported by the exec record; return its process."""
    tgid = 100 + number
    w.fork(server, tgid, uid=uid)
    w.sessions.keep_client(
        tgid, w.story.processes[tgid].start, b"SSH_CLIENT=192.0.2.7 %d 22\0\0" % (1 + number % 65535)
    )
    w.exec(tgid, b"/bin/sh")
    return tgid


class Counted:
    """The writer, with a counter of calls."""

    def __init__(self, tables: Any) -> None:
        self._tables = tables
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self._tables, name)


def test_the_work_of_a_login_does_not_depend_on_the_size_of_the_tables(w: World) -> None:
    sshd(w, 3)
    counted = w.sessions._tables = w.sessions.sshd._tables = Counted(w.tables)

    def work(number: int) -> tuple[Counter[str], int]:
        counted.calls.clear()
        before = w.sessions.sshd.decisions
        tgid = log_in(w, number)
        w.fork(tgid, 30_000 + number)
        w.sessions.run()
        assert w.proc(30_000 + number).user_session == w.proc(tgid).user_session != 0
        return counted.calls.copy(), w.sessions.sshd.decisions - before

    work(0)
    small = work(1)
    for tgid in range(5_000, times(8_000, 5_600)):
        w.fork(1, tgid)
        w.exec(tgid, b"/bin/ls")
    for number in range(2, times(500, 150)):
        log_in(w, number)
    w.sessions.run()
    assert work(501) == small and small[1] == 0, "and sshd is examined once"
    assert sum(small[0].values()) < 50


def test_the_file_is_written_a_few_times_a_second_however_many_log_in(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = 1_000_000_000
    monkeypatch.setattr(kept_sessions, "now_boot_ns", lambda: now_ns)
    w.sessions.begin()
    sshd(w, 3)
    before = w.sessions.kept.writes
    for number in range(1000):
        log_in(w, number)
        w.sessions.do_work()
        now_ns += 1_000_000
    assert 3 <= w.sessions.kept.writes - before <= 4, "of one second"
    assert w.sessions.is_waiting, "the last ones are not written yet"
    last = w.proc(100 + 999).user_session
    assert ssh.session(str(w.directory), last) is None
    now_ns += kept_sessions.WRITE_NS
    w.sessions.do_work()
    assert not w.sessions.is_waiting
    known = ssh.session(str(w.directory), last)
    assert known is not None and known["username"] == "alice"
    w.sessions.do_work()
    assert w.sessions.kept.writes - before <= 5, "nothing new, nothing written"


def test_sessions_of_one_user_do_not_displace_those_of_others(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_sessions, "SHARES_MAX", 100)
    sshd(w, 3)
    bobs = [log_in(w, number, uid=1001) for number in range(10)]
    count = times(500, 200)
    for number in range(10, count):
        log_in(w, number, uid=1000)
        w.sessions.run()
    assert len(w.sessions.kept) == 100 and w.tables.counter("sessions_evicted") == count - 100
    assert all(ssh.session(str(w.directory), w.proc(tgid).user_session) for tgid in bobs)
    # As long as there is room, one user can use all of it.
    assert sum(w.proc(100 + number).user_session in w.sessions.kept for number in range(10, count)) == 90


def test_logins_wait_in_a_bounded_queue_with_room_for_each_user(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "LOGINS_MAX", 30)
    monkeypatch.setattr(sessions, "USER_LOGINS_MAX", 20)
    monkeypatch.setattr(sessions, "LOGINS_PER_TURN", 8)
    monkeypatch.setattr(sessions, "TURN_NS", 10**12)
    read_pids: list[int] = []
    sessions.read_session = lambda tgid: read_pids.append(tgid)  # type: ignore[assignment]
    sshd(w, 3)
    for number in range(50):
        log_in(w, number, uid=1000)
    bobs = log_in(w, 50, uid=1001)
    assert len(w.sessions._logins) == 21 and w.tables.counter("sessions_unread") == 30
    # The client's address is known for those too: the exec record has it.
    assert all(w.proc(100 + number).user_session for number in range(51))
    for turn in (1, 2, 3):
        w.sessions.do_work()
        assert len(read_pids) == min(8 * turn, 21)
    assert not w.sessions._logins and bobs in read_pids and not w.sessions._by_user and not w.sessions._waiting
    assert len(w.sessions.kept) == 51


def test_a_login_without_a_record_that_finds_no_room_is_no_session(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "USER_LOGINS_MAX", 2)
    sshd(w, 3)
    for tgid in (4, 5, 6):
        w.fork(3, tgid)
        w.exec(tgid, b"/bin/sh")
    assert [bool(w.proc(tgid).user_session) for tgid in (4, 5, 6)] == [True, True, False]
    assert w.tables.counter("sessions_unread") == 1


def test_of_more_logins_than_a_batch_may_have_none_begins_a_session(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "LOGINS_PER_BATCH", 3)
    sshd(w, 3)
    tgids = [log_in(w, number) for number in range(5)]
    assert [bool(w.proc(tgid).user_session) for tgid in tgids] == [True, True, True, False, False]
    assert w.tables.counter("sessions_unread") == 2
    w.sessions.do_work()
    assert w.proc(log_in(w, 5)).user_session


def test_a_turn_ends_when_its_time_is_over(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading one login may take long; the other logins wait for later turns."""
    monkeypatch.setattr(sessions, "TURN_NS", 0)
    sshd(w, 3)
    for number in range(5):
        log_in(w, number)
    for left in (4, 3, 2, 1, 0):
        w.sessions.do_work()
        assert len(w.sessions._logins) == left


@pytest.mark.slow
def test_many_sessions_of_the_real_sshd_are_cheap(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as a batch can have. The work that delays the batch is bounded, in Python calls."""
    sshd(w, 3)
    calls = Counter[str]()
    count = times(2700, 1100)
    monkeypatch.setattr(w.sessions, "_finish", lambda login, finish=w.sessions._finish: finish(login))
    for number in range(count):
        log_in(w, number, uid=1000 + number % 2)
        if number % 512 == 511:
            assert w.sessions._begun <= sessions.LOGINS_PER_BATCH
            w.sessions.do_work()
    sys.setprofile(lambda frame, event, arg: calls.update([event]) if event == "call" else None)
    try:
        w.sessions.do_work()
    finally:
        sys.setprofile(None)
    assert calls["call"] < 64 * 150
    w.sessions.run()
    assert w.sessions.sshd.decisions == 1
    numbers = {w.proc(100 + number).user_session for number in range(count)}
    assert len(numbers) == count and 0 not in numbers


def test_forged_sshds_never_get_as_far_as_python(w: World) -> None:
    called: list[int] = []
    w.applier.followups.watch_logins(lambda row, parent: bool(called.append(row)))
    sshd(w, 3, uid=1000)  # root's file, but a user's process
    tgids = range(100, 100 + times(1000, 300))
    for tgid in tgids:
        w.fork(3, tgid)
        w.exec(tgid, b"/bin/true", envs=CLIENT)
    assert not called and w.tables.counter("sessions_refused") == len(tgids)
    assert {w.proc(tgid).user_session for tgid in tgids} == {0}


def test_the_sshd_of_a_container_is_refused_and_counted(w: World) -> None:
    sshd(w, 3)
    w.story.processes[3].comm = b"sshd"
    row = w.proc(3).row
    w.tables.py_begin(row)
    w.tables.cold_view()["mnt_ns"][row] = 4026532999
    w.tables.py_end(row)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    assert w.proc(4).user_session == 0 and w.tables.counter("sessions_refused") == 1


def test_a_successor_keeps_known_sessions(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the predecessor had numbered a login but not written it, the successor reads the details again."""
    sshd(w, 3)
    w.fork(3, 4, uid=1001)  # sshd drops root's rights in the process that forks the user's shell
    known, unknown = log_in(w, 0), log_in(w, 1, uid=1001, server=4)
    assert w.proc(unknown).user_session
    w.change(unknown, declared.KIND_CRED, uid=0)  # this row no longer shows the user
    read(w)
    w.sessions._logins.pop()
    w.sessions.run()
    numbers = [w.proc(tgid).user_session for tgid in (known, unknown)]
    successor = Sessions(w.tables, w.applier.followups, w.directory, user_name={1001: "bob", 0: "root"}.get)
    successor.starts = w.sessions.starts
    successor.kept.restore()
    successor.begin()
    successor.run()
    found = [ssh.session(str(w.directory), number) for number in numbers]
    assert [(one["username"], one["client_source"]) for one in found] == [("alice", "exec"), ("bob", "environ")]
    assert [w.proc(tgid).user_session for tgid in (known, unknown)] == numbers


def test_the_environment_of_an_ended_process_cannot_be_read() -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert sessions.read_session(child.pid) is None
    assert sessions.read_session(child.pid) is None
    with subprocess.Popen(["/bin/sleep", "60"], env={"PATH": "/bin"}) as child:
        deadline = time.monotonic() + 60  # Popen returns in the middle of the exec
        while sessions.read_session(child.pid) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sessions.read_session(child.pid) == {}
        child.kill()


def test_sessions_of_tracers_processes_wait_for_a_pass_over_proc(w: World) -> None:
    class Pids:
        is_due = False

        def refresh(self) -> bool:
            return self.is_due

    w.sessions._pids = pids = Pids()
    sshd(w, 3)
    w.fork(3, 4)
    w.exec(4, b"/bin/sh")
    read(w)
    w.sessions.do_work()
    assert w.sessions.is_waiting and len(w.sessions.kept) == 0
    pids.is_due = True
    w.sessions.do_work()
    assert w.proc(4).user_session in w.sessions.kept
