from typing import Required, TypedDict, Unpack

from typing_extensions import Buffer

class _Frame(TypedDict, total=False):
    ring: Required[int]
    seq: Required[int]
    from_pos: Required[int]
    to_pos: Required[int]
    count: Required[int]
    lost: Required[dict[str, int]]
    header: Buffer
    task: Buffer
    fork: Buffer
    exec: Buffer
    exit: Buffer
    blob: Buffer
    malformed: int
    watermark_boot_ns: int | None

def packed_counts(lost: dict[str, int]) -> bytes: ...

class FrameEncoder:
    def __init__(self, *, boot_id: bytes, source: str, capture_id: int = 0) -> None: ...
    def encode(self, **frame: Unpack[_Frame]) -> bytes: ...
    def take(self) -> bytes: ...
    def add(self, **frame: Unpack[_Frame]) -> None: ...
