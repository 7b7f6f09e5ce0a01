"""A user holds the leader of a process in execve(), and changes the process meanwhile.

The kernel waits for a file as long as the user wants, and other threads of the process run until the exec can no longer
fail. Here the file is an interpreter with a lease. The kernel waits until the lease is given up; after 45 s it takes
the lease away, the exec fails, and the next one waits for the next lease.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline import ProcessTable
from pipeline.shm.reader._entry import Entry
from tests.attacks.harness import as_nobody, unharmed
from tests.live.harness import BY_COMPARISON, Daemon
from tests.proc import namespace
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: A child with a changed user namespace waits in execve() for as long as it lives, and a thread of it executes the
#: lines of the standard input.
HOLD = """
import contextlib, ctypes, fcntl, os, signal, sys, threading
child = os.fork()
if child:
    os.waitpid(child, 0)
    os._exit(0)
base = sys.argv[1]
interpreter, script = base + "/interpreter", base + "/script"
for path, content in (interpreter, "no program"), (script, "#!" + interpreter):
    with open(path, "w") as file:
        file.write(content)
    os.chmod(path, 0o755)
name = os.open(f"/proc/self/task/{os.getpid()}/comm", os.O_WRONLY)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
def change():
    signal.sigwait({signal.SIGIO})  # the kernel wants the lease, so the leader waits
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        exec(line)
    os._exit(0)
libc = ctypes.CDLL(None)  # os.execv() would not let other threads of this interpreter run
CLONE_NEWUSER = 0x10000000
assert libc.unshare(CLONE_NEWUSER) == 0
threading.Thread(target=change).start()
while True:
    lease = os.open(interpreter, os.O_RDWR)
    with contextlib.suppress(OSError):
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        libc.execv(script.encode(), (ctypes.c_char_p * 2)(b"script", None))
    os.close(lease)
"""


@pytest.fixture(scope="module")
def sampling(live_kernel: None) -> Iterator[Daemon]:
    with Daemon(BY_COMPARISON, name="held") as running:
        yield running


class Held:
    """A process with a leader that a user holds in execve().

    Attributes:
        pid: its pid.
    """

    def __init__(self, attacker: subprocess.Popen[str]) -> None:
        assert attacker.stdout is not None
        self._attacker = attacker
        self.pid = int(attacker.stdout.readline())

    def do(self, code: str) -> None:
        """Let another thread than the leader execute a line of code."""
        assert self._attacker.stdin is not None
        self._attacker.stdin.write(code + "\n")
        self._attacker.stdin.flush()


@contextmanager
def held(daemon: Daemon, base: str) -> Iterator[tuple[Held, ProcessTable]]:
    with unharmed(daemon), daemon.attach() as table, as_nobody(HOLD, base, stdin=True) as attacker:
        yield Held(attacker), table


def entry_with(table: ProcessTable, pid: int, **facts: object) -> Entry:
    """Wait until the process has these facts in the tables, and return it."""

    def find() -> Entry | bool:
        entry = table.resolve(pid)
        return entry if entry and all(getattr(entry, name) == value for name, value in facts.items()) else False

    return eventually(find)


def test_a_comparison_finds_what_changed(sampling: Daemon, base: str) -> None:
    with held(sampling, base) as (process, table):
        user_ns = namespace(process.pid, "user")
        assert user_ns != namespace(os.getpid(), "user")
        entry = entry_with(table, process.pid, user_ns=user_ns)
        assert "change_sampled" in entry.marks and entry.pgid != process.pid
        process.do("os.setpgid(0, 0)")
        assert "change_sampled" in entry_with(table, process.pid, pgid=process.pid).marks


def test_a_new_name_is_recorded(sampling: Daemon, base: str) -> None:
    with held(sampling, base) as (process, table):
        process.do("os.write(name, b'innocent')")
        entry_with(table, process.pid, comm="innocent")
