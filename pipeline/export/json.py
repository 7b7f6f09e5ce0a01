r"""Entries and events as JSON: one object a line, or one document. The fields are those of `Entry`.

Each byte of text that is not UTF-8 appears as ``\udcXX``. All other characters beyond ASCII are escaped too, so a
terminal, a log file and a parser get the same text. An unknown value is null. This module hides no secrets; they were
hidden before the text was written to the tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from pipeline.errors import TooOldError
from pipeline.shm.reader.table import Entry

_encode = json.JSONEncoder(ensure_ascii=True, separators=(", ", ": "), check_circular=False).encode


def dumps(value: object) -> str:
    """Return a value as one line of JSON."""
    return _encode(value)


def entry_line(entry: Entry) -> str:
    """Return one entry as one line.

    Raises:
        TooOldError: the entry is no longer retained.
    """
    return _encode(entry.to_dict())


def entries_line(entries: Iterable[Entry]) -> str:
    """Return several entries as an array on one line."""
    return _encode([entry.to_dict() for entry in entries])


def document(entries: Iterable[Entry], **head: object) -> Iterator[str]:
    """Yield one JSON object in pieces: the keys of `head`, then ``entries`` with one entry a line.

    The function needs memory for only one entry. An entry that is evicted in the meantime is omitted.
    """
    prefix = _encode(head)[:-1]
    yield prefix + (', "entries": [' if head else '"entries": [')
    separator = "\n"
    for entry in entries:
        try:
            line = entry_line(entry)
        except TooOldError:
            continue
        yield separator + line
        separator = ",\n"
    yield "\n]}\n"
