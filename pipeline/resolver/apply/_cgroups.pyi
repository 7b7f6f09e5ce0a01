from collections.abc import Callable

from pipeline.shm.writer._writer import TableWriter

class CgroupNames:
    on_record: Callable[[bytes, int, int], None] | None
    def __init__(self, tables: TableWriter) -> None: ...
    def __len__(self) -> int: ...
    def take_wanted(self) -> list[tuple[int, int]]: ...
    def name(
        self, cgroup_id: int, path: bytes, container: bytes = b"", *, is_new: bool = False, made_boot_ns: int = 0,
        container_made_boot_ns: int = 0,
    ) -> int: ...  # fmt: skip
    def forget(self) -> None: ...
