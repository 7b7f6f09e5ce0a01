"""The shared segments for numpy: the declared constants, and a dtype for each layout.

`pipeline.shm.layout.declared` contains the declarations; processes without numpy use that module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.shm.layout import declared
from pipeline.shm.layout.declared import *  # noqa: F403 - the constants have the same names here

if TYPE_CHECKING:
    import numpy.typing as npt

CONTROL = np.dtype(declared.CONTROL_LAYOUT.dtype())
RING_ACK = np.dtype(declared.RING_ACK_LAYOUT.dtype())
COMMIT = np.dtype(declared.COMMIT_LAYOUT.dtype())
COMMIT_RING = np.dtype(declared.COMMIT_RING_LAYOUT.dtype())
HOT = np.dtype(declared.HOT_LAYOUT.dtype())
COLD = np.dtype(declared.COLD_LAYOUT.dtype())
COSTS = np.dtype(declared.COSTS_LAYOUT.dtype())
REST = np.dtype(declared.COLD_LAYOUT.dtype() + declared.COSTS_LAYOUT.dtype())  #: what readers copy besides HOT
FILE = np.dtype(declared.FILE_LAYOUT.dtype())
CGROUP = np.dtype(declared.CGROUP_LAYOUT.dtype())
ARENA = np.dtype(declared.ARENA_LAYOUT.dtype())
KEYS = np.dtype(declared.KEYS_LAYOUT.dtype())

CHANGES_BYTES = 4 * declared.CHANGES_KEPT  #: the ring of changed rows, whole pages
CONTROL_HEADER_BYTES = 4096  #: the ring section begins here, page-aligned


def control_bytes(ring_count: int) -> tuple[int, int, int, int]:
    """Return (ring_offset, commit_offset, commit_bytes, file_bytes) of a control file for `ring_count` rings."""
    ring_offset = CONTROL_HEADER_BYTES
    commit_offset = ring_offset + -(-ring_count * RING_ACK.itemsize // 4096) * 4096
    commit_bytes = -(-(COMMIT.itemsize + ring_count * COMMIT_RING.itemsize) // 64) * 64
    file_bytes = -(-(commit_offset + 2 * commit_bytes) // 4096) * 4096 + CHANGES_BYTES
    return ring_offset, commit_offset, commit_bytes, file_bytes


def changes_offset(ring_count: int) -> int:
    """Return where the ring of changed rows begins, which is the end of a control file for `ring_count` rings."""
    return control_bytes(ring_count)[3] - CHANGES_BYTES


def used_positions(numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
    """Return the places of an index that are not 0. numpy finds them in a mask nine times as fast as in numbers."""
    return np.flatnonzero(numbers != 0)


def counter_of(name: str, tag: str = "") -> str:
    """Return the name of the counter behind a metric with this name and tag; see `pipeline.resolver.api.stats`."""
    return f"{name}_{tag}" if tag else name
