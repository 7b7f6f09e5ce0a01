"""Enter one process that was read from ``/proc`` or by the task iterator into the tables.

Look-ups, the snapshot and the repairs all come here. It does not read anything: see `pipeline.procfs.survey` and
`proc_entries`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.host.boot import is_same_start, ticks_of
from pipeline.procfs.info import proc_knows
from pipeline.procfs.survey import LiveProcess, Survey
from pipeline.records.declared import FLAG_PARTIAL
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries.kernel_maps import KernelMaps
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter


class ProcRows:
    """Enters live processes into the tables.

    Args:
        tables, applier: of the instance.
        maps: the kernel's; they know when an exec happened that no event reported.
        capture_boot_ns: when the capture began; an older process is marked as from before it. 0: there is no capture.
    """

    def __init__(self, tables: TableWriter, applier: Applier, maps: KernelMaps, capture_boot_ns: int) -> None:
        self._tables = tables
        self._applier = applier
        self._maps = maps
        self._capture_boot_ns = capture_boot_ns

    def insert_all(self, found: Survey, source: int, flags: int, show_life: Callable[[], object]) -> bytearray:
        """Enter, complete or correct every process of a survey, as `insert` does.

        Args:
            found: the survey, with its digests.
            source: SOURCE_SNAPSHOT or SOURCE_PROCFS.
            flags: ROW_* flags of rows that are added.
            show_life: is called for each process.

        Returns:
            The result of each process, as of `insert`.
        """
        return self._applier.insert_survey(
            found.header.view(np.uint8), found.task.view(np.uint8), found.exec.view(np.uint8), found.strings,
            found.is_exact.view(np.uint8), found.digests, source=source, flags=flags,
            before_boot_ns=self._capture_boot_ns,
            insert=lambda i: self.insert(found.process(i), source, flags), show_life=show_life,
        )  # fmt: skip

    def insert(self, process: LiveProcess, source: int, flags: int = 0) -> int:
        """Enter, complete or correct a process.

        Args:
            process: what was read, and when. An event of a later time wins.
            source: SOURCE_SNAPSHOT or SOURCE_PROCFS.
            flags: ROW_* flags of a row that is added.

        Returns:
            SAME, ADDED, COMPLETED or CHANGED, as of `Applier.insert_from_proc`.
        """
        header = process.header
        if int(header["start_boot_ns"]) < self._capture_boot_ns:
            flags |= layout.ROW_BEFORE_CAPTURE
        row = self._tables.py_head(int(header["tgid"]))
        known = None
        if int(header["flags"]) & FLAG_PARTIAL:
            known = proc_knows(process.task, int(self._tables.hot_view()[row]["known"]) if row else 0)
        return self._applier.insert_from_proc(
            header.tobytes(), process.task.tobytes(), process.exec.tobytes(), process.strings,
            source=source, known=known, start_ticks=not process.is_exact, flags=flags,
            exec_boot_ns=self._unseen_exec(process, row), digest=process.digest,
        )  # fmt: skip

    def _unseen_exec(self, process: LiveProcess, row: int) -> int:
        """Return when an exec created the image with this cookie, if the tables have another image; else 0."""
        cookie = int(process.task["cookie"])
        if not row or not cookie or int(self._tables.cold_view()["cookie"][row]) in (0, cookie):
            return 0
        start = int(self._tables.hot_view()["start_boot_ns"][row])
        if not is_same_start(start, ticks_of(int(process.header["start_boot_ns"]))):
            return 0
        return self._maps.exec_time(cookie)
