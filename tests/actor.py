"""A process that executes statements on demand, for tests of changes while a process lives.

It is plain Python with functions of the C library (`libc`), which raise OSError when they fail. It reads a line of
code, executes it, answers, and waits for the next line. It imports as little as possible: in an emulated guest, the
start of a Python takes a second or more.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

# One thread only, so that the C library makes each change with one system call.
_PROGRAM = r"""
import ctypes, os, sys, time
dll = ctypes.CDLL(None, use_errno=True)
class libc:
    def __getattr__(self, name):
        def call(*arguments):
            result = getattr(dll, name)(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
            if result < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            return result
        return call
libc = libc()
def set_caps(effective, permitted):
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(effective & 0xFFFFFFFF, permitted & 0xFFFFFFFF, 0, effective >> 32, permitted >> 32, 0)
    libc.capset(header, data)
def in_thread(function):
    import threading
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()
for line in sys.stdin:
    try:
        exec(eval(line), globals())
        answer = None
    except BaseException as error:
        answer = repr(error)
    print(ascii(answer), flush=True)
"""


class Actor:
    """Such a process; a context manager that ends it.

    Attributes:
        pid: its pid.
    """

    def __init__(self, command: Sequence[str] = (), program: str = sys.executable) -> None:
        """Start the process, through `command` (such as ``setpriv --reuid 1000``) if given."""
        self._process = subprocess.Popen(
            [*command, program, "-ISu", "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        try:
            self.do("pass")
        except BaseException:
            self.close()
            raise

    def do(self, code: str) -> None:
        """Let the process execute `code`, and wait until it is done.

        Raises:
            AssertionError: the code failed, or the process has ended.
        """
        self.start(code)
        self.finish()

    def start(self, code: str) -> None:
        """Let the process execute `code`; `finish` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(ascii(code) + "\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        """Wait until the code of `start` is done.

        Raises:
            AssertionError: the code failed, or the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"ended with {self._process.wait(60)}"
        assert line == "None\n", line

    def join_session(self) -> int:
        """Make the process a member of a session with a terminal (descriptor `slave`); return the pid of the leader.

        The leader is the original process, which waits for its child. The child is the member, and `pid` is its pid
        from now on.
        """
        self.do(
            "import fcntl, termios\n"
            "os.setsid(); master, slave = os.openpty(); fcntl.ioctl(slave, termios.TIOCSCTTY, 0)\n"
            "child = os.fork()\n"
            "if child:\n"
            "    os.waitpid(child, 0)\n"
            "    os._exit(0)"
        )
        leader = self.pid
        (self.pid,) = (int(pid) for pid in Path(f"/proc/{leader}/task/{leader}/children").read_text().split())
        return leader

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
