"""What the supervisor tells a worker process: its place, its settings and the descriptors that it inherits.

A worker is started as ``python -m MODULE --spec-fd N``. Descriptor N is a memfd with the specification as JSON, so
neither settings nor keys appear on a command line. All descriptors named in it are inherited under the same numbers.
Writing of the specification only: workers read it without this module (`pipeline.worker.reading`), and starting them is
the supervisor's.
"""

from __future__ import annotations

import os

import msgspec

from pipeline.config.schema import Config
from pipeline.worker.reading import NO_FD, Derived


class WorkerSpec(msgspec.Struct, Derived, frozen=True, kw_only=True):
    """All that a worker needs to begin.

    Attributes:
        instance: name of the instance.
        dir: its runtime directory.
        role: ``resolver`` or ``shard-N``.
        source: ``ebpf``, ``proc-connector``, ``tracer`` or ``replay:FILE``.
        config: all settings.
        boot_id: the kernel's boot id, 32 hexadecimal digits.
        capture_id: names the rings; positions carry over only between workers that were given the same one.
        supervisor_tgid: the parent; a worker that finds another one has been orphaned before it could notice.
        group_id: group of files and sockets, -1 to leave it.
        ring_count: length of the ring section of the control segment (possible CPUs for ebpf).
        ring_bytes: bytes of each ring, by ring number.
        rings: descriptor of each ring by its number: a shard gets its own, the resolver all.
        ring_shards: for the resolver, which shard drains a ring, by ring number.
        shared_fd: map `pl_shared`.
        settings_fd: map `pl_settings`.
        pid_owners_fd: map `pid_owners`.
        pid_cache_fd: map `pid_cache`.
        proc_cache_fd: map `proc_cache`.
        iter_link_fd: link of the task iterator; NO_FD where the kernel has none.
        socket_fd: for a shard of the proc connector, the netlink socket.
        ready_fd: an eventfd in which the worker reports that it is ready; see `specification.say_ready`.
        unwatched: (from, to) of the times before this start in which no daemon of this instance watched, boot ns.
        boot_unix_ns: Unix time of the boot clock's zero in a recording; 0: this boot's.
    """

    instance: str
    dir: str
    role: str
    source: str
    config: Config
    boot_id: str
    capture_id: int
    supervisor_tgid: int
    group_id: int = -1
    ring_count: int = 0
    ring_bytes: dict[int, int] = {}
    rings: dict[int, int] = {}
    ring_shards: dict[int, int] = {}
    shared_fd: int = NO_FD
    settings_fd: int = NO_FD
    pid_owners_fd: int = NO_FD
    pid_cache_fd: int = NO_FD
    proc_cache_fd: int = NO_FD
    iter_link_fd: int = NO_FD
    socket_fd: int = NO_FD
    ready_fd: int = NO_FD
    unwatched: list[tuple[int, int]] = []
    boot_unix_ns: int = 0

    def descriptors(self) -> tuple[int, ...]:
        """Return every descriptor that the worker inherits, without the specification's own."""
        single = (
            self.shared_fd, self.settings_fd, self.pid_owners_fd, self.pid_cache_fd, self.proc_cache_fd,
            self.iter_link_fd, self.socket_fd, self.ready_fd,
        )  # fmt: skip
        return tuple(dict.fromkeys(fd for fd in (*self.rings.values(), *single) if fd != NO_FD))

    def to_memfd(self) -> int:
        """Return a new descriptor (close-on-exec) that holds this specification; the caller closes it."""
        fd = os.memfd_create("procline-spec", os.MFD_CLOEXEC)
        data = memoryview(msgspec.json.encode(self))
        while data:
            data = data[os.write(fd, data) :]
        return fd
