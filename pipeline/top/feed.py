"""Read the images of a moment from the tables of an instance, and find the instance again when it was replaced."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import BusyError, LayoutError, NotRunningError, ProclineError, StaleError
from pipeline.shm.layout import layout
from pipeline.shm.reader.table import ProcessTable
from pipeline.top.figures import FigureReader, Figures

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.shm.reader._entry import Entry

#: How often a missing instance is looked for.
_RETRY_S = 1.0
#: A reading contains images that ended up to this long before the previous one, so that late events are not missed.
_OVERLAP_NS = 2_000_000_000


@dataclass(frozen=True)
class Reading:
    """The contents of the tables at a moment.

    Attributes:
        now_boot_ns: the moment.
        complete_boot_ns: everything that happened before is contained.
        is_past: the moment is not the present.
        numbers, rows: see `TableReader.images`.
        figures: of the instance.
        epoch: changes when rows have other numbers than before.
    """

    now_boot_ns: int
    complete_boot_ns: int
    is_past: bool
    numbers: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.void]
    figures: Figures
    epoch: int


class Feed:
    """The tables of one instance.

    Args:
        name: of the instance.
        directory: its runtime directory; None: the default one.
        recorded_unix_ns: when the recording began that the tables contain; None: they are those of this host.

    Raises:
        NotRunningError, AccessError, UntrustedError, LayoutError: see `ProcessTable.attach`.
    """

    def __init__(self, name: str, directory: Path | None = None, *, recorded_unix_ns: int | None = None) -> None:
        self.name = name
        self._recorded_unix_ns = recorded_unix_ns
        self._directory = directory
        self._table: ProcessTable | None = None
        self._reader: FigureReader | None = None
        self._view: object = None
        self._tried_s = 0.0
        self._read_ns = 0
        self.epoch = 0
        #: Why there is no current reading; empty: there is one.
        self.problem = ""
        self._attach()

    @property
    def is_recording(self) -> bool:
        """Whether the tables contain a recording."""
        return self._recorded_unix_ns is not None

    def close(self) -> None:
        """Release the tables."""
        if self._table is not None:
            self._table.close()
            self._table = None

    def _attach(self) -> ProcessTable:
        self._tried_s = time.monotonic()
        self._table = ProcessTable.attach(self.name, path=self._directory)
        self._reader = FigureReader(Path(self._table.directory))
        return self._table

    @property
    def boot_unix_ns(self) -> int:
        """Unix time of boot-clock zero; 0: no instance."""
        try:
            return 0 if self._table is None else self._table.boot_unix_ns
        except (StaleError, NotRunningError, LayoutError):
            return 0

    @property
    def pids_are_ours(self) -> bool:
        """Whether this process and the instance are in the same pid namespace."""
        return self._table is not None and self._table.view.pids_are_ours

    def read(self, keep_ns: int, at_boot_ns: int | None = None) -> Reading | None:
        """Return the images of a moment; None if the instance cannot be read now, and `problem` says why.

        Args:
            keep_ns: also return images that ended up to this long before.
            at_boot_ns: the moment; None: the present.
        """
        try:
            table = self._table or self._again()
            if table is None:
                return None
            return self._read(table, keep_ns, at_boot_ns)
        except BusyError:
            return None
        except StaleError as error:
            self.problem = f"stale: {error}"
        except ProclineError as error:  # also if another user could have made the next instance
            self.close()
            self.problem = f"stale: {error}"
        return None

    def now_boot_ns(self) -> int:
        """Return the present time of the host."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def _again(self) -> ProcessTable | None:
        if time.monotonic() < self._tried_s + _RETRY_S:
            return None
        return self._attach()

    def _read(self, table: ProcessTable, keep_ns: int, at_boot_ns: int | None) -> Reading:
        view = table.view
        if view is not self._view:
            self._view = view
            self._read_ns = 0
            self.epoch += 1
        commit = table.commit()
        complete_ns = int(np.frombuffer(commit, layout.COMMIT, 1)[0]["watermark_boot_ns"])
        assert self._reader is not None
        figures = self._reader.read(commit)
        if at_boot_ns is None:
            now_ns = self.now_boot_ns()
            since_ns = min(now_ns - keep_ns, (self._read_ns or now_ns) - _OVERLAP_NS)
            numbers, rows = table.images(ended_after_boot_ns=max(0, since_ns))
            self._read_ns = now_ns
        else:
            now_ns = complete_ns = at_boot_ns
            since_ns = max(0, now_ns - keep_ns - _OVERLAP_NS)
            numbers, rows = table.images(ended_after_boot_ns=since_ns, began_before_boot_ns=now_ns)
        self.problem = ""
        return Reading(now_ns, complete_ns, at_boot_ns is not None, numbers, rows, figures, self.epoch)

    def image(self, link: int) -> Entry | None:
        """Return an image; None if it is not retained, or cannot be read now."""
        try:
            return None if self._table is None else self._table.image(link)
        except (StaleError, BusyError, NotRunningError, LayoutError):
            return None

    def lineage(self, entry: Entry, by: str) -> list[Entry]:
        """Return the ancestors of an image; empty if they cannot be read now. See `TableReader.ancestors`."""
        try:
            return [] if self._table is None else self._table.ancestors(entry, by=by)
        except (StaleError, BusyError, NotRunningError, LayoutError):
            return []

    def span(self, buckets: int) -> Span | None:
        """Return the time that the tables cover; None if they cannot be read now.

        Args:
            buckets: length of the histogram.
        """
        try:
            if self._table is None:
                return None
            header = np.frombuffer(self._table.view.header(), layout.CONTROL)[0]
            _, rows = self._table.images()
        except (StaleError, BusyError, NotRunningError, LayoutError):
            return None
        if self._recorded_unix_ns is None:
            # Before the horizon some of the processes that had ended are missing.
            since_ns = max(int(header["horizon_boot_ns"]), 0)
            rows = rows[rows["flags"] & layout.ROW_BEFORE_CAPTURE == 0]
        else:
            since_ns = max(0, self._recorded_unix_ns - self._table.boot_unix_ns)
        times = np.concatenate([rows["start_boot_ns"], rows["exec_boot_ns"], rows["exit_boot_ns"]])
        times = np.sort(times[times > since_ns])
        if not len(times):
            return None
        begin, end = int(times[0]), max(int(times[-1]), int(times[0]) + 1)
        counts, _ = np.histogram(times, buckets, (float(begin), float(end)))
        return Span(begin, end, counts.tolist())


@dataclass(frozen=True)
class Span:
    """The time that the tables cover.

    Attributes:
        begin_boot_ns, end_boot_ns: of the first and the last event that is retained.
        counts: events in each of equal parts of it.
    """

    begin_boot_ns: int
    end_boot_ns: int
    counts: list[int]
