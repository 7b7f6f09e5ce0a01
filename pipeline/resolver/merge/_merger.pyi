import numpy as np
import numpy.typing as npt

from pipeline.bus.frames._frame import Frame
from pipeline.resolver.merge._queues import Batch
from pipeline.shm.writer._writer import TableWriter

class Merger:
    ring_count: int
    received_pos: npt.NDArray[np.uint64]
    applied_pos: npt.NDArray[np.uint64]
    ring_watermark: npt.NDArray[np.uint64]
    stalled: npt.NDArray[np.bool_]
    watermark: int
    timed_by_sender: bool
    def __init__(
        self,
        ring_count: int,
        *,
        stall_ms: float = 250,
        hold_ms: float = 1000,
        slack_ns: int = ...,
        max_pending: int = ...,
        timed_by_sender: bool = False,
    ) -> None: ...
    @property
    def pending(self) -> int: ...
    def resume(
        self,
        applied_pos: npt.NDArray[np.uint64],
        ring_watermark: npt.NDArray[np.uint64],
        watermark: int | None = None,
    ) -> None: ...
    def add(self, frame: Frame) -> None: ...
    def take_rewinds(self) -> list[tuple[int, int]]: ...
    def advance(self, now_boot_ns: int, producer_pos: npt.NDArray[np.uint64] | None = None) -> int: ...
    @property
    def is_lagging(self) -> bool: ...
    @property
    def due_boot_ns(self) -> int: ...
    def take(self, max_events: int) -> Batch | None: ...
    def done(self, batch: Batch) -> None: ...
    def commit(self, tables: TableWriter, topic_seq: npt.NDArray[np.uint64]) -> None: ...
    def take_counters(self) -> dict[str, int]: ...
