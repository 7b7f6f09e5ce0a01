"""One worker process: started with its description, watched by a pidfd, ended by signals. restart.py has the policy."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec

from pipeline.host import passing
from pipeline.shm.names.signals import signal_name
from pipeline.worker.description import WorkerDescription
from pipeline.worker.start import EXIT_HOPELESS

#: One thread does all the work; a pool of threads would only cost memory and start-up time.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


def module_command(module: str) -> tuple[str, ...]:
    """Return the command that runs a worker's module.

    ``-P`` keeps the current directory out of the module path: a daemon must not run files of the directory in which it
    was started.
    """
    return (sys.executable, "-P", "-m", module)


class Waiting:
    """A worker's process that waits for its description, and imports its modules meanwhile.

    A context manager: at its end the process is killed, unless a `Child` has taken it.

    Args:
        command: as of Child.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process: subprocess.Popen[bytes] | None = _start(command, theirs.fileno(), ())

    @property
    def is_waiting(self) -> bool:
        """Whether the process has imported its modules: it then shuts down its half of the connection."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return [event for _, event in poll.poll(0)] == [select.POLLRDHUP]

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended before a `Child` took it."""
        return self._process is not None and self._process.poll() is not None

    def take(self, description_fd: int, fds: Sequence[int]) -> subprocess.Popen[bytes]:
        """Send the description, and return the process, which the caller owns from now on; once only."""
        process, self._process = self._process, None
        assert process is not None
        with self._socket, contextlib.suppress(ConnectionError):  # it has ended; its pidfd reports that
            self._socket.send(str(1 + len(fds)).encode())
            passing.send_fds(self._socket, (description_fd, *fds))
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _start(command: Sequence[str], description_fd: int, fds: Sequence[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, "--description-fd", str(description_fd)],
        stdin=subprocess.DEVNULL,
        pass_fds=(description_fd, *fds),
        env=os.environ | _ENVIRONMENT,
        # A process group of its own: only the supervisor gets the terminal's Ctrl-C, and stops workers in order.
        process_group=0,
    )


class Child:
    """A running worker.

    Args:
        description: of the worker; the descriptors named in it must be open here.
        command: what to run, without ``--description-fd N``.
        waiting: a process that runs this command already; otherwise a new one is started.

    Raises:
        OSError: it could not be started; nothing is left of it.

    Attributes:
        description: as passed.
        pid: process id.
        pidfd: readable when the process has ended; for a selector.
        ready_fd: readable when the process has reported that it is ready, until `read_ready`; for a selector.
        started_s: monotonic time of the start, or of the description if the process waited for it.
    """

    def __init__(self, description: WorkerDescription, command: Sequence[str], waiting: Waiting | None = None) -> None:
        self.description = description
        # An eventfd: the worker can report without a reader at this end.
        self.ready_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._was_ready = False
        inherited = msgspec.structs.replace(description, ready_fd=self.ready_fd)
        try:
            description_fd = inherited.to_memfd()
            try:
                self.started_s = time.monotonic()
                if waiting is None:
                    self._process = _start(command, description_fd, inherited.descriptors())
                else:
                    self._process = waiting.take(description_fd, inherited.descriptors())
            finally:
                os.close(description_fd)
            self.pid = self._process.pid
            try:
                self.pidfd = os.pidfd_open(self.pid)
            except OSError:
                self._process.kill()
                self._process.wait()
                raise
        except OSError:
            os.close(self.ready_fd)
            raise

    @property
    def role(self) -> str:
        """Its role, ``resolver`` or ``shard-N``."""
        return self.description.role

    def has_ended(self) -> bool:
        """Whether the process has ended; if so, it has been reaped."""
        return self._process.poll() is not None

    @property
    def was_ready(self) -> bool:
        """Whether it has reported that it is ready (`start.report_ready`)."""
        self.read_ready()
        return self._was_ready

    def read_ready(self) -> None:
        """Read from `ready_fd`, which would stay readable otherwise."""
        with contextlib.suppress(BlockingIOError):
            self._was_ready |= os.eventfd_read(self.ready_fd) > 0

    @property
    def is_hopeless(self) -> bool:
        """Whether its exit code means that another start would end the same way."""
        return self._process.returncode == EXIT_HOPELESS

    @property
    def exit_code(self) -> int | None:
        """Exit code; negative for a signal, None while it runs."""
        return self._process.returncode

    def how(self) -> str:
        """Return how it ended, in words."""
        code = self._process.returncode
        if code is None:
            return "is alive"
        if code >= 0:
            return f"exited with code {code}"
        return f"was killed by {signal_name(-code)}"

    def send(self, number: signal.Signals) -> None:
        """Send a signal if it runs; by pidfd, so never to another process."""
        if self._process.returncode is None:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                return

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; return whether it has."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """Close the descriptors of an ended process."""
        os.close(self.pidfd)
        os.close(self.ready_fd)
