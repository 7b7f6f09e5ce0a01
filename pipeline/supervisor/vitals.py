"""How an instance is, read from its control segment: the resolver's state, and signs of life of it and of the rings.

Reads the file, maps nothing: the supervisor looks a few times a second, and the segment may be replaced under it. What
it reads are single aligned words, so no protocol is needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths, trust
from pipeline.shm.layout import head


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look.

    Attributes:
        writer_tgid: the resolver that wrote it.
        state: STATE_* of the layout.
        heartbeat_boot_ns: its last sign of life.
        received_pos: by ring, bytes that reached the resolver.
        stalled: by ring, whether the merge passes it over at the moment.
    """

    writer_tgid: int
    state: int
    heartbeat_boot_ns: int
    received_pos: tuple[int, ...]
    stalled: tuple[bool, ...]


def look(directory: Path) -> Vitals | None:
    """Return how the instance in `directory` is; None while there is no control segment of this layout version.

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
