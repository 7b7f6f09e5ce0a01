"""The store: every event once, whatever is repeated, cut differently, malformed or killed."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgpack
import pytest

from pipeline.bus.stream.messages import MAJOR, MINOR
from pipeline.errors import ConfigError, FrameError, LayoutError, WriteError, WriterExistsError
from pipeline.fleet import parquet
from pipeline.fleet import store as store_module
from pipeline.fleet.catalogue import Catalogue, File, Loss
from pipeline.fleet.messages import envelope_of, rows_of
from pipeline.fleet.open_store import VIEWS, OpenStore
from pipeline.fleet.schema import COLUMNS
from pipeline.fleet.store import MERGE_FILES, Store
from tests.fleet.traffic import NS, Sent, SimulatedHost, split
from tests.sampling import times

NOW_NS = 1_700_000_000 * NS


@pytest.fixture
def host() -> Iterator[SimulatedHost]:
    with SimulatedHost("web-1.example.org", 1, NOW_NS - 3600 * NS) as made:
        yield made


@pytest.fixture(scope="module")
def kept_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store for many cases, because to open one takes longer than most of them. Each has a stream of its own."""
    with Store(tmp_path_factory.mktemp("fleet") / "store") as store:
        yield store


def work(host: SimulatedHost, count: int) -> None:
    """Run `count` short commands below a shell."""
    shell = host.run(1, b"/bin/bash")
    for number in range(count):
        host.end(host.run(shell, b"/usr/bin/tool%d" % (number % 3)), code=256 * (number % 2))


def stored(root: Path) -> list[tuple[str, int]]:
    """Topic and number of every stored event."""
    catalogue = Catalogue.open(root)
    source = parquet.read_sql(root, parquet.EVENTS, catalogue.files())
    catalogue.close()
    return duckdb.sql(f"SELECT topic, seq FROM {source} ORDER BY ALL").fetchall()


def summed(root: Path) -> list[tuple[object, ...]]:
    """The sums, as the store has them and as its events give them."""
    catalogue = Catalogue.open(root)
    programs = parquet.read_sql(root, parquet.PROGRAMS, catalogue.files())
    events = parquet.read_sql(root, parquet.EVENTS, catalogue.files())
    catalogue.close()
    columns = "host, topic, path, chain, sum(count)::BIGINT, min(first_ns), max(last_ns), sum(lifetime_ns)"
    kept = duckdb.sql(f"SELECT {columns} FROM {programs} GROUP BY ALL ORDER BY ALL").fetchall()
    lifetime = "sum(exit_time_ns - start_time_ns) FILTER (topic = 'exit')"
    columns = f"host, topic, path, chain, count(*), min(time_ns), max(time_ns), {lifetime}"
    topics = "topic IN ('fork', 'exec', 'exit')"
    assert kept == duckdb.sql(f"SELECT {columns} FROM {events} WHERE {topics} GROUP BY ALL ORDER BY ALL").fetchall()
    return kept


def put(store: Store, messages: list[Sent]) -> None:
    for message in messages:
        store.add(*message)


def test_events_are_stored_with_all_their_fields(tmp_path: Path, host: SimulatedHost) -> None:
    work(host, 5)
    messages = host.sent()
    with Store(tmp_path / "store") as store:
        put(store, messages)
        assert store.commit(NOW_NS) == sum(int(m.headers["Procline-Count"]) for m in messages)
    catalogue = Catalogue.open(tmp_path / "store")
    [file] = catalogue.files()
    assert (file.day, file.level) == ("2023-11-14", 0)
    rows = duckdb.sql(f"SELECT * FROM {parquet.read_sql(tmp_path / 'store', parquet.EVENTS, [file])}")
    assert rows.columns == list(COLUMNS)
    found = {
        (row["topic"], row["seq"]): row
        for row in (dict(zip(rows.columns, each, strict=True)) for each in rows.fetchall())
    }
    for message in split(messages, 1):
        [event] = msgpack.unpackb(message.data)
        row = found.pop((event["event"], event["seq"]))
        assert row["host"] == "web-1_example_org" and row["boot"] == host.boot.hex()
        for name, value in event.items():
            if name != "file" or value is None:
                assert row[name] == value, name
    assert not found
    assert {row[3] for row in summed(tmp_path / "store") if row[1] == "exec"} >= {"/systemd/bash/tool1"}


