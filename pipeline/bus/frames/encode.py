"""The format of a frame, the message with which a source sends records to the resolver, and its encoder.

`frame` decodes frames; `pipeline.records.declared` describes the records. A frame is one msgpack map, with the keys of
`pipeline.bus.frames.declared`. A message is one or more frames, one after the other. A reader ignores unknown keys, so
keys can be added within a version.

The encoder is compiled (`_frame_writer`). This module imports neither numpy nor `pipeline.records.dtypes`, which saves
9 MB in each shard.
"""

from __future__ import annotations

from pipeline.bus.frames._frame_writer import FrameEncoder
from pipeline.bus.frames.declared import FRAME_VERSION
from pipeline.records.limits import RING_ALIGNMENT, RING_HEADER_BYTES

__all__ = ["FRAME_MAX_BYTES", "FRAME_VERSION", "RECORD_HEADER_BYTES", "FrameEncoder", "record_span"]

#: A longer message is rejected without being read; also the limit of the receiving socket (ZMQ_MAXMSGSIZE).
FRAME_MAX_BYTES = 128 << 20

#: Size of the header before each record in a ring.
RECORD_HEADER_BYTES = RING_HEADER_BYTES


def record_span(record_bytes: int) -> int:
    """Return the number of ring bytes that a record of `record_bytes` occupies, including header and padding."""
    return RECORD_HEADER_BYTES + record_bytes + -record_bytes % RING_ALIGNMENT
