"""Values of fields in the forms that the schemas want. `declared.TABLE` names these functions.

A publisher can send any type in any field. A function that gets another type than it expects raises TypeError or
ValueError, or returns None; the field is then left out.
"""

from __future__ import annotations

import functools
import math
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pipeline.formats.declared import WIDE
from pipeline.records.capabilities import NAMES

_I64 = 1 << 63
_NS_PER_S = 1_000_000_000


def text(value: Any) -> str | None:
    r"""Return text as valid Unicode: a byte that is not UTF-8 becomes ``\xNN``. Empty text is no value.

    Parsers of these formats reject half of a surrogate pair, which native JSON has for such a byte.
    """
    if type(value) is not str:
        raise TypeError
    return valid(value) or None


def valid(value: str) -> str:
    r"""Return text with ``\xNN`` for each byte that is not UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value


def texts(value: Any) -> list[str]:
    """Return a list of texts; empty ones keep their place."""
    return [valid(each) for each in value]


def joined(value: Any) -> str | None:
    """Return arguments as one line, separated by spaces."""
    return " ".join(texts(value)) or None


def first(value: Any) -> str | None:
    """Return the first argument."""
    return text(value[0]) if value else None


def basename(value: Any) -> str | None:
    """Return the last part of a path."""
    return text(value.rpartition("/")[2])


def number(value: Any) -> int | None:
    """Return a number, if it is one of 64 bits with a sign."""
    if type(value) is not int:
        raise TypeError
    return value if -_I64 <= value < _I64 else None


def pid(value: Any) -> int | None:
    """Return the number of a process; 0 is none."""
    return number(value) or None


def identifier(value: Any) -> str:
    """Return a number as text, as the schemas have ids of users and files."""
    if type(value) is not int:
        raise TypeError
    return str(value)


def digits(value: Any) -> str | None:
    """Return an unsigned number of 64 bits as text, as OTLP has it in JSON."""
    return str(value) if type(value) is int and 0 <= value < 2 * _I64 else None


def iso(value: Any) -> str:
    """Return a time in ns since the Unix epoch as RFC 3339 has it, in UTC with nanoseconds."""
    seconds, ns = divmod(value, _NS_PER_S)
    return f"{_seconds(seconds)}.{ns:09d}Z"


@functools.lru_cache(maxsize=256)
def _seconds(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def ms(value: Any) -> int:
    """Return a time or a duration in ns as milliseconds."""
    return int(value // 1_000_000)


def octal(value: Any) -> str:
    """Return permission bits as ``chmod`` has them."""
    return f"{stat.S_IMODE(value):04o}"


def capabilities(value: Any) -> list[str]:
    """Return the capabilities in a mask, as in ``CAP_KILL``; one without a name here by its number."""
    return [
        f"CAP_{NAMES[bit].upper()}" if bit < len(NAMES) else str(bit)
        for bit in range(value.bit_length())
        if value >> bit & 1
    ]


def cgroup_line(value: Any) -> str | None:
    """Return a path of cgroup version 2 as a line of ``/proc/PID/cgroup``."""
    found = text(value)
    return f"0::{found}" if found else None


def variables(value: Any) -> dict[str, str]:
    """Return environment variables by name; one whose value is hidden is left out."""
    return dict(_variables(value))


def variable_list(value: Any) -> list[dict[str, str]] | None:
    """Return environment variables as OCSF's objects; one whose value is hidden is left out."""
    return [{"name": name, "value": content} for name, content in _variables(value)] or None


def _variables(value: Any) -> list[tuple[str, str]]:
    pairs = (each.partition("=") for each in texts(value))
    return [(name, content) for name, is_shown, content in pairs if name and is_shown]


def pairs(value: Any) -> list[str] | None:
    """Return a map of texts as a list of ``NAME=VALUE``.

    Others choose the names. As names of fields, ``app`` and ``app.kubernetes.io/name`` contradict each other in
    Elasticsearch, which takes what is before a dot for an object.
    """
    return [f"{valid(name)}={valid(content)}" for name, content in value.items()] or None


def executables(value: Any) -> list[dict[str, str]]:
    """Return earlier images of a process as ECS's ``process.previous`` has them."""
    paths = (text(image["path"]) for image in value if image["path"])
    return [{"executable": path} for path in paths if path]


def entities(value: Any) -> list[dict[str, Any]]:
    """Return processes of a lineage as OCSF's process entities."""
    return [entity for entity in map(process_entity, value) if entity]


def process_entity(image: Any) -> dict[str, Any]:
    """Return one of a lineage, or another map with the same keys, as OCSF's process entity."""
    start_ns, path, comm = image.get("start_time_ns"), image.get("path"), image.get("comm")
    found = {
        "pid": pid(image.get("pid") or 0),
        "uid": text(image.get("entity_id") or ""),
        "name": basename(path) if path else text(comm or ""),
        "path": text(path or ""),
        "created_time": ms(start_ns) if start_ns else None,
        "created_time_dt": iso(start_ns) if start_ns else None,
    }
    return {key: each for key, each in found.items() if each is not None}


def own(value: Any) -> Any:
    """Return the value of a field that a schema has no name for. Empty text and lists are no value."""
    if type(value) is bool:
        return value
    found = plain(value)
    return None if found == "" or found == [] else found


def plain(value: Any) -> Any:
    """Return a value of the stream as valid JSON; what cannot be, is left out."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, int):  # also a bool
        return value if -_I64 <= value < _I64 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        shown = ((valid(str(key)), _item(key, each)) for key, each in value.items())
        return {key: each for key, each in shown if each is not None}
    if isinstance(value, list | tuple):
        return [each for each in map(plain, value) if each is not None]
    return None


def _item(key: Any, value: Any) -> Any:
    return str(value) if type(value) is int and key in WIDE else plain(value)


CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "text": text, "texts": texts, "joined": joined, "first": first, "basename": basename, "number": number, "pid": pid,
    "id": identifier, "digits": digits, "iso": iso, "ms": ms, "octal": octal, "capabilities": capabilities,
    "cgroup_line": cgroup_line, "variables": variables, "variable_list": variable_list, "executables": executables,
    "entities": entities, "pairs": pairs, "own": own,
}  # fmt: skip
