"""Sessions of a real sshd on the loopback address, with new keys."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline import ProcessTable
from tests.live.harness import Daemon, Recorder
from tests.live.ssh_server import PROGRAM, USER, Server
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.live


@pytest.fixture
def table(daemon: Daemon) -> Iterator[ProcessTable]:
    with daemon.attach() as attached:
        yield attached


@pytest.mark.parametrize("user", [USER, "root"], ids=["a user", "root"])
def test_a_login_by_key(server: Server, table: ProcessTable, daemon: Daemon, user: str) -> None:
    """sshd forks a user's shell from a process of that user, and root's shell from a process of root."""
    with server.ssh(user, "echo $$ $SSH_CONNECTION; sleep 60 & echo $!; cat") as client:
        assert client.stdout is not None and client.stdin is not None
        shell, ip, port = client.stdout.readline().split()[:3]
        child = int(client.stdout.readline())
        # A new user has a name as soon as the host's files are read again.
        eventually(lambda: session_of(table, int(shell))["username"] is not None, 30)
        session = session_of(table, int(shell))
        assert session | {"id": 0} == {
            "id": 0, "username": user, "client_ip": ip, "client_port": int(port), "client_source": "exec",
            "auth_method": "publickey",
            "public_key": " ".join(server.key.with_suffix(".pub").read_text().split()[:2]),
        }  # fmt: skip
        # The shell prints its child's pid directly after the fork, so the event may not have arrived yet.
        eventually(lambda: session_of(table, child) == session)
        assert table.resolve(server.process.pid).ssh_session is None
        # A daemon that starts now finds the same; it reads the client from the process.
        with Daemon(name="later") as later, later.attach() as other:
            found = eventually(lambda: session_of(other, child))
            assert found == session | {"client_source": "environ"}
        client.stdin.close()
        os.kill(child, 9)


def test_commands_that_end_at_once(server: Server, table: ProcessTable, daemon: Daemon) -> None:
    with server.ssh(USER, "echo $$; cat") as client:
        assert client.stdout is not None
        shell = int(client.stdout.readline())
        eventually(lambda: session_of(table, shell)["username"] == USER, 30)
        client.kill()
    before = daemon.stat()["counters"]
    with Recorder(daemon, "proc.context", "proc.exec").started() as recorder:
        for _ in range(3):
            with server.ssh(USER, "exec true"):
                pass

        def told() -> list[dict[str, Any]]:
            sessions = [e for e in recorder.events if e["event"] == "user_session"]
            own = server.process.pid  # another test may have a server, too
            return [each["context"] for each in sessions if any(up["pid"] == own for up in each["lineage"])]

        eventually(lambda: len(told()) == 3)
        assert {one.get("ssh_username") for one in told()} == {USER}
        assert len({one["ssh_session_id"] for one in told()}) == len({one["ssh_client_port"] for one in told()}) == 3
    after = daemon.stat()["counters"]
    # The counter of refused sessions also counts those of other tests; each of the three was reported.
    for name in ("sessions_unread", "sessions_evicted"):
        assert after[name] == before[name]


def test_the_same_sshd_in_a_container_begins_no_session(server: Server, table: ProcessTable, daemon: Daemon) -> None:
    """The same file run by root in its own mount namespace. The user of that namespace controls its contents."""
    before = daemon.stat()["counters"]["sessions_refused"]
    contained = Server.__new__(Server)
    contained.__dict__.update(server.__dict__)
    contained.port = free_port()
    config = server.key.with_name("sshd_config")
    contained.process = subprocess.Popen(
        ["unshare", "--mount", PROGRAM, "-D", "-f", config, "-p", str(contained.port), "-E", server.log]
    )
    try:
        eventually(contained.answers)
        with contained.ssh(USER, "echo $$; cat") as client:
            assert client.stdout is not None and client.stdin is not None
            shell = int(client.stdout.readline())
            eventually(lambda: daemon.stat()["counters"]["sessions_refused"] > before)
            time.sleep(0.3)
            entry = table.resolve(shell)
            assert entry is not None and entry.user_session is None and entry.ssh_session is None
            client.stdin.close()
    finally:
        contained.close()


def session_of(table: ProcessTable, pid: int) -> dict[str, Any]:
    entry = table.resolve(pid)
    assert entry is not None and entry.ssh_session is not None
    return entry.ssh_session
