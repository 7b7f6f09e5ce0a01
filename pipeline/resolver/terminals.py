"""Terminals of processes that have no controlling one: what their standard input is, where a setting asks for it.

Follows specification 3.4, SetProcessTTY, for what a running instance follows. Names are `tty`'s.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from pipeline.boot import TICK_NS
from pipeline.resolver.procfs import read_start
from pipeline.resolver.tty import procfs_tty
from pipeline.shm import layout

if TYPE_CHECKING:
    from pipeline.resolver._encode import Encoder
    from pipeline.shm._writer import TableWriter


class TtyFallback:
    """Gives rows without a terminal the one that the process has as descriptor 0. A part of the resolver's duty cycle.

    Args:
        tables, encoder: of this instance; the encoder notes which rows have none.
        proc: where procfs is mounted.
    """

    def __init__(self, tables: TableWriter, encoder: Encoder, proc: str = "/proc") -> None:
        self._tables = tables
        self._encoder = encoder
        self._proc = proc
        encoder.notes_ttyless = True

    def begin(self) -> None:
        """Look at every living process; call when the tables are filled."""
        hot = self._tables.hot_view()[: self._tables.rows_frontier]
        live = (hot["flags"] & layout.ROW_HEAD != 0) & (hot["exit_boot_ns"] == 0)
        for row in np.flatnonzero(live).tolist():
            self._look(row)

    def poll(self) -> None:
        """Look at what was executed or changed since the last call."""
        for row in self._encoder.take_ttyless():
            self._look(row)

    def _look(self, row: int) -> None:
        hot, cold = self._tables.hot_view()[row], self._tables.cold_view()[row]
        tgid = int(hot["tgid"])
        if cold["tty"] or hot["exit_boot_ns"] or self._tables.py_head(tgid) != row:
            return
        name = os.fsencode(procfs_tty(tgid, self._proc))[:15]
        # Asked afterwards: then it was this process' descriptor.
        if not name or read_start(tgid) != int(hot["start_boot_ns"]) // TICK_NS:
            return
        self._tables.py_begin(row)
        cold["tty"] = name
        hot["known"] |= layout.KNOWN_TTY
        self._tables.py_end(row)