def test_a_repeated_message_is_stored_once_whatever_its_borders(tmp_path: Path, host: SimulatedHost) -> None:
    work(host, 20)
    messages = host.sent()
    expected = sorted(
        (message.subject.split(".")[2], int(message.headers["Procline-First"]) + place)
        for message in messages
        for place in range(int(message.headers["Procline-Count"]))
    )
    parts = list(split(messages, 7))
    with Store(tmp_path / "store") as store:
        put(store, parts[::2])
        put(store, parts[::4])
        store.commit(NOW_NS)
        put(store, list(split(messages, 5)))
        store.commit(NOW_NS)
        put(store, messages)
        store.commit(NOW_NS)
        assert store.totals.events == len(expected) and store.totals.refused == 0
    assert stored(tmp_path / "store") == expected
    summed(tmp_path / "store")
    with Store(tmp_path / "store") as store:  # the next writer knows them too
        put(store, messages)
        assert store.commit(NOW_NS) == 0


def test_what_was_not_committed_is_taken_again(tmp_path: Path, host: SimulatedHost) -> None:
    work(host, 3)
    messages = host.sent()
    with Store(tmp_path / "store") as store:
        put(store, messages)
    assert stored(tmp_path / "store") == []
    with Store(tmp_path / "store") as store:
        put(store, messages)
        assert store.commit(NOW_NS) > 0


def test_files_that_the_catalogue_does_not_name_are_removed(tmp_path: Path, host: SimulatedHost) -> None:
    root = tmp_path / "store"
    work(host, 3)
    with Store(root) as store:
        put(store, host.sent())
        store.commit(NOW_NS)
    before = stored(root)
    left = root / "events" / "day=2023-11-14" / "00000099.parquet"
    left.write_bytes(b"half")
    Store(root).close()
    assert not left.exists() and stored(root) == before


@pytest.mark.expensive
@pytest.mark.slow
def test_small_files_are_merged_and_readers_of_the_old_list_can_finish(
    tmp_path: Path, host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    merged_files = times(MERGE_FILES, 3)
    monkeypatch.setattr(store_module, "MERGE_FILES", merged_files)
    with Store(root) as store:
        for _ in range(merged_files):
            work(host, 2)
            put(store, host.sent())
            store.commit(NOW_NS)
        before, sums = stored(root), summed(root)
        catalogue = Catalogue.open(root)
        old = catalogue.files()
        assert store.tidy(NOW_NS) and not store.tidy(NOW_NS)
        [merged] = catalogue.files()
        assert (merged.level, merged.rows, len(old)) == (1, len(before), merged_files)
        assert all(parquet.path_of(root, parquet.EVENTS, file).exists() for file in old)
        store.tidy(NOW_NS + 61 * NS)
        assert not any(
            parquet.path_of(root, kind, file).exists() for file in old for kind in (parquet.EVENTS, parquet.PROGRAMS)
        )
        catalogue.close()
    assert stored(root) == before and summed(root) == sums


def test_old_days_are_removed(tmp_path: Path, host: SimulatedHost) -> None:
    root = tmp_path / "store"
    work(host, 2)
    with Store(root, keep_days=3) as store:
        put(store, host.sent())
        store.commit(NOW_NS)
        store.tidy(NOW_NS + 2 * 86_400 * NS)
        assert stored(root)
        store.tidy(NOW_NS + 4 * 86_400 * NS)
        assert not stored(root)
        store.tidy(NOW_NS + 4 * 86_400 * NS + 61 * NS)
        assert not list((root / "events").rglob("*.parquet"))


def test_a_wrong_clock_makes_no_days(tmp_path: Path, host: SimulatedHost) -> None:
    """Events that are far from now are put to the day on which they were stored, with their own time."""
    root = tmp_path / "store"
    times = [0, 1, 1 << 62, NOW_NS - 7 * 86_400 * NS]
    events = [{"event": "exec", "seq": n, "order": n, "time_ns": t, "pid": 1} for n, t in enumerate(times, 1)]
    with Store(root) as store:
        put(store, [host.maps("proc.exec", 1, events)])
        assert store.commit(NOW_NS) == 4
    catalogue = Catalogue.open(root)
    assert [(file.day, file.rows) for file in catalogue.files()] == [("2023-11-07", 1), ("2023-11-14", 3)]
    catalogue.close()


EVENT = {"event": "exec", "seq": 1, "order": 1, "time_ns": NOW_NS, "pid": 7}


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "procline.other.exec"},
        {"subject": "procline.web-1_example_org.nonsense"},
        {"subject": "procline.web-1_example_org.exec.more"},
        {"subject": "elsewhere.web-1_example_org.exec"},
        {"Procline-Boot": "../../etc"},
        {"Procline-Stream": "-1"},
        {"Procline-Stream": "99999999999999999999"},
        {"Procline-First": "9223372036854775808"},
        {"Procline-First": "2"},
        {"Procline-Count": "0"},
        {"Procline-Count": "2"},
        {"Procline-Count": "999999999"},
        {"Procline-Count": "\u0661"},
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "zstd"},
        {"headers": None},
        {"data": b""},
        {"data": b"\xc1"},
        {"data": b"\x91" * 5000},
        {"data": msgpack.packb([7])},
        {"data": msgpack.packb([EVENT | {"pid": -1}])},
        {"data": msgpack.packb([EVENT | {"pid": "x"}])},
        {"data": msgpack.packb([EVENT | {"time_ns": 1 << 63}])},
        {"data": msgpack.packb([EVENT | {"time_ns": (1 << 62) + 1}])},
        {"data": msgpack.packb([EVENT | {"time_ns": -1}])},
        {"Procline-First": str((1 << 63) - 1), "data": msgpack.packb([EVENT | {"seq": (1 << 63) - 1}])},
        {"subject": "procline.web-1_example_org.loss", "Procline-First": str((1 << 63) - 1)},
        {"subject": "procline.web-1_example_org.stats", "data": msgpack.packb([EVENT, EVENT])},
        {"data": msgpack.packb([EVENT | {"lineage": [{}] * 1000}])},
        {"Procline-Version": "\udcff"},
        {"Procline-Topic": "\udcff"},
        {"data": msgpack.packb([EVENT | {"exit_code": 1 << 63}])},
        {"data": msgpack.packb([EVENT | {"lineage": [{"pid": -5}]}])},
        {"data": msgpack.packb([EVENT | {"time_ns": None}])},
        {"data": msgpack.packb([EVENT | {"argv": ["x" * (9 << 20)]}])},
        {"data": msgpack.packb([EVENT | {"extra": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}}}}])},
    ],
)  # fmt: skip
def test_a_malformed_message_is_counted_and_the_rest_is_stored(
    kept_store: Store, host: SimulatedHost, change: dict[str, object]
) -> None:
    refused = kept_store.totals.refused
    subject, headers, data = host.maps("proc.exec", 1, [EVENT])
    known = {"subject", "headers", "data"}
    bad = (
        change.get("subject", subject),
        change.get("headers", headers | {key: value for key, value in change.items() if key not in known}),
        change.get("data", data),
    )
    work(host, 1)
    events = kept_store.pending[1]
    kept_store.add(*bad)  # type: ignore[arg-type]
    assert kept_store.totals.refused == refused + 1 and kept_store.pending[1] == events
    put(kept_store, host.sent())
    assert kept_store.pending[1] > events + 5
    # A commit costs ten times as much as all of this, so a quick run makes one for several cases.
    if kept_store.pending[0] > times(0, 20):
        assert kept_store.commit(NOW_NS) > 5
        assert kept_store.totals.refused == refused + 1


