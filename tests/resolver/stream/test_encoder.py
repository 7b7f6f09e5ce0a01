"""The encoder against its slow twin, its groups and numbers, and its behaviour without memory or listeners."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bus.stream.messages import TOPICS
from pipeline.config.schema import Config, Envs
from pipeline.host import boot
from pipeline.records import declared
from pipeline.records.declared import KIND_NAMES
from pipeline.resolver.daemon.build import envs_form
from pipeline.resolver.stream._encoder import FIELDS, Encoder
from pipeline.resolver.stream._name_cache import NameCache, Names
from pipeline.shm.layout import layout
from pipeline.shm.layout.entry_fields import EXIT_FIELDS
from pipeline.shm.layout.file_fields import FIELDS as DECLARED_FILE_FIELDS
from pipeline.shm.reader import lineage
from pipeline.shm.reader._entry import FIELDS as ENTRY_FIELDS
from tests.resolver import _inside
from tests.resolver.stream_rows import (
    BOOT,
    CONTEXT,
    CRED,
    EXEC,
    EXIT,
    FILESYSTEMS,
    FORK,
    LOSS,
    REPARENT,
    STATS,
    Row,
    ancestor,
    blob,
    expected,
    is_whole,
    random_row,
    tables,
    take,
    unpack,
)  # fmt: skip
from tests.sampling import examples, times

ALL = 0xFF
FILE_FIELDS = tuple(field.name for field in DECLARED_FILE_FIELDS)
#: Topic and kind of the events that apply emits.
EMITTED = [(FORK, 1), (EXEC, 2), (EXIT, 3), (CRED, 4), (CONTEXT, 5), (CONTEXT, 6), (CONTEXT, 7), (REPARENT, 3)]

#: What only some kinds have.
OWN_FIELDS = {
    "exit": EXIT_FIELDS, "reparent": ("new_parent",), "cred": ("changed_after_ns",), "sid": ("changed_after_ns",),
}  # fmt: skip

HOST = {"user": {0: "root", 1: "daemon", 256: "gr\u00fc\u00df"}, "group": {0: "root", 255: "\udcff"}}
INSIDE = {"user": {0: "inside", 128: "app"}, "group": {127: "apps"}}


def names_of(row: Row):
    """The names that apply to a row: the twin of NameCache.of, for the test's cache."""
    if not row["known"] & layout.KNOWN_NS:
        return None
    container = row.strings.get("container")
    if container is None and row["mnt_ns"] == 1:
        return HOST
    is_inside = (container or b"") in (b"", b"a", b"sh") and (row["mnt_ns"], row["user_ns"]) == (127, 128)
    return INSIDE if is_inside else None


def encoder(**options):
    made = Encoder(BOOT, **options)
    made.topics_mask = ALL
    return made


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False), st.integers(0, 9), st.booleans(), st.sampled_from(("exec", "all")))
def test_an_event_equals_that_of_the_slow_twin(rng: random.Random, depth: int, envs: bool, file: str) -> None:
    with tables() as writer:
        made = encoder(lineage_depth=depth, envs="stored" if envs else "none", file=file)
        made.names = NameCache(Names(HOST["user"], HOST["group"]), 1, 0)
        inside = Names(INSIDE["user"], INSIDE["group"])
        made.names.set_views({(word, 127, 128): (inside, 0) for word in (b"", b"a", b"sh")})
        rows: list[Row] = []
        wanted = []
        seqs = [0] * 8
        for n in range(rng.randrange(1, 20)):
            rows.append(random_row(rng, writer, 100 + n, rows))
            row = rng.choice(rows)
            topic, kind = rng.choice(EMITTED)
            time = rng.choice((0, 1, rng.getrandbits(60)))
            detail = rng.choice(rows) if topic == REPARENT and rng.random() < 0.8 else None
            after = 0 if topic == REPARENT else rng.choice((0, 1, rng.getrandbits(60)))
            made.add(writer, topic, kind, row.number, time, detail.number if detail else after)
            seqs[topic] += 1
            event = expected(
                row, topic=topic, kind=kind, seq=seqs[topic], order=n + 1, time=time, depth=depth, envs=envs,
                names=names_of(row), file_form=file, changed_after=after,
            )  # fmt: skip
            if topic == REPARENT:
                event["new_parent"] = ancestor(detail) if detail else None
            wanted.append(event)
        got = take(made)
        assert got == wanted
        for event in got:
            assert tuple(event)[: len(FIELDS)] == FIELDS
            assert event["file"] is None or tuple(event["file"]) == FILE_FIELDS
            assert tuple(event)[len(FIELDS) :] == OWN_FIELDS.get(event["event"], ())


