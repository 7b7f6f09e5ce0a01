"""Frames from any tracer: whoever can say "this pid in this pid namespace forked, ran, ended" can feed a resolver.

A tracer in a container knows processes by their numbers there, so HEAD holds those, and every record says in TASK which
pid namespace they belong to (`pid_ns`). What else the tracer knows goes into the same records as everybody's
(`proc_records` makes them from ``/proc`` or from a ProcInfo filled by hand). Transport is the caller's: a function that
takes one message, such as `send` of a PUSH socket connected to the tracers' socket of an instance that runs with
``--source tracer`` (`paths.tracers_socket`). What becomes of them there: `tracer_source`, `resolver.keyed_frames`.

Behind the strings of each record stands the id of the container, where the tracer knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.bus.frames.encode import RECORD_HEADER_BYTES, FrameEncoder, record_span
from pipeline.records import kinds as events

_RECORD_BYTES = slice(48, 52)
_VAR_BYTES = slice(52, 56)
_RING_POS = slice(56, 64)
_KIND, _FLAGS = 36, 37
_BODY_COLUMN = {events.KIND_FORK: "fork", events.KIND_EXEC: "exec", events.KIND_EXIT: "exit"}


class FrameSender:
    """Numbers records and sends them as frames.

    Attributes:
        position: where the next record stands in the ring that is made up for this sender.
    """

    def __init__(
        self, send: Callable[[bytes], object], *, boot_id: bytes, name: str, ring: int = 0, container_id: str = ""
    ) -> None:
        """Begin at position 0.

        Args:
            send: takes a message.
            boot_id: 16 bytes.
            name: of the tracer; `src` of its frames.
            ring: tells apart the senders of one receiver.
            container_id: of the processes that this sender tells of; empty: unknown, or in none.
        """
        self._send = send
        self._encoder = FrameEncoder(boot_id=boot_id, source=name)
        self._ring = ring
        self._container_id = container_id.encode()
        self._frames = 0
        self.position = 0

    def send(self, records: Sequence[bytes], *, watermark_boot_ns: int | None = None, lost: int = 0) -> None:
        """Send records as one frame.

        Args:
            records: as `proc_records` makes them, oldest first.
            watermark_boot_ns: nothing older than this will follow.
            lost: events that the tracer had to leave out so far.
        """
        columns: dict[str, bytearray] = {name: bytearray() for name in ("head", "task", "fork", "exec", "exit", "blob")}
        from_pos = self.position
        for record in records:
            self._append(columns, record)
        self._send(
            self._encoder.encode(
                ring=self._ring, seq=self._frames, from_pos=from_pos, to_pos=self.position, count=len(records),
                lost={"unknown": lost} if lost else {}, watermark_boot_ns=watermark_boot_ns,
                head=columns["head"], task=columns["task"], fork=columns["fork"], exec=columns["exec"],
                exit=columns["exit"], blob=columns["blob"],
            )
        )  # fmt: skip
        self._frames += 1

    def _append(self, columns: dict[str, bytearray], record: bytes) -> None:
        head = bytearray(record[: events.HEAD.itemsize])
        head[_RING_POS] = self.position.to_bytes(8, "little")
        if not head[_FLAGS] & events.FLAG_HEAD_ONLY and self._container_id:
            head[_FLAGS] |= events.FLAG_CONTAINER
            for field in (_RECORD_BYTES, _VAR_BYTES):
                length = int.from_bytes(head[field], "little") + len(self._container_id)
                head[field] = length.to_bytes(4, "little")
            record += self._container_id
        columns["head"] += head
        at, end = events.HEAD.itemsize, events.HEAD.itemsize + events.TASK.itemsize
        if head[_FLAGS] & events.FLAG_HEAD_ONLY:
            columns["task"] += bytes(events.TASK.itemsize)
        else:
            columns["task"] += record[at:end]
            column = _BODY_COLUMN.get(head[_KIND])
            at, end = end, end + (events.BODIES[head[_KIND]].itemsize if column else 0)
            if column:
                columns[column] += record[at:end]
            columns["blob"] += record[end : end + int.from_bytes(head[_VAR_BYTES], "little")]
        self.position += record_span(int.from_bytes(head[_RECORD_BYTES], "little"))


assert record_span(0) == RECORD_HEADER_BYTES
