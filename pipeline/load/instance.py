"""The instance of a load test: one that runs already, or one of its own.

An instance of its own is started by the program of the load (mode `guard`), which ends it when this process ends, even
if it is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from pipeline import paths
from pipeline.errors import NotRunningError, ProclineError, UnsupportedError
from pipeline.load.program import Bounded, program
from pipeline.shm.reader.table import ProcessTable

#: How long an instance may take to know all processes.
_READY_S = 60
#: The supervisor of an instance ends its workers within this time.
_STOP_S = 40


class OwnInstance:
    """An instance that this object starts and stops, any number of times.

    Args:
        name: of the instance.
        changes: settings, as for `procline run --set`; otherwise it has the defaults.

    Raises:
        UnsupportedError: this user is not root.
    """

    def __init__(self, name: str, changes: tuple[str, ...] = ()) -> None:
        if os.geteuid() != 0:
            raise UnsupportedError(
                "--own starts an instance, which only root may do",
                feature="--own",
                needs="root",
                hint="run it with sudo, or test a running instance: omit --own",
            )
        self.name = name
        self.directory = paths.instance_dir(name)
        self._options = [part for change in changes for part in ("--set", change)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process: Bounded | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            ProclineError: it did not start; the message has its last line.
        """
        command = [sys.executable, "-P", "-m", "pipeline.cli.main"]
        self._log.truncate(0)
        self._process = Bounded(
            [str(program()), "guard", *command, "run", "--name", self.name, *self._options],
            output=subprocess.DEVNULL, errors=self._log,
        )  # fmt: skip
        # Not the command's own deadline: an instance that cannot start ends long before.
        arguments = [str(program()), "guard", *command, "wait", "--name", self.name, "--timeout", str(_READY_S)]
        with Bounded(arguments, errors=subprocess.DEVNULL) as waiting:
            while waiting.process.poll() is None and self._process.process.poll() is None:
                time.sleep(0.02)
        if self._process.process.poll() is not None or waiting.process.returncode:
            self.stop()
            self._log.seek(0)
            said = self._log.read().decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise ProclineError(f"the instance did not start: {said[-1]}")

    def stop(self) -> None:
        """Stop it; nothing happens if it does not run."""
        if self._process is not None:
            self._process.stop(_STOP_S)
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self._log.close()


def check_namespace(table: ProcessTable) -> None:
    """Check that this process and the instance have the same pids.

    Raises:
        UnsupportedError: they are in different pid namespaces.
    """
    from pipeline.shm.layout.declared import CONTROL_LAYOUT

    theirs = CONTROL_LAYOUT.struct("pid_ns").unpack_from(table.view.header())[0]
    if theirs and theirs != Path("/proc/self/ns/pid").stat().st_ino:
        raise UnsupportedError(
            "a load test must run in the pid namespace of the instance, because it compares pids",
            feature="load",
            hint="run it on the host, or in a container with --pid=host",
        )


def attach(name: str, directory: Path) -> ProcessTable:
    """Open the tables of a running instance.

    Raises:
        NotRunningError, AccessError, UntrustedError, LayoutError, UnsupportedError: it cannot be tested.
    """
    table = ProcessTable.attach(name, path=directory)
    try:
        check_namespace(table)
        if not (directory / paths.STREAM_DIR).exists():
            raise NotRunningError(f"instance {name!r} publishes no events", instance=name)
    except BaseException:
        table.close()
        raise
    return table