def test_an_exit_without_costs_takes_no_memory_for_them() -> None:
    with tables() as writer:
        row, made = Row(writer, tgid=5), encoder()
        made.add(writer, EXIT, 3, row.number, 10**9)
        (event,) = take(made)
        assert [event[name] for name in EXIT_FIELDS] == [None] * len(EXIT_FIELDS)
        assert (writer.directory / "costs").stat().st_blocks == 0


LINEAGE = {"lineage", "lineage_truncated", "lineage_complete"}


def test_an_event_has_the_fields_of_an_entry() -> None:
    """All fields except its place in the table, useless to subscribers, and the details behind a session's number."""
    assert set(ENTRY_FIELDS) - set(FIELDS) == {
        "is_head", "row", "generation", "ssh_session", *EXIT_FIELDS,
    }  # fmt: skip
    assert set(FIELDS) - set(ENTRY_FIELDS) == {"event", "seq", "order", "time_ns", *LINEAGE}


def test_the_text_identities_are_those_of_boot() -> None:
    with tables() as writer:
        made = encoder()
        for tgid, start, pid_ns in ((1, 1, 4026531836), (4194303, (1 << 60) - 1, 1), (77, 10**15, 0)):
            row = Row(writer, tgid=tgid % 4096, start_boot_ns=start, pid_ns=pid_ns, ns_pid=tgid, known=0xFFFFFFFF)
            made.add(writer, FORK, 1, row.number, 5)
            (event,) = take(made)
            assert event["entity_id"] == boot.entity_id(BOOT, tgid % 4096, start)
            assert event["cpid"] == boot.cpid(BOOT, pid_ns, boot.ticks_of(start), tgid)


def test_two_processes_of_one_slot_of_the_cpid_cache_keep_their_own() -> None:
    with tables() as writer:
        made = encoder()
        rows = [Row(writer, tgid=7, start_boot_ns=10**10 * n, pid_ns=1, ns_pid=n, known=0xFFFFFFFF) for n in (1, 2, 1)]
        for row in rows:
            made.add(writer, FORK, 1, row.number, 5)
        ids = [event["cpid"] for event in take(made)]
        assert ids[0] == ids[2] != ids[1]


def test_lineage_is_the_chain_at_the_event() -> None:
    with tables() as writer:
        made = encoder()
        chain: Row | None = None
        for n in range(20):
            facts = {"comm": b"c%d" % n, "known": layout.KNOWN_COMM, "ancestor": chain}
            chain = Row(writer, tgid=10 + n, start_boot_ns=5 + n, **facts)
        made.add(writer, FORK, 1, chain.number, 5)
        (event,) = take(made)
        assert [each["pid"] for each in event["lineage"]] == list(range(28, 20, -1))
        assert event["lineage_truncated"]
        # A later change of an ancestor does not change what was published.
        made.add(writer, FORK, 1, chain.number, 6)
        writer.hot_view()["comm"][chain.links["ancestor"].number] = b"renamed"
        made.add(writer, EXIT, 3, chain.number, 7)
        before, after = take(made)
        assert before["lineage"][0]["comm"] == "c18"
        assert after["lineage"][0]["comm"] == "renamed"


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from((1, 1, 2, 3)), st.booleans(), st.sampled_from((0,) * 9 + (1,))), min_size=1),
    st.sampled_from((1, 1, 1, 70)),
)
def test_the_lineage_is_complete_or_broken_as_readers_find_it(
    images: list[tuple[int, bool, int]], repeated: int
) -> None:
    """By the rules of `pipeline.shm.reader.lineage`, for chains of any length."""
    with tables() as writer:
        made = encoder()
        chain: list[Row] = []
        for number, (pid, is_exec, is_missing) in enumerate(images * repeated):
            flags = layout.ROW_IS_EXEC * is_exec | layout.ROW_PARENT_MISSING * is_missing
            above = chain[0] if chain else None
            chain.insert(0, Row(writer, tgid=pid, start_boot_ns=5 + number, flags=flags, ancestor=above))
        made.add(writer, FORK, 1, chain[0].number, 5)
        (event,) = take(made)
        entries = [
            SimpleNamespace(
                pid=row["tgid"], ppid=0, is_exec=bool(row["flags"] & layout.ROW_IS_EXEC),
                is_parent_missing=bool(row["flags"] & layout.ROW_PARENT_MISSING),
            )
            for row in chain
        ]  # fmt: skip
        assert event["lineage_complete"] is lineage.is_complete(entries) is is_whole(chain)


