from collections.abc import Callable, Sequence
from typing import Any

def lines(
    names: Sequence[str],
    columns: Sequence[list[Any] | tuple[bytearray, list[Any]]],
    count: int,
    encode: Callable[[object], str],
    separator: str = ...,
) -> bytes: ...
