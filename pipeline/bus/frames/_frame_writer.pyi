from collections.abc import Buffer

FRAME_VERSION: int

def packed_counts(lost: dict[str, int]) -> bytes: ...

class FrameEncoder:
    def __init__(self, *, boot_id: bytes, source: str) -> None: ...
    def encode(
        self,
        *,
        ring: int,
        seq: int,
        from_pos: int,
        to_pos: int,
        count: int,
        lost: dict[str, int],
        head: Buffer = b"",
        task: Buffer = b"",
        fork: Buffer = b"",
        exec: Buffer = b"",
        exit: Buffer = b"",
        blob: Buffer = b"",
        malformed: int = 0,
        watermark_boot_ns: int | None = None,
    ) -> bytes: ...
    def take(self) -> bytes: ...
    def add(
        self,
        *,
        ring: int,
        seq: int,
        from_pos: int,
        to_pos: int,
        count: int,
        lost: dict[str, int],
        head: Buffer = b"",
        task: Buffer = b"",
        fork: Buffer = b"",
        exec: Buffer = b"",
        exit: Buffer = b"",
        blob: Buffer = b"",
        malformed: int = 0,
        watermark_boot_ns: int | None = None,
    ) -> None: ...
