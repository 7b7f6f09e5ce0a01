"""A real daemon with its own runtime directory, and a workload that reports its actions."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline import ProcessTable
from pipeline.bpf import probe
from pipeline.cli.common import FORKED_JUST_NOW_MS, facts, patiently
from pipeline.cli.operate import wait as wait_command
from pipeline.errors import ProclineError
from pipeline.export.json import dumps
from pipeline.host import processes
from pipeline.records.limits import PID_MAX
from tests.linux import IS_GUEST
from tests.live.memory import fdinfo
from tests.waiting import WAIT_S, until

SOURCE = Path(__file__).with_name("workload.c")
CHECKOUT = Path(__file__).parents[2]
#: How many times as long programs take in an emulated guest: some fifteen times, up to ten with virtual time.
EMULATION_FACTOR = 15 if IS_GUEST else 1
READY_SECONDS = 1200 if IS_GUEST else 120
STARTED_SECONDS = 300 if IS_GUEST else 120
STOP_SECONDS = 200 if IS_GUEST else 60
_PIDFD_GETFD = 438

#: Settings of a daemon that finds changes of credentials and session by the task iterator only: without regular
#: comparisons with /proc, and with rings in which storms of other tests displace nothing, as a loss leads to one.
BY_COMPARISON = """
[capture]
credentials = "sampled"
ring_bytes = 33554432
[repair]
check_interval_s = 0
"""


@functools.cache
def exact_method() -> str:
    """Return the value of capture.credentials by which this kernel shows each change at once, not by comparison."""
    return next((kind for kind in ("fentry", "kprobe") if probe.attach_kind(kind).ok), "syscalls")


def each_change() -> str:
    """Return the settings of a daemon that sees each change of credentials and session at once."""
    return f'[capture]\ncredentials = "{exact_method()}"\n'


class Daemon:
    """`procline run` as a child process, with its own runtime directory on tmpfs."""

    def __init__(self, config: str = "", *options: str, name: str = "test") -> None:
        self.name = name
        self.root = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
        self.root.chmod(0o755)
        # Workers import the installed package, not the current directory (python -P).
        self.environment = dict(
            os.environ, PROCLINE_RUNTIME_DIR=str(self.root), PYTHONUNBUFFERED="1", PYTHONPATH=str(CHECKOUT)
        )
        self.environment.pop("PROCLINE_CONFIG", None)
        self.config = self.root / "procline.toml"
        self.config.write_text(config)
        self.log = self.root / "log"
        self.options = (*options, "--set", "supervision.start_timeout_s=1200") if IS_GUEST else options
        #: Prefix of the command `procline run`, to run it in another environment.
        self.wrapper: tuple[str, ...] = ()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        return self.root / self.name

    def start(self, wait: bool = True) -> Daemon:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, sys.executable, "-m", "pipeline.cli.main", "run", "--name", self.name, "--config",
                 str(self.config), *self.options],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        if wait:
            # As `procline wait` does it, whose own start takes as long as a third of the daemon's.
            deadline = time.monotonic() + READY_SECONDS
            while not wait_command.is_ready(self.directory):
                ended = self.process.poll()
                assert ended is None and time.monotonic() < deadline, f"not ready ({ended}):\n{self.log.read_text()}"
                time.sleep(0.02)
        return self

    def cli(self, *arguments: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        """Run a `procline` command against this instance."""
        command, *rest = arguments
        return subprocess.run(
            [sys.executable, "-m", "pipeline.cli.main", command, "--name", self.name, *rest],
            env=self.environment, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def stat(self) -> dict[str, Any]:
        """Return what `procline stat --json` prints, without its start of 0.2 s."""
        try:
            with self.attach() as table:
                found: dict[str, Any] = json.loads(dumps(patiently(table.stats)))
        except ProclineError as error:
            raise AssertionError(str(error)) from error
        return found

    def resolved(self, pid: int) -> dict[str, Any]:
        """Return what `procline resolve PID --json` prints, without its start of 0.1 s."""
        try:
            with self.attach() as table:
                known = facts(lambda: filter(None, [table.resolve(pid, wait_ms=FORKED_JUST_NOW_MS)]))
        except ProclineError as error:
            raise AssertionError(str(error)) from error
        assert known, f"no process {pid} is known"
        found: dict[str, Any] = json.loads(dumps(known[0]))
        return found

    def pids(self, role: str) -> list[int]:
        """Return the pids of the daemon's live processes with a role that begins with `role`."""
        return [each.pid for each in processes.listed(self.directory) if each.is_live and each.role.startswith(role)]

    def map_fd(self, **fields: int) -> int:
        """Return a new descriptor of the supervisor's BPF map with these facts in its fdinfo; the caller closes it."""
        (supervisor,) = self.pids("supervisor")
        for number, shown in fdinfo(supervisor):
            if all(shown.get(name, "") == str(value) for name, value in fields.items()):
                pidfd = os.pidfd_open(supervisor)
                try:
                    fd = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, number, 0)
                finally:
                    os.close(pidfd)
                assert fd >= 0, os.strerror(ctypes.get_errno())
                return int(fd)
        raise AssertionError(f"the supervisor has no map with {fields}")

    def attach(self) -> ProcessTable:
        """Return a ProcessTable of this instance."""
        return ProcessTable.attach(path=self.directory)

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """Kill the supervisor, and wait until its workers have ended.

        The kernel signals the workers when the supervisor dies. Until they have ended they own the tables, whose state
        is first READY and then STOPPED.
        """
        assert self.process is not None
        workers = [os.pidfd_open(pid) for pid in self.pids("")]
        self.process.kill()
        self.process.wait()
        try:
            for worker in workers:
                assert select.select([worker], [], [], STOP_SECONDS)[0]
        finally:
            for worker in workers:
                os.close(worker)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> Daemon:
        try:
            return self.start()
        except BaseException:
            self.close()  # else it would run on: nobody else knows it
            raise

    def __exit__(self, *_: object) -> None:
        self.close()


