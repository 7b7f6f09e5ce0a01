from collections.abc import Mapping
from os import PathLike

from pipeline.shm.writer._writer import TableWriter

def open_tables(
    directory: str | PathLike[str],
    *,
    boot_id: bytes,
    capture_id: int,
    ring_count: int,
    row_capacity: int,
    chunk_rows: int,
    pid_capacity: int,
    key_capacity: int,
    names_bytes: int,
    args_bytes: int,
    envs_bytes: int,
    boot_unix_ns: int,
    retention_ns: int,
    horizon_boot_ns: int = 0,
    chain_max: int = ...,
    checked: bool = False,
    modes: Mapping[str, int] | None = None,
    group: int | None = None,
    has_successor: bool = False,
) -> TableWriter: ...
