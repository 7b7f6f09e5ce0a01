"""The compiled program of the load: where it is, and how its processes are started and ended.

All processes are started with a pipe as their standard input and end when it is closed, so nothing is left behind, even
if this process is killed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from pipeline.errors import ProclineError, UnsupportedError
from pipeline.load.scenarios import Settings
from pipeline.load.truth import Log, Made
from pipeline.shm.names.signals import signal_name

PROGRAM = Path(__file__).with_name("procline-load")
#: Records that a log has room for: 500 MB of memory if all are used.
CAPACITY = 1 << 24
#: How long a stopped program may take; it kills its processes after 2 s.
_STOP_S = 10
_LIMITS = "check limits (ulimit -u, pids.max of the cgroup) and privileges, or lower --concurrency"


def program() -> Path:
    """Return the program.

    Raises:
        UnsupportedError: it was not compiled.
    """
    if not os.access(PROGRAM, os.X_OK):
        raise UnsupportedError(
            f"the program {PROGRAM} is missing",
            feature="load",
            needs="a C compiler at the installation",
            hint="install procline from a wheel, or run: python setup.py build_ext --inplace",
        )
    return PROGRAM


class Bounded:
    """A process that ends when its standard input is closed, and so at the latest when this process ends.

    It has a session of its own, so Ctrl-C on the terminal reaches only this process.

    Args:
        arguments: the command.
        output: its standard output; None: none.
        errors: its standard error; None: that of this process.
        pass_fds: descriptors that it inherits.
        environment: additional variables.

    Raises:
        ProclineError: it cannot be started.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        output: IO[bytes] | int | None = None,
        errors: IO[bytes] | int | None = None,
        pass_fds: Sequence[int] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        try:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL if output is None else output,
                stderr=errors,
                pass_fds=pass_fds,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            raise ProclineError(f"cannot start {Path(arguments[0]).name}: {error.strerror}; {_LIMITS}") from None

    def tell(self, data: bytes) -> None:
        """Write to its standard input; nothing happens if it has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def stop(self, timeout_s: float = _STOP_S) -> int:
        """Close its standard input and wait; return its exit code. It is killed if it does not end in time."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class Load:
    """One run of a scenario. The program starts and waits; `begin` starts its workers. A context manager that stops it.

    All its processes have the name `comm`, and no other process has it: the program runs by a link with that name.

    Args:
        settings: what to make.
        capacity: maximum number of records; the load ends early if there are more.

    Raises:
        UnsupportedError: the program is missing.
    """

    def __init__(self, settings: Settings, *, capacity: int = CAPACITY) -> None:
        self.settings = settings
        self.comm = f"load-{os.urandom(4).hex()}"
        self._log = Log(capacity)
        self._place = tempfile.TemporaryDirectory(prefix="procline-load-", ignore_cleanup_errors=True)
        # Children that exec may have another user.
        Path(self._place.name).chmod(0o755)
        link = Path(self._place.name) / self.comm
        link.symlink_to(program())
        rate = settings.rate_events_per_s
        self._process = Bounded(
            [
                str(link), "run", str(self._log.fd), ",".join(settings.parts), str(settings.concurrency),
                repr(float(rate or 0)), repr(settings.duration_s),
            ],
            pass_fds=[self._log.fd],
            environment={"PROCLINE_LOAD": str(link)},
            errors=subprocess.PIPE,
        )  # fmt: skip
        if settings.cpus:
            os.sched_setaffinity(self._process.process.pid, settings.cpus)

    @property
    def pid(self) -> int:
        """The ancestor of all processes of the load; its own events are not part of the load."""
        return self._process.process.pid

    def begin(self) -> None:
        """Start the workers."""
        self._process.tell(b"g")

    @property
    def is_running(self) -> bool:
        """Whether it still makes processes, or cleans up after them."""
        return self._process.process.poll() is None

    def events_so_far(self) -> int:
        """Return the number of events that were made so far."""
        return self._log.events()

    def result(self) -> Made:
        """Wait for the end; return what was made.

        Raises:
            ProclineError: the program failed.
        """
        code = self._process.process.wait()
        said = b"" if self._process.process.stderr is None else self._process.process.stderr.read()
        made = self._log.read()
        if code or made.failed:
            reason = os.strerror(made.error) if made.failed else said.decode(errors="replace").strip()
            if code < 0:
                reason = f"it was ended by {signal_name(-code)}"
            raise ProclineError(f"the load could not make its processes: {reason or f'exit code {code}'}; {_LIMITS}")
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.stop()
        if self._process.process.stderr is not None:
            self._process.process.stderr.close()
        self._place.cleanup()
        self._log.close()
