"""The columns of a list of processes: each field of an entry, and values that are computed from several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.screen import processes, times
from pipeline.screen.lines import Line
from pipeline.screen.styles import OF_KIND, Style
from pipeline.select import container_names
from pipeline.select.programs import program_of
from pipeline.select.units import NO_UNIT, shown_unit
from pipeline.select.where import Fact, entry_facts
from pipeline.software.container_files import Containers
from pipeline.spelling import did_you_mean

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields

_PROGRAM = ("path", "script_path", "argv", "comm", "is_kworker")
_END = ("exit_time_ns", "exit_code", "exit_cause", "exit_cause_code")
_TIMES = ("start_time_ns", "exit_time_ns")
#: Other names of columns.
_ALIASES = {"age": "age_ns", "duration": "duration_ns", "session": "sid", "started": "start_time_ns"}
#: What `procline help` prints about the columns that are not a field of an entry.
MEANINGS = {
    "age_ns": "time since the start of the process, in ns",
    "duration_ns": "how long the process has lived, up to its end or to now, in ns",
    "ended": "how the process ended, in words; nothing while it lives",
    "command": "the arguments as one line, otherwise the path or the kernel's name of the process",
    "program": "name of the program; for an interpreter, that of the script",
    "unit": "systemd unit, from the path of the cgroup",
    "container": "the first 12 characters of `container_id`",
    "container_name": "name of the container, from the files of its runtime",
    "container_image": "image of the container, from the files of its runtime",
    "container_labels": "labels of the container, from the files of its runtime",
    "pod": "Kubernetes pod of the container",
    "pod_namespace": "Kubernetes namespace of that pod",
    **{alias: f"another name of `{name}`" for alias, name in _ALIASES.items()},
}


@dataclass(frozen=True)
class Shown:
    """A column.

    Attributes:
        name: of the value in JSON and CSV.
        title: its heading.
        fact: its value.
        cell: returns the text for people, from an entry.
        needs: the fields of an entry that the cell needs.
        is_right: whether it is aligned to the right.
        width_max: wider cells are cut on a terminal; None: no limit.
        text: returns the text of the cell, from an entry; None: that of `cell`.
    """

    name: str
    title: str
    fact: Fact
    cell: Callable[[Any], Line]
    needs: tuple[str, ...]
    is_right: bool = False
    width_max: int | None = 32
    text: Callable[[Any], str] | None = None

    def plain(self, entries: Iterable[Any]) -> list[str]:
        """Return the texts of the cells, which may not be printable, for an output without styles."""
        if self.text is not None:
            return [*map(self.text, entries)]
        return [self.cell(entry).plain for entry in entries]


def facts(now_ns: int, containers: Containers | None = None) -> dict[str, Fact]:
    """Return the values of an entry by name: its fields, and those that are computed.

    Args:
        now_ns: the present time, from which ages count.
        containers: says what the runtimes' files know of containers; None: those of this host.
    """

    def age(entry: Any) -> int | None:
        start_ns = entry.get("start_time_ns")
        return None if start_ns is None else now_ns - start_ns if now_ns > start_ns else 0

    def duration(entry: Any) -> int | None:
        start_ns, end_ns = entry.get("start_time_ns"), entry.get("exit_time_ns")
        return None if start_ns is None else max(0, (end_ns or now_ns) - start_ns)

    made = entry_facts()
    made |= {
        "unit": Fact("str", ("cgroup",), lambda entry: shown_unit(entry.get("cgroup"))),
        "container": Fact("str", ("container_id",), lambda entry: (entry.get("container_id") or "")[:12] or None),
        "age_ns": Fact("int", ("start_time_ns",), age),
        "duration_ns": Fact("int", _TIMES, duration),
        "ended": Fact("str", _END, _ended),
        "command": Fact("str", ("argv", "path", "comm"), _command_line),
        "program": Fact("str", _PROGRAM, _program_name),
    }
    made |= container_names.facts(Containers() if containers is None else containers)
    return made | {alias: made[name] for alias, name in _ALIASES.items()}


def _command_line(entry: Any) -> str:
    return processes.command_line(entry)


def _program_name(entry: Any) -> str:
    return program_of(entry).name


def _ended(entry: Any) -> str | None:
    if not entry.get("exit_time_ns"):
        return None
    return processes.ending(entry) or "unknown"


class UnknownColumnError(ValueError):
    """There is no such column."""


def unknown(name: str, known: Iterable[str]) -> str:
    """Return the message about a name that is not a column."""
    meant = did_you_mean(name, known)
    return f"there is no column {name!r}{f': {meant}' if meant else '; `procline ps -o help` lists all'}"


def chosen(names: Iterable[str], known: dict[str, Fact]) -> list[Shown]:
    """Return columns by name.

    Args:
        names: the columns.
        known: all values; see `facts`.

    Raises:
        UnknownColumnError: a name is unknown.
    """
    made = []
    for name in names:
        if name not in known:
            raise UnknownColumnError(unknown(name, known))
        made.append(_shown(_ALIASES.get(name, name), known))
    return made


def _shown(name: str, known: dict[str, Fact]) -> Shown:
    fact = known[name]
    special = _SPECIAL.get(name)
    if special is not None:
        title, special_cell, special_text, needs, is_right = special(fact)
        width_max = None if name == "command" else 32
        return Shown(name, title, fact, special_cell, needs, is_right, width_max, special_text)
    is_right = fact.type in {"int", "uint"}
    get = fact.value
    form, style = (times.moment, Style.TIME) if name.endswith(("_time_ns", "_at_ns")) else (text_of, Style.PLAIN)

    def text(entry: Any) -> str:
        return form(get(entry))

    def cell(entry: Any) -> Line:
        return Line((text(entry), style))

    title = name.removesuffix("_ns").upper()
    return Shown(name, title, fact, cell, fact.needs, is_right, text=text)


def text_of(value: Any) -> str:
    """Return a value as text for a table; ``-`` if it is unknown."""
    if type(value) is int or type(value) is str:  # most are
        return str(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items() if item is not None) or "-"
    return str(value)


#: Title, cell, text of the cell where it takes much less time, needs, and whether it is aligned to the right.
_Special = tuple[str, Callable[[Any], Line], Callable[[Any], str] | None, tuple[str, ...], bool]


def _pid(fact: Fact) -> _Special:
    return "PID", lambda entry: Line((str(entry["pid"]), Style.PID)), lambda entry: str(entry["pid"]), ("pid",), True


def _user(fact: Fact) -> _Special:
    return "USER", processes.user, processes.user_name, ("uid", "user"), False


def _unit(fact: Fact) -> _Special:
    def text(entry: EntryFields) -> str:
        return fact.value(entry) or ("-" if entry.get("cgroup") is None else NO_UNIT)

    return "UNIT", lambda entry: Line(text(entry)), text, fact.needs, False


def _container(fact: Fact) -> _Special:
    needs = processes.CONTAINER_NEEDS
    return "CONTAINER", lambda entry: processes.container(entry) or Line("-"), None, needs, False


def _duration_of(title: str) -> Callable[[Fact], _Special]:
    def made(fact: Fact) -> _Special:
        form = times.age if title == "AGE" else times.brief

        def text(entry: EntryFields) -> str:
            value = fact.value(entry)
            return "-" if value is None else form(value)

        def cell(entry: EntryFields) -> Line:
            return Line("-") if fact.value(entry) is None else Line((text(entry), Style.TIME))

        return title, cell, text, fact.needs, True

    return made


def _end(fact: Fact) -> _Special:
    def cell(entry: EntryFields) -> Line:
        value = fact.value(entry)
        return Line("-") if value is None else Line((value, processes.ending_style(entry)))

    return "ENDED", cell, lambda entry: fact.value(entry) or "-", fact.needs, False


def _command(fact: Fact) -> _Special:
    return "COMMAND", processes.command, processes.command_line, (*_PROGRAM, "exit_time_ns"), False


def _program(fact: Fact) -> _Special:
    def cell(entry: EntryFields) -> Line:
        program = program_of(entry)
        return Line((program.name, Style.EXITED if entry.get("exit_time_ns") else OF_KIND[program.kind]))

    return "PROGRAM", cell, None, (*_PROGRAM, "exit_time_ns"), False


_SPECIAL: dict[str, Callable[[Fact], _Special]] = {
    "pid": _pid, "user": _user, "unit": _unit, "container": _container, "age_ns": _duration_of("AGE"),
    "duration_ns": _duration_of("DURATION"), "ended": _end, "command": _command, "program": _program,
}  # fmt: skip


def needed(columns: Sequence[Shown], more: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the fields of an entry that columns need, and `more`, each once."""
    return tuple(dict.fromkeys([*(name for column in columns for name in (*column.needs, *column.fact.needs)), *more]))
