from collections.abc import Callable, Sequence

SUPPORTED: bool

def states_of(
    operation: Callable[[], object], mappings: Sequence[tuple[int, int, int]], room_bytes: int
) -> list[list[bytes]]: ...
