"""The unit of the fleet store under a real systemd, with a real server: each event is stored once, whatever ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.fleet.jetstream import deliver_again_after, publish
from tests.fleet.traffic import NS, SimulatedHost, split
from tests.forward.credentials import Operator
from tests.nats_server import NatsServer, require_nats_server
from tests.packaging.namespaces import remove_cgroup, require_systemd
from tests.proc import status
from tests.waiting import until

pytestmark = [pytest.mark.live, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
UNIT = "procline-fleet-ingest.service"
TIMEOUT_S = 120
STATE = "/var/lib/procline-fleet"
CREDENTIALS = "/etc/credstore/procline-fleet-ingest.creds"
PLACE = "/opt/procline-fleet"
#: /opt/procline-fleet as an administrator makes it, but with the modules of this checkout, and stored after a second.
COMMAND = f"""#!/bin/sh
[ "$2" != ingest ] || set -- "$@" --commit-seconds 1
PYTHONPATH={PLACE}/checkout exec {PLACE}/checkout/.venv/bin/python -P -m pipeline.cli.main "$@"
"""
INSTALL = f"""set -e
mkdir -p {PLACE}/bin {PLACE}/checkout /etc/procline /etc/credstore
mount --bind "$1/checkout" {PLACE}/checkout
cp "$1/command" {PLACE}/bin/procline
chmod 755 {PLACE}/bin/procline
"""
#: What the unit asks of other units exists, and does nothing.
TARGETS = ("basic", "network-online", "shutdown", "sysinit", "test")


class Machine:
    """A mount namespace in which systemd is process 1 and the unit is installed as it is, without a drop-in."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._cgroup = f"procline-test-{os.getpid()}-1"
        (work / "units").mkdir()
        for name in TARGETS:
            (work / f"units/{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        shutil.copy(ROOT / "packaging/systemd" / UNIT, work / "units")
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", Path(__file__).with_name("boot.sh"), work, self._cgroup]
        )
        self._init = 0
        try:
            self._init = until(self._find_init, limit_s=TIMEOUT_S)
            until(lambda: self.run("systemctl", "is-active", "test.target").returncode == 0, limit_s=TIMEOUT_S)
            (work / "command").write_text(COMMAND)
            done = self.run("sh", "-c", INSTALL, "sh", str(work))
            assert done.returncode == 0, done.stderr
        except BaseException:
            self.close()
            raise

    def _find_init(self) -> int:
        """Return process 1 of the new namespace; 0: it is not systemd yet."""
        assert self._process.poll() is None, (self.work / "journald.log").read_text()
        for pid in children(self._process.pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return pid
        return 0

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command there as root."""
        return subprocess.run(
            ["nsenter", "--target", str(self._init), "--mount", "--pid", "--", *command],
            env={"PATH": f"{PLACE}/bin:/usr/bin:/usr/sbin:/bin", "LANG": "C.UTF-8", "HOME": str(self.work)}, cwd="/",
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip

    def write(self, path: str, text: str) -> None:
        (self.work / "text").write_text(text)
        assert self.run("install", "-m", "600", str(self.work / "text"), path).returncode == 0

    def systemctl(self, *arguments: str) -> int:
        return self.run("systemctl", *arguments).returncode

    def properties(self, *names: str) -> dict[str, str]:
        shown = self.run("systemctl", "show", UNIT, "--property", ",".join(names)).stdout
        return dict(line.partition("=")[::2] for line in shown.splitlines())

    def log(self) -> str:
        self.run("journalctl", "--sync")
        shown = self.run("systemctl", "status", "--no-pager", "--full", UNIT)
        return shown.stdout + shown.stderr + self.run("journalctl", "-o", "cat", "-n", "40").stdout

    def pid(self) -> int:
        """Return the service's process, as this namespace of processes numbers it; 0: there is none."""
        inner = self.properties("MainPID")["MainPID"]
        for pid in children(self._init):
            with suppress(FileNotFoundError, ProcessLookupError):
                if status(pid)["NSpid"][-1] == inner:
                    return pid
        return 0

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Ask the service's store; there are no rows if it does not exist yet."""
        done = self.run("procline", "fleet", "query", sql, "--store", f"{STATE}/store", "--format", "json")
        return json.loads(done.stdout) if done.returncode == 0 else []

    def files(self) -> str:
        """Return the files of the service's store with their sizes and times."""
        return self.run("find", f"{STATE}/", "-type", "f", "-printf", "%p %s %T@\n").stdout

    def close(self) -> None:
        """End it at once, with all of its processes."""
        with suppress(ProcessLookupError):
            if self._init:
                os.kill(self._init, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        until(lambda: not self._init or not Path(f"/proc/{self._init}").exists(), limit_s=TIMEOUT_S)
        remove_cgroup(self._cgroup)


def children(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def machine(live_kernel: None, missing: Callable[[str], NoReturn]) -> Iterator[Machine]:
    require_systemd(missing)
    require_nats_server(missing)
    work = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    try:
        made = Machine(work)
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(work)


@pytest.fixture
def host() -> Iterator[SimulatedHost]:
    with SimulatedHost("web-1", 1, time.time_ns() - 3600 * NS) as made:
        yield made


def stored(machine: Machine) -> Counter[tuple[str, int]]:
    """Return how often each event is in the store, by topic and number."""
    rows = machine.query("SELECT topic, seq FROM events WHERE topic IN ('fork', 'exec', 'exit')")
    return Counter((row["topic"], row["seq"]) for row in rows)


def made(host: SimulatedHost) -> set[tuple[str, int]]:
    counts = dict(zip(("fork", "exec", "exit"), host.encoder.sequences().tolist(), strict=False))
    return {(topic, number) for topic, count in counts.items() for number in range(1, count + 1)}


def test_each_event_is_stored_once_whatever_is_restarted(machine: Machine, host: SimulatedHost, tmp_path: Path) -> None:
    operator = Operator()
    server = NatsServer(tmp_path, config=operator.config)
    admin = str(operator.credentials(tmp_path / "admin.creds"))
    # As docs/fleet.md says: no more than these permissions, by a file that only root can read.
    own = operator.credentials(
        tmp_path / "ingest.creds",
        publish=["$JS.API.CONSUMER.*.PROCLINE.>", "$JS.API.CONSUMER.*.*.PROCLINE.>", "$JS.ACK.PROCLINE.>"],
        subscribe=["_INBOX.>"],
    )
    machine.write(CREDENTIALS, own.read_text())
    machine.write("/etc/procline/fleet-ingest.env", f"PROCLINE_FLEET_FROM={server.url}\n")

    def happen(count: int) -> None:
        for _ in range(count):
            host.end(host.run(1, b"/usr/bin/true"))
        publish(server.url, list(split(host.sent(), 20)), user_credentials=admin)

    def arrived() -> None:
        answered: list[str] = []

        def is_complete() -> bool:
            # A question takes a second of CPU time, so it is asked only of files that are not the former ones.
            files = machine.files()
            if files in answered:
                return False
            found = set(stored(machine))
            if found:
                answered.append(files)
            return found == made(host)

        until(is_complete, limit_s=TIMEOUT_S)

    # The server does not exist yet, and the service waits for it.
    assert machine.systemctl("start", UNIT) == 0, machine.log()
    with server:
        happen(100)
        arrived()
        found = status(until(machine.pid, limit_s=TIMEOUT_S))
        assert "0" not in found["Uid"] and found["NoNewPrivs"] == ["1"] and found["Seccomp"] == ["2"]
        assert int(found["CapEff"][0], 16) == int(found["CapBnd"][0], 16) == 0
        # Only root can read the store. The user that owns the directory on the disk cannot, either.
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
        assert machine.run(*nobody, "ls", f"{STATE}/").returncode != 0 == machine.run("ls", f"{STATE}/").returncode

        happen(100)
        assert machine.systemctl("restart", UNIT) == 0, machine.log()
        happen(100)
        pid = until(machine.pid, limit_s=TIMEOUT_S)
        os.kill(pid, signal.SIGKILL)
        until(lambda: machine.pid() not in {0, pid}, limit_s=TIMEOUT_S)
        # The server delivers again what the killed process had not stored. The next process stores its messages before
        # the server would do so.
        deliver_again_after(3, server.url, user_credentials=admin)
        happen(100)
        arrived()
        assert machine.properties("NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"}

        server.kill()
        time.sleep(1)  # the service notices
        server.start()
        happen(100)
        arrived()
        assert machine.properties("NRestarts") == {"NRestarts": "1"}, machine.log()
        assert machine.systemctl("stop", UNIT) == 0
        assert machine.properties("Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
        happen(100)  # the service does not run
        assert machine.systemctl("start", UNIT) == 0, machine.log()
        arrived()
    assert set(stored(machine).values()) == {1}
    facts = machine.run("procline", "fleet", "hosts", "--store", f"{STATE}/store", "--format", "json").stdout
    assert [(each["name"], each["lost"], each["gaps"]) for each in json.loads(facts)] == [("web-1", 0, 0)]
