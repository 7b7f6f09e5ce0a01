"""A process that executes statements on demand, for tests of changes while a process lives.

It is plain Python with functions of the C library (`libc`), which raise OSError when they fail. It reads a line of
code, executes it, answers, and waits for the next line. It imports as little as possible: in an emulated guest, the
start of a Python takes a second or more. There `Actors` makes many of them from one.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

#: The number of the system call clone(2). The order of its arguments differs, but here all except the first are 0.
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE_PARENT = 0x8000

# One thread only, so that the C library makes each change with one system call.
_SETUP = r"""
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
"""
_LOOP = r"""
for line in open(0, closefd=False):
    try:
        exec(eval(line), globals())
        answer = None
    except BaseException as error:
        answer = repr(error)
    print(ascii(answer), flush=True)
"""
# Reads the names of two pipes, and makes a process that has them as its standard input and output. The process that
# started this one is its parent. It continues behind the loop.
_FORKING = f"""
while names := os.read(0, 1000).split():
    pipes = [os.open(name, flags) for name, flags in zip(names, (os.O_RDONLY, os.O_WRONLY))]
    pid = libc.syscall({_CLONE[os.uname().machine]}, {_CLONE_PARENT | signal.SIGCHLD}, 0, 0, 0, 0)
    if pid == 0:
        for number, pipe in enumerate(pipes):
            os.dup2(pipe, number)
            os.close(pipe)
        break
    for pipe in pipes:
        os.close(pipe)
    print(pid, flush=True)
else:
    os._exit(0)
"""


class _Forked:
    """A child of this process that another child has made, with what Actor needs of subprocess.Popen."""

    def __init__(self, maker: subprocess.Popen[str]) -> None:
        assert maker.stdin is not None and maker.stdout is not None
        its_input, ours_in = os.pipe()
        ours_out, its_output = os.pipe()
        self.stdin, self.stdout = os.fdopen(ours_in, "w"), os.fdopen(ours_out)
        maker.stdin.write(" ".join(f"/proc/{os.getpid()}/fd/{fd}" for fd in (its_input, its_output)))
        maker.stdin.flush()
        self.pid = int(maker.stdout.readline())
        self._pidfd = os.pidfd_open(self.pid)
        os.close(its_input)
        os.close(its_output)
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            if not select.select([self._pidfd], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(["actor"], timeout or 0)
            os.close(self._pidfd)
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Actors:
    """Makes actors in a fraction of the time: they are copies of one process. A context manager that ends that one.

    Otherwise an actor is like any other: a child of this process. But it executes no program of its own.
    """

    def __init__(self) -> None:
        self._maker = subprocess.Popen(
            [sys.executable, "-ISu", "-c", _SETUP + _FORKING + _LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self) -> Actor:
        """Make an actor, which is a context manager too."""
        return Actor(maker=self._maker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._maker.communicate()


class Actor:
    """A process that a test controls; a context manager that ends it.

    Attributes:
        pid: its pid.
    """

    def __init__(
        self,
        command: Sequence[str] = (),
        program: str = sys.executable,
        *,
        maker: subprocess.Popen[str] | None = None,
    ) -> None:
        """Start the process, through `command` (such as ``setpriv --reuid 1000``) if given; `maker` is of Actors."""
        self._process: subprocess.Popen[str] | _Forked
        if maker is not None:
            self._process = _Forked(maker)
        else:
            self._process = subprocess.Popen(
                [*command, program, "-ISu", "-c", _SETUP + _LOOP],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
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
