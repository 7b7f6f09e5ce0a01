"""The filters that the resolver evaluates pass every event that a selection matches, and few others."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.bus.stream.declared import FILTERS_MAX
from pipeline.bus.stream.messages import Decoder, unpack_events
from pipeline.bus.stream.narrowing import make_filter
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream._name_cache import NameCache, Names
from pipeline.resolver.stream._row_filters import RowFilters
from pipeline.select.selection import Selection
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter
from tests.resolver import _inside
from tests.resolver.stream_rows import BOOT, EXEC, Row, blob, tables

CONTAINER = b"0123456789abcdef" * 4
KNOWN = 0x7FFFF
SCRIPT = layout.ROW_HEAD | layout.ROW_IS_EXEC | layout.ROW_SCRIPT


def cgroup(path: bytes) -> bytes:
    return struct.pack("<QQ", 10**9, 0) + path


def file(path: bytes) -> bytes:
    return bytes(layout.FILE.itemsize) + path


@pytest.fixture(scope="module")
def rows() -> Iterator[tuple[TableWriter, NameCache, list[Row]]]:
    with tables() as writer:
        common: dict[str, Any] = {"start_boot_ns": 10**9, "known": KNOWN, "mnt_ns": 7, "user_ns": 8}
        made = [
            Row(writer, tgid=10, comm=b"nginx", uid=33, euid=33, file=file(b"/usr/sbin/nginx"),
                args=blob([b"nginx: worker", b"-q"]), cgroup=cgroup(b"/system.slice/nginx.service"), **common),
            Row(writer, tgid=11, comm=b"run.sh", uid=1000, euid=0, file=file(b"/usr/bin/dash"), flags=SCRIPT,
                name=b"/srv/run.sh\0/srv/web", args=blob([b"/bin/sh", b"/srv/run.sh", b"caf\xe9"]),
                cgroup=cgroup(b"/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service"), **common),
            Row(writer, tgid=12, comm=b"worker", uid=0, euid=0, container=CONTAINER, file=file(b"/app/caf\xe9"),
                args=blob([]), cgroup=cgroup(b"/system.slice/docker-" + CONTAINER + b".scope"), **common),
            Row(writer, tgid=13, comm=b"python3", uid=4000, euid=4000, file=file(b"/usr/bin/python3.13"),
                args=blob([b"python3", b"-m", b"http.server"]),
                cgroup=cgroup(b"/system.slice/dev-disk\\x2dlabel.swap"), **common),
            Row(writer, tgid=14, start_boot_ns=10**9, known=0),
        ]  # fmt: skip
        names = NameCache(Names({0: "root", 33: "web", 1000: "alice", 4000: "4711"}), 7, 8)
        names.set_views({(CONTAINER, 7, 8): (Names({0: "inside"}), 0)})
        yield writer, names, made


SELECTIONS = [
    Selection(users=["33"]), Selection(users=["web"]), Selection(users=["alice", "0"]), Selection(users=["inside"]),
    Selection(users=["4711"]), Selection(users=["4000"]), Selection(users=["nobody-has-this"]),
    Selection(units=["nginx"]), Selection(units=["ngin*.service"]), Selection(units=["ssh"]),
    Selection(units=["user@1000/ssh.service"]), Selection(units=["user@1000"]),
    Selection(units=["dev-disk-label.swap"]),
    Selection(units=["/system.slice"]), Selection(units=["/user.slice/*"]), Selection(units=["docker-*"]),
    Selection(containers=["0123"]), Selection(containers=["0123456789abcdef" * 4]), Selection(containers=["1234"]),
    Selection(paths=["nginx"]), Selection(paths=["/usr/*"]), Selection(paths=["*.sh"]), Selection(paths=["*caf\udce9"]),
    Selection(paths=["/nowhere"]), Selection(names=["run.sh"]), Selection(names=["python*"]),
    Selection(names=["http.server"]), Selection(names=["worker"]), Selection(args=["-q"]), Selection(args=["caf?"]),
    Selection(args=["nginx: *"]), Selection(args=["caf\udce9", "-m"]),
]  # fmt: skip


@pytest.mark.parametrize("selection", SELECTIONS, ids=repr)
def test_all_that_matches_passes(rows: tuple[TableWriter, NameCache, list[Row]], selection: Selection) -> None:
    writer, names, everyone = rows
    encoder = Encoder(BOOT)
    encoder.topics_mask, encoder.names = 1 << EXEC, names
    for row in everyone:
        encoder.add(writer, EXEC, 2, row.number, 10**9)
    (message,) = encoder.take()
    shown = unpack_events(Decoder(), bytes(message.body), message.count)
    matching = [event["pid"] for event in shown if selection.matches(event)]
    found = selection.publisher_filters()
    if not found:
        assert selection.args == ["caf?"] or selection.units, "everything else has a text"
    for kind, values in found:
        made = make_filter(kind, values)
        assert made is not None
        filters = RowFilters()
        filters.set(3, made.kind, made.values, 1 << EXEC)
        passing = [
            row["tgid"] for row in everyone if _inside.matching(filters, writer, names, EXEC, row.number) == 1 << 3
        ]
        assert set(matching) <= set(passing)
        assert not _inside.matching(filters, writer, names, EXEC + 1, everyone[0].number), "it is for one topic"
        # These pass too much: names are compared with all of the path, and escapes of units are not read.
        if not selection.units and not selection.names:
            assert passing == matching or selection.paths
        assert len(passing) < len(everyone)


def test_what_passes_no_filter_is_numbered_and_not_encoded(rows: tuple[TableWriter, NameCache, list[Row]]) -> None:
    writer, names, everyone = rows
    encoder = Encoder(BOOT)
    encoder.names = names
    encoder.filters.set(0, b"path", [b"nginx"], 1 << EXEC)
    encoder.filters.set(15, b"user", [b"4000"], 1 << EXEC)
    assert encoder.subscribed_mask == 1 << EXEC and encoder.topics_mask == 0
    assert encoder.sequences()[layout.SLOT_MASK] == 1 << EXEC, "a successor waits for these subscribers too"
    nginx, _, other, python, _ = everyone
    for row in (other, nginx, *[other] * 30, python, other):
        encoder.add(writer, EXEC, 2, row.number, 10**9)
    made = encoder.take()
    assert [(each.first, each.count, each.filters) for each in made] == [(2, 1, 1), (33, 1, 1 << 15)]
    assert encoder.settled()[EXEC] == 34


def test_what_is_near_to_what_passes_is_encoded_too(rows: tuple[TableWriter, NameCache, list[Row]]) -> None:
    """A message for each of many events would cost more than the events."""
    writer, _names, everyone = rows
    encoder = Encoder(BOOT)
    encoder.filters.set(0, b"path", [b"nginx"], 1 << EXEC)
    nginx, other = everyone[0], everyone[2]
    for _ in range(50):
        for row in (nginx, other):
            encoder.add(writer, EXEC, 2, row.number, 10**9)
    for _ in range(50):
        encoder.add(writer, EXEC, 2, other.number, 10**9)
    made = encoder.take()
    assert len(made) <= 4
    assert 98 <= sum(each.count for each in made) <= 110


def test_filters_are_limited(rows: tuple[TableWriter, NameCache, list[Row]]) -> None:
    filters = RowFilters()
    with pytest.raises(ValueError, match="16 filters"):
        filters.set(FILTERS_MAX, b"user", [b"1"], 1)
    with pytest.raises(ValueError, match="64 bytes"):
        filters.set(0, b"path", [b"x" * 65], 1)
    filters.set(0, b"path", [b"x"], 6)
    assert filters.topics_mask == 6
    filters.set(0)
    assert filters.topics_mask == 0


def test_adverse_texts_cost_little_and_pass() -> None:
    with tables() as writer:
        common: dict[str, Any] = {"start_boot_ns": 10**9, "known": KNOWN}
        long = Row(writer, tgid=10, comm=b"x", args=blob([b"a" * 32_000]), cgroup=cgroup(b"/" + b"a" * 4000), **common)
        short = Row(writer, tgid=11, comm=b"x", args=blob([b"a" * 80]), cgroup=cgroup(b"/aaa"), **common)
        filters = RowFilters()
        for kind in (b"arg", b"name", b"cgroup"):
            filters.set(0, kind, [b"baaa"], 1 << EXEC)
            assert _inside.matching(filters, writer, None, EXEC, short.number) == 0
            assert _inside.matching(filters, writer, None, EXEC, long.number) == (kind != b"cgroup"), (
                "it passes without a search"
            )
        values = [bytes([98 + number]) + b"aaa" for number in range(8)]
        for number in range(FILTERS_MAX):
            filters.set(number, b"arg", values, 1 << EXEC)
        assert _inside.matching(filters, writer, None, EXEC, long.number) == (1 << FILTERS_MAX) - 1
        # All filters together have one limit.
        assert _inside.matching(filters, writer, None, EXEC, short.number) == 0b1111111111 << 6
        for row in (short, long):
            best_ns = 10**9
            for _ in range(50):
                begin = time.thread_time_ns()
                _inside.matching(filters, writer, None, EXEC, row.number)
                best_ns = min(best_ns, time.thread_time_ns() - begin)
            assert best_ns < 100_000, "a search of everything takes more than 10 ms"


def test_a_value_is_found_wherever_it_is() -> None:
    chance = random.Random(5)
    filters = RowFilters()
    with tables() as writer:
        for tgid in range(10, 400):
            text = bytes(chance.choices(b"ab", k=chance.randint(1, 60)))
            row = Row(writer, tgid=tgid, start_boot_ns=10**9, known=KNOWN, args=blob([text])[:-1])
            for _ in range(10):
                value = bytes(chance.choices(b"ab", k=chance.randint(1, 12)))
                filters.set(0, b"arg", [value], 1 << EXEC)
                passes = _inside.matching(filters, writer, None, EXEC, row.number)
                assert passes >= (value in text)
                # It may also pass if the end of the value is there very often.
                ends = sum(text.startswith(value[-8:] if len(value) >= 8 else value[-4:], at) for at in range(60))
                assert passes == (value in text) or ends > 8
