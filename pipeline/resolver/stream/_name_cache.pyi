from collections.abc import Mapping

from pipeline.resolver.stream._keyed_cache import KeyedCache
from pipeline.shm.writer._writer import TableWriter

USER: int
GROUP: int
VIEWS_MAX: int
VIEWS_PER_USER: int

HOST_NAMES: Names

class Names:
    def __init__(self, users: Mapping[int, str] | None = None, groups: Mapping[int, str] | None = None) -> None: ...
    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def add(self, kind: int, number: int, name: str) -> None: ...

class NameCache(KeyedCache):
    host: Names
    host_mnt_ns: int
    host_user_ns: int
    def __init__(self, host: Names, host_mnt_ns: int, host_user_ns: int) -> None: ...
    def set_host(self, host: Names) -> None: ...
    def set_views(self, views: Mapping[tuple[bytes, int, int], tuple[Names, int]]) -> None: ...
    def take_wanted(self) -> tuple[list[tuple[bytes, int, int, int]], list[tuple[int, int]]]: ...
    def living(
        self, tables: TableWriter
    ) -> tuple[list[tuple[bytes, int, int, int]], set[tuple[int, int]], dict[int, set[tuple[int, int]]]]: ...
