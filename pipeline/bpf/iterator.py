"""Read the task iterator: every process of the host in one pass, as arrays. The BPF program is iter.bpf.c."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.bpf import syscall
from pipeline.records import events

_FIXED = events.HEAD.itemsize + events.TASK.itemsize + events.EXEC.itemsize


@dataclass(frozen=True, slots=True)
class Tasks:
    """Processes in the order of their pids; row i of every column is one process. Without kernel threads.

    Attributes:
        head, task, exec: shape (n,), dtypes HEAD, TASK, EXEC. `head.time_boot_ns` is when the process was read; kind is
            0. Of EXEC, the file, the path and the lengths of both string areas are filled; nothing is filled if the
            leader has ended (FLAG_LEADER_DEAD).
        paths: path of each executable, as in EXEC.
    """

    head: npt.NDArray[np.void]
    task: npt.NDArray[np.void]
    exec: npt.NDArray[np.void]
    paths: list[bytes]

    def __len__(self) -> int:
        return len(self.head)


def read_tasks(link_fd: int) -> Tasks:
    """Run the iterator once.

    Args:
        link_fd: `Capture.iter_link_fd`, inherited or own; no capability is needed.

    Raises:
        OSError: `link_fd` is not the link of an iterator.
    """
    return parse_tasks(syscall.run_iterator(link_fd))


def parse_tasks(data: bytes) -> Tasks:
    """Split the iterator's output into columns."""
    offsets, paths, offset = [], [], 0
    record_bytes = events.HEAD.fields["record_bytes"][1]  # type: ignore[index]
    while offset < len(data):
        length = int.from_bytes(data[offset + record_bytes : offset + record_bytes + 4], "little")
        if not _FIXED <= length <= len(data) - offset:
            raise ValueError(f"task iterator: a record of {length} bytes at {offset} of {len(data)}")
        offsets.append(offset)
        paths.append(data[offset + _FIXED : offset + length])
        offset += length
    rows = np.frombuffer(b"".join(data[at : at + _FIXED] for at in offsets), np.uint8).reshape(-1, _FIXED)
    task_at = events.HEAD.itemsize
    exec_at = task_at + events.TASK.itemsize
    return Tasks(
        _column(rows, 0, events.HEAD),
        _column(rows, task_at, events.TASK),
        _column(rows, exec_at, events.EXEC),
        paths,
    )


def _column(rows: npt.NDArray[np.uint8], at: int, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    return np.ascontiguousarray(rows[:, at : at + dtype.itemsize]).view(dtype).reshape(-1)
