from collections.abc import Mapping

from pipeline.resolver.stream._keyed_cache import KeyedCache
from pipeline.shm.writer._writer import TableWriter

FILES_MAX: int
FILES_PER_USER: int

_Key = tuple[int, int, int, int]

class FileCache(KeyedCache):
    mnt_ns: int
    def set_all(self, known: Mapping[_Key, tuple[bytes | None, int]]) -> None: ...
    def take_wanted(self) -> list[tuple[_Key, int]]: ...
    def living(self, tables: TableWriter) -> list[tuple[_Key, int]]: ...
