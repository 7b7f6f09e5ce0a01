from typing import final

MOST: float
LEAST: float

@final
class Gathering:
    gather_us: int
    def __init__(self, freshness_ns: float) -> None: ...
    @property
    def delay_ns(self) -> float: ...
    def note(self, age_ns: int) -> bool: ...
