"""One worker process: started with its description, watched by a pidfd, ended by signals. Policy is restart.py's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import msgspec

from pipeline.worker.description import WorkerDescription
from pipeline.worker.start import EXIT_HOPELESS

#: One thread does all the work; a pool of them would only cost memory and start-up time.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


def module_command(module: str) -> tuple[str, ...]:
    """Return the command that runs a worker's module.

    ``-P`` keeps the current directory out of the module path: a daemon must not run what lies where it was started.
    """
    return (sys.executable, "-P", "-m", module)


class Child:
    """A running worker.

    Args:
        description: of the worker; the descriptors named in it must be open here.
        command: what to run, without ``--spec-fd N``.

    Attributes:
        description: as passed.
        pid: process id.
        pidfd: readable when the process has ended; for a selector.
        started_s: monotonic time of the start.
    """

    def __init__(self, description: WorkerDescription, command: Sequence[str]) -> None:
        self.description = description
        # Nothing but a signal from the worker to this process, so a descriptor that both have and that needs no reader.
        self._ready_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._was_ready = False
        inherited = msgspec.structs.replace(description, ready_fd=self._ready_fd)
        description_fd = inherited.to_memfd()
        try:
            self.started_s = time.monotonic()
            self._process = subprocess.Popen(
                [*command, "--spec-fd", str(description_fd)],
                stdin=subprocess.DEVNULL,
                pass_fds=(description_fd, *inherited.descriptors()),
                env=os.environ | _ENVIRONMENT,
                # A group of its own: the terminal's Ctrl-C is for the supervisor, which stops workers in order.
                process_group=0,
            )
        finally:
            os.close(description_fd)
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    @property
    def role(self) -> str:
        """Its role, ``resolver`` or ``shard-N``."""
        return self.description.role

    def has_ended(self) -> bool:
        """Whether the process has ended; if so it has been reaped, and nothing of it is left."""
        return self._process.poll() is not None

    @property
    def was_ready(self) -> bool:
        """Whether it has reported that it is ready (`start.report_ready`)."""
        if not self._was_ready:
            with contextlib.suppress(BlockingIOError):
                self._was_ready = os.eventfd_read(self._ready_fd) > 0
        return self._was_ready

    @property
    def is_hopeless(self) -> bool:
        """Whether it ended with the code that says that another start would end the same way."""
        return self._process.returncode == EXIT_HOPELESS

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal, None while it lives."""
        return self._process.returncode

    def how(self) -> str:
        """Say how it ended."""
        code = self._process.returncode
        if code is None:
            return "is alive"
        if code >= 0:
            return f"exited with code {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it lives; by pidfd, so never to another process."""
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
        """Forget an ended process."""
        os.close(self.pidfd)
        os.close(self._ready_fd)
