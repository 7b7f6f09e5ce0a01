from collections.abc import Sequence
from typing import Any

from pipeline.resolver.stream._name_cache import NameCache

class RowFilters:
    @property
    def topics_mask(self) -> int: ...
    def set(self, number: int, kind: bytes = b"", values: Sequence[bytes] = (), topics: int = 0) -> None: ...
    def of_row(self, tables: Any, names: NameCache | None, topic: int, row: int) -> int: ...
