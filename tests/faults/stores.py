"""Kill the resolver of a running daemon between two of its stores to the tables; stores.c says how."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import time
from pathlib import Path

from pipeline.host import processes
from tests.live.harness import Daemon

_SOURCE = Path(__file__).with_suffix(".c")
_SIGNAL = signal.SIGRTMIN + 7
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long]


def is_possible() -> bool:
    """Whether this machine can let a process run one instruction with the trap flag."""
    return platform.machine() == "x86_64"


def preload(daemon: Daemon, directory: Path) -> None:
    """Make the processes of a daemon that has not started yet ready for `kill_before`.

    Args:
        daemon: the daemon.
        directory: where to build the library; other users need not read it.
    """
    library = directory / "stores.so"
    if not library.exists():
        subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, _SOURCE], check=True)
    daemon.wrapper = ("env", f"LD_PRELOAD={library}")


def kill_before(pid: int, store: int) -> None:
    """Have a process, which has the tables, killed just before its `store`-th store to them from now on.

    Raises:
        ProcessLookupError: it has ended.
    """
    if _libc.sigqueue(pid, _SIGNAL, store) != 0:
        raise ProcessLookupError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def has_tables(pid: int, daemon: Daemon) -> bool:
    """Whether a process has opened the tables for writing."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
    return any(" rw-s " in line and str(daemon.directory / "hot") in line for line in maps.splitlines())


def writer(daemon: Daemon, timeout_s: float, *others: int) -> int:
    """Wait for a resolver that has the tables, and is none of `others`; return its pid.

    Raises:
        AssertionError: there is none within the time.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for each in processes.listed(daemon.directory):
            if each.role == "resolver" and each.is_live and each.pid not in others and has_tables(each.pid, daemon):
                return each.pid
        time.sleep(0.001)
    raise AssertionError(f"no resolver within {timeout_s} s")


def is_alive(pid: int) -> bool:
    """Whether a process has not ended; one that its parent has not awaited yet has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False
