"""How facts are put into words. What a process chose stands in quotation marks, with escapes; nothing else does."""

from __future__ import annotations

import posixpath
import re
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.export.text import printable
from pipeline.screen.processes import NAMED_BY_USER
from pipeline.select.programs import program_of
from pipeline.select.units import readable
from pipeline.why.facts import file_of

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields

#: Longer text that a process chose is cut.
QUOTED_MAX = 240
_PLAIN_PATH = re.compile(r"/[\w@%+=:,./~()\[\]-]*\Z", re.ASCII)
_PLAIN_WORD = re.compile(r"[\w@%+=:,./$-]{1,200}\Z", re.ASCII)
_PLAIN_NAME = re.compile(r"[\w.@$-]+\Z")


def quoted(text: object, limit: int = QUOTED_MAX) -> str:
    """Return text that a process chose: escaped, cut, and in quotation marks that it cannot end."""
    # Backslashes too: one before a quotation mark would undo the escape of that mark.
    safe = printable(str(text)[: limit + 1].replace("\\", "\\\\"))
    if len(safe) > limit:
        safe = safe[: limit - 1] + "…"
    return '"' + safe.replace('"', '\\"') + '"'


def path_text(path: str) -> str:
    """Return a path, in quotation marks if it contains spaces or other characters that could mislead a reader."""
    return path if _PLAIN_PATH.match(path) and len(path) <= QUOTED_MAX else quoted(path)


def word_text(word: str) -> str:
    """Return a name, in quotation marks if it contains spaces or other characters that could mislead a reader."""
    return word if _PLAIN_WORD.match(word) else quoted(word)


def unit_text(unit: str) -> str:
    """Return the name of a systemd unit, without its escapes."""
    return word_text(readable(unit))


def container_mark(entry: EntryFields) -> str:
    """Return what stands behind the id of a container: nothing, unless a user may have chosen it."""
    return f" {NAMED_BY_USER}" if entry.get("container_trust") == "user" else ""


def command_text(entry: EntryFields, limit: int = QUOTED_MAX) -> str | None:
    """Return the command line in quotation marks; None if it is unknown."""
    argv = entry.get("argv")
    if not argv:
        return None
    return quoted(shlex.join(argv) + (" …" if entry.get("args_truncated") else ""), limit)


def program_text(entry: EntryFields) -> str:
    """Return the program as the kernel knows it: its path; without one its name, which a process chooses."""
    path = entry.get("path")
    if path and path.startswith("/memfd:"):
        return f"a program in memory that is named {quoted(path.removeprefix('/'))}"
    if path:
        return path_text(path)
    if file_of(entry).get("is_fileless"):
        return "a program in memory"
    return f"a program that calls itself {quoted(entry.get('comm') or '?')}"


def name_text(entry: EntryFields) -> str:
    """Return a short name of what a process runs, for headlines. Names that a process chose are quoted."""
    program = program_of(entry)
    path = entry.get("path")
    base = posixpath.basename(path or "")
    if (path or "").startswith("/memfd:"):
        return quoted((path or "").removeprefix("/"), 80)
    is_plain = bool(base and _PLAIN_NAME.match(base))
    if program.script is not None:
        if program.script == entry.get("script_path"):
            return program.name if _PLAIN_NAME.match(program.name) else quoted(program.name, 80)
        return f"{base if is_plain else quoted(base, 80)} {quoted(program.script, 80)}"
    return base if is_plain else quoted(program.name, 80)


def time_text(time_ns: int | None) -> str:
    """Return a point in time in UTC with milliseconds."""
    if time_ns is None:
        return "at an unknown time"
    day = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return f"{day:%Y-%m-%d %H:%M:%S}.{time_ns // 1_000_000 % 1000:03d}"


def listed(parts: list[str]) -> str:
    """Return parts as in ``a, b and c``."""
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def capital(text: str) -> str:
    """Return text with a capital first letter; a path or name at its start stays as it is."""
    return (
        text[:1].upper() + text[1:]
        if text.startswith(("a ", "an ", "the ", "pid ", "exited ", "killed ", "was "))
        else text
    )
