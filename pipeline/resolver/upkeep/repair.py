"""Bring the tables to what the live processes are: the snapshot at the start, and repairs afterwards.

A repair never trusts a single look. It looks at the live processes (T1 to T2), waits until the watermark has passed T2,
so that every event of that time is applied, and only then compares. Facts that are older than an event about the same
process change nothing (apply keeps the time of the newest facts). A process that is in the tables and was not seen is
looked up once more before it is closed. Looking is in survey.py, what a fact does to a row in _applier.pyx.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from pipeline.host.alive import watched
from pipeline.host.boot import TICK_NS, is_same_start
from pipeline.procfs.info import proc_knows
from pipeline.procfs.reader import WANT_DEFAULT, WANT_ENVS, ProcReader
from pipeline.procfs.survey import Survey, TaskIterator, survey
from pipeline.records.kinds import FLAG_PARTIAL
from pipeline.resolver.api.stats import DEQUEUE_EXITED, DO_EXIT, KERNEL_PPID
from pipeline.resolver.apply._applier import ADDED, CHANGED, SAME, Applier
from pipeline.secrets.conceal import Concealer
from pipeline.shm.layout import tables as layout
from pipeline.shm.writer._writer import TableWriter

#: Processes asked about at once because an event named them and the tables have not got them.
WANTED_MAX = 256
#: A process that was asked about is not asked about again for so long.
WANTED_AGAIN_NS = 1_000_000_000


def end_torn(tables: TableWriter, rows: list[int]) -> None:
    """End the rows that a killed writer left in the middle of a change and that nothing has changed since."""
    hot = tables.hot_view()
    for row in rows:
        if int(hot["row_seq"][row]) & 1 and int(hot["flags"][row]):
            hot["flags"][row] |= layout.ROW_GAP
            tables.py_end(row)
        tables.count("takeover_rows_repaired")


class Repairer:
    """Compares and corrects; belongs to the resolver's duty cycle.

    Args:
        tables, applier: the tables and what writes them.
        reader: of ``/proc``.
        iterate: the task iterator, None where there is none.
        now_boot_ns: the boot clock.
        watermark: how far events are applied, boot ns.
        concealer: hides what may not be stored.
        learn_cgroup: told (cgroup id, path) of every cgroup that a look finds.
        capture_boot_ns: when the capture began; what is older is marked as from before it.
        close: closes a process (pid, start, time of the look) whose end was lost; returns whether it did.
        fill_maps: tells the kernel's maps of a process (HEAD, TASK, EXEC, path) that they may not know; returns the
            cookie that it got there, 0 if none.
        exec_time: returns when an exec made the image that has a cookie in the kernel's maps, boot ns; 0: unknown, or
            no exec did.
        with_envs: whether environments are captured.

    Attributes:
        active: a repair is under way.
    """

    def __init__(
        self,
        tables: TableWriter,
        applier: Applier,
        reader: ProcReader,
        iterate: TaskIterator | None,
        *,
        now_boot_ns: Callable[[], int],
        watermark: Callable[[], int],
        concealer: Concealer,
        learn_cgroup: Callable[[int, bytes], None],
        capture_boot_ns: int,
        close: Callable[[int, int, int], bool],
        fill_maps: Callable[[np.void, np.void, np.void, bytes], int],
        exec_time: Callable[[int], int] = lambda cookie: 0,
        with_envs: bool = False,
    ) -> None:
        self._tables = tables
        self._applier = applier
        self._reader = reader
        self._iterate = iterate
        self._now_boot_ns = now_boot_ns
        self._watermark = watermark
        self._concealer = concealer
        self._learn_cgroup = learn_cgroup
        self._capture_boot_ns = capture_boot_ns
        self._close = close
        self._fill_maps = fill_maps
        self._exec_time = exec_time
        self._want = WANT_DEFAULT | (WANT_ENVS if with_envs else 0)
        self._survey: Survey | None = None
        self._wanted: Survey | None = None
        self._asked: dict[int, int] = {}

    @property
    def active(self) -> bool:
        return self._survey is not None or self._wanted is not None

    # -- snapshot ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> int:
        """Enter every live process into empty tables; returns how many. Events since the capture began come after."""
        look = self._look()
        for i in self._watched(range(len(look))):
            self._insert(look, i, layout.SOURCE_SNAPSHOT, 0)
        # Their parents were entered first, but for those that the iterator and /proc saw in another order.
        self._applier.take_wanted()
        return len(look)

    # -- repair --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look at the live processes; the comparison follows in `poll`."""
        self._survey = self._look()

    def poll(self, now: int) -> int:
        """Compare what was looked at if the watermark has passed it, and ask about what events wanted."""
        done = 0
        if self._survey is not None and self._watermark() > self._survey.end_boot_ns:
            look, self._survey = self._survey, None
            done += self._compare(look)
        if self._wanted is not None and self._watermark() > self._wanted.end_boot_ns:
            look, self._wanted = self._wanted, None
            # Asked about are children whose parent's exit did not say who adopts them, and who is waited for.
            done += self._enter(look, 0, layout.SOURCE_PROCFS, DO_EXIT)
        if self._wanted is None:
            self._ask(now)
        return done

    def mend(self, rows: list[int]) -> None:
        """Set right the rows that a killed writer left in the middle of a change; call when its events are applied."""
        hot = self._tables.hot_view()
        pids = frozenset(int(hot["tgid"][row]) for row in rows)
        if not pids:
            return
        look = self._look(pids)
        for i in self._watched(range(len(look))):
            self._insert(look, i, layout.SOURCE_PROCFS, layout.ROW_GAP)
        end_torn(self._tables, rows)

    def _ask(self, now: int) -> None:
        wanted = self._applier.take_wanted()
        if not wanted:
            return
        if len(self._asked) > 4 * WANTED_MAX:
            self._asked = {pid: at for pid, at in self._asked.items() if now - at < WANTED_AGAIN_NS}
        pids = []
        for tgid, _ in wanted[:WANTED_MAX]:
            if now - self._asked.get(tgid, -WANTED_AGAIN_NS) >= WANTED_AGAIN_NS:
                self._asked[tgid] = now
                pids.append(tgid)
        if pids:
            self._tables.count("procfs_reads", len(pids))
            look = self._look(frozenset(pids))
            self._tables.count("procfs_failed", len(set(pids)) - len(look))
            self._wanted = look if len(look) else None

    def _look(self, only: frozenset[int] | None = None) -> Survey:
        look = survey(
            self._reader, self._iterate if only is None else None, self._now_boot_ns, self._want, only,
            show_life=self._tables.py_show_life,
        )  # fmt: skip
        self._concealer.survey(look, self._tables.py_show_life)
        for cgroup_id, path in self._watched(look.cgroup_paths.items()):
            self._learn_cgroup(cgroup_id, path)
        # The iterator does so by itself.
        for i in self._watched(np.flatnonzero(look.head["flags"] & FLAG_PARTIAL).tolist()):
            path = look.strings[i][: int(look.exec["path_bytes"][i])]
            look.task["cookie"][i] = self._fill_maps(look.head[i], look.task[i], look.exec[i], path)
        return look

    def _watched[T](self, items: Iterable[T]) -> Iterator[T]:
        return watched(items, self._tables.py_show_life)

    def _insert(self, look: Survey, i: int, source: int, flags: int) -> int:
        head = look.head[i]
        if int(head["start_boot_ns"]) < self._capture_boot_ns:
            flags |= layout.ROW_BEFORE_CAPTURE
        known = None
        if int(head["flags"]) & FLAG_PARTIAL:
            row = self._tables.py_head(int(head["tgid"]))
            known = proc_knows(look.task[i], int(self._tables.hot_view()["known"][row]) if row else 0)
        result: int = self._applier.insert_snapshot(
            head.tobytes(),
            look.task[i].tobytes(),
            look.exec[i].tobytes(),
            look.strings[i],
            source=source,
            known=known,
            start_ticks=not look.is_exact[i],
            flags=flags,
            exec_boot_ns=self._unseen_exec(head, int(look.task[i]["cookie"])),
            digest=look.digests[i],
        )
        return result

    def _unseen_exec(self, head: np.void, cookie: int) -> int:
        """When an exec made the image with this cookie, if the tables have another image of the process; else 0."""
        row = self._tables.py_head(int(head["tgid"])) if cookie else 0
        if not row or int(self._tables.cold_view()["cookie"][row]) in (0, cookie):
            return 0
        if not is_same_start(int(self._tables.hot_view()["start_boot_ns"][row]), int(head["start_boot_ns"]) // TICK_NS):
            return 0
        return self._exec_time(cookie)

    def _enter(self, look: Survey, flags: int, source: int, callpath: str) -> int:
        """Enter and correct what was looked at; processes that get another parent by it count under `callpath`."""
        moved = self._moved()
        results = [self._insert(look, i, source, flags) for i in self._watched(range(len(look)))]
        self._tables.count(layout.counter_of("reparent_success", callpath), self._moved() - moved)
        self._tables.count("repair_added", results.count(ADDED))
        self._tables.count("repair_changed", results.count(CHANGED))
        return len(results) - results.count(SAME)

    def _moved(self) -> int:
        """Moves so far that the applier did not count under a callpath: those that no event told."""
        counted = (layout.counter_of("reparent_success", callpath) for callpath in (DO_EXIT, KERNEL_PPID))
        return int(self._tables.counter("reparents")) - sum(int(self._tables.counter(name)) for name in counted)

    def _compare(self, look: Survey) -> int:
        self._tables.count("repairs")
        done = self._enter(look, layout.ROW_GAP, layout.SOURCE_PROCFS, DEQUEUE_EXITED)
        closed = 0
        for tgid, start in self._watched(self._unseen(look)):
            if not self._lives(tgid, start):
                closed += bool(self._close(tgid, start, look.end_boot_ns))
        self._tables.count("repair_closed", closed)
        return done + closed

    def _unseen(self, look: Survey) -> list[tuple[int, int]]:
        """(pid, start) of the processes that live by the tables, and that a look at all of them did not see."""
        hot = self._tables.hot_view()[: self._tables.rows_frontier]
        # A tracer's processes are not among those that were looked at.
        is_ours = hot["flags"] & (layout.ROW_HEAD | layout.ROW_FOREIGN) == layout.ROW_HEAD
        is_live = is_ours & (hot["exit_boot_ns"] == 0)
        live = np.flatnonzero(is_live & (hot["start_boot_ns"] < look.begin_boot_ns))
        tgids, starts = hot["tgid"][live], hot["start_boot_ns"][live]
        is_seen = np.isin(_identities(tgids, starts), _identities(look.head["tgid"], look.head["start_boot_ns"]))
        return list(zip(tgids[~is_seen].tolist(), starts[~is_seen].tolist(), strict=True))

    def _lives(self, tgid: int, start_boot_ns: int) -> bool:
        info = self._reader.read(tgid, 0)
        return info is not None and info.start_ticks == start_boot_ns // TICK_NS and not info.is_zombie


def _identities(tgids: np.ndarray[Any, Any], starts_boot_ns: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A number for each (pid, tick of its start); pids have 22 bits, and ticks of 10 ms the rest for 1,394 years."""
    ticks = starts_boot_ns.astype(np.uint64) // np.uint64(TICK_NS)
    numbers: np.ndarray[Any, Any] = ticks << np.uint64(22) | tgids.astype(np.uint64)
    return numbers
