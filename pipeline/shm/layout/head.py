"""What of the control segment can be told without numpy: whether it is one, its state, signs of life. See tables.py.

For the supervisor, which looks a few times a second and would be 7 MB larger with numpy. tables.py checks the numbers
here against its dtypes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC = b"PROCLINE"
LAYOUT_VERSION = 5

STATE_DOWN = 0
STATE_FILLING = 1  #: snapshot or take-over under way: absent is not yet an answer
STATE_READY = 2
STATE_STOPPED = 3
STATE_SUPERSEDED = 4  #: another control file has taken this one's place

CONTROL_BYTES = 512
RING_ACK_BYTES = 64
COLD_BYTES = 192
ROW_BYTES = 128 + COLD_BYTES  #: HOT and COLD

#: CONTROL from its beginning to `ring_offset`, of which Head has some.
HEAD = struct.Struct("<8sI20xI12xQ12xI56xI4xI")
#: CONTROL: `boot_id`; and from `commit_index` to `commit_bytes`.
_BOOT_ID = slice(16, 32)
_COMMITS = struct.Struct("<132xI4xII")
#: COMMIT: `watermark_boot_ns`.
_WATERMARK = struct.Struct("<8xQ")
COMMIT_HEAD_BYTES = _WATERMARK.size
#: RING_ACK: `received_pos` and `stalled`.
_RING = struct.Struct("<32xQQ16x")


class Head(NamedTuple):
    """Fields of CONTROL, by their names there."""

    magic: bytes
    layout_version: int
    writer_tgid: int
    heartbeat_boot_ns: int
    state: int
    ring_count: int
    ring_offset: int


def read_head(data: bytes) -> Head | None:
    """Return the fields of a control segment that begins with `data`; None if it is not one of this layout version."""
    if len(data) < CONTROL_BYTES:
        return None
    head = Head(*HEAD.unpack_from(data))
    return head if (head.magic, head.layout_version) == (MAGIC, LAYOUT_VERSION) else None


def find_commit(data: bytes, boot_id: bytes) -> int | None:
    """Return where the valid commit slot begins in a control segment that begins with `data`.

    None: it is not one of this layout version, or not of this boot.
    """
    if read_head(data) is None or data[_BOOT_ID] != boot_id:
        return None
    index, offset, length = _COMMITS.unpack_from(data)
    return int(offset + (index & 1) * length)


def read_watermark(data: bytes) -> int:
    """Return the watermark of a commit slot that begins with `data`, ns (boot); 0 if that is too short."""
    return int(_WATERMARK.unpack_from(data)[0]) if len(data) >= COMMIT_HEAD_BYTES else 0


def read_rings(data: bytes) -> list[tuple[int, int]]:
    """Return (received_pos, stalled) of every RING_ACK that is whole in `data`."""
    return list(_RING.iter_unpack(data[: len(data) // RING_ACK_BYTES * RING_ACK_BYTES]))
