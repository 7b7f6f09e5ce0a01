"""How a process is shown: its program, arguments, user and end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.export.text import printable
from pipeline.screen.lines import Line
from pipeline.screen.styles import OF_KIND, Style
from pipeline.select.programs import program_of
from pipeline.shm.names.signals import signal_name

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import Command, EntryFields


#: Fields of an entry that its container is shown from.
CONTAINER_NEEDS = ("container_id", "container_trust")
#: Stands behind the id of a container if somebody other than root may have named its cgroup.
NAMED_BY_USER = "(named by a user?)"
#: Words that a shell takes as they are; the same characters as in `shlex.quote`, and the space between words.
_PLAIN = re.compile(r"[\w@%+=:,./ -]+", re.ASCII).fullmatch


def _quoted(argv: Sequence[str]) -> str:
    """Return words as for a shell.

    Most words need no quotes, and finding that out for all of them at once takes a fifth of the time.
    """
    text = " ".join(argv)
    if _PLAIN(text) and text.count(" ") == len(argv) - 1 and "" not in argv:
        return text
    return shlex.join(argv)


def command_line(entry: Command) -> str:
    """Return the command line of a process as for a shell, or its path; like ps(1), ``[comm]`` if neither is known."""
    argv = entry.get("argv")
    if argv:
        return printable(_quoted(argv))
    return printable(entry.get("path") or f"[{entry.get('comm') or '?'}]")


def command(entry: EntryFields, *, shows_end: bool = True) -> Line:
    """Return the command line in colour: directories dim, the program by its kind, then the arguments.

    Like ps(1), ``[comm]`` if neither arguments nor path are known. An exited process is grey throughout, unless
    `shows_end` is false.
    """
    program = program_of(entry)
    style = OF_KIND[program.kind]
    argv = entry.get("argv")
    if not argv:
        path = entry.get("path")
        line = Line()
        if path:
            _add_path(line, path, style)
        else:
            line.add(f"[{entry.get('comm') or '?'}]", style)
    else:
        line = Line()
        # The word that names the program: the script where there is one, otherwise the first.
        named = 0
        if program.script is not None:
            named = next(
                (i for i, each in enumerate(argv) if i and program.script in (each, each.removeprefix("-m"))), 0
            )
        if named:
            line.add(_quoted(argv[:named]) + " ", Style.FAINT)
        _add_path(line, _quoted(argv[named : named + 1]), style)
        if len(argv) > named + 1:
            line.add(" " + _quoted(argv[named + 1 :]), Style.ARGUMENT)
    return line.restyled(Style.EXITED) if shows_end and entry.get("exit_time_ns") else line


def _add_path(line: Line, path: str, style: Style) -> None:
    directory, slash, name = path.rpartition("/")
    if slash and name:
        line.add(directory + slash, Style.PATH)
    line.add(name or path, style)


def user(entry: EntryFields) -> Line:
    """Return the user of a process, by name where that is known; root stands out."""
    uid = entry.get("uid")
    if uid is None and not entry.get("user"):
        return Line((user_name(entry), Style.FAINT))
    return Line((user_name(entry), Style.ROOT if uid == 0 else Style.USER))


def user_name(entry: EntryFields) -> str:
    """Return the user of a process, by name where that is known; ``?`` if the user is unknown."""
    name, uid = entry.get("user"), entry.get("uid")
    return name or ("?" if uid is None else str(uid))


def container(entry: EntryFields) -> Line | None:
    """Return the first characters of a container's id, marked if a user may have chosen it; None: no container.

    The entry needs `CONTAINER_NEEDS`.
    """
    number = entry.get("container_id")
    if not number:
        return None
    line = Line((number[:12], Style.CONTAINER))
    return line.add(f" {NAMED_BY_USER}", Style.WARNING) if entry.get("container_trust") == "user" else line


def container_key(entry: EntryFields) -> tuple[str | None, ...]:
    """Return what the processes of a container have in common. A container of a user can have the id of another one."""
    return entry.get("container_id"), entry.get("container_trust")


def container_text(entry: EntryFields) -> str | None:
    """Return what `container` does, without styles; it may not be printable."""
    line = container(entry)
    return None if line is None else line.plain


def sender_of(entry: EntryFields) -> Mapping[str, Any] | None:
    """Return what is known of the process that sent the signal that ended this one; None: nothing."""
    found = (entry.get("extra") or {}).get("exit_signal_sender")
    return found if isinstance(found, Mapping) else None


def change_limits(extra: Mapping[str, Any] | None) -> tuple[int | None, int] | None:
    """Return between which times the last change happened, if a comparison found it; None: this is not known.

    Args:
        extra: of an entry.

    Returns:
        After which time (None: unknown), and before which, ns since the Unix epoch.
    """
    found = (extra or {}).get("sampled_change")
    return (found["changed_after_ns"], found["changed_before_ns"]) if isinstance(found, Mapping) else None


def ending(entry: EntryFields) -> str:
    """Return how a process ended, as in ``code 1`` or ``signal 9 (SIGKILL)``; empty if that is unknown."""
    cause, number = entry.get("exit_cause"), entry.get("exit_cause_code")
    if cause is None or number is None:
        return ""
    if cause == "exited":
        return f"code {number}"
    name = signal_name(number)
    shown = f" ({name})" if name.startswith("SIG") else ""
    return f"signal {number}{shown}" + (", core dumped" if cause == "coredumped" else "")


def ending_style(entry: EntryFields) -> Style:
    """Return the style of an end: red for a failure, otherwise grey."""
    return Style.FAILED if entry.get("exit_code") else Style.EXITED
