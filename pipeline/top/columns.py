"""The columns of the list of processes: what they show, how wide they are, and in which order they sort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pipeline.screen import processes as shown
from pipeline.screen.lines import Line
from pipeline.screen.styles import Style
from pipeline.screen.times import age, brief, clock
from pipeline.shm.layout.declared import (
    ROW_ARGS_TRUNCATED,
    ROW_BEFORE_CAPTURE,
    ROW_GAP,
    ROW_HEAD_ONLY,
    SOURCE_NAMES,
)
from pipeline.shm.names.signals import signal_name
from pipeline.top.facts import Facts
from pipeline.top.processes import Processes

if TYPE_CHECKING:
    import numpy.typing as npt

Keys: TypeAlias = "npt.NDArray[np.generic]"

#: How long a new process, or a new image, stands out.
RECENT_NS = 2_000_000_000
_CONTAINER_WIDTH = 12
#: Marks in the first column: as in the lines of `procline subscribe`.
BORN, CHANGED, ENDED = "+", ">", "-"


@dataclass(frozen=True)
class Subject:
    """One process, as a column sees it.

    Attributes:
        processes: those of the moment.
        position: of the process among them.
        facts: of its image.
        boot_unix_ns: Unix time of boot-clock zero.
    """

    processes: Processes
    position: int
    facts: Facts
    boot_unix_ns: int

    @property
    def row(self) -> np.void:
        """The image, dtype HOT."""
        row: np.void = self.processes.rows[self.position]
        return row

    @property
    def ended_ns(self) -> int:
        """When the process ended; 0: it lives."""
        return int(self.processes.ended_boot_ns[self.position])

    @property
    def lifetime_ns(self) -> int:
        """How long the process has lived, or did."""
        return max(0, (self.ended_ns or self.processes.now_boot_ns) - int(self.row["start_boot_ns"]))

    @property
    def state(self) -> str:
        """One of BORN, CHANGED and ENDED; a space: nothing happened lately."""
        if self.ended_ns:
            return ENDED
        now = self.processes.now_boot_ns
        if now - int(self.row["start_boot_ns"]) < RECENT_NS:
            return BORN
        return CHANGED if now - int(self.processes.began_boot_ns[self.position]) < RECENT_NS else " "


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: as it is chosen.
        title: its heading.
        width: in cells.
        help: what it shows.
        cell: returns what it shows of a process.
        keys: returns what processes are sorted by; None: by `text`.
        text: returns the text that processes are sorted by.
        is_right: whether it is aligned to the right.
        is_falling: whether the first choice is the highest value first.
    """

    name: str
    title: str
    width: int
    help: str
    cell: Callable[[Subject], Line]
    keys: Callable[[Processes], Keys] | None = None
    text: Callable[[Facts], str] | None = None
    is_right: bool = False
    is_falling: bool = False


def _text(value: object, style: Style = Style.PLAIN) -> Line:
    return Line((str(value), style)) if value not in (None, "") else Line(("-", Style.FAINT))


def _pid(subject: Subject) -> Line:
    style = {BORN: Style.BORN, CHANGED: Style.CHANGED, ENDED: Style.EXITED}.get(subject.state, Style.PID)
    return Line((str(subject.facts.fields["pid"]), style))


def _started(subject: Subject) -> Line:
    return Line((clock(int(subject.row["start_boot_ns"]) + subject.boot_unix_ns), Style.TIME))


def _image(subject: Subject) -> Line:
    began = int(subject.processes.began_boot_ns[subject.position])
    return Line((age(subject.processes.now_boot_ns - began), Style.TIME))


def _end(subject: Subject) -> Line:
    if not subject.ended_ns:
        return Line()
    fields = subject.facts.fields
    cause, number = fields.get("exit_cause"), fields.get("exit_cause_code")
    if cause is None or number is None:
        return Line(("ended", Style.EXITED))
    text = str(number) if cause == "exited" else signal_name(number).removeprefix("SIG")
    return Line((text, shown.ending_style(fields)))


def _container(subject: Subject) -> Line:
    fields = subject.facts.fields
    number = fields.get("container_id") or ""
    if number and fields.get("container_trust") == "user":
        return Line((number[: _CONTAINER_WIDTH - 1] + "?", Style.WARNING))  # the column has no room for words
    return Line((number[:_CONTAINER_WIDTH], Style.CONTAINER)) if number else Line(("-", Style.FAINT))


def _marks(subject: Subject) -> Line:
    flags = int(subject.row["flags"])
    notes = [
        note
        for flag, note in (
            (ROW_ARGS_TRUNCATED, "cut"), (ROW_GAP, "gap"), (ROW_HEAD_ONLY, "bare"), (ROW_BEFORE_CAPTURE, "old"),
        )
        if flags & flag
    ]  # fmt: skip
    return _text(" ".join(notes), Style.WARNING if flags & (ROW_GAP | ROW_HEAD_ONLY) else Style.FAINT)


