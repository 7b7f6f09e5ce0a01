from collections.abc import Mapping

from pipeline.resolver.stream._keyed_cache import KeyedCache
from pipeline.shm.writer._writer import TableWriter

CONTAINERS_MAX: int

class ContainerCache(KeyedCache):
    def set_all(self, details: Mapping[str, bytes | None]) -> None: ...
    def take_wanted(self) -> list[str]: ...
    def living(self, tables: TableWriter) -> list[str]: ...
