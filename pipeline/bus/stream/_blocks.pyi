from collections.abc import Sequence
from typing import Any

from typing_extensions import Buffer

def crc32(data: Buffer, value: int = 0) -> int: ...
def pack_header(block: tuple[Any, ...]) -> bytes: ...
def parse_header(data: Buffer) -> tuple[Any, ...] | None: ...
def block_bytes(messages: Sequence[tuple[Any, ...]]) -> int: ...
def put_block(
    target: Buffer,
    place: int,
    messages: Sequence[tuple[Any, ...]],
    following: list[int],
    at: int,
    kept: int,
    stream: int,
    group: int,
    step: int,
    writer: int,
    epoch: int,
    time_ns: int,
) -> int: ...
