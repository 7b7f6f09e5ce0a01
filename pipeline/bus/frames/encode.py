"""Write one frame: the message in which a source hands records to the resolver. Reading is in `frames`; the records
themselves are described in `pipeline.records.kinds`.

A frame is one msgpack map; a message holds one frame or several, one behind the other. Keys that a reader does not know
are ignored, so a key may be added within a version:

    key   type         meaning
    v     uint         FRAME_VERSION
    boot  bin 16       kernel boot id
    src   str          "ebpf", "proc-connector", "replay", or a tracer's name
    ring  uint         number of the ring, which for "ebpf" is the CPU
    seq   uint         frames that this sender has sent so far, from 0
    from  uint         the frame covers this byte range of the ring: first byte ...
    to    uint         ... and the byte after the last. Positions only grow, they do not wrap
    n     uint         records; 0 when the range holds discarded records only, or nothing
    lost  map          records that the kernel could not write on this ring's CPUs, by kind name, so far
    bad   uint         optional: records that the sender found malformed and left out, since it started
    wm    uint         optional: boot time in ns; no record of the ring that is older than this follows
    head  bin n*64     HEAD of each record, in the order of the ring
    task  bin n*160    TASK of each; zeros where HEAD says FLAG_HEAD_ONLY. Or, where that is shorter, bin m*160: each
                       one once, with `ns_pid` 0; then the next two say the rest
    task_of  bin n*2   optional, with `ns_pid`: number of each record's TASK in `task`, u16
    ns_pid   bin n*4   optional, with `task_of`: TASK's `ns_pid` of each record, u32
    fork  bin k*32     bodies of the fork records that have one, in the same order
    exec  bin k*128    the same for exec
    exit  bin k*32     the same for exit
    blob  bin          the strings of all records, one after the other

Written by compiled code in `_frame_writer`. This module imports neither numpy nor `pipeline.records.kinds`, whose 9 MB
a shard can do without.
"""

from __future__ import annotations

from pipeline.bus.frames._frame_writer import FRAME_VERSION, FrameEncoder

__all__ = ["FRAME_MAX_BYTES", "FRAME_VERSION", "RECORD_HEADER_BYTES", "FrameEncoder", "record_span"]

#: A longer message is refused unread. Also what a receiving socket allows (ZMQ_MAXMSGSIZE).
FRAME_MAX_BYTES = 128 << 20

#: Bytes before each record in a ring; a record with its header takes a multiple of 8 (kernel/bpf/ringbuf.c).
RECORD_HEADER_BYTES = 8


def record_span(record_bytes: int) -> int:
    """Return how many bytes of a ring a record of `record_bytes` takes, its header and padding included."""
    return RECORD_HEADER_BYTES + (record_bytes + 7 & ~7)
