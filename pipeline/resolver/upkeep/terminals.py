"""Terminals of processes: remove those that a session has lost, and read missing ones from descriptor 0 (a setting).

A terminal belongs to one session. When the session leader ends or releases the terminal, the kernel removes it from
every process of the session at once, but an event reports only the leader. The same holds when another session steals
the terminal, and for a hangup, after which the leader lives on. `SessionTerminals` handles the other processes.

The event of each process says as much about the time as the leader's: that it is exact, or between which times the
terminal was lost (FLAG_SAMPLED).

Source: drivers/tty/tty_jobctrl.c, disassociate_ctty(), session_clear_tty() and tty_signal_session_leader().
`TtyFallback` follows specification 3.4, SetProcessTTY. Names are made by `pipeline.procfs.tty`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from pipeline import proc_text
from pipeline.host.alive import watched
from pipeline.host.boot import TICK_NS
from pipeline.procfs.membership import is_in
from pipeline.procfs.proc_reader import read_start
from pipeline.procfs.tty import procfs_tty
from pipeline.records import declared, dtypes
from pipeline.records.limits import TTY_MAX
from pipeline.shm.layout import layout

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.procfs.info import ProcInfo
    from pipeline.resolver.apply._applier import Applier
    from pipeline.shm.writer._writer import TableWriter

#: The follow-ups hold this many leaders of one batch; the others are dropped.
LEADERS_MAX = 1024
#: Processes of other sessions that are checked after a leader got a terminal of the same name.
TAKEN_MAX = 64


class _When(NamedTuple):
    """When a leader lost or got a terminal."""

    time_boot_ns: int
    after_boot_ns: int | None  #: None: exactly at `time_boot_ns`; otherwise between the two, and 0 is unknown


class Reader(Protocol):
    """A reader of ``/proc``, or of nothing (in a replay)."""

    def read(self, tgid: int, want: int = ...) -> ProcInfo | None:
        """Read one process from `/proc`; None: it is gone."""
        ...


class SessionTerminals:
    """Removes the terminal from the processes of a session that has lost it. A part of the resolver's duty cycle.

    Args:
        tables, applier: of this instance; the applier's follow-ups list the leaders with a changed terminal.
        reader: shows whether another process with a terminal of the same name still has it, because a name is unique in
            one devpts only.
        fallback: terminals that it found are not controlling terminals; None: there is no fallback.
    """

    def __init__(
        self, tables: TableWriter, applier: Applier, reader: Reader, fallback: TtyFallback | None = None
    ) -> None:
        self._tables = tables
        self._applier = applier
        self._reader = reader
        self._fallback = fallback
        #: Sessions with a terminal. Most leaders without one never had one (setsid).
        self._holders: set[int] = set()
        applier.followups.notes_leaders = True

    def begin(self) -> None:
        """Find the sessions with a terminal; call it when the tables are filled."""
        leaders = self._applier.followups.live_leaders()
        if self._fallback is not None:
            leaders = [row for row in leaders if not self._fallback.has_set(row)]
        self._holders = set(self._tables.cold_view()["sid"][leaders].tolist())

    def do_work(self) -> None:
        """Handle the sessions that have lost or got a terminal since the last call."""
        lost, got = self._changes()
        if lost:
            self._remove_from_sessions(lost)
        if got:
            self._remove_stolen(got)

    def _changes(self) -> tuple[dict[int, _When], dict[bytes, tuple[int, _When]]]:
        """Return {session: when} of lost terminals, and {terminal: (session, when)} of new ones."""
        lost: dict[int, _When] = {}
        got: dict[bytes, tuple[int, _When]] = {}
        taken = self._applier.followups.take_leaders()
        for sid, time_boot_ns, after_boot_ns, tty in taken:
            if self._fallback is not None and self._fallback.has_published(sid, time_boot_ns, tty):
                continue
            when = _When(time_boot_ns, after_boot_ns)
            if tty:
                got[tty] = sid, when
                self._holders.add(sid)
            elif sid in self._holders or len(taken) == LEADERS_MAX:  # some may have been dropped
                lost[sid] = when
                self._holders.discard(sid)
        return lost, got

    def _remove_from_sessions(self, lost: dict[int, _When]) -> None:
        """Remove the terminal from the processes of sessions that have lost it."""
        rows, sids = self._tables.live_heads(), self._tables.cold_view()["sid"]
        for row in self._with_terminal(rows[is_in(sids[rows], np.fromiter(lost, np.uint32, len(lost)))]):
            sid = int(sids[row])
            hot = self._tables.hot_view()[row]
            # After setsid, a new terminal and a fork in one batch, the child has the new terminal.
            slack_ns = TICK_NS if int(hot["flags"]) & layout.ROW_START_TICKS else 0
            if int(hot["tgid"]) != sid and int(hot["start_boot_ns"]) + slack_ns <= lost[sid].time_boot_ns:
                self._remove(row, lost[sid])

    def _remove_stolen(self, got: dict[bytes, tuple[int, _When]]) -> None:
        """Remove a terminal from the processes of other sessions that had it before."""
        rows, names = self._tables.live_heads(), self._tables.cold_view()["tty"]
        for row in self._with_terminal(rows[is_in(names[rows], np.array([*got]))])[:TAKEN_MAX]:
            sid, when = got[bytes(names[row])]
            if int(self._tables.cold_view()["sid"][row]) != sid and self._has_lost(row):
                # The session can have lost it before the other one began.
                self._remove(row, when if when.after_boot_ns is None else when._replace(after_boot_ns=0))

    def _with_terminal(self, rows: npt.NDArray[np.uint32]) -> list[int]:
        """Return the rows, of newest images of live processes, that are of this host and have a terminal."""
        hot, cold = self._tables.hot_view()[rows], self._tables.cold_view()["tty"][rows]
        is_ours = hot["flags"] & layout.ROW_FOREIGN == 0
        found: list[int] = rows[is_ours & (hot["exit_boot_ns"] == 0) & (cold != b"")].tolist()
        return found if self._fallback is None else [row for row in found if not self._fallback.has_set(row)]

    def _has_lost(self, row: int) -> bool:
        hot = self._tables.hot_view()[row]
        info = self._reader.read(int(hot["tgid"]), 0)
        return (
            info is not None
            and info.start_ticks == int(hot["start_boot_ns"]) // TICK_NS
            and info.tty != bytes(self._tables.cold_view()["tty"][row])
        )

    def _remove(self, row: int, when: _When) -> None:
        hot = self._tables.hot_view()[row]
        tgid, after_boot_ns = int(hot["tgid"]), when.after_boot_ns
        if after_boot_ns is not None:
            after_boot_ns = max(after_boot_ns, int(hot["start_boot_ns"]))  # it began with the terminal
        # The row first: the event shows the row, and younger records have not named a terminal.
        _set(self._tables, row, b"")
        self._applier.note_tty_lost(tgid, False)  # this one is news
        _publish(self._tables, self._applier, row, _When(when.time_boot_ns, after_boot_ns))
        self._applier.note_tty_lost(tgid, True)


class TtyFallback:
    """Sets the terminal of rows without one to the descriptor 0 of the process. A part of the resolver's duty cycle.

    The reference does that before it reports an exec. Here subscribers get a `sid` event afterwards, as for any change
    of the terminal. It is not known since when the process has the descriptor, so the event has the mark of a change
    that a comparison found. It has no limits: the descriptor is read after the time of the event, which must not be
    later than that of an event that is still to be applied.

    Args:
        tables, applier: of this instance; the applier's follow-ups list the rows without a terminal.
        watermark: up to when events are applied, in boot ns; it is the time of the `sid` event.
        proc: where procfs is mounted.
    """

    def __init__(
        self, tables: TableWriter, applier: Applier, watermark: Callable[[], int], proc: str = "/proc"
    ) -> None:
        self._tables = tables
        self._applier = applier
        self._watermark = watermark
        self._proc = proc
        self._published: set[tuple[int, int, bytes]] = set()
        applier.followups.notes_ttyless = True

    def begin(self) -> None:
        """Read the terminal of every live process; call it when the tables are filled."""
        for row in watched(self._tables.live_heads().tolist(), self._tables.py_show_life):
            if name := self._find(row):
                _set(self._tables, row, name)
                self._tables.py_note_tty_given(row)
            elif self._was_set_by_predecessor(row):
                self._tables.py_note_tty_given(row)  # set by a predecessor, which had noted it in its own memory

    def do_work(self) -> None:
        """Handle the processes that executed or changed since the last call. Call `SessionTerminals.do_work` first."""
        self._published.clear()
        for row in self._applier.followups.take_ttyless():
            if name := self._find(row):
                self._set_all(row, name)

    def has_set(self, row: int) -> bool:
        """Whether the terminal of a row was set here."""
        return self._tables.py_is_tty_given(row)

    def has_published(self, sid: int, time_boot_ns: int, tty: bytes) -> bool:
        """Whether the event by which a session leader got a terminal was published here, since the last `do_work`."""
        return (sid, time_boot_ns, tty) in self._published

    def _find(self, row: int) -> bytes:
        if not self._lacks(row):
            return b""
        hot = self._tables.hot_view()[row]
        tgid = int(hot["tgid"])
        name = os.fsencode(procfs_tty(tgid, self._proc))[:TTY_MAX]
        # The start is read afterwards, which proves that the descriptor belonged to this process.
        return name if name and read_start(tgid) == int(hot["start_boot_ns"]) // TICK_NS else b""

    def _was_set_by_predecessor(self, row: int) -> bool:
        """Whether the row has a terminal although the kernel shows none for the process."""
        hot = self._tables.hot_view()[row]
        if not self._tables.cold_view()["tty"][row]:
            return False
        tgid = int(hot["tgid"])
        try:
            fields = proc_text.stat_fields(Path(self._proc, str(tgid), "stat").read_bytes())
        except OSError:
            return False
        return fields[proc_text.TTY_NR] == b"0" and read_start(tgid) == int(hot["start_boot_ns"]) // TICK_NS

    def _lacks(self, row: int) -> bool:
        hot = self._tables.hot_view()[row]
        has_one = hot["exit_boot_ns"] or self._tables.cold_view()["tty"][row]
        return not has_one and self._tables.py_head(int(hot["tgid"])) == row

    def _set_all(self, row: int, name: bytes) -> None:
        """Set a terminal, also for forked processes without an exec, because they have the same descriptors.

        The applier copies it to later forks; the note shows the applier that no record removes it again.
        """
        todo = [row]
        while todo:
            one = todo.pop()
            tgid, time_boot_ns = int(self._tables.hot_view()["tgid"][one]), self._watermark()
            _set(self._tables, one, name)
            self._published.add((tgid, time_boot_ns, name))
            _publish(self._tables, self._applier, one, _When(time_boot_ns, 0))
            self._tables.py_note_tty_given(one)  # last: for the event, the name is like one from the kernel
            for child in map(self._tables.py_head, self._tables.py_children(tgid)):
                if child and self._lacks(child) and not self._tables.hot_view()["flags"][child] & layout.ROW_IS_EXEC:
                    todo.append(child)


def _set(tables: TableWriter, row: int, tty: bytes) -> None:
    tables.py_begin(row)
    tables.cold_view()["tty"][row] = tty
    tables.hot_view()["known"][row] |= layout.KNOWN_TTY
    tables.py_end(row)


def _publish(tables: TableWriter, applier: Applier, row: int, when: _When) -> None:
    """Publish the terminal of a row like a change in the kernel, by applying a record of that time."""
    hot = tables.hot_view()[row]
    header, task = np.zeros(1, dtypes.HEADER), np.zeros(1, dtypes.TASK)
    header["kind"], header["time_boot_ns"] = declared.KIND_SID, when.time_boot_ns
    header["tgid"] = header["tid"] = hot["tgid"]
    header["start_boot_ns"] = hot["start_boot_ns"]
    task["tty"] = tables.cold_view()["tty"][row]
    sampled = np.zeros(1 if when.after_boot_ns else 0, dtypes.SAMPLED)
    sampled["changed_after_boot_ns"] = when.after_boot_ns or 0
    header["flags"] = declared.FLAG_PARTIAL | (0 if when.after_boot_ns is None else declared.FLAG_SAMPLED)
    header["var_bytes"] = sampled.nbytes
    applier.apply_records(header, task, strings=sampled.tobytes(), known=layout.KNOWN_TTY)