@pytest.mark.parametrize(
    ("count", "facts", "expected_verdict"),
    [
        (256, {}, True), (257, {}, None), (300, {"flags": layout.ROW_PARENT_MISSING}, False),
        (2, {"flags": layout.ROW_KTHREAD}, None), (2, {}, True),
    ],
)  # fmt: skip
def test_a_lineage_is_followed_up_to_its_limit(
    count: int, facts: dict[str, int], expected_verdict: bool | None
) -> None:
    """pid 1 is `count` images above. The limit keeps the cost of an event from depending on how deep a tree is."""
    with tables() as writer:
        made = encoder()
        row = Row(writer, tgid=1, start_boot_ns=1)
        for number in range(count - 2):
            row = Row(writer, tgid=10 + number, start_boot_ns=5 + number, ancestor=row)
        row = Row(writer, tgid=9, start_boot_ns=999, ancestor=row, **facts)
        made.add(writer, FORK, 1, row.number, 5)
        (event,) = take(made)
        assert event["lineage_complete"] is expected_verdict


def test_a_link_to_a_freed_row_ends_and_marks_the_lineage() -> None:
    with tables() as writer:
        made = encoder()
        row = Row(writer, tgid=10, start_boot_ns=5)
        gone = 3000 | 7 << 32
        writer.hot_view()["ancestor"][row.number] = gone | 0
        writer.hot_view()["ancestor"][row.number] = row.number | 99 << 32  # the same row, another generation
        made.add(writer, FORK, 1, row.number, 5)
        (event,) = take(made)
        assert (event["lineage"], event["lineage_truncated"]) == ([], True)
        writer.hot_view()["ancestor"][row.number] = 0


def test_a_chain_that_is_a_ring_ends() -> None:
    with tables() as writer:
        made = encoder()
        row = Row(writer, tgid=10, start_boot_ns=5)
        writer.hot_view()["ancestor"][row.number] = writer.py_link(row.number)
        made.add(writer, FORK, 1, row.number, 5)
        (event,) = take(made)
        assert len(event["lineage"]) == 8 and event["lineage_truncated"]
        writer.hot_view()["ancestor"][row.number] = 0


def test_nothing_is_encoded_for_a_topic_without_subscriber_but_it_is_numbered() -> None:
    with tables() as writer:
        made = Encoder(BOOT)
        row = Row(writer, tgid=10, start_boot_ns=5)
        made.topics_mask = 1 << EXEC
        for topic in (FORK, EXEC, EXIT, EXEC, FORK):
            made.add(writer, topic, topic + 1, row.number, 5)
        assert made.put(LOSS, {"event": "loss"}) is False
        (message,) = made.take()
        assert (message.topic, message.first, message.count) == (EXEC, 1, 2)
        assert [event["order"] for event in unpack(message)] == [2, 4]
        assert made.sequences().tolist()[:8] == [2, 2, 1, 0, 0, 0, 1, 0]
        assert made.order == 6
        assert made.take() == []


