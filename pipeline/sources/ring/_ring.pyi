from types import TracebackType
from typing import Self

from pipeline.sources.ring._drain import Columns

PAGE_BYTES: int

def ring_data_bytes(fd: int) -> int: ...

class Ring:
    number: int
    cpus: tuple[int, ...]
    data_bytes: int
    cursor: int
    consumer_pos: int
    stop: int
    lost: dict[str, int]
    records_total: int
    discarded_total: int
    malformed_total: int
    corrupt_total: int
    refused_total: int
    def __init__(
        self,
        fd: int,
        *,
        number: int,
        cpus: tuple[int, ...] = (),
        data_bytes: int | None = None,
        wake_fd: int | None = None,
    ) -> None: ...
    def fileno(self) -> int: ...
    @property
    def producer_pos(self) -> int: ...
    def drain(self, columns: Columns, max_records: int) -> int: ...
    def release(self, applied_pos: int) -> None: ...
    def rewind(self, wanted_pos: int) -> bool: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...