def _source(subject: Subject) -> Line:
    return Line((SOURCE_NAMES[int(subject.row["source"])].removeprefix("procfs_"), Style.FAINT))


def _families(processes: Processes) -> Keys:
    _, offsets = processes.families
    return np.diff(offsets)


def _lifetimes(processes: Processes) -> Keys:
    ends = np.where(processes.ended_boot_ns != 0, processes.ended_boot_ns, np.uint64(processes.now_boot_ns))
    return ends.astype(np.int64) - processes.starts_boot_ns.astype(np.int64)


def _children(subject: Subject) -> Line:
    _, offsets = subject.processes.families
    count = int(offsets[subject.position + 1] - offsets[subject.position])
    return _text(count) if count else Line(("-", Style.FAINT))


COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Column("pid", "PID", 7, "process id", _pid, keys=lambda p: p.pids, is_right=True),
        Column(
            "ppid", "PPID", 7, "pid of the current parent", lambda s: _text(s.facts.fields.get("ppid"), Style.FAINT),
            keys=lambda p: p.rows["ppid"], is_right=True,
        ),
        Column(
            "user", "USER", 8, "user", lambda s: shown.user(s.facts.fields),
            text=lambda f: str(f.fields.get("user") or f.fields.get("uid")),
        ),
        Column(
            "unit", "UNIT", 18, "systemd unit, otherwise the cgroup", lambda s: _text(s.facts.unit, Style.FAINT),
            text=lambda f: f.unit or "",
        ),
        Column(
            "container", "CONTAINER", _CONTAINER_WIDTH, "container id", _container,
            text=lambda f: f.fields.get("container_id") or "",
        ),
        Column(
            "tty", "TTY", 7, "controlling terminal", lambda s: _text(s.facts.fields.get("tty"), Style.FAINT),
            text=lambda f: str(f.fields.get("tty") or ""),
        ),
        Column(
            "session", "SID", 7, "pid of the session leader", lambda s: _text(s.facts.fields.get("sid"), Style.FAINT),
            is_right=True, text=lambda f: f"{f.fields.get('sid') or 0:>10}",
        ),
        Column("started", "STARTED", 12, "when the process started", _started, keys=lambda p: p.starts_boot_ns),
        Column(
            "age", "AGE", 5, "how long the process has lived, or lived until its end",
            lambda s: Line((brief(s.lifetime_ns), Style.TIME)), keys=_lifetimes, is_right=True, is_falling=True,
        ),
        Column(
            "image", "IMAGE", 5, "how long it has run its present program", _image,
            keys=lambda p: -p.began_boot_ns.astype(np.int64), is_right=True,
        ),
        Column(
            "images", "EXECS", 5, "number of images: 1 if it has called no exec", lambda s: _text(int(s.row["images"])),
            keys=lambda p: p.rows["images"], is_right=True, is_falling=True,
        ),
        Column(
            "children", "KIDS", 5, "children on the screen, ended ones included", _children, keys=_families,
            is_right=True, is_falling=True,
        ),
        Column(
            "end", "END", 6, "exit code, or the signal that ended it", _end, keys=lambda p: p.ended_boot_ns,
            is_right=True, is_falling=True,
        ),
        Column("source", "SOURCE", 8, "where the entry comes from", _source, keys=lambda p: p.rows["source"]),
        Column(
            "marks", "MARKS", 8, "cut: arguments incomplete; gap: events lost; bare: only identity known; old: began "
            "before the capture", _marks, keys=lambda p: p.rows["flags"] & (ROW_ARGS_TRUNCATED | ROW_GAP),
            is_falling=True,
        ),
        Column(
            "program", "PROGRAM", 15, "the program; for a script, the script itself",
            lambda s: Line((s.facts.program.name, shown.OF_KIND[s.facts.program.kind])),
            text=lambda f: f.program.name,
        ),
        Column("command", "COMMAND", 20, "the command line", lambda s: s.facts.command, text=lambda f: f.command.plain),
    )
}  # fmt: skip


def default_columns(width: int) -> tuple[str, ...]:
    """Return the columns that fit a screen, the command line last."""
    if width >= 140:
        return ("pid", "ppid", "user", "unit", "started", "age", "end", "command")
    if width >= 100:
        return ("pid", "user", "unit", "age", "command")
    return ("pid", "user", "age", "command")


def fitting(names: Sequence[str], width: int) -> list[Column]:
    """Return columns by name, without those that would leave less than a third of the width for the last one."""
    chosen = [COLUMNS[name] for name in names if name != "command"]
    while chosen and sum(column.width + 1 for column in chosen) > width * 2 // 3:
        chosen.pop()
    return [*chosen, COLUMNS["command"]]
