"""What processes of this package do at their start and end: read their specification, confine themselves, log, stop.

The specification is what `pipeline.worker` writes, the log lines are those of `pipeline.log`. Both modules need msgspec
and structlog, 14 MB a process; a shard does with the standard library's json, reads the few fields that it needs, and
writes a few lines in its life.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from pipeline import privileges
from pipeline.errors import ConfigError, ProclineError

#: Exit code that tells the supervisor that another start would end the same way.
EXIT_HOPELESS = 2

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}


class Specification:
    """The fields of a worker's specification, by name; `config` by dotted name.

    Raises:
        ConfigError: from every access, when there is no such field.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> Any:
        found: Any = self._fields
        for part in name.split("."):
            if not isinstance(found, dict) or part not in found:
                raise ConfigError(f"the worker specification has no {name!r}: it is of another version", key=name)
            found = found[part]
        return found

    @property
    def directory(self) -> Path:
        """The runtime directory of the instance."""
        return Path(self["dir"])

    @property
    def boot_id(self) -> bytes:
        """16 bytes."""
        return bytes.fromhex(self["boot_id"])

    def by_ring(self, name: str) -> dict[int, int]:
        """Return a field whose keys are ring numbers."""
        return {int(ring): value for ring, value in self[name].items()}


def read_specification(arguments: list[str]) -> Specification:
    """Read the specification whose descriptor is given as ``--spec-fd N``, and close the descriptor.

    Raises:
        ConfigError: there is none.
    """
    usage = "workers are started by `procline run`, with --spec-fd N"
    if len(arguments) != 2 or arguments[0] != "--spec-fd" or not arguments[1].isdigit():
        raise ConfigError(usage, key="--spec-fd")
    fd = int(arguments[1])
    try:
        # Not read(): the position is shared with the parent, which wrote up to the end.
        fields = json.loads(os.pread(fd, os.fstat(fd).st_size, 0))
        os.close(fd)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--spec-fd {fd}: no worker specification ({error}); {usage}", key="--spec-fd") from None
    if not isinstance(fields, dict):
        raise ConfigError(f"--spec-fd {fd}: no worker specification; {usage}", key="--spec-fd")
    return Specification(fields)


class Log:
    """Lines on standard error in the form of `pipeline.log`."""

    def __init__(self, *, role: str = "", level: str = "info", form: str = "auto") -> None:
        self._facts = {"role": role, "pid": os.getpid()} if role else {"pid": os.getpid()}
        self._least = _PRIORITIES.get(level, 6)
        self._readable = form == "console" or (form == "auto" and sys.stderr.isatty())
        self._prefixed = False
        try:
            status = os.fstat(2)
            self._prefixed = os.environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"
        except OSError:
            pass

    def write(self, level: str, event: str, **facts: object) -> None:
        """Write one line; that nobody reads it is no error."""
        priority = _PRIORITIES[level]
        if priority > self._least:
            return
        if self._readable:
            shown = " ".join(f"{name}={value}" for name, value in (facts | self._facts).items())
            line = f"{time.strftime('%H:%M:%S')} [{level:<7}] {event:<40} {shown}"
        else:
            now = time.time_ns()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
            stamp += f".{now // 1000 % 1_000_000:06d}Z"
            line = json.dumps(
                {"event": event, "level": level, "timestamp": stamp, **self._facts, **facts},
                sort_keys=True,
                default=str,
            )
        if self._prefixed:
            line = f"<{priority}>{line}"
        try:
            os.write(2, (line + "\n").encode(errors="replace"))
        except OSError:
            return


def begin(arguments: list[str], keep: tuple[int, ...] = ()) -> tuple[Specification, Log]:
    """Read the specification and give up what a source's process does not need: privileges, and core dumps.

    Args:
        arguments: of the command line.
        keep: capabilities to keep; none are needed to drain a ring.

    Raises:
        ConfigError: there is no specification.
        ProclineError: the supervisor has ended already.
    """
    spec = read_specification(arguments)
    log = Log(role=spec["role"], level=spec["config.log.level"], form=spec["config.log.format"])
    _, is_parent_there = privileges.confine(parent_tgid=spec["supervisor_tgid"], keep=keep)
    if not is_parent_there:
        raise ProclineError("the supervisor has ended: nothing to work for")
    return spec, log
