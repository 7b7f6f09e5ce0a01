"""Make the tables agree with the live processes: the snapshot at the start, and repairs afterwards.

A repair never trusts a single survey. It surveys the live processes (T1 to T2), waits until the watermark has passed
T2, so that every event of that time has been applied, and only then compares. A fact that is older than an event about
the same process changes nothing (apply stores the time of the newest facts). A process of the tables that the survey
did not find is read once more before it is closed.

Bounds: the duty cycle starts a repair at most every `repair.min_interval_ms`. Processes that events named are read at
most WANTED_MAX at once, every WANTED_PAUSE_NS, and the same one not again within WANTED_AGAIN_NS.

The survey is in procfs/survey.py, its insertion in api/proc_rows.py, closing in api/flushing.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.host.alive import watched
from pipeline.host.boot import TICK_NS
from pipeline.host.rate_limiter import RateLimiter
from pipeline.procfs.membership import is_in
from pipeline.procfs.proc_reader import WANT_DEFAULT, WANT_ENVS, ProcReader
from pipeline.procfs.survey import Survey, TaskIterator, survey
from pipeline.records.declared import FLAG_PARTIAL
from pipeline.resolver.api.proc_rows import ProcRows
from pipeline.resolver.api.stats import DEQUEUE_EXITED, DO_EXIT, KERNEL_PPID
from pipeline.resolver.apply._applier import ADDED, CHANGED, SAME, Applier
from pipeline.secrets.conceal import Concealer
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter

if TYPE_CHECKING:
    import numpy.typing as npt

_T = TypeVar("_T")

#: Processes read at once because an event named them and the tables do not have them. Others wait for the next time.
WANTED_MAX = 256
#: This many of them can wait. Further ones are forgotten until a repair finds them.
WANTED_WAITING_MAX = 4 * WANTED_MAX
#: Shortest time between two such readings.
WANTED_PAUSE_NS = 450_000_000
#: Such a process is read at most once in this time.
WANTED_AGAIN_NS = 1_000_000_000
#: A time that does not come.
NEVER_NS = 1 << 62


def end_torn(tables: TableWriter, rows: list[int]) -> None:
    """Mark the rows as complete that a killed writer left in the middle of a change and nothing has changed since."""
    hot = tables.hot_view()
    for row in rows:
        if int(hot["row_seq"][row]) & 1 and int(hot["flags"][row]):
            hot["flags"][row] |= layout.ROW_GAP
            tables.py_end(row)
        tables.count("takeover_rows_repaired")


class Repairer:
    """Compares the tables with the live processes, and corrects them. A part of the resolver's duty cycle.

    Args:
        tables, applier: the tables and what writes them.
        reader: of ``/proc``.
        iterate: the task iterator; None: there is none.
        now_boot_ns: the boot clock.
        watermark: the time up to which events have been applied, boot ns.
        concealer: hides what may not be stored.
        learn_cgroups: is called with (cgroup id, path) of all cgroups that a survey finds.
        rows: enters processes into the tables.
        close: removes processes (pids, starts, whether ``/proc`` has none of the pid, end of the survey) that ``/proc``
            does not show as alive; returns how many it removed.
        fill_maps: stores a process (HEADER, TASK, EXEC, path) in the kernel's maps, unless they have it; returns its
            cookie there, 0 if it has none.
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
        learn_cgroups: Callable[[Iterable[tuple[int, bytes]]], None],
        rows: ProcRows,
        close: Callable[[npt.NDArray[np.uint32], npt.NDArray[np.uint64], npt.NDArray[np.bool_], int], int],
        fill_maps: Callable[[np.void, np.void, np.void, bytes], int],
        with_envs: bool = False,
    ) -> None:
        self._tables = tables
        self._applier = applier
        self._reader = reader
        self._iterate = iterate
        self._now_boot_ns = now_boot_ns
        self._watermark = watermark
        self._concealer = concealer
        self._learn_cgroups = learn_cgroups
        self._rows = rows
        self._close = close
        self._fill_maps = fill_maps
        self._want = WANT_DEFAULT | (WANT_ENVS if with_envs else 0)
        self._snapshot: Survey | None = None
        self._survey: Survey | None = None
        self._wanted: Survey | None = None
        self._waiting: dict[int, None] = {}  # processes to read, oldest first
        self._wanted_due_ns = 0
        self._limiter: RateLimiter[int] = RateLimiter(WANTED_WAITING_MAX, WANTED_AGAIN_NS, clock=now_boot_ns)

    @property
    def active(self) -> bool:
        """Whether a repair is under way."""
        return self._survey is not None or self._wanted is not None

    @property
    def due_boot_ns(self) -> int:
        """When `do_work` has something to do, boot ns. 0: now, because the events of a survey's time are applied."""
        watermark = self._watermark()
        if any(found is not None and watermark > found.end_boot_ns for found in (self._survey, self._wanted)):
            return 0
        if self._wanted is None and (self._waiting or self._applier.has_wanted):
            return self._wanted_due_ns
        return NEVER_NS

    # -- snapshot ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> int:
        """Insert every live process into incomplete tables; return how many. Later events are applied afterwards."""
        found = self._snapshot = self._survey_processes()
        self._rows.insert_all(found, layout.SOURCE_SNAPSHOT, 0, self._tables.py_show_life)
        # Parents were inserted first, except for those that the iterator and /proc listed in another order.
        self._applier.take_wanted()
        return len(found)

    def close_unseen(self) -> None:
        """Close what a predecessor left as live and the snapshot did not find; call when its events are applied."""
        if self._snapshot is not None:
            self._close_unseen(self._snapshot)
        self._snapshot = None

    # -- repair --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Survey the live processes; the comparison follows in `do_work`."""
        self._survey = self._survey_processes()

    def do_work(self) -> int:
        """Compare a survey if the watermark has passed it, and read the processes that events named.

        Returns:
            How many rows were added, completed, changed or closed.
        """
        done = 0
        if self._survey is not None and self._watermark() > self._survey.end_boot_ns:
            found, self._survey = self._survey, None
            done += self._compare(found)
        if self._wanted is not None and self._watermark() > self._wanted.end_boot_ns:
            found, self._wanted = self._wanted, None
            # These are missing parents, and children of an exited parent: its event did not name their new parent.
            done += self._insert(found, 0, DO_EXIT)
        if self._wanted is None:
            self._read_wanted()
        return done

    def mend(self, rows: list[int]) -> None:
        """Correct the rows that a killed writer left in the middle of a change; call when its events are applied."""
        hot = self._tables.hot_view()
        pids = frozenset(int(hot["tgid"][row]) for row in rows)
        if not pids:
            return
        found = self._survey_processes(pids)
        self._rows.insert_all(found, layout.SOURCE_PROCFS, layout.ROW_GAP, self._tables.py_show_life)
        end_torn(self._tables, rows)

    def _read_wanted(self) -> None:
        """Read the processes that events named and the tables do not have."""
        now = self._now_boot_ns()
        if now < self._wanted_due_ns:
            return
        self._waiting.update((tgid, None) for tgid, _ in self._applier.take_wanted())
        pids = list(itertools.islice(filter(self._limiter.allow, self._waiting), WANTED_MAX))
        for pid in pids:
            del self._waiting[pid]
        self._waiting = dict(itertools.islice(self._waiting.items(), WANTED_WAITING_MAX))
        self._wanted_due_ns = now + WANTED_PAUSE_NS
        if pids:
            self._tables.count("procfs_reads", len(pids))
            found = self._survey_processes(frozenset(pids))
            self._tables.count("procfs_failed", len(pids) - len(found))
            self._wanted = found if len(found) else None

    def _survey_processes(self, only: frozenset[int] | None = None) -> Survey:
        """Survey all live processes, or those of `only`, and hide what may not be stored."""
        found = survey(
            self._reader, self._iterate if only is None else None, self._now_boot_ns, self._want, only,
            show_life=self._tables.py_show_life,
        )  # fmt: skip
        self._concealer.survey(found, self._tables.py_show_life)
        self._learn_cgroups(self._watched(found.cgroup_paths.items()))
        # The iterator stores the processes that it visits in the maps itself.
        for i in self._watched(np.flatnonzero(found.header["flags"] & FLAG_PARTIAL).tolist()):
            path = found.strings[i][: int(found.exec["path_bytes"][i])]
            found.task["cookie"][i] = self._fill_maps(found.header[i], found.task[i], found.exec[i], path)
        return found

    def _watched(self, items: Iterable[_T]) -> Iterator[_T]:
        return watched(items, self._tables.py_show_life)

    def _insert(self, found: Survey, flags: int, callpath: str) -> int:
        """Insert and correct processes. Those that get another parent by it are counted under `callpath`."""
        moved = self._moved()
        results = self._rows.insert_all(found, layout.SOURCE_PROCFS, flags, self._tables.py_show_life)
        self._tables.count(layout.counter_of("reparent_success", callpath), self._moved() - moved)
        self._tables.count("repair_added", results.count(ADDED))
        self._tables.count("repair_changed", results.count(CHANGED))
        return len(results) - results.count(SAME)

    def _moved(self) -> int:
        """Return the moves so far that the applier did not count under a callpath: those that no event reported."""
        counted = (layout.counter_of("reparent_success", callpath) for callpath in (DO_EXIT, KERNEL_PPID))
        return int(self._tables.counter("reparents")) - sum(int(self._tables.counter(name)) for name in counted)

    def _compare(self, found: Survey) -> int:
        self._tables.count("repairs")
        done = self._insert(found, layout.ROW_GAP, DEQUEUE_EXITED)
        return done + self._close_unseen(found)

    def _close_unseen(self, found: Survey) -> int:
        tgids, starts = self._unseen(found)
        if not len(tgids):
            return 0
        is_absent = self._reader.absent(tgids, len(found), self._tables.py_show_life)
        closed = self._close(tgids, starts, is_absent, found.end_boot_ns)
        self._tables.count("repair_closed", closed)
        return closed

    def _unseen(self, found: Survey) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
        """Return pids and starts of the processes that live according to the tables and are not in the survey.

        The youngest come first. So a process is closed after its children, and has no child left that would have to be
        moved.
        """
        hot, rows = self._tables.hot_view(), self._tables.live_heads()
        starts = hot["start_boot_ns"][rows]
        # A tracer's processes are not among those that were surveyed.
        is_ours = hot["flags"][rows] & layout.ROW_FOREIGN == 0
        is_meant = is_ours & (hot["exit_boot_ns"][rows] == 0) & (starts < found.begin_boot_ns)
        tgids, starts = hot["tgid"][rows[is_meant]], starts[is_meant]
        is_seen = is_in(_identities(tgids, starts), _identities(found.header["tgid"], found.header["start_boot_ns"]))
        tgids, starts = tgids[~is_seen], starts[~is_seen]
        order = np.argsort(starts, kind="stable")[::-1]
        return tgids[order], starts[order]


def _identities(tgids: np.ndarray[Any, Any], starts_boot_ns: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a number for each (pid, tick of its start): 22 bits for the pid, 42 for ticks of 10 ms (1,394 years)."""
    ticks = starts_boot_ns.astype(np.uint64) // np.uint64(TICK_NS)
    numbers: np.ndarray[Any, Any] = ticks << np.uint64(22) | tgids.astype(np.uint64)
    return numbers
