"""The state of an instance, read from its control segment: the resolver's state, and signs of life of it and the rings.

The file is read, not mapped: the supervisor does so every few seconds, and the segment may be replaced meanwhile. The
values are single aligned words, so no protocol is needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths, trust
from pipeline.shm.layout import head


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


def read_vitals(directory: Path) -> Vitals | None:
    """Return the state of the instance in `directory`; None while it has no control segment of this layout version.

    Raises:
        UntrustedError: another user could have put it there.
    """
    try:
        with os.fdopen(trust.open_file(directory / paths.CONTROL), "rb", buffering=0) as file:
            control = head.read_head(file.read(head.CONTROL_BYTES) or b"")
            if control is None:
                return None
            file.seek(control.ring_offset)
            rings = head.read_rings(file.read(control.ring_count * head.RING_ACK_BYTES) or b"")
    except FileNotFoundError:
        return None
    return Vitals(
        writer_tgid=control.writer_tgid,
        state=control.state,
        heartbeat_boot_ns=control.heartbeat_boot_ns,
        received_pos=tuple(received_pos for received_pos, _ in rings),
        stalled=tuple(bool(stalled) for _, stalled in rings),
    )
