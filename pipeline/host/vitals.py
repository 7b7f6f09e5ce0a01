"""The state of an instance, read from its control segment: the resolver's state, and signs of life of it and the rings.

The file is read, not mapped: the supervisor does so every few seconds, and the segment may be replaced meanwhile. The
values are single aligned words, so no protocol is needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths, trust
from pipeline.shm.layout import control_header


@dataclass(frozen=True, slots=True)
class Vitals:
    """The state at one moment.

    Attributes:
        writer_tgid: the resolver that wrote it.
        state: STATE_* of the layout.
        heartbeat_boot_ns: its last sign of life.
        received_pos: by ring, bytes that reached the resolver.
        stalled: by ring, whether the merge does not wait for it at the moment.
    """

    writer_tgid: int
    state: int
    heartbeat_boot_ns: int
    received_pos: tuple[int, ...]
    stalled: tuple[bool, ...]


class VitalsReader:
    """Reads the state of the instance in a directory, again and again.

    The file stays open: the resolver takes every opening for a new reader of the tables, and reads the rings for it.

    Args:
        directory: of the instance.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / paths.CONTROL
        self._fd = -1
        self._identity = (0, 0)

    def read(self) -> Vitals | None:
        """Return the state; None while the instance has no control segment of this layout version.

        Raises:
            UntrustedError: another user could have put it there.
        """
        try:
            status = self._path.stat()
            if self._fd < 0 or (status.st_dev, status.st_ino) != self._identity:
                self.close()
                self._fd = trust.open_file(self._path)
                status = os.fstat(self._fd)
                self._identity = status.st_dev, status.st_ino
        except FileNotFoundError:
            self.close()
            return None
        control = control_header.read_header(os.pread(self._fd, control_header.CONTROL_BYTES, 0))
        if control is None:
            return None
        rings = control_header.read_rings(
            os.pread(self._fd, control.ring_count * control_header.RING_ACK_BYTES, control.ring_offset)
        )
        return Vitals(
            writer_tgid=control.writer_tgid,
            state=control.state,
            heartbeat_boot_ns=control.heartbeat_boot_ns,
            received_pos=tuple(received_pos for received_pos, _ in rings),
            stalled=tuple(bool(stalled) for _, stalled in rings),
        )

    def close(self) -> None:
        """Close the file. Another `read` opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_vitals(directory: Path) -> Vitals | None:
    """Return the state of the instance in `directory` once; see `VitalsReader.read`."""
    reader = VitalsReader(directory)
    try:
        return reader.read()
    finally:
        reader.close()
