"""The subscriber of a load test: a process of its own that keeps the load's events, with the time at which they came.

It runs `python -m pipeline.load.listening`, prints a line when it is subscribed, and its result when its standard input
ends: a line of JSON, then the events (`truth.SEEN`).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import AccessError, NotRunningError, ProclineError
from pipeline.load.program import Bounded
from pipeline.load.truth import KINDS, SEEN, UNKNOWN

#: After the end of the load it waits until no event came for this long, and at most _DRAIN_S.
_QUIET_S = 0.3
_DRAIN_S = 60.0
_TICK_S = 0.1
_EXIT_NO_ACCESS = 2


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
                if self._process.process.returncode == _EXIT_NO_ACCESS:
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
        self._process.stop(_DRAIN_S + 10)
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


def listen(name: str, directory: Path, comm: str, root_pid: int, boot_unix_ns: int) -> None:
    """Run the subscriber in this process until standard input ends."""
    from pipeline.client.subscriber import Subscriber

    program = str(Path(__file__).with_name("procline-load").resolve())
    kinds = KINDS
    numbers = array("q")
    missed = 0
    with Subscriber(name, [f"proc.{kind}" for kind in kinds], path=directory) as subscriber:
        print("ready", flush=True)
        ended = quiet_since = 0.0
        is_over = False
        while not is_over:
            events = subscriber.read(_TICK_S)
            now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            now = time.monotonic()
            is_ours = False
            for event in events:
                if event["event"] == "missed":
                    missed += event["count"] or 0
                    continue
                if "pid" not in event or event["comm"] != comm or event["pid"] == root_pid:
                    continue
                is_ours = True
                what = event["event"]
                if what == "exit":
                    about = event["exit_code"]
                elif what == "cred":
                    about = event["euid"]
                else:
                    about = event["ppid"]
                is_other = what == "exec" and event["path"] is not None and not _is_program(event["path"], program)
                time_ns = event["time_ns"] - boot_unix_ns
                about = UNKNOWN if about is None else about
                numbers.extend((time_ns, now_ns - time_ns, event["pid"], about, kinds[what], is_other))
            if is_ours or not ended:
                quiet_since = now
            if not ended and select.select([sys.stdin], [], [], 0)[0]:
                ended = now
            is_over = bool(ended) and (now - quiet_since > _QUIET_S or now - ended > _DRAIN_S)
        missed = max(missed, subscriber.missed)
    table = np.frombuffer(numbers, np.int64).reshape(-1, 6)
    kept = np.zeros(len(table), SEEN)
    for column, field in enumerate(("time_ns", "delay_ns", "pid", "about", "kind", "is_other")):
        kept[field] = table[:, column]
    print(json.dumps({"missed": missed}), flush=True)
    sys.stdout.buffer.write(kept.tobytes())
    sys.stdout.buffer.flush()


def _is_program(path: str, program: str) -> bool:
    """Whether a path in an event is the load's program; below the root of its mount, which can be a part of ours."""
    return program.endswith(path) or path.endswith("/procline-load")


def main() -> int:
    """Read the arguments and listen."""
    parser = argparse.ArgumentParser(prog="pipeline.load.listening")
    for name in ("name", "directory", "comm", "root_pid", "boot_unix_ns"):
        parser.add_argument(name)
    given = parser.parse_args()
    try:
        listen(given.name, Path(given.directory), given.comm, int(given.root_pid), int(given.boot_unix_ns))
    except ProclineError as error:
        print(error, file=sys.stderr)
        return _EXIT_NO_ACCESS if isinstance(error, AccessError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
