"""The resolver's counters and how they are sent to a statsd client (specification 6).

The numbers are counters of the tables, so that live batches (counted by the applier), single calls, `procline stat`,
Prometheus and the daemon's statsd push all report the same ones. A name here with its tag is a name there
(`counter_of`). The client is passed in.
"""

from __future__ import annotations

import threading
from typing import Protocol

from pipeline.export.statsd import CACHE_SIZE
from pipeline.shm.layout.layout import counter_of

PREFIX = "datadog.runtime_security"

#: Tags of a reparenting: the reason why a parent was determined.
SET_PROCESS_CONTEXT = "set_process_context"
DO_EXIT = "do_exit"
DEQUEUE_EXITED = "dequeue_exited"
EVENT_SERIALIZATION = "event_serialization"
KERNEL_PPID = "kernel_ppid"
CALLPATHS = (SET_PROCESS_CONTEXT, DO_EXIT, DEQUEUE_EXITED, EVENT_SERIALIZATION, KERNEL_PPID)

#: Counter -> (metric, tag key, tag values); without a tag key there is one value "". In the order of sending.
COUNTERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "hits": (".process_resolver.hits", "type", ("cache", "kernel_maps", "procfs")),
    "miss": (".process_resolver.miss", "", ("",)),
    "added": (".process_resolver.added", "type", ("event", "kernel_maps", "procfs")),
    "flushed": (".process_resolver.flushed", "", ("",)),
    "path_error": (".process_resolver.path_error", "", ("",)),
    "args_truncated": (".process_resolver.args.truncated", "", ("",)),
    "args_size": (".process_resolver.args.size", "", ("",)),
    "envs_truncated": (".process_resolver.envs.truncated", "", ("",)),
    "envs_size": (".process_resolver.envs.size", "", ("",)),
    "broken_lineage": (".process_resolver.event_broken_lineage", "", ("",)),
    "reparent_success": (".process_resolver.reparent.success", "callpath", CALLPATHS),
    "reparent_failed": (".process_resolver.reparent.failed", "callpath", CALLPATHS),
    "reparent_procfs_ok": (".process_resolver.reparent.procfs.success", "", ("",)),
    "reparent_procfs_fail": (".process_resolver.reparent.procfs.failed", "", ("",)),
    "limiter_drop": (".process_resolver.proc_fallback_limiter.drop", "", ("",)),
    "inode_error": (
        ".process_resolver.inode_error", "type",
        ("fork_parent_missing", "exec_parent_missing", "procfs_mismatch"),
    ),
}  # fmt: skip


class StatsdClient(Protocol):
    """Receives statistics. Its exceptions reach the caller of `send_stats`.

    Example:
        >>> import tempfile
        >>> class Printer:
        ...     def gauge(self, name, value, tags):
        ...         print(name, value)
        ...     def count(self, name, value, tags):
        ...         print(name, value, tags)
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     EBPFLessResolver(statsd_client=Printer(), tables=tables).send_stats()
        datadog.runtime_security.process_resolver.cache_size 0.0
    """

    def gauge(self, name: str, value: float, tags: list[str]) -> object:
        """Set a value."""

    def count(self, name: str, value: int, tags: list[str]) -> object:
        """Add to a counter."""


class Counters(Protocol):
    """Holds the numbers: a TableWriter."""

    def count(self, name: str, n: int = ...) -> object:
        """Add to a counter."""

    def counter(self, name: str) -> int:
        """Return a counter."""


class Stats:
    """The growth of the resolver's counters since they were last sent. For several threads.

    Args:
        tables: holds the counters.
    """

    def __init__(self, tables: Counters) -> None:
        self._tables = tables
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        #: The value of each counter when it was last sent; at first a predecessor's.
        self._sent = {
            (name, tag): tables.counter(counter_of(name, tag))
            for name, (_, _, tags) in COUNTERS.items()
            for tag in tags
        }  # fmt: skip

    def add(self, name: str, tag: str = "", n: int = 1) -> None:
        """Add to a counter.

        Raises:
            KeyError: there is no such counter or tag.
        """
        with self._lock:
            if (name, tag) not in self._sent:
                raise KeyError((name, tag))
            self._tables.count(counter_of(name, tag), n)

    def get(self, name: str, tag: str = "") -> int:
        """Return the growth of a counter since it was last sent."""
        with self._lock:
            return self._tables.counter(counter_of(name, tag)) - self._sent[name, tag]

    def all(self) -> dict[tuple[str, str], int]:
        """Return the growth of each counter since it was last sent, zeros too."""
        return {key: self.get(*key) for key in self._sent}

    def send(self, client: StatsdClient, cache_size: int) -> None:
        """Send the gauge, then each counter that is not 0, in the order of specification 6.

        Raises:
            Exception: whatever the client raises, at the first failure. Counters that were not sent, and the one that
                failed, are sent next time (specification 9.3.19).
        """
        with self._sending:  # two at once would both send what each of them saw
            client.gauge(PREFIX + CACHE_SIZE, float(cache_size), [])
            for (name, tag), value in self.all().items():
                if value <= 0:
                    continue
                metric, key, _ = COUNTERS[name]
                client.count(PREFIX + metric, value, [f"{key}:{tag}"] if key else [])
                with self._lock:
                    self._sent[name, tag] += value
