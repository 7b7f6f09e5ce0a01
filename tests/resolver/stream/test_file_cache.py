"""The encoder's cache of what is known about executables: what it finds, notes and rejects, and for which user."""

from __future__ import annotations

from typing import Any

import msgpack

from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream._file_cache import FILES_MAX, FileCache
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter
from tests.resolver.stream_rows import BOOT, CONTEXT, Row, file_facts, tables, take

Key = tuple[int, int, int, int]
#: Slots that one user other than root can have.
PER_USER = FILES_MAX // 2


def row_of(writer: TableWriter, tgid: int, key: Key, **facts: Any) -> Row:
    common = {"start_boot_ns": tgid, "flags": layout.ROW_HEAD, "known": layout.KNOWN_FILE}
    return Row(writer, tgid=tgid, file=file_facts(*key) + b"/x", **(common | facts))


def encoder(cache: FileCache) -> Encoder:
    made = Encoder(BOOT)
    made.topics_mask = 0xFF
    made.hashes = cache
    return made


def shown(made: Encoder, writer: TableWriter, row: Row) -> Any:
    made.add(writer, CONTEXT, 6, row.number, 5)
    (event,) = take(made)
    return event["file_sha256"]


def key(number: int, part: int = 0) -> Key:
    """A key that differs from the others in one part."""
    values = [1, 1, 1, 1]
    values[part] += number
    return values[0], values[1], values[2], values[3]


def test_each_of_many_files_has_its_own_value_whatever_differs() -> None:
    cache = FileCache()
    keys = [key(number, part) for number in range(1, FILES_MAX // 4) for part in range(4)]
    cache.set_all({each: (msgpack.packb(str(each)), 0) for each in keys})
    with tables() as writer:
        made = encoder(cache)
        for number, each in enumerate(keys):
            assert shown(made, writer, row_of(writer, 10 + number, each)) == str(each)
        assert not cache.is_wanting and cache.take_wanted() == []
        cache.set_all({keys[1]: (msgpack.packb("one"), 0), keys[2]: (None, 0)})
        rows = [row_of(writer, 5 + number, each) for number, each in enumerate(keys[1:3])]
        assert [shown(made, writer, row) for row in rows] == ["one", None]
        assert cache.take_wanted() == [(keys[2], rows[1].number)]


def test_a_file_is_noted_once_with_a_row_and_one_user_leaves_room_for_others() -> None:
    cache = FileCache()
    with tables() as writer:
        made = encoder(cache)
        known = layout.KNOWN_FILE | layout.KNOWN_CREDS
        first = row_of(writer, 5, key(0), uid=7, known=known)
        assert shown(made, writer, first) is None and shown(made, writer, first) is None
        assert cache.is_wanting and cache.take_wanted() == [(key(0), first.number)]
        assert shown(made, writer, first) is None and not cache.is_wanting
        cache.living(writer)
        again = row_of(writer, 8, key(0), uid=7, known=known)
        for _ in range(2):
            shown(made, writer, again)
        assert cache.take_wanted() == [(key(0), again.number)], "the first process may have ended too early"
        for number in range(1, PER_USER + 5):
            shown(made, writer, row_of(writer, 10 + number, key(number), uid=7, known=known))
        assert cache.take_refused() == 5
        cache.take_wanted()
        other = row_of(writer, 6, key(1 << 40), uid=8, known=known)
        shown(made, writer, other)
        assert cache.take_wanted() == [(key(1 << 40), other.number)] and cache.take_refused() == 0


def test_processes_of_other_namespaces_see_what_is_known_and_note_nothing() -> None:
    cache = FileCache()
    cache.mnt_ns = 7
    cache.set_all({key(1): (msgpack.packb("known"), 0)})
    known = layout.KNOWN_FILE | layout.KNOWN_NS
    with tables() as writer:
        made = encoder(cache)
        for facts in ({"mnt_ns": 8}, {"mnt_ns": 7, "container": b"c0ffee"}):
            assert shown(made, writer, row_of(writer, 5, key(1), known=known, **facts)) == "known"
            assert shown(made, writer, row_of(writer, 6, key(2), known=known, **facts)) is None
            assert not cache.is_wanting and cache.living(writer) == []
        shown(made, writer, mine := row_of(writer, 7, key(2), known=known, mnt_ns=7))
        assert cache.take_wanted() == [(key(2), mine.number)]
