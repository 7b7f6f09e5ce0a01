from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from pipeline.resolver.apply._cgroups import CgroupNames
from pipeline.resolver.apply._followups import FollowUps
from pipeline.resolver.merge._queues import Batch
from pipeline.resolver.stream._encoder import Encoder
from pipeline.shm.writer._writer import TableWriter

SAME: int
ADDED: int
COMPLETED: int
CHANGED: int

class Applier:
    tables: TableWriter
    encoder: Encoder | None
    cgroups: CgroupNames
    followups: FollowUps
    kthreadd: int
    wanted_dropped: int
    def __init__(self, tables: TableWriter, encoder: Encoder | None = None, kthreadd: int = 2) -> None: ...
    def apply(self, batch: Batch) -> int: ...
    def note_tty_lost(self, tgid: int, has_lost_tty: bool) -> None: ...
    def apply_records(
        self,
        header: Buffer,
        task: Buffer | None = None,
        body: Buffer | None = None,
        strings: Buffer = b"",
        *,
        known: int | None = None,
        source: int = 2,
        digest: int = 0,
    ) -> int: ...
    def insert_from_proc(
        self,
        header: Buffer,
        task: Buffer,
        exec_: Buffer | None = None,
        strings: Buffer = b"",
        *,
        source: int = ...,
        known: int | None = None,
        start_ticks: bool = False,
        flags: int = 0,
        exec_boot_ns: int = 0,
        digest: int = 0,
    ) -> int: ...
    def insert_survey(
        self,
        headers: npt.NDArray[np.uint8],
        tasks: npt.NDArray[np.uint8],
        execs: npt.NDArray[np.uint8],
        strings: list[bytes],
        is_exact: npt.NDArray[np.uint8],
        digests: list[int],
        *,
        source: int,
        flags: int,
        before_boot_ns: int,
        insert: Callable[[int], int],
        show_life: Callable[[], object],
    ) -> bytearray: ...
    def close_missing(self, tgid: int, start_boot_ns: int, time_boot_ns: int, *, seen: bool = False) -> bool: ...
    def close_all_missing(
        self,
        tgids: npt.NDArray[np.uint32],
        starts: npt.NDArray[np.uint64],
        is_absent: npt.NDArray[np.uint8],
        *,
        time_boot_ns: int,
        close: Callable[[int], bool],
    ) -> bytearray: ...
    def reparent(
        self,
        tgid: int,
        ppid: int,
        time_boot_ns: int,
        *,
        start_boot_ns: int = 0,
        parent_start_boot_ns: int = 0,
    ) -> bool: ...
    heirs_dropped: int
    @property
    def has_heirs(self) -> bool: ...
    def take_heirs(self) -> list[int]: ...
    @property
    def has_wanted(self) -> bool: ...
    def take_wanted(self) -> list[tuple[int, int]]: ...
    def py_root(self, row: int) -> int: ...
    def py_image_at(self, row: int, time_boot_ns: int) -> int: ...
    def py_find(self, tgid: int, start_boot_ns: int) -> int: ...
    def py_digest(self, row: int) -> int: ...
    def py_forget_digest(self, row: int) -> None: ...
    def py_is_awaited(self, tgid: int) -> bool: ...
    def py_is_child_of(self, child: int, parent: int) -> bool: ...
    def py_move(self, row: int, parent: int, time_boot_ns: int) -> bool: ...
