"""Read a worker's description, which `pipeline.worker.description` defines and writes, with the standard library only.

That module needs msgspec, and all settings with their limits and descriptions. Each worker would keep these 2 to 4 MB
until its end, only to read one document that the supervisor has checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.errors import ConfigError, ProclineError
from pipeline.records.capture_fds import NO_FD, CaptureFds

_USAGE = "Workers are started by `procline run`, with --description-fd N"

#: Fields with ring numbers as keys; in JSON, the keys are text.
_BY_RING = ("ring_bytes", "ring_shards")


class DerivedFields:
    """Values that are computed from the fields of a description, for its writer and its reader."""

    dir: str
    boot_id: str

    @property
    def directory(self) -> Path:
        """The runtime directory of the instance."""
        return Path(self.dir)

    @property
    def boot_id_bytes(self) -> bytes:
        """The boot id in the form of segments and frames: 16 bytes."""
        return bytes.fromhex(self.boot_id)


class _Fields(DerivedFields, SimpleNamespace):
    """The fields of a description, or of a section of its settings, as attributes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _of_another_version(name)


def description_fd(arguments: list[str]) -> int:
    """Return the N of the command line ``--description-fd N``, without argparse, which would need 1 MB.

    Raises:
        ConfigError: the command line has another form.
    """
    if len(arguments) != 2 or arguments[0] != "--description-fd" or not arguments[1].isdigit():
        raise ConfigError(_USAGE, key="--description-fd")
    return int(arguments[1])


def read_description(fd: int) -> Any:
    """Read the description from an inherited descriptor, and close it.

    Args:
        fd: a file with the description, or a socket over which the supervisor will send it. Then this waits.

    Returns:
        An object with the fields of a WorkerDescription. Access to a missing field raises ConfigError.

    Raises:
        ConfigError: the descriptor contains no description, or one of another version.
        ProclineError: the supervisor has ended before it sent a description.
    """
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
        file, *received = _receive(fd) if is_socket else (fd,)
        # Not read(): the file position is shared with the parent, which has left it at the end.
        fields = json.loads(os.pread(file, os.fstat(file).st_size, 0))
        os.close(file)
        sections = {name: _Fields(**section) if isinstance(section, dict) else section
                    for name, section in fields["config"].items()}  # fmt: skip
        by_ring = {name: {int(ring): value for ring, value in fields[name].items()} for name in _BY_RING}
        fds = CaptureFds.from_json(fields["fds"])
        ready_fd = fields["ready_fd"]
        if is_socket:
            own = dict(zip(all_descriptors(fds, ready_fd), received, strict=True))
            fds, ready_fd = fds.renumbered(own.__getitem__), own.get(ready_fd, NO_FD)
    except KeyError as error:
        raise _of_another_version(str(error.args[0])) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--description-fd {fd}: no worker description ({error}). {_USAGE}", key="--description-fd", value=fd
        ) from None
    return _Fields(**fields | by_ring | {"config": _Fields(**sections), "fds": fds, "ready_fd": ready_fd})


def _receive(fd: int) -> list[int]:
    """Receive the descriptor of the description, and those that it names, in this order."""
    import socket

    from pipeline.host import passing

    received: list[int] = []
    with socket.socket(fileno=fd) as by:
        # Says that the modules are imported (`child.Waiting`). Not a message: if the supervisor closed its end without
        # having read it, the next call would fail.
        with contextlib.suppress(OSError):  # the supervisor has ended, and the next call finds that out
            by.shutdown(socket.SHUT_WR)
        count = by.recv(16)
        if not count or not passing.receive_fds(by, int(count), received):
            raise ProclineError("the supervisor ended before it described this worker, so this worker ends too")
    return received


def all_descriptors(fds: CaptureFds, ready_fd: int) -> tuple[int, ...]:
    """Return every descriptor that a description names, each once: the order in which a socket passes them."""
    own = () if ready_fd == NO_FD else (ready_fd,)
    return tuple(dict.fromkeys((*fds.all(), *own)))


def _of_another_version(name: str) -> ConfigError:
    return ConfigError(
        f"the worker's description has no {name!r}: it is of another version; restart the daemon. {_USAGE}", key=name
    )
