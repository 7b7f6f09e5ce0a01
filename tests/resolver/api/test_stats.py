"""Statistics: names, tags and order of specification 6, and what happens when the client fails (9.3.19)."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.resolver.api.stats import CALLPATHS, COUNTERS, PREFIX, Stats
from pipeline.shm.layout import layout
from pipeline.shm.layout.layout import counter_of
from tests.resolver.resolver_world import high, world

#: Specification 6: metric and tags, in the order in which they are sent.
METRICS = [
    (".process_resolver.hits", ["type:cache", "type:kernel_maps", "type:procfs"]),
    (".process_resolver.miss", []),
    (".process_resolver.added", ["type:event", "type:kernel_maps", "type:procfs"]),
    (".process_resolver.flushed", []),
    (".process_resolver.path_error", []),
    (".process_resolver.args.truncated", []),
    (".process_resolver.args.size", []),
    (".process_resolver.envs.truncated", []),
    (".process_resolver.envs.size", []),
    (".process_resolver.event_broken_lineage", []),
    (".process_resolver.reparent.success", [f"callpath:{name}" for name in CALLPATHS]),
    (".process_resolver.reparent.failed", [f"callpath:{name}" for name in CALLPATHS]),
    (".process_resolver.reparent.procfs.success", []),
    (".process_resolver.reparent.procfs.failed", []),
    (".process_resolver.proc_fallback_limiter.drop", []),
    (".process_resolver.inode_error", [
        "type:fork_parent_missing", "type:exec_parent_missing", "type:procfs_mismatch",
    ]),
]  # fmt: skip


class Numbers(dict[str, int]):
    """Counters that belong to no table."""

    def count(self, name: str, n: int = 1) -> None:
        self[name] = self.counter(name) + n

    def counter(self, name: str) -> int:
        return self.get(name, 0)


class Client:
    def __init__(self, fail_at: str = "") -> None:
        self.sent: list[tuple[str, float, list[str]]] = []
        self.fail_at = fail_at

    def gauge(self, name: str, value: float, tags: list[str]) -> None:
        self.count(name, int(value), tags)

    def count(self, name: str, value: int, tags: list[str]) -> None:
        if self.fail_at and name.endswith(self.fail_at):
            raise ConnectionError(name)
        self.sent.append((name, value, tags))


def test_every_counter_is_there_from_the_start_and_sent_in_order() -> None:
    stats = Stats(Numbers())
    assert set(stats.all().values()) == {0}
    client = Client()
    stats.send(client, 3)
    assert client.sent == [(PREFIX + ".process_resolver.cache_size", 3, [])]
    for number, (name, tag) in enumerate(stats.all()):
        stats.add(name, tag, number + 1)
    client = Client()
    stats.send(client, 0)
    expected = [
        (PREFIX + metric, tags) for metric, all_tags in METRICS for tags in ([[tag] for tag in all_tags] or [[]])
    ]  # fmt: skip
    assert [(name, tags) for name, _, tags in client.sent[1:]] == expected
    assert set(stats.all().values()) == {0}
    assert [metric for metric, _, _ in COUNTERS.values()] == [metric for metric, _ in METRICS]


def test_counts_of_a_failed_send_are_sent_next_time() -> None:
    stats = Stats(Numbers())
    stats.add("miss", n=2)
    stats.add("flushed", n=3)
    stats.add("path_error", n=4)
    with pytest.raises(ConnectionError):
        stats.send(Client(".flushed"), 0)
    assert (stats.get("miss"), stats.get("flushed"), stats.get("path_error")) == (0, 3, 4)
    client = Client()
    stats.send(client, 0)
    assert [value for _, value, _ in client.sent] == [0, 3, 4]
    with pytest.raises(ConnectionError):
        stats.send(Client(".cache_size"), 0)


def test_two_concurrent_sends_send_each_count_once() -> None:
    class Slow(Client):
        def count(self, name: str, value: int, tags: list[str]) -> None:
            time.sleep(0.005)
            super().count(name, value, tags)

    stats, client = Stats(Numbers()), Slow()
    for name in ("miss", "flushed", "path_error"):
        stats.add(name, n=5)
    threads = [threading.Thread(target=stats.send, args=(client, 0)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [value for name, value, _ in client.sent if not name.endswith("cache_size")] == [5, 5, 5]
    assert set(stats.all().values()) == {0}


@pytest.mark.parametrize("place", range(1 + sum(len(tags) for _, _, tags in COUNTERS.values())))
def test_a_client_that_fails_anywhere_loses_nothing(place: int) -> None:
    class Failing(Client):
        def count(self, name: str, value: int, tags: list[str]) -> None:
            if len(self.sent) == place:
                raise ConnectionError(name)
            super().count(name, value, tags)

    stats, failing, client = Stats(Numbers()), Failing(), Client()
    for number, (name, tag) in enumerate(stats.all()):
        stats.add(name, tag, number + 1)
    with pytest.raises(ConnectionError):
        stats.send(failing, 3)
    stats.send(client, 3)
    sent = [told for told in failing.sent + client.sent if not told[0].endswith("cache_size")]
    assert [value for _, value, _ in sent] == list(range(1, len(stats.all()) + 1))


def test_counters_and_tags_are_declared() -> None:
    with pytest.raises(KeyError):
        Stats(Numbers()).add("hits", "luck")


def test_every_counter_is_one_of_the_tables() -> None:
    assert {counter_of(name, tag) for name, (_, _, tags) in COUNTERS.items() for tag in tags} <= set(layout.COUNTERS)


def test_earlier_counts_are_not_sent_again() -> None:
    numbers = Numbers(miss=7)
    client = Client()
    Stats(numbers).send(client, 0)
    assert len(client.sent) == 1


def test_the_resolver_sends_counts_of_calls_and_batches() -> None:
    client = Client()
    with world(statsd_client=client) as w:
        w.fork(0, 3, 10)
        w.exec(0, 3, 11)
        w.resolver.resolve(high(3), 0, 0, False, None)
        w.tables.count("added_event", 5)  # as a live batch does
        w.resolver.send_stats()
        assert client.sent == [
            (PREFIX + ".process_resolver.cache_size", 1, []),
            (PREFIX + ".process_resolver.hits", 1, ["type:cache"]),
            (PREFIX + ".process_resolver.added", 7, ["type:event"]),
        ]
        client.sent.clear()
        w.resolver.send_stats()
        assert [name for name, _, _ in client.sent] == [PREFIX + ".process_resolver.cache_size"]
        # The counters that `procline stat` shows keep counting.
        assert w.tables.counter("hits_cache") == 1 and w.tables.counter("added_event") == 7
        w.resolver_with().send_stats()
        assert len(client.sent) == 1
