"""The resolver's counters and how they are sent to a statsd client (specification 6).

Every counter exists for every tag from the start. `added` and `exec_bomb`-like facts that the applier counts for live
batches and single calls alike are taken from the tables' counters, so both show up. Leaves out the client: it is
injected, and has `gauge(name, value, tags)` and `count(name, value, tags)`.
"""

from __future__ import annotations

import threading
from typing import Protocol

from pipeline.shm._writer import TableWriter

PREFIX = "datadog.runtime_security"

#: Tag of a reparenting by who asked for it.
SET_PROCESS_CONTEXT = "set_process_context"
DO_EXIT = "do_exit"
DEQUEUE_EXITED = "dequeue_exited"
EVENT_SERIALIZATION = "event_serialization"
KERNEL_PPID = "kernel_ppid"
CALLPATHS = (SET_PROCESS_CONTEXT, DO_EXIT, DEQUEUE_EXITED, EVENT_SERIALIZATION, KERNEL_PPID)

CACHE_SIZE = ".process_resolver.cache_size"

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

#: Counters of the tables that say the same, so that `procline stat` shows them.
_MIRRORED = {
    ("hits", "cache"): "hits_cache", ("hits", "kernel_maps"): "hits_kernel_maps", ("hits", "procfs"): "hits_procfs",
    ("miss", ""): "miss", ("flushed", ""): "flushed", ("limiter_drop", ""): "limiter_drop",
    ("broken_lineage", ""): "broken_lineage",
}  # fmt: skip
#: Counters that the applier keeps in the tables.
_FROM_TABLES = {
    ("added", "event"): "added_event", ("added", "kernel_maps"): "added_kernel_maps",
    ("added", "procfs"): "added_procfs",
}  # fmt: skip


class StatsdClient(Protocol):
    """What statistics are sent to. Any exception that it raises is the caller's."""

    def gauge(self, name: str, value: float, tags: list[str]) -> object: ...

    def count(self, name: str, value: int, tags: list[str]) -> object: ...


class Stats:
    """Counters by name and tag; safe for several threads.

    Args:
        tables: whose counters are mirrored and read; None: there are none.
    """

    def __init__(self, tables: TableWriter | None = None) -> None:
        self._tables = tables
        self._lock = threading.Lock()
        self._values = {
            (name, tag): 0 for name, (_, _, tags) in COUNTERS.items() for tag in tags
        }  # fmt: skip
        self._sent = {key: self._in_tables(key) for key in _FROM_TABLES}

    def add(self, name: str, tag: str = "", n: int = 1) -> None:
        """Count. KeyError: no such counter or tag."""
        with self._lock:
            self._values[name, tag] += n
        mirror = _MIRRORED.get((name, tag))
        if mirror is not None and self._tables is not None:
            self._tables.count(mirror, n)

    def get(self, name: str, tag: str = "") -> int:
        """What was counted since it was last sent."""
        with self._lock:
            if (name, tag) in self._sent:
                return self._in_tables((name, tag)) - self._sent[name, tag]
            return self._values[name, tag]

    def all(self) -> dict[tuple[str, str], int]:
        """Everything counted since it was last sent, zeros too."""
        return {key: self.get(*key) for key in self._values}

    def send(self, client: StatsdClient, cache_size: int) -> None:
        """Send the gauge, then each counter that is not 0, in the order of specification 6.

        Raises:
            whatever the client raises: the first failure ends it. What was not sent, the failing one too, is sent next
            time (specification 9.3.19).
        """
        client.gauge(PREFIX + CACHE_SIZE, float(cache_size), [])
        for name, (metric, key, tags) in COUNTERS.items():
            for tag in tags:
                value = self._take(name, tag)
                if value <= 0:
                    continue
                try:
                    client.count(PREFIX + metric, value, [f"{key}:{tag}"] if key else [])
                except BaseException:
                    self._put_back(name, tag, value)
                    raise

    def _take(self, name: str, tag: str) -> int:
        value = self.get(name, tag)
        self._put_back(name, tag, -value)
        return value

    def _put_back(self, name: str, tag: str, value: int) -> None:
        with self._lock:
            if (name, tag) in self._sent:
                self._sent[name, tag] -= value
            else:
                self._values[name, tag] += value

    def _in_tables(self, key: tuple[str, str]) -> int:
        return self._tables.counter(_FROM_TABLES[key]) if self._tables is not None else 0
