"""docs/wire-schema.md agrees with the code. Authors of readers in other languages rely on its tables."""

from __future__ import annotations

import re
from pathlib import Path

import msgpack

from pipeline.bus import context_events
from pipeline.bus.stream.declared import HEADER_KEYS
from pipeline.bus.stream.messages import TOPICS, Header
from pipeline.resolver.entries import entry_extra
from pipeline.resolver.entries.model import NO_FILE
from pipeline.resolver.stream._encoder import FIELDS
from pipeline.shm.layout.declared import EXIT_CAUSES
from pipeline.shm.layout.entry_fields import EXIT_FIELDS

TEXT = (Path(__file__).parents[3] / "docs" / "wire-schema.md").read_text(encoding="utf-8")


def rows(title: str, below: str = "# On the wire") -> list[list[str]]:
    """Rows of the first table below a heading that has `title` as its first header cell."""
    lines = TEXT[TEXT.index(f"{below}\n") :].splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith(f"| {title} |"))
    found = []
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def names(cells: list[list[str]], column: int = 0) -> list[str]:
    return [name for row in cells for name in re.findall(r"`([\w.]+)`", row[column])]


def test_the_fields_of_an_event_are_all_there_in_their_order() -> None:
    assert names(rows("field")) == [*FIELDS, *EXIT_FIELDS, "changed_after_ns", "new_parent", "context"]


def test_the_keys_of_a_file_are_all_there() -> None:
    assert sorted(names(rows("key", "#### Files"))) == sorted(entry_extra.shown_file(NO_FILE))


def test_the_causes_of_an_exit_are_all_there() -> None:
    (meaning,) = (row[2] for row in rows("field") if row[0] == "`exit_cause`")
    assert tuple(re.findall(r"`(\w+)`", meaning)) == EXIT_CAUSES


def test_context_events_are_those_of_the_code() -> None:
    kinds = rows("kind")
    assert names(kinds) == list(context_events.KINDS)
    for kind, row in zip(context_events.KINDS, kinds, strict=True):
        assert set(re.findall(r"`([a-z0-9_]+)`", row[1])) == set(context_events.KINDS[kind])
        assert set(re.findall(r"\*\*`([a-z0-9_]+)`\*\*", row[1])) == set(context_events.REQUIRED[kind])
    assert next(row[2] for row in rows("message key")).startswith(f"{context_events.CONTEXT_VERSION},")


def test_headers_have_the_declared_keys() -> None:
    assert sorted(key.name for key in HEADER_KEYS) == sorted(Header._fields)
    needed = Header("host", bytes(16), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert list(msgpack.unpackb(needed.pack())) == [key.name for key in HEADER_KEYS if not key.optional]
    whole = needed._replace(seqs=(1,), end=True, unwatched=((1, 2),), since=7, only=(b"only",), next=(1,))
    assert list(msgpack.unpackb(whole.pack())) == [key.name for key in HEADER_KEYS]
    assert Header.parse(whole.pack()) == whole


def test_topics_are_those_of_the_code() -> None:
    assert [(int(row[0]), row[1].strip("`")) for row in rows("number")] == list(enumerate(TOPICS))
