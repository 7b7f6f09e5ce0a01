from typing import Protocol

import numpy as np
import numpy.typing as npt

class _Columns(Protocol):
    head: npt.NDArray[np.void]
    task: npt.NDArray[np.void]
    fork: npt.NDArray[np.void]
    exec: npt.NDArray[np.void]
    exit: npt.NDArray[np.void]
    blob: memoryview

class Batch:
    sorter: Sorter
    count: int
    frontier: int
    limits: npt.NDArray[np.uint64]
    @property
    def frames(self) -> list[_Columns | None]: ...
    @property
    def frame_no(self) -> npt.NDArray[np.uint32]: ...
    @property
    def event_no(self) -> npt.NDArray[np.uint32]: ...
    @property
    def time_boot_ns(self) -> npt.NDArray[np.uint64]: ...
    @property
    def late(self) -> npt.NDArray[np.uint8]: ...
    def __len__(self) -> int: ...

class Sorter:
    frames: list[_Columns | None]
    ring_count: int
    pending: int
    frontier: int
    late_total: int
    replayed_total: int
    def __init__(self, ring_count: int) -> None: ...
    def skip_until(self, ring: int, time_boot_ns: int, position: int) -> None: ...
    def raise_frontier(self, time_boot_ns: int) -> None: ...
    def applied_pos(self, ring: int) -> int: ...
    def add(self, ring: int, frame: _Columns, from_pos: int, to_pos: int, count: int) -> int: ...
    def take(self, limit_boot_ns: int, max_events: int, complete: bool = True) -> Batch | None: ...
    def done(self, batch: Batch) -> set[int]: ...
