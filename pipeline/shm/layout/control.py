"""The control segment as a successor finds it, in Python. _control.pyx writes it.

Protocol of a reader of the control segment (shards, readers, `procline stat`):

- Open `control` and load layout_version with acquire; 0 means not ready. Open the other segments. Then load `state`
  again: SUPERSEDED means that another control file has replaced this one, so start again.
- A commit slot: load commit_index (acquire), then the slot's `number` (acquire), copy the slot, acquire fence, load
  `number` and commit_index again. If the numbers are equal and not 0, the copy is consistent; otherwise start again.
- RING_ACK: load `rewind_seq` (acquire) before `wanted_pos`. `applied_pos` alone is a position that is safe to release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.shm.layout import layout

if TYPE_CHECKING:
    import numpy.typing as npt

COUNTER_INDEX = {name: position for position, name in enumerate(layout.COUNTERS)}


class Committed(NamedTuple):
    """The valid commit slot: what the tables contain, and where to continue.

    Attributes:
        number: number of commits in this epoch; 0 if there was none.
        watermark: boot-clock ns; earlier events are in the tables.
        rings: shape (ring_count,), dtype COMMIT_RING: position and watermark of each ring.
        counters: shape (128,), uint64, in the order of COUNTERS.
        topic_seq: shape (16,), uint64, in the order of TOPICS.
    """

    number: int
    watermark: int
    rings: npt.NDArray[np.void]
    counters: npt.NDArray[np.uint64]
    topic_seq: npt.NDArray[np.uint64]
