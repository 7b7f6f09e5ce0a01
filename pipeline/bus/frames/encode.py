"""The format of a frame, the message with which a source sends records to the resolver, and its encoder.

`frame` decodes frames; `pipeline.records.events` describes the records. A frame is one msgpack map. A message is one or
more frames, one after the other. A reader ignores unknown keys, so keys can be added within a version:

    key   type         meaning
    v     uint         FRAME_VERSION
    boot  bin 16       kernel boot id
    src   str          "ebpf", "proc-connector", "replay", or a tracer's name
    ring  uint         number of the ring; for "ebpf" the CPU
    seq   uint         frames that this sender sent before this one
    from  uint         the frame covers this byte range of the ring: first byte ...
    to    uint         ... and the byte after the last. Positions only grow; they do not wrap
    n     uint         records; 0 if the range contains only discarded records, or is empty
    lost  map          records that the kernel could not write on this ring's CPUs, by kind name, so far
    bad   uint         optional: malformed records that the sender left out since it started
    wm    uint         optional: boot time in ns; no older record of this ring follows
    cap   uint         optional: identifies the rings. Positions in a ring mean nothing in another capture. If a
                       supervisor was killed, its shard can send frames to the next instance
    head  bin n*64     HEAD of each record, in the order of the ring
    task  bin n*160    TASK of each record; zeros if HEAD has FLAG_HEAD_ONLY. If this is shorter: bin m*160 with each
                       distinct TASK once, `ns_pid` set to 0, plus the next two columns
    task_of  bin n*2   optional, with `ns_pid`: index in `task` of each record's TASK, u16
    ns_pid   bin n*4   optional, with `task_of`: the TASK's `ns_pid` of each record, u32
    fork  bin k*32     bodies of the fork records that have one, in the same order
    exec  bin k*128    the same for exec
    exit  bin k*32     the same for exit
    blob  bin          the strings of all records, one after the other

The encoder is compiled (`_frame_writer`). This module imports neither numpy nor `pipeline.records.events`, which saves
9 MB in each shard.
"""

from __future__ import annotations

from pipeline.bus.frames._frame_writer import FRAME_VERSION, FrameEncoder
from pipeline.records.limits import RING_HEADER_BYTES

__all__ = ["FRAME_MAX_BYTES", "FRAME_VERSION", "RECORD_HEADER_BYTES", "FrameEncoder", "record_span"]

#: A longer message is rejected without being read; also the limit of the receiving socket (ZMQ_MAXMSGSIZE).
FRAME_MAX_BYTES = 128 << 20

#: Size of the header before each record in a ring. A record with its header occupies a multiple of 8 bytes
#: (kernel/bpf/ringbuf.c).
RECORD_HEADER_BYTES = RING_HEADER_BYTES


def record_span(record_bytes: int) -> int:
    """Return the number of ring bytes that a record of `record_bytes` occupies, including header and padding."""
    return RECORD_HEADER_BYTES + (record_bytes + 7 & ~7)
