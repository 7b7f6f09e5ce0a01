"""Read the control segment without numpy: whether it is valid, its state and its heartbeat.

For the supervisor, which reads it a few times a second and would use 7 MB more memory with numpy.
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.shm.layout.declared import (
    COLD_LAYOUT,
    COMMIT_LAYOUT,
    CONTROL_LAYOUT,
    COSTS_LAYOUT,
    HOT_LAYOUT,
    LAYOUT_VERSION,
    MAGIC,
    RING_ACK_LAYOUT,
)
from pipeline.shm.layout.declared import STATE_DOWN as STATE_DOWN
from pipeline.shm.layout.declared import STATE_FILLING as STATE_FILLING
from pipeline.shm.layout.declared import STATE_READY as STATE_READY
from pipeline.shm.layout.declared import STATE_STOPPED as STATE_STOPPED
from pipeline.shm.layout.declared import STATE_SUPERSEDED as STATE_SUPERSEDED

CONTROL_BYTES = CONTROL_LAYOUT.size
RING_ACK_BYTES = RING_ACK_LAYOUT.size
COLD_BYTES = COLD_LAYOUT.size
ROW_BYTES = HOT_LAYOUT.size + COLD_LAYOUT.size
COSTS_BYTES = COSTS_LAYOUT.size  #: of a row that has them
#: More rings than this are damage, not an instance; a reader need not make room for them.
RINGS_MAX = 1 << 16


class ControlHeader(NamedTuple):
    """Fields of CONTROL, by their names there."""

    magic: bytes
    layout_version: int
    writer_tgid: int
    heartbeat_boot_ns: int
    state: int
    ring_count: int
    ring_offset: int


_HEADER = CONTROL_LAYOUT.struct(*ControlHeader._fields)
_COMMITS = CONTROL_LAYOUT.struct("commit_index", "commit_offset", "commit_bytes")
_WATERMARK = COMMIT_LAYOUT.struct("watermark_boot_ns")
WATERMARK_BYTES = _WATERMARK.size
_RING = RING_ACK_LAYOUT.struct("received_pos", "stalled", whole=True)


def read_header(data: bytes) -> ControlHeader | None:
    """Return the fields of a control segment that begins with `data`; None: not of this layout version, or damaged."""
    if len(data) < CONTROL_BYTES:
        return None
    header = ControlHeader(*_HEADER.unpack_from(data))
    is_valid = (header.magic, header.layout_version) == (MAGIC, LAYOUT_VERSION) and header.ring_count <= RINGS_MAX
    return header if is_valid else None


def find_commit(data: bytes, boot_id: bytes) -> int | None:
    """Return the offset of the valid commit slot in a control segment that begins with `data`.

    Returns None if the segment is not of this layout version or not of this boot.
    """
    if read_header(data) is None or data[CONTROL_LAYOUT.span("boot_id")] != boot_id:
        return None
    index, offset, length = _COMMITS.unpack_from(data)
    return int(offset + (index & 1) * length)


def read_watermark(data: bytes) -> int:
    """Return the watermark of a commit slot that begins with `data`, ns (boot); 0 if `data` is too short."""
    return int(_WATERMARK.unpack_from(data)[0]) if len(data) >= WATERMARK_BYTES else 0


def read_rings(data: bytes) -> list[tuple[int, int]]:
    """Return (received_pos, stalled) of every complete RING_ACK in `data`."""
    return list(_RING.iter_unpack(data[: len(data) // RING_ACK_BYTES * RING_ACK_BYTES]))
