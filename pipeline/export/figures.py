"""Read the figures of an instance from its control segment, for Prometheus and statsd.

The module reads the file instead of mapping it, so that a reader in the supervisor notices when the segment is
replaced. `prometheus` and `statsd` define the public names of the figures. The commit is copied with the protocol of
`pipeline.shm.layout.control`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import paths, trust
from pipeline.shm.layout import layout

if TYPE_CHECKING:
    import numpy.typing as npt

_ATTEMPTS = 16
_COMMIT_INDEX = layout.CONTROL_LAYOUT.offset("commit_index")


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures at one moment.

    Attributes:
        header: dtype CONTROL.
        commit: dtype COMMIT, a consistent copy; all zeros before the first commit.
        rings: shape (ring_count,), dtype RING_ACK.
        counters: value by name in layout.COUNTERS.
        now_boot_ns: time of reading.
    """

    header: np.void
    commit: np.void
    rings: npt.NDArray[np.void]
    counters: dict[str, int]
    now_boot_ns: int

    @property
    def is_ready(self) -> bool:
        """Whether the tables are complete."""
        return int(self.header["state"]) == layout.STATE_READY


def read_figures(directory: Path) -> Figures | None:
    """Return the figures of the instance in `directory`; None if it has no control segment of this layout version."""
    try:
        with os.fdopen(trust.open_file(directory / paths.CONTROL), "rb", buffering=0) as file:
            raw = file.read(layout.CONTROL.itemsize) or b""
            if len(raw) < layout.CONTROL.itemsize:
                return None
            header = np.frombuffer(raw, layout.CONTROL)[0]
            if header["magic"] != layout.MAGIC or header["layout_version"] != layout.LAYOUT_VERSION:
                return None
            file.seek(int(header["ring_offset"]))
            raw = file.read(int(header["ring_count"]) * layout.RING_ACK.itemsize) or b""
            whole = len(raw) // layout.RING_ACK.itemsize * layout.RING_ACK.itemsize
            rings = np.frombuffer(raw[:whole], layout.RING_ACK)
            commit = _commit(file, header)
    except FileNotFoundError:
        return None
    counters = dict(zip(layout.COUNTERS, commit["counters"].tolist(), strict=False))
    return Figures(header, commit, rings, counters, time.clock_gettime_ns(time.CLOCK_BOOTTIME))


def _commit(file: FileIO, header: np.void) -> np.void:
    """Copy the valid slot. Each read is a system call, so the reads happen in the order of this code."""
    index_at = _COMMIT_INDEX
    for _ in range(_ATTEMPTS):
        index = _word(file, index_at)
        at = int(header["commit_offset"]) + (index & 1) * int(header["commit_bytes"])
        file.seek(at)
        raw = file.read(layout.COMMIT.itemsize) or b""
        if len(raw) < layout.COMMIT.itemsize:
            break
        slot = np.frombuffer(raw, layout.COMMIT)[0]
        file.seek(at)
        again = int.from_bytes(file.read(8), "little")
        if int(slot["number"]) and again == int(slot["number"]) and _word(file, index_at) == index:
            return slot
    return np.zeros(1, layout.COMMIT)[0]


def _word(file: FileIO, at: int) -> int:
    file.seek(at)
    return int.from_bytes(file.read(4), "little")