def test_the_reason_of_a_rejected_message_names_the_field(host: SimulatedHost) -> None:
    subject, headers, data = host.maps("proc.exec", 1, [EVENT | {"pid": "seven"}])
    with pytest.raises(FrameError, match=r"\[0\]\.pid"):
        rows_of(envelope_of(subject, headers), data)
    for name, value in (("Procline-Count", "0"), ("Procline-First", "many")):
        with pytest.raises(FrameError, match=f"{name} is .*not a number from"):
            envelope_of(subject, headers | {name: value})


def test_a_zstd_frame_that_grows_without_bound_is_rejected(tmp_path: Path, host: SimulatedHost) -> None:
    import zstandard

    subject, headers, _ = host.maps("proc.exec", 1, [EVENT])
    bomb = zstandard.ZstdCompressor().compress(bytes(65 << 20))
    with Store(tmp_path / "store") as store:
        store.add(subject, headers | {"Content-Encoding": "zstd"}, bomb)
        assert store.totals.refused == 1


def test_a_message_with_more_events_than_its_count_is_not_decoded(tmp_path: Path, host: SimulatedHost) -> None:
    import zstandard

    count = (4 << 20) - 5
    bomb = zstandard.ZstdCompressor().compress(b"\xdd" + count.to_bytes(4, "big") + b"\x80" * count)
    with Store(tmp_path / "store") as store:
        for topic in ("proc.exec", "sys.loss", "sys.stats"):
            subject, headers, _ = host.maps(topic, 1, [EVENT])
            tracemalloc.start()
            store.add(subject, headers | {"Content-Encoding": "zstd"}, bomb)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 16 << 20
        assert store.totals.refused == 3


