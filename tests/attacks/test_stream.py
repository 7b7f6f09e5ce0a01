"""A hostile subscriber costs the daemon no memory, takes no place from others, and is counted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import paths
from tests import zmtp
from tests.attacks.harness import as_nobody, finished, unharmed
from tests.live.harness import Daemon, Recorder, run_workload
from tests.waiting import eventually
from tests.written import constant

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

FORKS = 500
CLIENTS_OF_USER = constant("pipeline/bus/_relay.pyx", "USER_MAX")
#: How much the resolver may grow in an attack. Without limits it grew by 110, 84 and 262 MiB.
GROWTH_MAX_BYTES = 24 << 20
#: Long enough for a busy machine; a daemon that an attack stops does not recover at all.
LAG_MAX_S = 10.0

_CLIENT = """
import os, socket, sys, time
path, hello = sys.argv[1], bytes.fromhex(sys.argv[2])

def connected():
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(5)
    made.connect(path)
    made.sendall(hello)
    received = b""
    while b"XPUB" not in received:
        more = made.recv(1)
        if not more:
            raise ConnectionError
        received += more
    return made
"""

#: 60 MB of parts of messages that never end, each as long as the server takes it.
ENDLESS = (
    _CLIENT
    + """
part = bytes([1, 255]) + b"x" * 255
ended = 0
for _ in range(50):
    try:
        client = connected()
        for _ in range(60_000_000 // 50 // len(part)):
            client.sendall(part)
    except OSError:
        ended += 1
print(ended)
"""
)

MANY = (
    _CLIENT
    + """
held = []
for _ in range(500):
    try:
        held.append(connected())
    except OSError:
        pass
print(len(held), flush=True)
time.sleep(1)
"""
)

#: libzmq keeps subscriptions in a tree as deep as they are long.
SUBSCRIPTIONS = (
    _CLIENT
    + """
ended = 0
for _ in range(20):
    try:
        client = connected()
        for _ in range(200):
            prefix = b"\\\\x01" + os.urandom(31)
            client.sendall(bytes([0, len(prefix)]) + prefix)
        client.settimeout(2)
        while client.recv(65536):
            pass
    except OSError:
        pass
    ended += 1
print(ended)
""".replace("\\\\", "\\")
)


@pytest.fixture(scope="module")
def open_daemon(live_kernel: None) -> Iterator[Daemon]:
    """A daemon with a stream that every user may read."""
    with Daemon('[access]\nstream_mode = "0666"\n', name="attacked") as running:
        yield running


@pytest.mark.parametrize(
    ("script", "counter", "least"),
    [(ENDLESS, "stream_rejected", 10), (MANY, "stream_refused", 400), (SUBSCRIPTIONS, "stream_rejected", 10)],
    ids=["endless messages", "500 connections", "4,000 subscriptions"],
)
def test_it_costs_little_and_others_miss_nothing(
    open_daemon: Daemon, workload: Path, script: str, counter: str, least: int
) -> None:
    (resolver,) = open_daemon.pids("resolver")
    before = open_daemon.stat()["counters"][counter]
    path, hello = paths.stream_socket(open_daemon.directory), (zmtp.GREETING + zmtp.READY).hex()
    with (
        unharmed(open_daemon, max_lag_s=LAG_MAX_S),
        Recorder(open_daemon, "proc.fork", "proc.exit").started() as healthy,
    ):
        began_bytes = _rss_bytes(resolver)
        with as_nobody(script, path, hello) as attacker:
            made = run_workload(workload, "storm", FORKS, 0)
            finished(attacker, 120)
            grown = _rss_bytes(resolver) - began_bytes
        parent = made[0][2]
        healthy.wait_for(lambda events: sum(e["event"] == "exit" and e["pid"] == parent for e in events), 60)
        events = healthy.stop()
    forked = sorted(e["pid"] for e in events if e["event"] == "fork" and e["ppid"] == parent)
    assert forked == sorted(pid for _, pid, _ in made)
    assert not [e for e in events if e["event"] == "missed"]
    assert grown < GROWTH_MAX_BYTES, f"the resolver grew by {grown >> 20} MiB"
    eventually(lambda: open_daemon.stat()["counters"][counter] - before >= least)


def test_a_flood_leaves_few_lines_in_the_log(open_daemon: Daemon) -> None:
    """The log gets at most ten lines a minute."""
    _flood(open_daemon)

    def said() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in open_daemon.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if "stream" in line["event"] and "closed" in line["event"]]

    eventually(lambda: len(said()) > 0)
    assert len(said()) <= 20, said()
    assert all(line["connections"] > 0 for line in said())


def test_connections_of_the_flood_do_not_stay(open_daemon: Daemon) -> None:
    _flood(open_daemon)
    (resolver,) = open_daemon.pids("resolver")
    eventually(lambda: len(list(Path(f"/proc/{resolver}/fd").iterdir())) < 3 * CLIENTS_OF_USER)


def _flood(daemon: Daemon) -> None:
    path, hello = paths.stream_socket(daemon.directory), (zmtp.GREETING + zmtp.READY).hex()
    with as_nobody(MANY, path, hello) as attacker:
        finished(attacker, 120)


#: Tries to connect to each socket; prints the names of those that let it.
KNOCK = """
import os, socket, sys
directory = sys.argv[1]
for name in sys.argv[2:]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        client = socket.socket(socket.AF_UNIX, kind)
        try:
            client.connect(os.path.join(directory, name))
            print(name)
        except OSError:
            pass
"""


def test_another_user_reaches_only_the_public_sockets(open_daemon: Daemon) -> None:
    """A user who can send to another socket could forge records of processes, or avoid the limits."""
    sockets = sorted(
        str(path.relative_to(open_daemon.directory)) for path in open_daemon.directory.rglob("*") if path.is_socket()
    )
    assert {"frames/frames.ipc", "stream/inner.ipc", "requests/own.ipc"} < set(sockets), sockets
    with as_nobody(KNOCK, open_daemon.directory, *sockets) as attacker:
        reached = finished(attacker).split()
    assert reached == ["requests/requests.ipc", "stream/stream.ipc"]


def _rss_bytes(pid: int) -> int:
    time.sleep(0.2)
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
