"""Segments made by hand with numpy: the reader is tested without the writer, and on states that no writer leaves."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from pipeline.shm.layout import layout
from pipeline.shm.writer._keys import segment_bytes

BOOT_ID = bytes(range(16))
KEYS = 16  #: slots for (pid, pid namespace), none in use
BOOT_UNIX_NS = 1_700_000_000_000_000_000


def now_boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Tables:
    """All segments of one instance as writable numpy views. Row numbers are assigned from 1."""

    def __init__(
        self, directory: Path, *, rows: int = 256, pids: int = 4096, arena_bytes: int = 1 << 20, epoch: int = 1
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        ring_offset, commit_offset, commit_bytes, size = layout.control_bytes(2)
        self.control = self._make("control", layout.CONTROL, size)[:1]
        self.index = self._make("index", np.dtype("<u4"), (pids + KEYS) * 4)
        self.keys = self._make("keys", np.dtype("u1"), segment_bytes(KEYS))
        self.hot = self._make("hot", layout.HOT, rows * layout.HOT.itemsize)
        self.cold = self._make("cold", layout.COLD, rows * layout.COLD.itemsize)
        self.costs = self._make("costs", layout.COSTS, rows * layout.COSTS.itemsize)
        self.arenas = {name: self._make(name, np.dtype("u1"), arena_bytes) for name in ("names", "args", "envs")}
        self.arena_next = dict.fromkeys(self.arenas, 16)
        raw = self._map("control", np.dtype("u1"), size)
        self.commits = [
            raw[commit_offset + i * commit_bytes :][: layout.COMMIT.itemsize].view(layout.COMMIT) for i in (0, 1)
        ]
        self.next_row = 1
        header = self.control[0]
        header["magic"] = layout.MAGIC
        header["header_bytes"] = layout.CONTROL.itemsize
        header["boot_id"] = np.frombuffer(BOOT_ID, "V16")[0]
        header["writer_tgid"] = os.getpid()
        header["epoch"] = epoch
        header["row_capacity"] = header["rows_allocated"] = rows
        header["pid_capacity"] = pids
        header["key_capacity"] = KEYS
        for name in self.arenas:
            header[f"{name}_capacity_bytes"] = header[f"{name}_allocated_bytes"] = arena_bytes
        header["boot_unix_ns"] = BOOT_UNIX_NS
        header["ring_count"] = 2
        header["ring_offset"], header["commit_offset"], header["commit_bytes"] = (
            ring_offset, commit_offset, commit_bytes,
        )  # fmt: skip
        header["changes_offset"] = layout.changes_offset(2)
        self.changes = raw[layout.changes_offset(2) :].view(np.uint32)
        header["pid_ns"] = Path("/proc/self/ns/pid").stat().st_ino
        header["state"] = layout.STATE_READY
        self.hot["row_seq"] = 1  # free
        self.hot["generation"] = 1
        self.heartbeat()
        header["layout_version"] = layout.LAYOUT_VERSION

    def _make(self, name: str, dtype: np.dtype, size: int) -> np.ndarray:
        path = self.directory / name
        path.unlink(missing_ok=True)  # never in place: a reader may have the file mapped
        path.touch()
        os.truncate(path, size)  # a page that no test touches is not allocated
        return self._map(name, dtype, size)

    def _map(self, name: str, dtype: np.dtype, size: int) -> np.ndarray:
        """Map a file as a plain array: a `memmap` runs code of Python for each field that is read or set."""
        return np.asarray(np.memmap(self.directory / name, dtype, "r+", shape=(size // dtype.itemsize,)))

    def _part(self, name: str) -> np.ndarray:
        return self.hot if name in layout.HOT.names else self.cold if name in layout.COLD.names else self.costs

    def heartbeat(self, age_s: float = -3600) -> None:
        """Store a heartbeat; by default one that is fresh for as long as a slow machine needs."""
        self.control["heartbeat_boot_ns"] = now_boot_ns() - int(age_s * 1e9)

    def intern(self, arena: str, data: bytes) -> int:
        start = self.arena_next[arena]
        self.arena_next[arena] += 16 + -(-len(data) // 16) * 16
        header = self.arenas[arena][start : start + 16].view(layout.ARENA)
        header["refcount"], header["length"] = 1, len(data)
        self.arenas[arena][start + 16 : start + 16 + len(data)] = np.frombuffer(data, np.uint8)
        return start // 16

    def file(self, path: bytes, **fields: int) -> int:
        record = np.zeros(1, layout.FILE)
        for name, value in fields.items():
            record[name] = value
        return self.intern("names", record.tobytes() + path)

    def strings(self, arena: str, *values: bytes, cut: bytes = b"") -> int:
        data = b"".join(value + b"\0" for value in values) + cut
        return self.intern(arena, len(data).to_bytes(4, "little") + data)

    def row(self, tgid: int, *, insert: bool = True, **fields: object) -> int:
        """Fill the next free row; other fields by name, of any part."""
        row = self.next_row
        self.next_row += 1
        values = {"tgid": tgid, "start_boot_ns": 1000 * tgid, "flags": layout.ROW_HEAD, "source": layout.SOURCE_EVENT}
        values |= {"known": layout.KNOWN_START | layout.KNOWN_COMM, "images": 1, "comm": f"p{tgid}".encode()}
        for name, value in (values | fields).items():
            self._part(name)[name][row] = value
        self.hot["row_seq"][row] = 2
        if insert:
            self.index[tgid] = row
        return row

    def link(self, row: int) -> int:
        return row | int(self.hot["generation"][row]) << 32

    def note(self, row: int) -> None:
        """Note that an open row will change."""
        count = int(self.control["changes"][0])
        self.changes[count % layout.CHANGES_KEPT] = row
        self.control["changes"] = count + 1

    def free(self, row: int) -> None:
        self.hot["row_seq"][row] |= 1
        self.note(row)
        self.hot["flags"][row] = 0
        self.hot["generation"][row] += 1
        self.index[self.hot["tgid"][row]] = 0

    def reuse(self, row: int, tgid: int, **fields: object) -> None:
        """Assign a free row to another process."""
        for name, value in ({"tgid": tgid, "flags": layout.ROW_HEAD} | fields).items():
            self._part(name)[name][row] = value
        self.hot["row_seq"][row] += 1
        self.index[tgid] = row

    def change(self, row: int, **fields: object) -> None:
        """Change an inserted row as the writer does."""
        self.hot["row_seq"][row] += 1
        self.note(row)
        for name, value in fields.items():
            self._part(name)[name][row] = value
        self.hot["row_seq"][row] += 1

    def commit(self, number: int, **fields: object) -> None:
        slot = self.commits[number & 1]
        slot["number"] = number
        for name, value in fields.items():
            slot[name] = value
        self.control["commit_index"] = number & 1
