"""Topics of `procline help` besides commands: fields, attributes, columns, settings, counters, lines of `stat`."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from pipeline.screen.columns import MEANINGS
from pipeline.screen.lines import Line
from pipeline.screen.styles import Style
from pipeline.shm.layout.entry_fields import FIELDS

if TYPE_CHECKING:
    from pipeline.config.schema import Setting

#: Where a field is, by `EntryField.shown`.
_SHOWN = {
    "both": "entries and events", "entry": "entries", "event": "events", "some": "some events",
    "exit": "exit events, and entries of exited processes", "property": "entries, in Python only",
}  # fmt: skip
_TYPES = {
    "str": "text", "int": "number", "uint": "number", "bool": "yes or no", "map": "object", "float": "number",
    "[str]": "list of texts",
}  # fmt: skip
#: What the lines of `procline stat`, and words in them, mean.
STAT_LINES = {
    "events": "How many events were applied to the tables since the instance started, by kind.",
    "lost": "Events that the kernel could not hand over, by kind: a ring was full. The tables are corrected from /proc "
    "afterwards; what a process did that ended meanwhile is not known. Larger rings (capture.rings_bytes) lose less.",
    "late": "Events that arrived after younger ones had been applied. They fill gaps, but do not undo younger facts.",
    "lag": "How long ago the moment is up to which all events are in the tables. Events gather for a while before they "
    "are applied together (capture.freshness_ms).",
    "behind": "The instance is too slow or is being replaced: what happened in that time is not in the tables yet.",
    "ready": "The tables have all live processes, and a process that they lack does not exist.",
    "holds": "Processes and images (what a process executed, one after another) in the tables.",
    "tables": "How full the tables are. If one is full, the entries that ended first are removed.",
    "changes": "How soon a change of credentials, session, terminal or namespaces is found, where processes are "
    "compared with their last records (capture.sampling_interval_s). On some kernels that is so for some changes only, "
    "and `procline doctor` names them. With many processes it takes longer, because "
    "comparisons use at most 0.3 % of a CPU. The event of a change has the limits of its time (changed_after_ns), and "
    "so has the entry (extra.sampled_change).",
    "readers": "Programs that have the tables open.",
    "upkeep": "How often the tables were compared with /proc after a loss, and how many images were removed because "
    "their time was over or room was needed.",
    "problems": "Counters of what was lost, rejected or wrong and is not 0; `procline help COUNTER` explains each.",
}
#: Links and marks of code in the text of a field, which is also a line of a document.
_link = re.compile(r"\[([^]]*)\]\([^)]*\)")


def names() -> list[str]:
    """Return everything that `explained` explains."""
    return [
        *(field.name for field in FIELDS), *_attributes(), *MEANINGS, *(key for key, _, _ in _settings()), *_counters(),
        *STAT_LINES,
    ]  # fmt: skip


def explained(name: str) -> list[Line]:
    """Return the lines that explain a field, attribute, column, setting, section, counter or line of `procline stat`.

    Empty: the name is none of them.
    """
    return [
        *_of_fields(name), *_of_attributes(name), *_of_columns(name), *_of_settings(name), *_of_counters(name),
        *_of_stat(name),
    ]  # fmt: skip


def _of_fields(name: str) -> Iterator[Line]:
    for field in FIELDS:
        if field.name == name:
            kind = _TYPES.get(field.type, field.type)
            yield from _entry(name, f"field of {_SHOWN[field.shown]}: {kind}", field.meaning)


def _of_attributes(name: str) -> Iterator[Line]:
    text = _attributes().get(name)
    if text is not None:
        yield from _entry(name, "attribute of an entry, in Python only; see help(pipeline.Entry)", text)


def _of_columns(name: str) -> Iterator[Line]:
    if name in MEANINGS:
        yield from _entry(name, "column of `procline ps -o`, and name in --where", MEANINGS[name])


def _of_settings(name: str) -> Iterator[Line]:
    for key, value, description in _settings():
        section, _, last = key.rpartition(".")
        if name in (key, section, last):
            from pipeline.config.rendering import toml

            yield from _entry(key, f"setting, default {toml(value)}", description)


def _of_counters(name: str) -> Iterator[Line]:
    text = _counters().get(name)
    if text is not None:
        yield from _entry(name, "counter of `procline stat -v`", text)


def _of_stat(name: str) -> Iterator[Line]:
    if name in STAT_LINES:
        yield from _entry(name, "in the output of `procline stat`", STAT_LINES[name])


def _entry(name: str, kind: str, text: str) -> Iterator[Line]:
    yield Line((name, Style.HEADING), (f"  {kind}", Style.FAINT))
    plain = _link.sub(r"\1", text).replace("`", "")
    if plain:
        yield Line(f"  {plain[:1].upper()}{plain[1:].rstrip('.')}.")


@cache
def _attributes() -> dict[str, str]:
    """Return the first paragraph about each attribute and method of `Entry` that is no field."""
    from pipeline.shm.reader._entry import Entry

    fields = {field.name for field in FIELDS} - {"images"}
    found = {name: inspect.getdoc(getattr(Entry, name)) or "" for name in dir(Entry) if not name.startswith("_")}
    # The text about a method can begin with its signature.
    return {
        name: " ".join(re.sub(rf"\AEntry\.{name}\(.*\n+", "", text).split("\n\n")[0].split())
        for name, text in found.items()
        if name not in fields
    }


def _settings() -> list[Setting]:
    """Return key, default and description of each setting; nothing where the daemon's packages are not installed."""
    with contextlib.suppress(ImportError):
        from pipeline.config.schema import Config, settings

        return list(settings(Config()))
    return []


def _counters() -> dict[str, str]:
    """Return the help of each counter; nothing where the package for Prometheus is not installed."""
    with contextlib.suppress(ImportError):
        from pipeline.export.prometheus import HELP

        return HELP
    return {}
