from os import PathLike

from typing_extensions import Buffer

def filesystem_type(path: str | PathLike[str]) -> int: ...

class Segment(Buffer):
    name: object
    capacity: int
    allocated: int
    def __init__(self, name: str, fd: int, capacity: int, allocated: int) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
