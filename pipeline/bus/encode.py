"""Write one frame: the message in which a source hands records to the resolver. Reading is in `frames`; the records
themselves are described in `pipeline.events`.

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
    task  bin n*160    TASK of each; zeros where HEAD says FLAG_HEAD_ONLY
    fork  bin k*32     bodies of the fork records that have one, in the same order
    exec  bin k*128    the same for exec
    exit  bin k*32     the same for exit
    blob  bin          the strings of all records, one after the other

This module imports neither numpy nor `pipeline.events`, whose 9 MB a shard can do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgpack

if TYPE_CHECKING:
    from collections.abc import Buffer

FRAME_VERSION = 1

#: A longer message is refused unread. Also what a receiving socket allows (ZMQ_MAXMSGSIZE).
FRAME_MAX_BYTES = 128 << 20

#: Bytes before each record in a ring; a record with its header takes a multiple of 8 (kernel/bpf/ringbuf.c).
RECORD_HEADER_BYTES = 8


def record_span(record_bytes: int) -> int:
    """Return how many bytes of a ring a record of `record_bytes` takes, its header and padding included."""
    return RECORD_HEADER_BYTES + (record_bytes + 7 & ~7)


class FrameEncoder:
    """Encodes the frames of one sender. Keeps the packer's buffer, so that a frame costs one copy of its columns.

    A message may hold several frames, one behind the other: `add` each, then `take`; `encode` is both for one.
    """

    def __init__(self, *, boot_id: bytes, source: str) -> None:
        """Take what all frames of the sender have in common.

        Raises:
            ValueError: `boot_id` is not the 16 raw bytes of the boot's UUID.
        """
        if len(boot_id) != 16:
            raise ValueError(f"a boot id has 16 bytes, not {len(boot_id)}")
        self._boot_id = bytes(boot_id)
        self._source = source
        self._packer = msgpack.Packer(use_bin_type=True, autoreset=False)

    def encode(self, **frame: Any) -> bytes:
        """Return the message that holds one frame; arguments as `add`."""
        self.add(**frame)
        return self.take()

    def take(self) -> bytes:
        """Return the message with the frames that were added since the last one."""
        message: bytes = self._packer.bytes()
        self._packer.reset()
        return message

    def add(
        self,
        *,
        ring: int,
        seq: int,
        from_pos: int,
        to_pos: int,
        count: int,
        lost: Mapping[str, int],
        head: Buffer = b"",
        task: Buffer = b"",
        fork: Buffer = b"",
        exec: Buffer = b"",
        exit: Buffer = b"",
        blob: Buffer = b"",
        malformed: int = 0,
        watermark_boot_ns: int | None = None,
    ) -> None:
        """Encode a frame. Columns are any contiguous buffers; that they agree is checked by the reader only."""
        message: dict[str, object] = {
            "v": FRAME_VERSION,
            "boot": self._boot_id,
            "src": self._source,
            "ring": ring,
            "seq": seq,
            "from": from_pos,
            "to": to_pos,
            "n": count,
            "lost": lost,
        }
        if malformed:
            message["bad"] = malformed
        if watermark_boot_ns is not None:
            message["wm"] = watermark_boot_ns
        message["head"] = memoryview(head)
        message["task"] = memoryview(task)
        message["fork"] = memoryview(fork)
        message["exec"] = memoryview(exec)
        message["exit"] = memoryview(exit)
        message["blob"] = memoryview(blob)
        self._packer.pack(message)
