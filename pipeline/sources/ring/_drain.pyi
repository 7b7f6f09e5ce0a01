from typing import Any

from pipeline.sources.ring._shared import RingMap

CAUGHT_UP: int

class Columns:
    count: int
    var_bytes: int
    discarded: int
    malformed: int
    stop: int
    def __init__(self, max_bytes: int) -> None: ...
    def views(self) -> dict[str, Any]: ...
    def drain(self, ring: RingMap, cursor: int, max_records: int) -> int: ...