def test_a_topic_that_is_asked_for_later_begins_at_its_number() -> None:
    with tables() as writer:
        made = Encoder(BOOT)
        row = Row(writer, tgid=10, start_boot_ns=5)
        for mask in (1 << EXEC, 0, 1 << EXEC):
            made.topics_mask = mask
            made.add(writer, EXEC, 2, row.number, 5)
        assert [(message.first, message.count) for message in made.take()] == [(1, 1), (3, 1)]


def test_a_group_is_closed_when_a_message_is_full() -> None:
    with tables() as writer:
        made = encoder(message_bytes=4096)
        row = Row(writer, tgid=10, start_boot_ns=5)
        for n in range(300):
            made.add(writer, n % 3, n % 3 + 1, row.number, 5)
        messages = made.take()
        assert len(messages) > 10
        assert all(len(message.body) < 4096 + 3000 for message in messages)
        for message in messages:
            unpack(message)
        assert sum(message.count for message in messages) == 300


def test_settled_numbers_are_below_everything_pending() -> None:
    with tables() as writer:
        made = encoder(message_bytes=1024)
        row = Row(writer, tgid=10, start_boot_ns=5)
        made.topics_mask = 1 << FORK
        for _ in range(5):
            made.add(writer, FORK, 1, row.number, 5)
            made.add(writer, EXEC, 2, row.number, 5)
        assert made.settled()[:2] == [0, 5]
        made.take()
        assert made.settled()[:2] == [5, 5]


def test_events_beyond_the_limit_are_dropped_and_leave_a_gap_in_the_numbers() -> None:
    with tables() as writer:
        made = encoder(message_bytes=1024, limit_bytes=8192)
        row = Row(writer, tgid=10, start_boot_ns=5)
        for _ in range(100):
            made.add(writer, FORK, 1, row.number, 5)
        messages = made.take()
        assert sum(len(message.body) for message in messages) < 8192 + 2 * 1024
        assert sum(message.count for message in messages) + made.dropped == 100
        made.add(writer, FORK, 1, row.number, 5)
        (message,) = made.take()
        assert message.first == 101


def test_huge_arguments_and_names_fit() -> None:
    with tables(names_bytes=1 << 24, args_bytes=1 << 24) as writer:
        made = encoder(envs="stored", message_bytes=1 << 20)
        many = blob([b"\xff"] * 16000)
        row = Row(
            writer, tgid=10, start_boot_ns=5, known=0xFFFFFFFF, args=many, envs=blob([b"\xff" * 300] * 2000),
            name=b"n" * 100_000, file=bytes(64) + b"\x80" * 100_000, flags=layout.ROW_SCRIPT,
        )  # fmt: skip
        child = Row(writer, tgid=11, start_boot_ns=6, ancestor=row, known=0xFFFFFFFF, args=many)
        for each in (row, child):
            made.add(writer, EXEC, 2, each.number, 5)
        first, second = take(made)
        assert len(first["argv"]) == 16000 and len(first["envs"]) == 2000 and len(first["script_path"]) == 100_000
        assert second["lineage"][0]["path"] == "\udc80" * 100_000


def test_events_about_no_process_are_numbered_with_the_others() -> None:
    with tables() as writer:
        made = encoder()
        row = Row(writer, tgid=10, start_boot_ns=5)
        made.add(writer, FORK, 1, row.number, 5)
        assert made.put(LOSS, {"event": "loss", "lost": {"exec": 3}, "time_ns": 9})
        made.add(writer, FORK, 1, row.number, 5)
        events = take(made)
        assert [(event["event"], event["seq"], event["order"]) for event in events] == [
            ("fork", 1, 1), ("loss", 1, 2), ("fork", 2, 3),
        ]  # fmt: skip
        assert events[1]["lost"] == {"exec": 3}