class Recorder:
    """`procline subscribe --json` in the background, and the events that it printed."""

    def __init__(self, daemon: Daemon, *topics: str, options: tuple[str, ...] = ()) -> None:
        self.events: list[dict] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", "subscribe", "--name", daemon.name, "--json", *options,
             *topics],
            env=daemon.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # else it was killed while it wrote its last line
                self.events.append(json.loads(line))

    def started(self, marker: str = "/bin/true") -> Recorder:
        """Wait until the subscription is in force: the events of marker processes arrive."""
        deadline = time.monotonic() + STARTED_SECONDS
        while not self.events:
            assert self._process.poll() is None, self._process.stderr.read()
            assert time.monotonic() < deadline, f"no event of a marker process within {STARTED_SECONDS} s"
            subprocess.run([marker], check=True)
            time.sleep(0.05)
        return self

    def wait_for(self, predicate, timeout: float = WAIT_S) -> None:
        """Wait until `predicate(events)` is true; fails after `timeout` seconds."""
        until(lambda: predicate(self.events), self._last_events, timeout, 0.05)

    def _last_events(self) -> str:
        return f"{len(self.events)} events: {self.events[-3:]}"

    def stop(self) -> list[dict]:
        """Send SIGINT and read all remaining events; the command must exit with 0."""
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(STOP_SECONDS)
        self._thread.join(STOP_SECONDS)
        assert code == 0, self._process.stderr.read()
        return self.events

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def build_workload(directory: Path) -> Path:
    """Compile the workload; returns the executable."""
    target = directory / "workload"
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-o", target, SOURCE, "-lpthread"], check=True)
    return target


def run_workload(program: Path, *arguments: str | int, timeout: float = 120) -> list[tuple[str, int, int]]:
    """Run the workload, and return the events that it reports: (kind, pid, ppid)."""
    out = subprocess.run(
        [str(program), *map(str, arguments)], stdout=subprocess.PIPE, check=True, text=True, timeout=timeout
    ).stdout
    return [(kind, int(pid), int(ppid)) for kind, pid, ppid in (line.split() for line in out.splitlines())]


@contextmanager
def running_workload(
    program: Path, *arguments: str | int, lines: int = 1
) -> Iterator[tuple[int, list[tuple[str, int, int]]]]:
    """Start the workload; yield its pid and its first `lines` lines. At the end it is killed with all its children."""
    process = subprocess.Popen(
        [str(program), *map(str, arguments)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        said = [process.stdout.readline().split() for _ in range(lines)]
        yield process.pid, [(kind, int(pid), int(ppid)) for kind, pid, ppid in said]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def patience() -> float:
    """Return how many times longer everything may take because other programs keep the CPUs busy; 1 on an idle host."""
    return max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))


def resolve(table: ProcessTable, pid: int) -> Any:
    """Return the process that has this pid now; it may end at any time."""
    entry = table.resolve(pid, wait_ms=60_000)
    assert entry is not None
    return entry


def unused_pid() -> int:
    """Return a pid that no process has; above `pid_max`, where possible, so that no retained process had it either."""
    return next(pid for pid in range(PID_MAX - 1, 1, -1) if not Path(f"/proc/{pid}").exists())
