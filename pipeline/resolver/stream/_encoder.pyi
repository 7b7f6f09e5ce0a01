from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt

from pipeline.bus.stream.messages import Message
from pipeline.resolver.stream._container_cache import ContainerCache
from pipeline.resolver.stream._file_cache import FileCache
from pipeline.resolver.stream._name_cache import NameCache
from pipeline.resolver.stream._row_filters import RowFilters

FIELDS: tuple[str, ...]

@final
class Encoder:
    topics_mask: int
    kept_mask: int
    names: NameCache | None
    containers: ContainerCache | None
    packages: FileCache | None
    hashes: FileCache | None

    def __init__(
        self,
        boot: bytes,
        *,
        lineage_depth: int = 8,
        envs: str = "none",
        file: str = "exec",
        message_bytes: int = 73728,
        limit_bytes: int = 67108864,
    ) -> None: ...
    @property
    def filters(self) -> RowFilters: ...
    @property
    def subscribed_mask(self) -> int: ...
    @property
    def former_mask(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def envs(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def stream(self) -> int: ...
    @property
    def order(self) -> int: ...
    def sequences(self) -> npt.NDArray[np.uint64]: ...
    def restore(self, sequences: npt.NDArray[np.uint64]) -> None: ...
    @property
    def known_left(self) -> int: ...
    def adopt(self, numbers: Sequence[int], order: int, identities: Sequence[tuple[str, str, int]]) -> None: ...
    def end_adoption(self) -> None: ...
    def settled(self) -> list[int]: ...
    def take(self) -> list[Message]: ...
    def add(
        self,
        tables: Any,
        topic: int,
        kind: int,
        row: int,
        time_boot_ns: int,
        detail: int = 0,
        *,
        changed_after_boot_ns: int = 0,
    ) -> None: ...
    def put(self, topic: int, fields: Mapping[str, Any]) -> bool: ...
