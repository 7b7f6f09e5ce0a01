"""The instance of a load test: one that runs already, or one of its own.

An instance of its own is started by the program of the load (mode `guard`), which ends it when this process ends, even
if it is killed. `procline top` and `procline timeline` show a recording in the same way.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pipeline import paths, proc_text
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
        recording: replay this file instead of capturing; this needs no root.
        root: directory of its runtime files; None: the default one.

    Raises:
        UnsupportedError: it captures, and this user is not root.
    """

    def __init__(
        self, name: str, changes: tuple[str, ...] = (), *, recording: Path | None = None, root: Path | None = None
    ) -> None:
        if recording is None and os.geteuid() != 0:
            raise UnsupportedError(
                "--own starts an instance, which only root may do",
                feature="--own",
                needs="root",
                hint="run it with sudo, or test a running instance: omit --own",
            )
        self.name = name
        self.directory = paths.instance_dir(name) if root is None else root / name
        self._environment = {} if root is None else {paths.RUNTIME_DIR_VARIABLE: str(root)}
        self._command = ["run"] if recording is None else ["replay", str(recording.absolute())]
        self._command += ["--name", name, *(part for change in changes for part in ("--set", change))]
        #: A recording takes as long as it takes to read it; an instance that cannot start ends long before.
        self._timeout = str(_READY_S) if recording is None else "inf"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process: Bounded | None = None

    def start(self, progress: Callable[[], None] = lambda: None) -> None:
        """Start it, and wait until it is ready.

        Args:
            progress: called several times a second while it starts.

        Raises:
            ProclineError: it did not start; the message has its last line.
        """
        command = [sys.executable, "-P", "-m", "pipeline.cli.main"]
        self._log.truncate(0)
        self._process = Bounded(
            [str(program()), "guard", *command, *self._command],
            output=subprocess.DEVNULL, errors=self._log, environment=self._environment,
        )  # fmt: skip
        arguments = [str(program()), "guard", *command, "wait", "--name", self.name, "--timeout", self._timeout]
        with Bounded(arguments, errors=subprocess.DEVNULL, environment=self._environment) as waiting:
            while waiting.process.poll() is None and self._process.process.poll() is None:
                progress()
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
    if theirs and theirs != proc_text.own_pid_ns():
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
            raise NotRunningError(
                f"instance {name!r} publishes no events: it has no socket of the stream; test a running `procline run`",
                instance=name,
            )
    except BaseException:
        table.close()
        raise
    return table