def test_times_and_counts_that_no_sum_can_hold_stop_nobody(tmp_path: Path, host: SimulatedHost) -> None:
    root = tmp_path / "store"
    far = 1 << 63
    last = EVENT | {"event": "exit", "exit_time_ns": far - 1, "start_time_ns": -far}
    gap = {"topic": "proc.exec", "count": far - 1, "from_ns": -far, "to_ns": far - 1, "reason": "gap"}
    with Store(root) as store:
        put(store, [
            host.maps("proc.exit", 1, [last, last | {"seq": 2}]),
            host.maps("sys.stats", 1, [{"event": "stats", "time_ns": -far}]),
            *(host.message("gap", "proc.exec", n, 0, msgpack.packb([gap | {"first": n}]), False)
              for n in range(1, 1030)),
        ])  # fmt: skip
        assert store.commit(NOW_NS) == 2
        assert store.totals.refused == 0
    with OpenStore(root) as opened:
        assert list(opened.query("SELECT lost, gaps FROM hosts")) == [(far - 1, 1029)]
        assert list(opened.query("SELECT DISTINCT count, from_time FROM losses WHERE count > 1")) == [(1 << 53, None)]
        for view in VIEWS:
            assert list(opened.query(f"SELECT * FROM {view}")) is not None


@pytest.mark.expensive
@pytest.mark.slow
def test_a_message_that_cannot_be_stored_is_refused_alone(
    tmp_path: Path, host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a message has that no check knows, the others are stored."""
    root = tmp_path / "store"
    work(host, 4)
    messages = list(split(host.sent(), 3))
    bad = [host.maps("proc.cred", 1, [EVENT | {"event": "cred", "pid": 4711}]), host.gap("proc.exec", 3, 1, None, None)]
    put_files, add_losses = parquet.write_batch, Catalogue.add_losses

    def write(db: duckdb.DuckDBPyConnection, *args: Any) -> File:
        made = put_files(db, *args)
        if db.execute("SELECT 1 FROM batch WHERE pid = 4711").fetchone():
            raise duckdb.OutOfRangeException("overflow")
        return made

    def add(catalogue: Catalogue, losses: list[Loss]) -> None:
        if losses:
            raise OverflowError("too large")
        add_losses(catalogue, losses)

    monkeypatch.setattr(parquet, "write_batch", write)
    monkeypatch.setattr(Catalogue, "add_losses", add)
    wire = [*messages[:4], bad[0], *messages[4:], bad[1]]
    with Store(root) as store:
        put(store, wire)
        assert store.commit(NOW_NS) == sum(int(each.headers["Procline-Count"]) for each in messages)
        totals = store.totals
        assert (totals.refused, totals.messages, totals.doubles) == (2, len(wire), 0)
        assert totals.wire_bytes == sum(len(each.data) for each in wire)
        put(store, wire)
        assert store.commit(NOW_NS) == 0
    catalogue = Catalogue.open(root)
    [found] = catalogue.hosts()
    assert found.refused == 4 and len(stored(root)) == found.events
    assert len(list((root / "events").rglob("*.parquet"))) == len(catalogue.files())
    catalogue.close()


def test_text_that_is_not_utf8_is_escaped(tmp_path: Path, host: SimulatedHost) -> None:
    root = tmp_path / "store"
    strange = {"comm": b"a\xff", "path": "/tmp/\x00\n'\"\\", "argv": [b"\xfe", "\u202e", ""], "file": {"path": b"\xff"}}
    with Store(root) as store:
        put(store, [host.maps("proc.exec", 1, [EVENT | strange, EVENT | {"seq": 2, "extra": {"x": {"y": b"\xff"}}}])])
        assert store.commit(NOW_NS) == 2
    catalogue = Catalogue.open(root)
    source = parquet.read_sql(root, parquet.EVENTS, catalogue.files())
    catalogue.close()
    rows = duckdb.sql(f"SELECT comm, path, argv, file, extra, chain FROM {source} ORDER BY seq").fetchall()
    assert rows[0] == ("a\\xff", "/tmp/\x00\n'\"\\", ["\\xfe", "\u202e", ""], '{"path":"\\\\xff"}', None, "\x00\n'\"\\")
    assert rows[1][4] == '{"x":{"y":"\\\\xff"}}'


def test_losses_of_kernel_and_forwarder_are_recorded_once(tmp_path: Path, host: SimulatedHost) -> None:
    root = tmp_path / "store"
    lost = host.maps("sys.loss", 1, [
        {"event": "loss", "seq": 1, "order": 1, "time_ns": NOW_NS, "lost": {"fork": 5}, "new": {"fork": 5, "exec": 0}},
    ])  # fmt: skip
    gap = host.gap("proc.exec", 10, 32, NOW_NS - NS, NOW_NS)
    unknown = host.gap("proc.exit", None, None, NOW_NS - NS, None)
    with Store(root) as store:
        put(store, [lost, gap, lost, unknown])
        store.commit(NOW_NS)
        put(store, [gap, lost, unknown])
        store.commit(NOW_NS)
        assert store.totals.refused == 0
    catalogue = Catalogue.open(root)
    found = Counter((loss.topic, loss.first, loss.events, loss.cause) for loss in catalogue.losses())
    catalogue.close()
    assert found == {
        ("fork", None, 5, "kernel"): 1,
        ("proc.exec", 10, 32, "gap"): 1,
        ("proc.exit", None, None, "gap"): 1,
    }


def test_statistics_only_say_that_the_host_is_alive(tmp_path: Path, host: SimulatedHost) -> None:
    with Store(tmp_path / "store") as store:
        put(
            store,
            [host.maps("sys.stats", 5, [{"event": "stats", "seq": 5, "order": 1, "time_ns": NOW_NS, "counters": {}}])],
        )
        assert store.commit(NOW_NS + NS) == 0
    catalogue = Catalogue.open(tmp_path / "store")
    [found] = catalogue.hosts()
    catalogue.close()
    assert (found.name, found.last_event_ns, found.lag_ns, found.version) == (
        "web-1.example.org",
        NOW_NS,
        NS,
        f"{MAJOR}.{MINOR}",
    )


def test_one_writer(tmp_path: Path) -> None:
    with Store(tmp_path / "store"), pytest.raises(WriterExistsError, match="another"):
        Store(tmp_path / "store")
    Store(tmp_path / "store").close()


def test_a_directory_that_cannot_be_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        Store(tmp_path / "file")
    with pytest.raises(ConfigError, match="is not a store"):
        Catalogue.open(tmp_path)
    Store(tmp_path / "store").close()
    catalogue = Catalogue.create(tmp_path / "store")
    with catalogue.transaction():
        catalogue._db.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
    catalogue.close()
    with pytest.raises(LayoutError, match="99"):
        Store(tmp_path / "store")


def test_a_store_that_cannot_be_written_keeps_what_it_has(tmp_path: Path, host: SimulatedHost) -> None:
    root = tmp_path / "store"
    work(host, 1)
    messages = host.sent()
    with Store(root) as store:
        put(store, messages)
        (root / "events").write_text("in the way")
        with pytest.raises(WriteError, match="cannot write"):
            store.commit(NOW_NS)
    (root / "events").unlink()
    with Store(root) as store:
        put(store, messages)
        assert store.commit(NOW_NS) == len(stored(root)) > 0


def test_now_is_the_clock(tmp_path: Path, host: SimulatedHost) -> None:
    with Store(tmp_path / "store") as store:
        put(store, [host.maps("proc.exec", 1, [EVENT])])
        store.commit()
    catalogue = Catalogue.open(tmp_path / "store")
    [found] = catalogue.hosts()
    catalogue.close()
    assert abs(found.stored_ns - time.time_ns()) < 600 * NS


def test_losses_and_numbers_of_a_host_are_bounded(
    tmp_path: Path, host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    monkeypatch.setattr(store_module, "LOSSES_MAX", 5)
    monkeypatch.setattr(store_module, "NUMBERS_MAX", 4)

    def event(topic: str, seq: int) -> Sent:
        return host.maps(f"proc.{topic}", seq, [EVENT | {"event": topic, "seq": seq}])

    old = event("exec", 500)
    with Store(root) as store, SimulatedHost("web-2", 2, NOW_NS) as other:
        put(store, [Sent(old.subject, old.headers | {"Procline-Stream": "1"}, old.data)])
        put(store, [event("exec", seq) for seq in (1, 3, 5, 7, 9)] + [event("fork", 2)])
        put(store, [host.gap("proc.exit", n, 2, None, None if n < 5 else NOW_NS + n) for n in range(1, 9)])
        put(store, [other.gap("proc.exit", n, 2, None, None) for n in range(1, 5)])
        store.commit(NOW_NS)
        store.tidy(NOW_NS)
    catalogue = Catalogue.open(root)
    assert sorted(loss.first or 0 for loss in catalogue.losses() if loss.host != "web-2") == [4, 5, 6, 7, 8]
    assert sum(loss.host == "web-2" for loss in catalogue.losses()) == 4
    found = {(key[2], key[3]): numbers.intervals for key, numbers in catalogue.all_numbers()}
    catalogue.close()
    stream = host.encoder.stream
    assert found == {(stream, "proc.exec"): [(5, 6), (7, 8), (9, 10)], (stream, "proc.fork"): [(2, 3)]}
