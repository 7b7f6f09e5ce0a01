"""The side of a load test that starts the subscriber, and reads what it has kept (`listening`)."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pipeline.errors import AccessError, NotRunningError, ProclineError
from pipeline.load.listening import DRAIN_S, EXIT_NO_ACCESS
from pipeline.load.program import Bounded
from pipeline.load.truth import SEEN

if TYPE_CHECKING:
    import numpy.typing as npt


class Listener:
    """Runs the subscriber; a context manager that ends it.

    Args:
        name: of the instance.
        directory: of the instance.
        comm: of the load's processes.
        root_pid: the first process of the load; its own events are not part of the load.
        boot_unix_ns: Unix time of boot-clock zero, as the instance determined it.

    Raises:
        NotRunningError: the instance does not publish.
        AccessError: this user may not read the stream.
    """

    def __init__(self, name: str, directory: Path, comm: str, root_pid: int, boot_unix_ns: int) -> None:
        # A file, because a full pipe would block the subscriber.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = Bounded(
            [sys.executable, "-P", "-m", "pipeline.load.listening", name, str(directory), comm, str(root_pid),
             str(boot_unix_ns)],
            output=self._output, errors=self._errors,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while b"\n" not in self._said():
            if self._process.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                self._errors.seek(0)
                said = self._errors.read().decode(errors="replace").strip().splitlines()
                reason = f"cannot subscribe to instance {name!r}: {said[-1] if said else 'no answer'}"
                if self._process.process.returncode == EXIT_NO_ACCESS:
                    raise AccessError(reason)
                raise NotRunningError(reason, instance=name)
            time.sleep(0.01)

    def _said(self) -> bytes:
        """Return what the subscriber has written. It shares its position in the file, which must not move."""
        file = self._output.fileno()
        return os.pread(file, os.fstat(file).st_size, 0)

    @property
    def pid(self) -> int:
        """The subscriber's process."""
        return self._process.process.pid

    def result(self) -> tuple[npt.NDArray[np.void], dict[str, Any]]:
        """Let the subscriber read what is still on its way; return the events and its counts."""
        self._process.stop(DRAIN_S + 10)
        _, _, said = self._said().partition(b"\n")
        line, _, seen = said.partition(b"\n")
        counts: dict[str, Any] = json.loads(line or b"{}")
        if not counts:
            self._errors.seek(0)
            raise ProclineError(f"the subscriber ended: {self._errors.read().decode(errors='replace').strip()}")
        return np.frombuffer(seen, SEEN), counts

    def close(self) -> None:
        """End the subscriber."""
        self._process.process.kill()
        self._process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
        self._output.close()
        self._errors.close()
