"""Records made by hand in the form that BPF programs write, and the expected contents of a drained frame."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field

import numpy as np

from pipeline.bpf.declared import CPU_STATE_LAYOUT
from pipeline.bus.frames.encode import record_span
from pipeline.bus.frames.frame import Frame, FrameEncoder, decode_frame
from pipeline.records import declared, dtypes
from pipeline.sources.ring._drain import Columns
from pipeline.sources.ring._ring import Ring
from tests.record_sizes import TASK_BYTES

BOOT_ID = bytes(range(16))
CPU_STATE_BYTES = CPU_STATE_LAYOUT.size


def record(
    kind: int,
    number: int,
    *,
    strings: tuple[bytes, bytes, bytes, bytes] = (b"", b"", b"", b""),
    head_only: bool = False,
) -> bytes:
    """Return one record; every free field is derived from `number`, so that a torn record is noticed."""
    fill = (number * 0x9E3779B97F4A7C15 & (1 << 64) - 1).to_bytes(8, "little")
    header = np.frombuffer(fill * 8, dtypes.HEADER).copy()
    blob = b"".join(strings)
    header["kind"] = kind
    header["flags"] = declared.FLAG_HEAD_ONLY if head_only else 0
    header["ring_seq"] = header["time_boot_ns"] = number
    header["ring_pos"] = 0
    header["var_bytes"] = 0 if head_only else len(blob)
    parts = [fill * (TASK_BYTES // len(fill))]
    if kind in dtypes.BODIES:
        body = np.frombuffer(fill * (dtypes.BODIES[kind].itemsize // 8), dtypes.BODIES[kind]).copy()
        if kind == declared.KIND_EXEC:
            body["root_offset"] = 0
            for name, string in zip(("path", "name", "args", "envs"), strings, strict=True):
                body[f"{name}_bytes"] = len(string)
        parts.append(body.tobytes())
    parts.append(blob)
    rest = b"" if head_only else b"".join(parts)
    header["record_bytes"] = dtypes.HEADER.itemsize + len(rest)
    return header.tobytes() + rest


#: Bytes of a ring that the record of a fork takes.
SPAN = record_span(len(record(declared.KIND_FORK, 0)))


def strings_of(number: int, length: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Four strings with a total of `length` bytes that contain `number`."""
    text = (b"%d." % number * (length // 2 + 1))[:length]
    a, b, c = length // 7, length // 3, length // 2
    return text[:a], text[a:b], text[b:c], text[c:]


def records_in(frame: Frame) -> list[bytes]:
    """Rebuild the records of a frame, without their position."""
    found = []
    at = dict.fromkeys(dtypes.BODIES, 0)
    columns = {declared.KIND_FORK: frame.fork, declared.KIND_EXEC: frame.exec, declared.KIND_EXIT: frame.exit}
    blob = 0
    for index in range(frame.count):
        header = frame.header[index : index + 1].copy()
        header["ring_pos"] = 0
        kind = int(header["kind"][0])
        whole = header.tobytes()
        if header["flags"][0] & declared.FLAG_HEAD_ONLY:
            assert not any(frame.task[index].tobytes())
        else:
            whole += frame.task[index].tobytes()
            if kind in at:
                whole += columns[kind][at[kind]].tobytes()
                at[kind] += 1
            length = int(header["var_bytes"][0])
            whole += bytes(frame.blob[blob : blob + length])
            blob += length
        found.append(whole)
    return found


def drain_frame(ring: Ring, columns: Columns, max_records: int = 1 << 20) -> Frame:
    """Drain once, and pass the result through the codec."""
    from_pos = ring.cursor
    ring.drain(columns, max_records)
    encoder = FrameEncoder(boot_id=BOOT_ID, source="ebpf")
    return decode_frame(
        encoder.encode(
            ring=ring.number, seq=0, from_pos=from_pos, to_pos=ring.cursor, count=columns.count, lost={},
            malformed=ring.malformed_total, **columns.views(),
        )
    )  # fmt: skip


def cpu_states(count: int) -> mmap.mmap:
    """Memory like that of the map `pl_shared`, where each CPU has a ring of its own."""
    memory = mmap.mmap(-1, max(count * CPU_STATE_BYTES, mmap.PAGESIZE))
    for cpu in range(count):
        memory[cpu * CPU_STATE_BYTES + 4 : cpu * CPU_STATE_BYTES + 8] = cpu.to_bytes(4, "little")
    return memory


@dataclass
class FakeAcks:
    """Acknowledgements that a test sets, as a map from ring to (applied_pos, wanted_pos, rewind_id)."""

    answers: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    refreshed: int = 0

    def refresh(self) -> None:
        self.refreshed += 1

    def ring(self, number: int) -> tuple[int, int, int] | None:
        return self.answers.get(number)


class FakeReceiver:
    """Receives messages, with room for a limited number of them."""

    def __init__(self) -> None:
        self.room = 1 << 30
        self.messages: list[bytes] = []

    def send(self, message: bytes) -> bool:
        """Return whether there was room."""
        if self.room == 0:
            return False
        self.room -= 1
        self.messages.append(message)
        return True

    def take(self) -> list[bytes]:
        """Return the messages since the last call."""
        taken, self.messages = self.messages, []
        return taken


def descriptors() -> set[int]:
    """The descriptors that are open in this process."""
    return {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208 - numbers, not paths
