"""The state that the screen shows: the processes, their order, the filter, the rates, and the moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pipeline.errors import BusyError, StaleError, TooOldError
from pipeline.export.text import printable
from pipeline.select.selection import descendants
from pipeline.select.units import NO_UNIT
from pipeline.top.columns import COLUMNS, Column, Subject
from pipeline.top.facts import Facts, FactsCache
from pipeline.top.feed import Feed, Reading, Span
from pipeline.top.filters import Filter
from pipeline.top.groupings import GROUPINGS
from pipeline.top.order import Lines, list_lines, tree_lines
from pipeline.top.processes import Mask, Processes, processes_at
from pipeline.top.rates import Rates

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.shm.reader._entry import Entry

#: How long ended processes stay on the screen: the choices, in seconds.
KEEP_CHOICES_S = (0.0, 1.0, 3.0, 10.0, 60.0)
#: Parts of the time line.
SPAN_BUCKETS = 400
#: A longer step in time is a jump: nothing is counted between its ends.
_JUMP_NS = 30_000_000_000

Identity: TypeAlias = tuple[int, int]  # start on the boot clock in ns, pid


@dataclass
class Settings:
    """The choices of the user.

    Attributes:
        is_tree: whether processes are shown as a tree; otherwise as a list.
        sort: name of the column that orders a family, or the list; empty: by start.
        is_reversed: from the highest value to the lowest.
        keep_s: how long ended processes stay on the screen.
        filter: which processes are shown.
        columns: names of the columns; empty: those that fit.
        folded: processes with hidden descendants.
        speed: of a recording; 1 is as recorded.
    """

    is_tree: bool = True
    sort: str = ""
    is_reversed: bool = False
    keep_s: float = 3.0
    filter: Filter = field(default_factory=Filter)
    columns: tuple[str, ...] = ()
    folded: set[Identity] = field(default_factory=set)
    speed: float = 1.0


class Model:
    """The state of the screen.

    Args:
        feed: the tables.
        settings: what the user has chosen; may be changed between steps.
        arguments: see `FactsCache`.
    """

    def __init__(
        self, feed: Feed, settings: Settings, arguments: Callable[[Entry], list[str] | None] | None = None
    ) -> None:
        self.feed = feed
        self.settings = settings
        #: A recording is played from its begin.
        self.is_recording = feed.is_recording
        self.arguments = arguments
        self.facts = FactsCache(feed.image, arguments)
        self.reading: Reading | None = None
        self.processes: Processes | None = None
        self.lines: Lines | None = None
        self.rates = {GROUPINGS[0]: self._rates(GROUPINGS[0])}
        self.span: Span | None = None
        #: The moment that is shown; None: the present.
        self.at_boot_ns: int | None = None
        #: Whether time stands still.
        self.is_paused = False
        self._paused_boot_ns = 0
        self._stepped_s = time.monotonic()
        self._epoch = 0
        if self.is_recording:
            self.span = feed.span(SPAN_BUCKETS)
            self.at_boot_ns = self.span.begin_boot_ns if self.span else 0

    # -- time ----------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Read the tables again; returns whether there is something new to show."""
        now_s = time.monotonic()
        # A recording begins when it is first shown, however long the start takes.
        passed_s = now_s - self._stepped_s if self.reading is not None else 0.0
        self._stepped_s = now_s
        if self.at_boot_ns is not None and not self.is_paused:
            self._advance(passed_s)
        elif self.is_paused and self.processes is not None and self._is_shown():
            return False
        return self.read()

    def _advance(self, passed_s: float) -> None:
        assert self.at_boot_ns is not None
        end_ns = self.end_boot_ns
        self.at_boot_ns = min(end_ns, self.at_boot_ns + int(passed_s * self.settings.speed * 1e9))
        if self.at_boot_ns >= end_ns:
            if self.is_recording:
                self.is_paused = True
            else:
                self.at_boot_ns = None

    def _is_shown(self) -> bool:
        return self.reading is not None and self.at_boot_ns == self.reading.now_boot_ns

    @property
    def end_boot_ns(self) -> int:
        """Where the time line ends: the last event of a recording, otherwise the present."""
        if self.is_recording:
            return self.span.end_boot_ns if self.span else 0
        return self.feed.now_boot_ns()

    def pause(self) -> None:
        """Stop time, or let it pass again.

        It continues from the moment that is shown; at the end of a recording, from its begin. If no other moment than
        that of the pause was chosen, the present is shown again.
        """
        if self.is_paused:
            self.is_paused = False
            if self.is_recording:
                if self.span and self.at_boot_ns == self.span.end_boot_ns:
                    self.at_boot_ns = self.span.begin_boot_ns
            elif self.at_boot_ns == self._paused_boot_ns:
                self.to_present()
            return
        self.is_paused = True
        if self.at_boot_ns is None and self.reading is not None:
            self.at_boot_ns = self._paused_boot_ns = self.reading.now_boot_ns
            self.span = self.feed.span(SPAN_BUCKETS)

    def to_present(self) -> None:
        """Show the present again; of a recording, its end."""
        if self.is_recording:
            self.seek(self.end_boot_ns)
        else:
            self.at_boot_ns, self.is_paused = None, False

    def seek(self, boot_ns: int) -> None:
        """Show another moment, if it is on the time line."""
        if self.at_boot_ns is None:
            self.pause()
        if self.span is not None:
            self.at_boot_ns = max(self.span.begin_boot_ns, min(boot_ns, self.end_boot_ns))

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self) -> bool:
        """Read the tables; returns whether that was possible."""
        before = self.reading
        keep_ns = int(self.settings.keep_s * 1e9)
        reading = self.feed.read(keep_ns, self.at_boot_ns)
        if reading is None:
            return False
        if reading.epoch != self._epoch:
            self._epoch = reading.epoch
            self.facts.forget()
        self.reading = reading
        is_jump = before is not None and (
            before.is_past != reading.is_past or not 0 <= reading.now_boot_ns - before.now_boot_ns < _JUMP_NS
        )
        for rates in self.rates.values():
            if is_jump:
                rates.restart()
            rates.count(reading.numbers, reading.rows, reading.complete_boot_ns)
        self.processes = processes_at(
            reading.numbers, reading.rows, reading.now_boot_ns, keep_ns, is_past=reading.is_past
        )
        self.facts.keep(set(self.processes.link_list))
        self.arrange()
        return True

    def arrange(self) -> None:
        """Compute the lines again, after a setting was changed."""
        processes, settings = self.processes, self.settings
        if processes is None:
            return
        keep = self._matching(processes)
        keys, is_falling = self._keys(processes)
        reverse = settings.is_reversed != is_falling
        if not settings.is_tree:
            self.lines = list_lines(processes, keys, keep, reverse)
            return
        found = [processes.find(*identity) for identity in settings.folded]
        settings.folded = {identity for identity, at in zip(settings.folded, found, strict=True) if at >= 0}
        self.lines = tree_lines(processes, keys, keep, reverse, {at for at in found if at >= 0})

    def _keys(self, processes: Processes) -> tuple[npt.NDArray[np.generic] | None, bool]:
        column = COLUMNS.get(self.settings.sort)
        if column is None:
            return None, False
        if column.keys is not None:
            return column.keys(processes), column.is_falling
        assert column.text is not None
        texts = [column.text(self.facts.of(processes, position)) for position in range(len(processes))]
        ranks = np.empty(len(texts), np.int64)
        ranks[sorted(range(len(texts)), key=texts.__getitem__)] = np.arange(len(texts))
        return ranks, column.is_falling

    def _matching(self, processes: Processes) -> Mask | None:
        wanted = self.settings.filter
        if not wanted:
            return None
        everything = [self.facts.of(processes, position) for position in range(len(processes))]
        matches = np.fromiter((_matches(facts, wanted) for facts in everything), np.bool_, len(everything))
        if wanted.selection.under:
            below = descendants((facts.fields for facts in everything), wanted.selection.under)
            matches &= np.fromiter((facts.fields.get("entity_id") in below for facts in everything), np.bool_)
        return matches

    # -- what widgets ask ----------------------------------------------------------------------------------------------

    @property
    def boot_unix_ns(self) -> int:
        """Unix time of boot-clock zero."""
        return self.feed.boot_unix_ns

    def subject(self, line: int) -> Subject:
        """Return the process of a line."""
        assert self.lines is not None
        position = int(self.lines.positions[line])
        processes = self.lines.processes
        return Subject(processes, position, self.facts.of(processes, position), self.boot_unix_ns)

    def identity(self, line: int) -> Identity | None:
        """Return the identity of the process of a line; None: there is no such line."""
        if self.lines is None or not 0 <= line < len(self.lines):
            return None
        return self.lines.processes.identities[int(self.lines.positions[line])]

    def line_of(self, identity: Identity | None) -> int:
        """Return the line of a process; -1: it has none."""
        if self.lines is None or identity is None:
            return -1
        position = self.lines.processes.find(*identity)
        return -1 if position < 0 else self.lines.find(position)

    def search(self, words: Iterable[str], line: int, step: int) -> int:
        """Return the next line, in steps of 1 or -1, with a process that contains all words; -1: there is none."""
        if self.lines is None or not len(self.lines):
            return -1
        wanted = [word.lower() for word in words]
        count = len(self.lines)
        for distance in range(1, count + 1):
            number = (line + step * distance) % count
            text = self.facts.of(self.lines.processes, int(self.lines.positions[number])).text
            if all(word in text for word in wanted):
                return number
        return -1

    def fold(self, line: int, *, is_folded: bool) -> bool:
        """Hide or show the descendants of a process; returns whether that changed anything."""
        identity = self.identity(line)
        if identity is None or self.lines is None or not self.settings.is_tree:
            return False
        position = int(self.lines.positions[line])
        _, offsets = self.lines.processes.families
        if (identity in self.settings.folded) == is_folded or offsets[position] == offsets[position + 1]:
            return False
        (self.settings.folded.add if is_folded else self.settings.folded.discard)(identity)
        self.arrange()
        return True

    def group_by(self, grouping: str) -> Rates:
        """Return the rates by a grouping; it is counted from now on."""
        if grouping not in self.rates:
            self.rates[grouping] = self._rates(grouping)
            if self.reading is not None:
                self.rates[grouping].count(self.reading.numbers, self.reading.rows, self.reading.complete_boot_ns)
        return self.rates[grouping]

    def sort_by(self, column: Column) -> None:
        """Sort by a column; the second time in the other direction."""
        if self.settings.sort == column.name:
            self.settings.is_reversed = not self.settings.is_reversed
        else:
            self.settings.sort, self.settings.is_reversed = column.name, False
        self.arrange()

    def _rates(self, grouping: str) -> Rates:
        return Rates(grouping, self._group_name)

    def _group_name(self, grouping: str, link: int, rows: npt.NDArray[np.void], place: int) -> str:
        row = rows[place]
        if grouping == "spawner":
            creator = self.feed.image(int(row["creator"]))
            if creator is None:
                return "unknown"
            try:
                words = creator.argv or [creator.path or creator.comm or "?"]
            except (TooOldError, StaleError, BusyError):  # it was evicted meanwhile, or is being written
                words = ["?"]
            return printable(f"{creator.pid} {' '.join(words)[:200]}")
        facts = self.facts.of_image(link, int(row["row_seq"]), rows, place)
        if grouping == "unit":
            return printable(facts.unit or NO_UNIT)
        if grouping == "user":
            return printable(facts.fields.get("user") or facts.fields.get("uid"))
        fields = facts.fields
        return printable(fields.get("script_path") or fields.get("path") or f"[{fields.get('comm')}]")


def _matches(facts: Facts, wanted: Filter) -> bool:
    asked, verdict = facts.verdict
    if asked is not wanted:
        verdict = wanted.selection.matches(facts.fields) and all(word in facts.text for word in wanted.words)
        facts.verdict = wanted, verdict
    return verdict
