"""Sample frames with consistent columns, made by hand and by Hypothesis."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from pipeline.bus.frames.frame import Frame, FrameEncoder, record_span
from pipeline.records import declared, dtypes

BOOT_ID = bytes(range(16))
KINDS = range(1, declared.KIND_COUNT)


@dataclass
class Sample:
    """The parts of a frame, record by record, and the resulting message."""

    ring: int = 0
    seq: int = 0
    from_pos: int = 0
    to_pos: int = 0
    source: str = "ebpf"
    lost: dict[str, int] = field(default_factory=dict)
    malformed: int = 0
    watermark_boot_ns: int | None = None
    headers: list[np.void] = field(default_factory=list)
    tasks: list[np.void] = field(default_factory=list)
    bodies: dict[int, list[np.void]] = field(default_factory=lambda: {kind: [] for kind in dtypes.BODIES})
    strings: list[bytes] = field(default_factory=list)

    def add(self, kind: int, *, strings: tuple[bytes, bytes, bytes, bytes] = (b"", b"", b"", b""),
            head_only: bool = False, gap: int = 0, fill: int = 0) -> None:  # fmt: skip
        """Append one record, `gap` bytes after the one before it; `fill` determines its unused fields."""
        header = np.frombuffer(bytes([fill & 0xFF]) * dtypes.HEADER.itemsize, dtypes.HEADER).copy()[0]
        task = np.frombuffer(bytes([fill & 0xFF]) * dtypes.TASK.itemsize, dtypes.TASK).copy()[0]
        blob = b"".join(strings)
        header["kind"] = kind
        header["flags"] = declared.FLAG_HEAD_ONLY if head_only else 0
        header["ring_pos"] = self.to_pos + gap
        header["record_bytes"] = dtypes.HEADER.itemsize
        header["var_bytes"] = 0
        if head_only:
            task = np.zeros(1, dtypes.TASK)[0]
            blob = b""
        else:
            header["var_bytes"] = len(blob)
            header["record_bytes"] += dtypes.TASK.itemsize + len(blob)
            if kind in dtypes.BODIES:
                dtype = dtypes.BODIES[kind]
                body = np.frombuffer(bytes([fill & 0xFF]) * dtype.itemsize, dtype).copy()[0]
                if kind == declared.KIND_EXEC:
                    body["root_offset"] = len(strings[0]) // 2
                    for name, string in zip(("path", "name", "args", "envs"), strings, strict=True):
                        body[f"{name}_bytes"] = len(string)
                header["record_bytes"] += dtype.itemsize
                self.bodies[kind].append(body)
        self.headers.append(header)
        self.tasks.append(task)
        self.strings.append(blob)
        self.to_pos = int(header["ring_pos"]) + record_span(int(header["record_bytes"]))

    def columns(self) -> dict[str, np.ndarray]:
        return {
            "header": np.array(self.headers, dtypes.HEADER),
            "task": np.array(self.tasks, dtypes.TASK),
            "fork": np.array(self.bodies[declared.KIND_FORK], dtypes.FORK),
            "exec": np.array(self.bodies[declared.KIND_EXEC], dtypes.EXEC),
            "exit": np.array(self.bodies[declared.KIND_EXIT], dtypes.EXIT),
            "blob": np.frombuffer(b"".join(self.strings), np.uint8),
        }

    def message(self, **changed: object) -> bytes:
        """Encode the frame; keyword arguments replace arguments of the encoder."""
        arguments: dict = {
            "ring": self.ring, "seq": self.seq, "from_pos": self.from_pos, "to_pos": self.to_pos,
            "count": len(self.headers), "lost": self.lost, "malformed": self.malformed,
            "watermark_boot_ns": self.watermark_boot_ns, **self.columns(), **changed,
        }  # fmt: skip
        return FrameEncoder(boot_id=BOOT_ID, source=self.source).encode(**arguments)


u64 = st.integers(0, (1 << 64) - 1)
strings = st.tuples(*[st.binary(max_size=40)] * 4)


@st.composite
def samples(draw: st.DrawFn, max_records: int = 12) -> Sample:
    start = draw(st.integers(0, 1 << 62)) * 2 & ~7
    sample = Sample(
        ring=draw(st.integers(0, (1 << 32) - 1)),
        seq=draw(u64),
        from_pos=start,
        to_pos=start,
        source=draw(st.text(max_size=20)),
        lost=draw(st.dictionaries(st.sampled_from(declared.KIND_NAMES), u64)),
        malformed=draw(u64),
        watermark_boot_ns=draw(st.none() | u64),
    )
    for _ in range(draw(st.integers(0, max_records))):
        sample.add(
            draw(st.sampled_from(KINDS)),
            strings=draw(strings),
            head_only=draw(st.booleans()),
            gap=8 * draw(st.integers(0, 3)),
            fill=draw(st.integers(0, 255) | st.integers(1, 3)),
        )
        if draw(st.booleans()) and not sample.headers[-1]["flags"]:
            sample.tasks[-1]["ns_pid"] = draw(st.integers(0, (1 << 32) - 1))
    sample.to_pos += 8 * draw(st.integers(0, 3))
    return sample


def example() -> Sample:
    """A frame with one record of each kind and one header-only record."""
    sample = Sample(ring=3, seq=7, from_pos=4096, to_pos=4096, lost={"fork": 2})
    for kind in KINDS:
        sample.add(kind, strings=(b"/usr/bin/true", b"true", b"true\0", b"A=1\0"), fill=kind)
    sample.add(declared.KIND_EXEC, head_only=True)
    return sample


def family(children: int = 5) -> Sample:
    """Forks and exits of one parent's children. Their TASKs differ only in the pid in the namespace."""
    sample = Sample(ring=1, seq=1, from_pos=0, to_pos=0)
    for kind in (declared.KIND_FORK, declared.KIND_EXIT):
        for child in range(children):
            sample.add(kind, fill=9)
            sample.tasks[-1]["ns_pid"] = 100 + child
    return sample


def assert_consistent(frame: Frame) -> None:
    """Whatever the message was: the columns of a frame that was accepted fit together."""
    assert len(frame.header) == len(frame.task) == frame.count
    assert int(frame.header["var_bytes"].sum(dtype=np.uint64)) == len(frame.blob)
    whole = (frame.header["flags"] & declared.FLAG_HEAD_ONLY) == 0
    for kind, name in ((declared.KIND_FORK, "fork"), (declared.KIND_EXEC, "exec"), (declared.KIND_EXIT, "exit")):
        assert len(getattr(frame, name)) == int((whole & (frame.header["kind"] == kind)).sum())
