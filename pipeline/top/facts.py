"""Facts about processes that the screen shows besides numbers, decoded from the tables only where they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np

from pipeline.errors import BusyError, StaleError, TooOldError
from pipeline.export.text import printable
from pipeline.screen.lines import Line
from pipeline.screen.processes import command
from pipeline.select.programs import Program, program_of
from pipeline.select.units import NO_UNIT, shown_unit
from pipeline.shm.layout.entry_types import EntryFields
from pipeline.top.processes import Processes

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.shm.reader._entry import Entry

#: Above this number of remembered processes, those that are no longer shown are dropped.
_KEPT_MIN = 4096
#: Longer command lines are cut here; a line of the screen is shorter, and the details are read afresh.
_ARGV_CHARACTERS = 4096

_FIELDS = (
    "pid", "ppid", "comm", "path", "script_path", "is_kworker", "user", "euser", "uid", "euid", "cgroup",
    "container_id", "container_trust", "tty", "sid", "pgid", "exit_code", "exit_cause", "exit_cause_code", "entity_id",
    "parent_entity_id", "creator_entity_id", "argv",
)  # fmt: skip


class Facts:
    """The facts that the screen shows about one image of a process.

    Attributes:
        fields: the fields of the entry that commands use.
        verdict: the filter that was asked last, and whether the image matches it.
    """

    __slots__ = ("_command", "_program", "_text", "fields", "verdict")

    def __init__(self, fields: EntryFields) -> None:
        self.fields = fields
        self.verdict: tuple[object, bool] = (None, True)
        self._command: Line | None = None
        self._program: Program | None = None
        self._text: str | None = None

    @property
    def command(self) -> Line:
        """The command line, with styles."""
        if self._command is None:
            self._command = command(self.fields)
        return self._command

    @property
    def program(self) -> Program:
        """The program, as a person would name it."""
        if self._program is None:
            self._program = program_of(self.fields)
        return self._program

    @property
    def text(self) -> str:
        """The text that a search compares: pid, command line, path and user, in lower case."""
        if self._text is None:
            parts = (self.fields["pid"], self.command.plain, self.fields.get("path"), self.fields.get("user"))
            self._text = " ".join(printable(part) for part in parts if part is not None).lower()
        return self._text

    @property
    def unit(self) -> str | None:
        """The systemd unit; where there is none, the cgroup, and in the root cgroup `NO_UNIT`."""
        cgroup = self.fields.get("cgroup")
        return shown_unit(cgroup) or (NO_UNIT if cgroup == "/" else cgroup)


class FactsCache:
    """The facts of images, by link.

    Args:
        read: returns the entry of an image by its link, None if it cannot be read.
        arguments: returns the arguments of a process if the tables hide them; None: they hide nothing.
    """

    def __init__(
        self, read: Callable[[int], Entry | None], arguments: Callable[[Entry], list[str] | None] | None = None
    ) -> None:
        self._read = read
        self._arguments = arguments
        self._known: dict[int, tuple[int, Facts]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        """Forget everything: the numbers of rows have another meaning now."""
        self._known.clear()

    def of(self, processes: Processes, position: int) -> Facts:
        """Return the facts of a process."""
        return self.of_image(processes.link_list[position], processes.sequences[position], processes.rows, position)

    def of_image(self, link: int, sequence: int, rows: npt.NDArray[np.void], place: int) -> Facts:
        """Return the facts of an image.

        Args:
            link: of the image.
            sequence: of its row; facts that are known are used as long as it stays the same.
            rows: dtype HOT; rows[place] is its row.
            place: see `rows`.
        """
        known = self._known.get(link)
        if known is not None and known[0] == sequence:
            return known[1]
        entry = self._read(link)
        try:
            if entry is None:
                raise TooOldError("the image was evicted")
            facts = Facts(fields_of(entry, self._arguments))
        except (TooOldError, StaleError, BusyError):
            # Show what was known, or what the row says.
            return known[1] if known is not None else Facts(_from_row(rows[place]))
        self._known[link] = sequence, facts
        return facts

    def keep(self, links: set[int]) -> None:
        """Forget images that are not among `links`, if there are many."""
        if len(self._known) > max(_KEPT_MIN, 2 * len(links)):
            self._known = {link: known for link, known in self._known.items() if link in links}


def fields_of(
    entry: Entry, arguments: Callable[[Entry], list[str] | None] | None = None, *, whole: bool = False
) -> EntryFields:
    """Return the fields of an entry that the screen uses.

    Args:
        entry: an image.
        arguments: see `FactsCache`.
        whole: do not cut long arguments.

    Raises:
        TooOldError, StaleError, BusyError: see `Entry.to_dict`.
    """
    fields = cast("EntryFields", entry.to_dict(_FIELDS))
    argv, room = fields.get("argv"), _ARGV_CHARACTERS
    if argv is None and arguments is not None:
        argv = fields["argv"] = arguments(entry)
    if argv is not None and not whole:
        kept: list[str] = []
        for word in argv:
            if room <= 0:
                break
            kept.append(word[:room])
            room -= len(word) + 1
        fields["argv"] = kept
    return fields


def _from_row(row: np.void) -> EntryFields:
    name = bytes(row["comm"]).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    return {"pid": int(row["tgid"]), "ppid": int(row["ppid"]), "comm": name, "uid": int(row["uid"])}
