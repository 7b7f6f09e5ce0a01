"""The descriptors of an open source: the one list of them, for the supervisor, its workers and `procline record`.

It does not open or close them: `pipeline.bpf.loader` and `pipeline.supervisor.feed` do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

#: A descriptor that a source, or a process, does not have.
NO_FD = -1


class CaptureFds(NamedTuple):
    """Descriptors of a source's rings and maps; NO_FD where there is none.

    Attributes:
        rings: descriptor of each ring by its number. A ring of eBPF has the number of its CPU.
        shared: map `pl_shared`, or a file of the same form with the counters of another source.
        settings: map `pl_settings`.
        pid_owners: map `pid_owners`.
        pid_cache: map `pid_cache`.
        proc_cache: map `proc_cache`.
        iter_link: link of the task iterator; NO_FD if the kernel rejects it.
        sample_link: link of the iterator that compares processes with their last records (sampling.py); NO_FD if
            another method sees their changes.
        socket: the netlink socket of the proc connector.
        hurry: an eventfd. A write to it makes all shards read their rings at once.
        calls: queue `pl_calls`, and in `calls_dropped` the map with what it had no room for.
        pid_exchange: the program that exchanges words of `pid_owners` for user space; NO_FD: it does so itself.
    """

    rings: Mapping[int, int] = {}
    shared: int = NO_FD
    settings: int = NO_FD
    pid_owners: int = NO_FD
    pid_cache: int = NO_FD
    proc_cache: int = NO_FD
    iter_link: int = NO_FD
    sample_link: int = NO_FD
    socket: int = NO_FD
    hurry: int = NO_FD
    calls: int = NO_FD
    calls_dropped: int = NO_FD
    pid_exchange: int = NO_FD

    def all(self) -> tuple[int, ...]:
        """Return every descriptor that there is, each once."""
        return tuple(dict.fromkeys(fd for fd in (*self.rings.values(), *self[1:]) if fd != NO_FD))

    def renumbered(self, number: Callable[[int], int]) -> Self:
        """Return the same list with ``number(fd)`` in the place of each descriptor."""
        return type(self)(
            {ring: number(fd) for ring, fd in self.rings.items()},
            *(fd if fd == NO_FD else number(fd) for fd in self[1:]),
        )

    def for_resolver(self) -> Self:
        """Return what the resolver inherits."""
        return self._replace(socket=NO_FD, sample_link=NO_FD)

    def for_shard(self, rings: Iterable[int]) -> Self:
        """Return what a shard inherits: these rings, without the kernel's caches of processes."""
        return self._replace(
            rings={ring: self.rings[ring] for ring in rings},
            pid_owners=NO_FD, pid_cache=NO_FD, proc_cache=NO_FD, iter_link=NO_FD, sample_link=NO_FD,
            calls=NO_FD, calls_dropped=NO_FD, pid_exchange=NO_FD,
        )  # fmt: skip

    @classmethod
    def from_json(cls, fields: list[Any]) -> Self:
        """Return the list that JSON holds as an array; an object's keys, the ring numbers, are text there.

        Raises:
            TypeError, ValueError, AttributeError: the array is not such a list.
        """
        rings, *others = fields
        return cls({int(ring): int(fd) for ring, fd in rings.items()}, *map(int, others))
