"""Run a program as an unprivileged user, and check that the daemon stays healthy meanwhile.

    with unharmed(daemon), as_nobody(ATTACK_SCRIPT) as attacker:
        ...

An attack script is a Python program in a string. It runs with ``python -c`` as user ``nobody``, without capabilities or
supplementary groups.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from pipeline import ProcessTable
from pipeline.errors import ProclineError
from pipeline.host import processes
from pipeline.shm.layout import layout
from tests.live.harness import CHECKOUT, Daemon, patience
from tests.nobody import NOBODY

MAX_LAG_S = 1.5
_SAMPLE_S = 0.02
#: Before a command: the same privileges as `as_nobody` leaves.
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")

#: A mount namespace with an empty /dev/shm and with /run not on tmpfs, so that /dev/shm/procline is used.
PRIVATE = (
    "mount -t tmpfs -o mode=1777 none /dev/shm && "
    '{ [ "$(stat -fc %T /run)" != tmpfs ] || mount --bind /sys /run; } && exec "$@"'
)


class Host:
    """Runs processes in a mount namespace with a private /dev/shm, without PROCLINE_RUNTIME_DIR."""

    def __init__(self) -> None:
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PROCLINE_")}
        self.environment["PYTHONPATH"] = str(CHECKOUT)
        self.keeper = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", PRIVATE, "sh", "sh", "-c", "echo up; exec sleep 600"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.keeper.stdout is not None and self.keeper.stdout.readline() == "up\n"

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.keeper.pid}/ns/mnt", "--", *command]

    def path(self, path: str) -> Path:
        """Return the path, as seen from this process, of a path inside."""
        return Path(f"/proc/{self.keeper.pid}/root{path}")

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.inside(sys.executable, "-m", "pipeline.cli.main", *arguments),
            env=self.environment, capture_output=True, text=True, timeout=60, cwd="/",
        )  # fmt: skip

    def close(self) -> None:
        self.keeper.kill()
        self.keeper.communicate()


@contextmanager
def as_nobody(script: str, *arguments: str | int, stdin: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run a Python script as an unprivileged user while the body runs; kill it and its children at the end.

    Args:
        script: the program.
        arguments: its arguments.
        stdin: whether its standard input is a pipe.

    Yields:
        The process. Its standard output is a pipe, its standard error is that of the test.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", script, *map(str, arguments)],
        user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", start_new_session=True,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdin is not None and process.stdin.closed:
            process.stdin = None  # else communicate() would flush it
        process.communicate()


def finished(process: subprocess.Popen[str], timeout: float = 60) -> str:
    """Wait for a script to end by itself and return its output.

    Raises:
        AssertionError: it failed, so the attack did not take place.
    """
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, f"the attack script exited with {process.returncode}: {output}"
    return output


@contextmanager
def unharmed(daemon: Daemon, *, max_lag_s: float = MAX_LAG_S) -> Iterator[None]:
    """Check that no worker is replaced during the body, and that the tables are never `max_lag_s` behind.

    Other programs that keep the CPUs busy may make them later in proportion.
    """
    before = worker_pids(daemon)
    ended = threading.Event()
    lags: list[float] = []
    with daemon.attach() as table:
        sampler = threading.Thread(target=_sample, args=(table, lags, ended), daemon=True)
        sampler.start()
        try:
            yield
        finally:
            ended.set()
            sampler.join(60)
    assert worker_pids(daemon) == before, f"a worker was replaced\n{daemon.log.read_text()[-4000:]}"
    assert lags, "the tables' lag was never read"
    assert max(lags) < max_lag_s * patience(), f"the tables were {max(lags):.2f} s behind"


def worker_pids(daemon: Daemon) -> dict[str, int]:
    """Return the pids of the daemon's processes by role."""
    rows = json.loads((daemon.directory / processes.FILE).read_bytes())["processes"]
    return {row["role"]: row["pid"] for row in rows}


def _sample(table: ProcessTable, lags: list[float], ended: threading.Event) -> None:
    watermark_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    while not ended.wait(_SAMPLE_S):
        # If the writer has ended, the watermark does not advance and the lag grows.
        with suppress(ProclineError):
            commit = np.frombuffer(table.commit()[: layout.COMMIT.itemsize], layout.COMMIT)[0]
            watermark_ns = int(commit["watermark_boot_ns"])
        lags.append((time.clock_gettime_ns(time.CLOCK_BOOTTIME) - watermark_ns) / 1e9)
