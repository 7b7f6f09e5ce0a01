from collections.abc import Callable, Sequence

from pipeline.sources.ring._ring import Ring
from pipeline.sources.ring._shared import CpuStates
from pipeline.sources.ring.acks import AckReader

NO_WATERMARK: int

class Shard:
    frames_total: int
    blocked_total: int
    rewinds_total: int
    def __init__(
        self,
        rings: Sequence[Ring],
        *,
        acks: AckReader,
        send: Callable[[bytes], bool],
        cpus: CpuStates,
        boot_id: bytes,
        source: str = "ebpf",
        frame_max_bytes: int = ...,
        capture_id: int = 0,
    ) -> None: ...
    @property
    def rings(self) -> Sequence[Ring]: ...
    @property
    def is_blocked(self) -> bool: ...
    @property
    def is_caught_up(self) -> bool: ...
    @property
    def is_applied(self) -> bool: ...
    def do_work(self, budget: int) -> int: ...
    def _has_news(self, ring: Ring) -> bool: ...
    def _watermark(self, ring: Ring, clock_ns: int) -> int: ...
    def may_sleep(self) -> bool: ...
    def wake_up(self) -> None: ...
    def close(self) -> None: ...
