"""Terminals of processes: lost with their session's, and what their standard input is where a setting asks for it.

A terminal belongs to one session. When its leader ends or gives it up, the kernel takes it from every process of the
session at once, and no event tells of the others (`SessionTerminals`); the same when another session takes it by force.
A hangup, by which a leader that goes on living loses it, is told of the leader alone, too.

Source: drivers/tty/tty_jobctrl.c, disassociate_ctty(), session_clear_tty() and tty_signal_session_leader().
`TtyFallback` follows specification 3.4, SetProcessTTY, for what a running instance follows. Names are `tty`'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.host.alive import watched
from pipeline.host.boot import TICK_NS
from pipeline.procfs.reader import read_start
from pipeline.procfs.tty import procfs_tty
from pipeline.records import kinds as events
from pipeline.shm.layout import tables as layout

if TYPE_CHECKING:
    from pipeline.procfs.info import ProcInfo
    from pipeline.resolver.apply._applier import Applier
    from pipeline.shm.writer._writer import TableWriter

#: Of a batch with more leaders than this the follow-ups hold the first ones.
LEADERS_MAX = 1024
#: Of /proc/PID/stat, behind the name: the controlling terminal, 0: none (proc_pid_stat(5)).
_TTY_NR = 4
#: Processes of other sessions that are looked at, since a leader got a terminal of the same name.
TAKEN_MAX = 64


class Reader(Protocol):
    """Of ``/proc``, or of none (a replay)."""

    def read(self, tgid: int, want: int = ...) -> ProcInfo | None: ...


class SessionTerminals:
    """Takes the terminal from processes whose session has lost it. A part of the resolver's duty cycle.

    Args:
        tables, applier: of this instance; the applier's follow-ups say what became of leaders.
        reader: asked whether who has a terminal of the same name still has it: names count in one devpts only.
        fallback: what it gives is nobody's controlling terminal; None: it is not asked for.
    """

    def __init__(
        self, tables: TableWriter, applier: Applier, reader: Reader, fallback: TtyFallback | None = None
    ) -> None:
        self._tables = tables
        self._applier = applier
        self._reader = reader
        self._fallback = fallback
        #: Sessions that have a terminal: most of the leaders that have none never had one (setsid).
        self._holders: set[int] = set()
        applier.followups.notes_leaders = True

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
        taken = self._applier.followups.take_leaders()
        for sid, time_boot_ns, tty in taken:
            if self._fallback is not None and self._fallback.has_told(sid, time_boot_ns, tty):
                continue
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
        return found if self._fallback is None else [row for row in found if not self._fallback.gave(row)]

    def _has_lost(self, row: int) -> bool:
        hot = self._tables.hot_view()[row]
        info = self._reader.read(int(hot["tgid"]), 0)
        return (
            info is not None
            and info.start_ticks == int(hot["start_boot_ns"]) // TICK_NS
            and info.tty != bytes(self._tables.cold_view()["tty"][row])
        )

    def _take(self, row: int, time_boot_ns: int) -> None:
        # The row first: what has been told of it since said nothing of terminals, and the event shows the row.
        _set(self._tables, row, b"")
        _tell(self._tables, self._applier, row, time_boot_ns)


class TtyFallback:
    """Gives rows without a terminal the one that the process has as descriptor 0. A part of the resolver's duty cycle.

    The reference looks before it tells anybody of an exec. Here subscribers get a `sid` event afterwards, as for any
    change of the terminal.

    Args:
        tables, applier: of this instance; the applier's follow-ups say which rows have none.
        watermark: up to where events are applied, in boot ns: when it is told that there is one.
        proc: where procfs is mounted.
    """

    def __init__(
        self, tables: TableWriter, applier: Applier, watermark: Callable[[], int], proc: str = "/proc"
    ) -> None:
        self._tables = tables
        self._applier = applier
        self._watermark = watermark
        self._proc = proc
        self._told: set[tuple[int, int, bytes]] = set()
        applier.followups.notes_ttyless = True

    def begin(self) -> None:
        """Look at every living process; call when the tables are filled."""
        hot = self._tables.hot_view()[: self._tables.rows_frontier]
        live = (hot["flags"] & layout.ROW_HEAD != 0) & (hot["exit_boot_ns"] == 0)
        for row in watched(np.flatnonzero(live).tolist(), self._tables.py_show_life):
            if name := self._find(row):
                _set(self._tables, row, name)
                self._tables.py_mark_tty_given(row)
            elif self._is_given(row):
                self._tables.py_mark_tty_given(row)  # by a predecessor, whose marks went with it

    def poll(self) -> None:
        """Look at what was executed or changed since the last call; after `SessionTerminals` has."""
        self._told.clear()
        for row in self._applier.followups.take_ttyless():
            if name := self._find(row):
                self._give_all(row, name)

    def gave(self, row: int) -> bool:
        """Whether the terminal of a row is from here."""
        return self._tables.py_is_tty_given(row)

    def has_told(self, sid: int, time_boot_ns: int, tty: bytes) -> bool:
        """Whether that a session's leader got a terminal was told from here, since it was last looked."""
        return (sid, time_boot_ns, tty) in self._told

    def _find(self, row: int) -> bytes:
        if not self._lacks(row):
            return b""
        hot = self._tables.hot_view()[row]
        tgid = int(hot["tgid"])
        name = os.fsencode(procfs_tty(tgid, self._proc))[:15]
        # Asked afterwards: then it was this process' descriptor.
        return name if name and read_start(tgid) == int(hot["start_boot_ns"]) // TICK_NS else b""

    def _is_given(self, row: int) -> bool:
        """Whether the row has a terminal, and the kernel says that the process has none."""
        hot = self._tables.hot_view()[row]
        if not self._tables.cold_view()["tty"][row]:
            return False
        tgid = int(hot["tgid"])
        try:
            fields = Path(self._proc, str(tgid), "stat").read_bytes().rpartition(b") ")[2].split()
        except OSError:
            return False
        return fields[_TTY_NR] == b"0" and read_start(tgid) == int(hot["start_boot_ns"]) // TICK_NS

    def _lacks(self, row: int) -> bool:
        hot = self._tables.hot_view()[row]
        has_one = hot["exit_boot_ns"] or self._tables.cold_view()["tty"][row]
        return not has_one and self._tables.py_head(int(hot["tgid"])) == row

    def _give_all(self, row: int, name: bytes) -> None:
        """Also to those that it has forked and that have executed nothing since: they have its descriptors.

        Who is forked later gets it from the applier, which knows by the mark that no record takes it away again.
        """
        todo = [row]
        while todo:
            one = todo.pop()
            tgid, time_boot_ns = int(self._tables.hot_view()["tgid"][one]), self._watermark()
            _set(self._tables, one, name)
            self._told.add((tgid, time_boot_ns, name))
            _tell(self._tables, self._applier, one, time_boot_ns)
            self._tables.py_mark_tty_given(one)  # last: the event tells of it as of a name from the kernel
            for child in map(self._tables.py_head, self._tables.py_children(tgid)):
                if child and self._lacks(child) and not self._tables.hot_view()["flags"][child] & layout.ROW_IS_EXEC:
                    todo.append(child)


def _set(tables: TableWriter, row: int, tty: bytes) -> None:
    tables.py_begin(row)
    tables.cold_view()["tty"][row] = tty
    tables.hot_view()["known"][row] |= layout.KNOWN_TTY
    tables.py_end(row)


def _tell(tables: TableWriter, applier: Applier, row: int, time_boot_ns: int) -> None:
    """Tell of the terminal that a row has as if the kernel had: a record of that time."""
    hot = tables.hot_view()[row]
    head, task = np.zeros(1, events.HEAD), np.zeros(1, events.TASK)
    head["kind"], head["flags"], head["time_boot_ns"] = events.KIND_SID, events.FLAG_PARTIAL, time_boot_ns
    head["tgid"] = head["tid"] = hot["tgid"]
    head["start_boot_ns"] = hot["start_boot_ns"]
    task["tty"] = tables.cold_view()["tty"][row]
    applier.apply_records(head, task, known=layout.KNOWN_TTY)
