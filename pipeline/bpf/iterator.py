"""Read the task iterator: every process of the host in one pass, as arrays. The BPF program is iter.bpf.c."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bpf import syscall
from pipeline.bpf._iterator import split
from pipeline.records import dtypes

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Tasks:
    """Processes in the order of their pids; row i of every column is one process. Without kernel threads.

    Attributes:
        header, task, exec: shape (n,), dtypes HEADER, TASK, EXEC. `header.time_boot_ns` is when the process was read;
            kind is 0. In EXEC, the file, the path and the lengths of both string areas are filled; nothing is filled
            if the leader has ended (FLAG_LEADER_DEAD).
        paths: path of each executable, as in EXEC.
    """

    header: npt.NDArray[np.void]
    task: npt.NDArray[np.void]
    exec: npt.NDArray[np.void]
    paths: list[bytes]

    def __len__(self) -> int:
        return len(self.header)


def read_tasks(link_fd: int) -> Tasks:
    """Run the iterator once.

    Args:
        link_fd: `Capture.fds.iter_link`, inherited or own; no capability is needed.

    Raises:
        OSError: `link_fd` is not the link of an iterator.
    """
    return parse_tasks(syscall.run_iterator(link_fd))


def parse_tasks(data: bytes) -> Tasks:
    """Split the iterator's output into columns.

    Raises:
        ValueError: a record is not as long as it says.
    """
    *columns, paths = split(data)
    header, task, exec_ = map(np.frombuffer, columns, (dtypes.HEADER, dtypes.TASK, dtypes.EXEC))
    return Tasks(header, task, exec_, paths)
