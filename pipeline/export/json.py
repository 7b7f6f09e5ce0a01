r"""Entries and events as JSON: one object a line, or one document. The fields are those of `Entry`.

Each byte of text that is not UTF-8 appears as ``\udcXX``. All other characters beyond ASCII are escaped too, so a
terminal, a log file and a parser get the same text. An unknown value is null. This module hides no secrets; they were
hidden before the text was written to the tables.

All JSON that a command prints or writes for its user is made here, with two exceptions. `procline config --json` prints
the settings as workers receive them (`Config.to_json`), and `pipeline.log_json` makes the lines of the log. Files and
messages between the processes of an instance are made with `json.dumps`, by modules below this package, which must not
load it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.shm.reader.values import Batch

_encode = json.JSONEncoder(ensure_ascii=True, separators=(", ", ": "), check_circular=False).encode


def dumps(value: object) -> str:
    """Return a value as one line of JSON."""
    return _encode(value)


def batch_lines(batch: Batch, separator: str) -> bytes:
    """Return a batch as JSON: an object a process on one line each, with a text between them."""
    from pipeline.export._json_lines import lines

    columns = [batch.groups(name) or batch.lists(name) or batch.column(name) for name in batch.fields]
    return lines(batch.fields, columns, len(batch), _encode, separator)


def document(batches: Iterable[Batch], **first: object) -> Iterator[bytes]:
    """Yield one JSON object in pieces, as ASCII: the keys of `first`, then ``entries`` with one entry a line.

    The function needs memory for only one batch.
    """
    prefix = _encode(first)[:-1]
    yield (prefix + (', "entries": [' if first else '"entries": [')).encode("ascii")
    separator = b"\n"
    for batch in batches:
        if len(batch):
            yield separator
            yield batch_lines(batch, ",\n")
            separator = b",\n"
    yield b"\n]}\n"
