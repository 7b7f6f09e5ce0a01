from pathlib import Path
from typing import Self

class Relay:
    def __init__(
        self,
        path: Path,
        inner: Path,
        *,
        mode: int,
        group: int = -1,
        stall_ms: int = ...,
        handshake_ms: int = ...,
        check_ms: int = ...,
        give_back_ms: int = ...,
    ) -> None: ...
    @property
    def refused(self) -> int: ...
    @property
    def rejected(self) -> int: ...
    @property
    def clients(self) -> int: ...
    def close(self, linger_s: float = 0.5) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
