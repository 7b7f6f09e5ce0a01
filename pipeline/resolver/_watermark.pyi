import numpy as np
import numpy.typing as npt

class RingClock:
    seen: npt.NDArray[np.uint64]
    stalled: npt.NDArray[np.bool_]
    stalls: int
    complete: bool
    def __init__(
        self,
        ring_count: int,
        received_pos: npt.NDArray[np.uint64],
        applied_pos: npt.NDArray[np.uint64],
        stall_ns: int,
        hold_ns: int,
        slack_ns: int,
    ) -> None: ...
    def begin(self, now: int) -> None: ...
    def advance(self, now: int, producer: npt.NDArray[np.uint64], is_crowded: bool) -> int: ...
    def is_behind(self) -> bool: ...
    def applied_until(
        self, frontier: int, limits: npt.NDArray[np.uint64], watermarks: npt.NDArray[np.uint64]
    ) -> None: ...
