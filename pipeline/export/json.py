"""Entries and events as JSON: one object a line, or one document. Names and meaning of the fields are Entry's.

A byte that is not UTF-8 appears as ``\\udcXX``, and all other text beyond ASCII is escaped too, so that a terminal, a
log file and a parser get the same text. An unknown field is null. Secrets are not scrubbed here: the tables hold
scrubbed text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.errors import TooOldError
from pipeline.shm.reader.table import Entry

_encode = json.JSONEncoder(ensure_ascii=True, separators=(", ", ": "), check_circular=False).encode


def dumps(value: Any) -> str:
    """Return a value as one line of JSON."""
    return _encode(value)


def entry_line(entry: Entry) -> str:
    """Return one entry as one line.

    Raises:
        TooOldError: it has been evicted.
    """
    return _encode(entry.to_dict())


def entries_line(entries: Iterable[Entry]) -> str:
    """Return several entries as one line: an array."""
    return _encode([entry.to_dict() for entry in entries])


def document(entries: Iterable[Entry], **head: Any) -> Iterator[str]:
    """Yield one JSON object piece by piece: `head`, then ``entries``, one a line. Needs memory for one entry.

    An entry that is evicted meanwhile is left out.
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
