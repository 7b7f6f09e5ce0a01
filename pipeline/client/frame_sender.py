"""`FrameSender`: send records as frames, from any tracer that knows which pids in a pid namespace fork, exec and exit.

A tracer in a container sees the pids of its own pid namespace. The HEADER of a record contains these pids, and `pid_ns`
in its TASK names the pid namespace. All other facts are in the same records as those of every source
(`pipeline.sources.proc_connector.proc_records` makes them from ``/proc`` or from a hand-made ProcInfo). If the tracer
knows the id of the container, the id follows the strings of each record.

The caller provides the transport: a function that sends one message, such as `send` of a PUSH socket that is connected
to the tracers' socket (`paths.tracers_socket`) of an instance with ``--source tracer``. There `pipeline.sources.tracer`
receives the frames, and `pipeline.resolver.merge.keyed_frames` assigns keys to the processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.bus.frames.encode import FrameEncoder, record_span
from pipeline.records import declared, dtypes
from pipeline.records.declared import HEADER_LAYOUT

_RECORD_BYTES, _VAR_BYTES = HEADER_LAYOUT.span("record_bytes"), HEADER_LAYOUT.span("var_bytes")
_RING_POS = HEADER_LAYOUT.span("ring_pos")
_KIND, _FLAGS = HEADER_LAYOUT.offset("kind"), HEADER_LAYOUT.offset("flags")
_BODY_COLUMN = {declared.KIND_FORK: "fork", declared.KIND_EXEC: "exec", declared.KIND_EXIT: "exit"}


class FrameSender:
    """Assigns positions to records and sends them as frames.

    Attributes:
        position: position of the next record in the imaginary ring of this sender.
    """

    def __init__(
        self, send: Callable[[bytes], object], *, boot_id: bytes, name: str, ring: int = 0, container_id: str = ""
    ) -> None:
        """Begin at position 0.

        Args:
            send: sends one message.
            boot_id: 16 bytes.
            name: name of the tracer; `src` of its frames.
            ring: a number that distinguishes the senders of one receiver.
            container_id: container of the reported processes; empty: unknown, or none.
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
            records: records from `proc_records`, oldest first.
            watermark_boot_ns: no older record will follow; None: unknown.
            lost: number of events that the tracer could not report so far.
        """
        names = ("header", "task", "fork", "exec", "exit", "blob")
        columns: dict[str, bytearray] = {name: bytearray() for name in names}
        from_pos = self.position
        for record in records:
            self._append(columns, record)
        self._send(
            self._encoder.encode(
                ring=self._ring, seq=self._frames, from_pos=from_pos, to_pos=self.position, count=len(records),
                lost={"unknown": lost} if lost else {}, watermark_boot_ns=watermark_boot_ns,
                header=columns["header"], task=columns["task"], fork=columns["fork"], exec=columns["exec"],
                exit=columns["exit"], blob=columns["blob"],
            )
        )  # fmt: skip
        self._frames += 1

    def _append(self, columns: dict[str, bytearray], record: bytes) -> None:
        header = bytearray(record[: dtypes.HEADER.itemsize])
        header[_RING_POS] = self.position.to_bytes(8, "little")
        if not header[_FLAGS] & declared.FLAG_HEAD_ONLY and self._container_id:
            header[_FLAGS] |= declared.FLAG_CONTAINER
            for field in (_RECORD_BYTES, _VAR_BYTES):
                length = int.from_bytes(header[field], "little") + len(self._container_id)
                header[field] = length.to_bytes(4, "little")
            record += self._container_id
        columns["header"] += header
        at, end = dtypes.HEADER.itemsize, dtypes.HEADER.itemsize + dtypes.TASK.itemsize
        if header[_FLAGS] & declared.FLAG_HEAD_ONLY:
            columns["task"] += bytes(dtypes.TASK.itemsize)
        else:
            columns["task"] += record[at:end]
            column = _BODY_COLUMN.get(header[_KIND])
            at, end = end, end + (dtypes.BODIES[header[_KIND]].itemsize if column else 0)
            if column:
                columns[column] += record[at:end]
            columns["blob"] += record[end : end + int.from_bytes(header[_VAR_BYTES], "little")]
        self.position += record_span(int.from_bytes(header[_RECORD_BYTES], "little"))