def test_a_successor_continues_the_numbers_and_the_name_of_the_stream() -> None:
    with tables() as writer:
        made = encoder()
        row = Row(writer, tgid=10, start_boot_ns=5)
        for _ in range(3):
            made.add(writer, EXEC, 2, row.number, 5)
        made.topics_mask = 0b11
        successor = Encoder(BOOT)
        successor.restore(made.sequences())
        assert (successor.stream, successor.order, successor.former_mask) == (made.stream, 3, 0b11)
        assert successor.topics_mask == 0
        successor.topics_mask = ALL
        successor.add(writer, EXEC, 2, row.number, 5)
        assert [event["seq"] for event in take(successor)] == [4]
        # Nothing was committed: the successor starts a stream of its own.
        fresh = Encoder(BOOT)
        fresh.restore(np.zeros(16, np.uint64))
        assert fresh.stream not in (0, made.stream)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 50])
def test_a_successor_publishes_no_event_of_its_predecessor_again(count: int) -> None:
    with tables() as writer:
        made = encoder()
        made.add(writer, EXEC, 2, Row(writer, tgid=9, start_boot_ns=9).number, 9)
        take(made)
        committed = made.sequences()
        rows = [Row(writer, tgid=10 + number, start_boot_ns=10 + number) for number in range(count)]
        for time, row in enumerate(rows, 1000):
            made.add(writer, EXEC, 2, row.number, time)
        seen = take(made)
        successor = encoder()
        successor.restore(committed)
        numbers = [0] * 16
        numbers[EXEC] = seen[-1]["seq"]
        identities = [(event["event"], event["entity_id"], time) for time, event in enumerate(seen, 1000)]
        successor.adopt(numbers, made.order, identities)
        for repeated, (time, row) in enumerate(zip(range(1000, 1000 + count), rows, strict=True), 1):
            successor.add(writer, EXEC, 2, row.number, time)
            assert successor.known_left == count - repeated
        successor.add(writer, EXEC, 2, rows[0].number, 5000)
        assert [(event["seq"], event["pid"]) for event in take(successor)] == [(count + 2, 10)]


@pytest.mark.parametrize(
    ("topic", "kind", "pid", "time"), [(EXEC, 2, 10, 999), (EXEC, 2, 11, 1000), (EXIT, 3, 10, 1000)]
)
def test_a_successor_publishes_an_event_that_resembles_one_of_its_predecessor(
    topic: int, kind: int, pid: int, time: int
) -> None:
    with tables() as writer:
        made = encoder()
        made.add(writer, EXEC, 2, Row(writer, tgid=9, start_boot_ns=9).number, 9)
        take(made)
        committed = made.sequences()
        rows = {pid: Row(writer, tgid=pid, start_boot_ns=5).number for pid in (10, 11)}
        made.add(writer, EXEC, 2, rows[10], 1000)
        (seen,) = take(made)
        successor = encoder()
        successor.restore(committed)
        successor.adopt([seen["seq"] if number == EXEC else 0 for number in range(16)], made.order, [
            (seen["event"], seen["entity_id"], 1000)
        ])  # fmt: skip
        successor.add(writer, topic, kind, rows[pid], time)
        assert successor.known_left == 1
        successor.add(writer, EXEC, 2, rows[10], 1000)
        assert successor.known_left == 0
        (event,) = take(successor)
        assert (event["event"], event["pid"]) == (KIND_NAMES[kind], pid)


#: Encodes on one CPU while a thread on another releases bodies.
RELEASING = """
import os, queue, sys, threading
import numpy as np
from pipeline.resolver.stream._encoder import Encoder
from tests.resolver import _inside
from tests.resolver.stream_rows import BOOT, EXEC, Row, tables

cpus = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, cpus[:1])
taken = queue.SimpleQueue()

def release():
    os.sched_setaffinity(0, cpus[-1:])
    while (messages := taken.get()) is not None:
        while messages:
            bytes(messages.pop().body)  # as slowly as the others are encoded

with tables() as writer:
    made = Encoder(BOOT, message_bytes=1)  # a message for each event
    made.topics_mask = 1 << EXEC
    row = Row(writer, tgid=10, start_boot_ns=5).number
    times = np.ones(2000, np.uint64)
    columns = (np.full_like(times, value, kind) for value, kind in ((EXEC, "u1"), (2, "u1"), (row, "u4")))
    events = (*columns, times)
    thread = threading.Thread(target=release)
    thread.start()
    for _ in range(int(sys.argv[1])):
        _inside.add_many(made, writer, *events)
        taken.put(made.take())
    taken.put(None)
    thread.join()
"""


