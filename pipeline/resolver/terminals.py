"""Terminals of processes: lost with their session's, and what their standard input is where a setting asks for it.

A terminal belongs to one session. When its leader ends or gives it up, the kernel takes it from every process of the
session at once, and no event tells of the others (`SessionTerminals`); the same when another session takes it by force.
A hangup, by which a leader that goes on living loses it, is told of the leader alone, too.

Source: drivers/tty/tty_jobctrl.c, disassociate_ctty(), session_clear_tty() and tty_signal_session_leader().
`TtyFallback` follows specification 3.4, SetProcessTTY, for what a running instance follows. Names are `tty`'s.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from pipeline import events
from pipeline.boot import TICK_NS
from pipeline.resolver.procfs import read_start
from pipeline.resolver.tty import procfs_tty
from pipeline.shm import layout

if TYPE_CHECKING:
    from pipeline.resolver._apply import Applier
    from pipeline.resolver._encode import Encoder
    from pipeline.resolver.procinfo import ProcInfo
    from pipeline.shm._writer import TableWriter

#: Of a batch with more leaders than this the encoder notes the first ones.
LEADERS_MAX = 1024
#: Processes of other sessions that are looked at, since a leader got a terminal of the same name.
TAKEN_MAX = 64


class Reader(Protocol):
    """Of ``/proc``, or of none (a replay)."""

    def read(self, tgid: int, want: int = ...) -> ProcInfo | None: ...


class SessionTerminals:
    """Takes the terminal from processes whose session has lost it. A part of the resolver's duty cycle.

    Args:
        tables, applier, encoder: of this instance; the encoder notes what became of leaders.
        reader: asked whether who has a terminal of the same name still has it: names count in one devpts only.
    """

    def __init__(self, tables: TableWriter, applier: Applier, encoder: Encoder, reader: Reader) -> None:
        self._tables = tables
        self._applier = applier
        self._encoder = encoder
        self._reader = reader
        #: Sessions that have a terminal: most of the leaders that have none never had one (setsid).
        self._holders: set[int] = set()

    def begin(self) -> None:
        """Learn which sessions have a terminal; call when the tables are filled."""
        frontier = self._tables.rows_frontier
        hot, cold = self._tables.hot_view()[:frontier], self._tables.cold_view()[:frontier]
        leaders = self._with_terminal((hot["tgid"] == cold["sid"]) & (hot["tgid"] != 0))
        self._holders = set(cold["sid"][leaders].tolist())

    def poll(self) -> None:
        """Look at the sessions whose leaders have lost or got a terminal since the last call."""
        lost: dict[int, int] = {}
        got: dict[bytes, tuple[int, int]] = {}
        taken = self._encoder.take_leaders()
        for sid, time_boot_ns, tty in taken:
            if tty:
                got[tty] = sid, time_boot_ns
                self._holders.add(sid)
            elif sid in self._holders or len(taken) == LEADERS_MAX:  # more may have been
                lost[sid] = time_boot_ns
                self._holders.discard(sid)
        if lost:
            sids = self._tables.cold_view()["sid"][: self._tables.rows_frontier]
            for row in self._with_terminal(np.isin(sids, np.fromiter(lost, np.uint32, len(lost)))):
                sid = int(sids[row])
                hot = self._tables.hot_view()[row]
                # setsid, then a new terminal, then a fork, all in one batch: the child has the new one.
                slack_ns = TICK_NS if int(hot["flags"]) & layout.ROW_START_TICKS else 0
                if int(hot["tgid"]) != sid and int(hot["start_boot_ns"]) + slack_ns <= lost[sid]:
                    self._take(row, lost[sid])
        if got:
            names = self._tables.cold_view()["tty"][: self._tables.rows_frontier]
            for row in self._with_terminal(np.isin(names, list(got)))[:TAKEN_MAX]:
                sid, time_boot_ns = got[bytes(names[row])]
                if int(self._tables.cold_view()["sid"][row]) != sid and self._has_lost(row):
                    self._take(row, time_boot_ns)

    def _with_terminal(self, chosen: npt.NDArray[np.bool_]) -> list[int]:
        """Rows among the chosen ones of processes of this host that live and have a terminal."""
        rows = np.flatnonzero(chosen)
        hot, cold = self._tables.hot_view()[rows], self._tables.cold_view()["tty"][rows]
        is_ours = hot["flags"] & (layout.ROW_HEAD | layout.ROW_FOREIGN) == layout.ROW_HEAD
        found: list[int] = rows[is_ours & (hot["exit_boot_ns"] == 0) & (cold != b"")].tolist()
        return found

    def _has_lost(self, row: int) -> bool:
        hot = self._tables.hot_view()[row]
        info = self._reader.read(int(hot["tgid"]), 0)
        return (
            info is not None
            and info.start_ticks == int(hot["start_boot_ns"]) // TICK_NS
            and info.tty != bytes(self._tables.cold_view()["tty"][row])
        )

    def _take(self, row: int, time_boot_ns: int) -> None:
        """As if the kernel had told: a record of that time."""
        hot = self._tables.hot_view()[row]
        head, task = np.zeros(1, events.HEAD), np.zeros(1, events.TASK)
        head["kind"], head["flags"], head["time_boot_ns"] = events.KIND_SID, events.FLAG_PARTIAL, time_boot_ns
        head["tgid"] = head["tid"] = hot["tgid"]
        head["start_boot_ns"] = hot["start_boot_ns"]
        self._applier.apply_records(head, task, known=layout.KNOWN_TTY)
        cold = self._tables.cold_view()[row]
        if cold["tty"]:  # what has been told of it since said nothing of terminals
            self._tables.py_begin(row)
            cold["tty"] = b""
            self._tables.py_end(row)


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
