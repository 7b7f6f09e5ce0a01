"""Connect the PUSH socket of a process that sends frames, without pyzmq.

The import of pyzmq takes a third of the CPU time in which a shard starts, and some MB of its memory.
`pipeline.bus.sockets` has the same socket for processes that import pyzmq anyway.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pipeline import paths, trust
from pipeline.bus._libzmq import PushSocket
from pipeline.records.limits import RECONNECT_MAX_MS, RECONNECT_MS

if TYPE_CHECKING:
    from pathlib import Path


def check_peer(path: Path) -> None:
    """Check the ipc socket `path` before a connection. It need not exist yet; its directory must.

    Raises:
        UntrustedError: another user could have created the socket file, or could create it later.
        OSError: the directory does not exist, or this user cannot access it.
    """
    with trust.Directory(path.parent) as directory, suppress(FileNotFoundError):
        directory.check_socket(path.name)


def connect(path: Path, *, hwm_frames: int) -> PushSocket:
    """Return a PUSH socket connected to the ipc socket `path`. Raises the same errors as `check_peer`."""
    check_peer(path)
    return PushSocket(
        paths.endpoint(path),
        hwm_messages=hwm_frames,
        reconnect_ms=RECONNECT_MS,
        reconnect_max_ms=RECONNECT_MAX_MS,
    )