@pytest.mark.expensive
def test_a_thread_releases_bodies_while_another_encodes() -> None:
    """In a process of its own: memory that two messages share is usually released twice, which ends the process."""
    done = subprocess.run(
        [sys.executable, "-c", RELEASING, str(times(100, 25))], cwd=Path(__file__).parents[3], capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_bodies_outlive_the_encoder_and_do_not_change() -> None:
    with tables() as writer:
        made = encoder()
        row = Row(writer, tgid=10, start_boot_ns=5)
        made.add(writer, EXEC, 2, row.number, 5)
        (message,) = made.take()
        before = bytes(message.body)
        for _ in range(1000):
            made.add(writer, EXEC, 2, row.number, 5)
        del made
        assert bytes(message.body) == before
        with pytest.raises((TypeError, BufferError)):
            memoryview(message.body)[0] = 1


def test_many_at_once_is_one_after_the_other() -> None:
    with tables() as writer:
        rows = [Row(writer, tgid=10 + n, start_boot_ns=5 + n) for n in range(5)]
        one, many = encoder(), encoder()
        many.restore(one.sequences())
        order = np.arange(23)
        for n in order:
            one.add(writer, n % 3, n % 3 + 1, rows[n % 5].number, 100 + n)
        numbers = np.array([row.number for row in rows], np.uint32)
        _inside.add_many(
            many, writer, (order % 3).astype(np.uint8), (order % 3 + 1).astype(np.uint8), numbers[order % 5],
            (100 + order).astype(np.uint64),
        )  # fmt: skip
        assert take(one) == take(many)


@pytest.mark.parametrize(
    "options",
    [{"boot": b"short"}, {"envs": "all"}, {"file": "none"}, {"lineage_depth": -1}, {"lineage_depth": 513}],
)
def test_wrong_options_are_refused(options) -> None:
    with pytest.raises(ValueError):
        Encoder(**{"boot": BOOT} | options)


def test_an_invalid_event_is_refused() -> None:
    with tables() as writer:
        made = encoder()
        for topic, kind, row in ((8, 1, 1), (0, declared.KIND_COUNT, 1), (0, 1, 0), (-1, 1, 1)):
            with pytest.raises((ValueError, OverflowError)):
                made.add(writer, topic, kind, row, 5)
        with pytest.raises(ValueError):
            made.put(8, {})
        with pytest.raises(ValueError):
            made.restore(np.zeros(8, np.uint64))


def test_topics_and_slots_are_those_of_the_layout() -> None:
    assert {layout.SLOT_ORDER, layout.SLOT_STREAM, layout.SLOT_MASK}.isdisjoint(range(len(TOPICS)))
    assert layout.COMMIT["topic_seq"].shape == (16,)
    assert TOPICS[STATS] == "sys.stats" and TOPICS[LOSS] == "sys.loss" and TOPICS[REPARENT] == "proc.reparent"


@pytest.mark.parametrize(
    ("path", "offset", "argv", "is_link", "names"),
    [
        (b"/bin/busybox", 0, [b"/bin/ls", b"-l"], False, "ls"),
        (b"/usr/bin/busybox", 0, [b"ls"], False, "ls"),
        (b"/srv/jail/bin/busybox", 9, [b"/bin/ls"], False, "ls"),  # the path as the process sees it
        (b"/srv/jail/bin/busybox", 0, [b"/bin/ls"], False, None),
        (b"/usr/bin/vim", 0, [b"/usr/bin/vi"], False, None),
        (b"/usr/bin/vim", 0, [b"/usr/bin/vi"], True, "vi"),
        (b"/usr/bin/vim", 0, [b"/usr/bin/\xff"], True, "\udcff"),
        (b"/usr/bin/vim", 0, [b"x" * 255], True, "x" * 255),
        (b"/usr/bin/vim", 0, [b"x" * 256], True, None),
        (b"/usr/bin/vim", 0, [b"/usr/bin/"], True, None),
        (b"/usr/bin/vim", 0, [b""], True, None),
        (b"/usr/bin/vim", 0, [], True, None),
    ],
)
def test_names_of_a_file_that_was_reached_through_a_link(path, offset, argv, is_link, names) -> None:
    with tables() as writer:
        record = np.zeros(1, layout.FILE)
        record["root_offset"] = offset
        row = Row(
            writer, tgid=7, start_boot_ns=5, known=0x7FFF, file=record.tobytes() + path, args=blob(argv),
            flags=layout.ROW_THROUGH_SYMLINK if is_link else 0,
        )  # fmt: skip
        made = encoder()
        made.add(writer, EXEC, 2, row.number, 5)
        (event,) = take(made)
        assert event == expected(row, topic=EXEC, kind=2, seq=1, order=1, time=5)
        assert event["symlink_basename"] == names
        assert event["symlink_paths"] == (None if names is None else [f"/bin/{names}", f"/usr/bin/{names}"])


def test_a_text_of_any_length_is_a_string_unless_one_of_its_bytes_is_not_utf8() -> None:
    """Short texts are checked and copied a few bytes at a time, so each length and each place of a byte is tried."""
    letters = bytes(range(ord("a"), ord("a") + 26)) * 2
    argv = [letters[:size] for size in range(len(letters))]
    for size in range(1, 36):
        for at in range(size):
            argv += [letters[:at] + byte + letters[at + 1 : size] for byte in (b"\xff", "é".encode(), "猫".encode())]
    with tables() as writer:
        row = Row(writer, tgid=7, start_boot_ns=5, known=0x7FFF, args=blob(argv))
        made = encoder()
        made.add(writer, EXEC, 2, row.number, 5)
        (event,) = take(made)
        assert event["argv"] == [text.decode("utf-8", "surrogateescape") for text in argv]
        assert event == expected(row, topic=EXEC, kind=2, seq=1, order=1, time=5)


def test_a_file_without_attributes_has_no_owner() -> None:
    with tables() as writer:
        record = np.zeros(1, layout.FILE)
        made = encoder()
        made.names = NameCache(Names({0: "root"}, {0: "root"}), 0, 0)
        for inode, name in ((0, None), (5, "root")):
            record["file_inode"] = inode
            row = Row(writer, tgid=7, start_boot_ns=5, known=0x7FFF, file=record.tobytes() + b"/bin/true")
            made.add(writer, EXEC, 2, row.number, 5)
            (event,) = take(made)
            assert (event["user"], event["file"]["user"], event["file"]["group"]) == ("root", name, name)


@pytest.mark.parametrize(
    ("magic", "name"),
    [*FILESYSTEMS.items(), (0xFE534D42, "cifs"), (0, None), (14, None), (0xFFFFFFFF, None)],
)
def test_the_file_system_has_its_name(magic: int, name: str | None) -> None:
    with tables() as writer:
        record = np.zeros(1, layout.FILE)
        record["fs_magic"] = magic
        row = Row(writer, tgid=7, start_boot_ns=5, known=0x7FFF, file=record.tobytes() + b"/bin/true")
        made = encoder()
        made.add(writer, EXEC, 2, row.number, 5)
        (event,) = take(made)
        assert (event["file"]["fs_magic"], event["file"]["filesystem"]) == (magic, name)


def test_events_show_the_variables_that_the_tables_show() -> None:
    settings = [Envs(), Envs(show_values=("PATH",)), Envs(show="names", show_values=("PATH",)), Envs(show="all")]
    shown = [Encoder(bytes(16), envs=envs_form(Config(envs=one))).envs for one in settings]
    assert shown == ["none", "stored", "none", "stored"]
