"""The stream over TCP of a live daemon: `procline keys` decides who may subscribe, without a restart."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import Subscriber
from pipeline.bus.auth import load_public_key
from pipeline.errors import NotRunningError
from tests.docs.blocks import run_by
from tests.live.harness import CHECKOUT, Daemon
from tests.ports import free_port
from tests.private_root import private_root
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]
LIMIT_S = 60
#: How long a client without an allowed key tries.
REFUSED_S = 2


def keys(*arguments: str | Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "keys", *map(str, arguments), "--json"],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


class Host:
    """A daemon with a stream over TCP, and a directory with keys."""

    def __init__(self, directory: Path) -> None:
        self.keys = directory
        self.clients = directory / "clients"
        for name in ("server", "alice", "mallory"):
            keys("new", name, "--dir", directory)
        keys("allow", directory / "alice.key", "--dir", self.clients)
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.daemon = Daemon(
            f'[stream]\ntcp_endpoint = "{self.endpoint}"\n'
            f'curve_secret_key_file = "{directory}/server.key_secret"\ncurve_clients_dir = "{self.clients}"\n'
        )

    def subscriber(self, name: str, timeout: float = LIMIT_S) -> Subscriber:
        secret = (self.keys / f"{name}.key_secret", self.keys / "server.key")
        return Subscriber(topics=["exec"], endpoint=self.endpoint, curve=secret, connect_timeout=timeout)

    def counter(self, name: str) -> int:
        count: int = self.daemon.stat()["counters"][name]
        return count


@pytest.fixture
def host(live_kernel: None, tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    with made.daemon:
        yield made


def receives(subscriber: Subscriber) -> bool:
    """Whether an exec arrives within a second."""
    subprocess.run(["/bin/true"], check=True)
    return any(event["event"] == "exec" for event in subscriber.read(1))


@contextmanager
def executing() -> Iterator[None]:
    """Something executes programs meanwhile: on an idle machine nothing else does, and there is nothing to receive."""
    others = subprocess.Popen(["sh", "-c", "while sleep 0.2; do :; done"])
    try:
        yield
    finally:
        others.kill()
        others.wait()


def test_keys_are_allowed_refused_and_revoked_while_the_daemon_runs(host: Host) -> None:
    for name in ("server", "alice"):
        assert stat.S_IMODE((host.keys / f"{name}.key_secret").stat().st_mode) == 0o600
    daemon = host.daemon.process
    with host.subscriber("alice") as alice:
        eventually(lambda: receives(alice), LIMIT_S)
        # A client with a key that is not allowed receives nothing. It is counted and logged.
        with pytest.raises(NotRunningError):
            host.subscriber("mallory", REFUSED_S)
        eventually(lambda: host.counter("curve_refused") >= 1, LIMIT_S)
        mallory = load_public_key(host.keys / "mallory.key").decode()
        eventually(lambda: mallory in host.daemon.log.read_text(), LIMIT_S)
        # The connection of a revoked key ends.
        keys("revoke", "alice", "--dir", host.clients)
        eventually(lambda: host.counter("curve_revoked") >= 1, LIMIT_S)
        while alice.read(0):
            pass  # what arrived before
        assert not receives(alice)
    with pytest.raises(NotRunningError):
        host.subscriber("alice", REFUSED_S)
    keys("allow", host.keys / "alice.key", "--dir", host.clients)
    with host.subscriber("alice") as again:
        eventually(lambda: receives(again), LIMIT_S)
    assert host.daemon.process is daemon and daemon is not None and daemon.poll() is None


def test_the_documented_commands_connect_another_host(live_kernel: None, tmp_path: Path) -> None:
    """Settings and commands are those of docs/operations.md, with its address and its directories."""
    commands, settings, program = (each.script for each in run_by("tests/live/test_curve.py"))
    daemon = Daemon(settings)
    environment = dict(daemon.environment, PATH=f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    environment["PYTHONPATH"] = str(CHECKOUT)
    with private_root("192.0.2.1") as root:
        root.run("procline", "keys", "new", "alice", env=environment, cwd=tmp_path)
        root.run("sh", "-euc", commands, env=environment, cwd=tmp_path)
        root.run("cp", "/etc/procline/server.key", tmp_path)
        # As root, so the secret key belongs to the right user.
        daemon.wrapper = tuple(root.command)
        with daemon:
            assert program.count("\nSubscriber(") == 1
            program = program.replace("\nSubscriber(", "\nsubscriber = Subscriber(")
            program += "print(next(iter(subscriber))['event'])\n"
            with executing():
                done = root.run(sys.executable, "-c", program, env=environment, cwd=tmp_path)
    assert done.stdout.strip()
