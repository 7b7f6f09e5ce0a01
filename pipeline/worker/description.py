"""A worker's description: its place in the daemon, its settings, and the descriptors that it inherits.

The supervisor starts a worker as ``python -m MODULE --description-fd N``. Descriptor N is a memfd that contains the
description as JSON, so no setting and no key appears on a command line. The worker inherits every descriptor in the
description, under the same number. A worker that is started before there is a description inherits a socket instead,
and receives the memfd and the descriptors over it. This module writes descriptions; workers read them without it
(`pipeline.worker.reading`).
"""

from __future__ import annotations

import os

import msgspec

from pipeline.config.schema import Config
from pipeline.records.capture_fds import NO_FD, CaptureFds
from pipeline.worker.reading import DerivedFields, all_descriptors


class WorkerDescription(msgspec.Struct, DerivedFields, frozen=True, kw_only=True):
    """Everything that a worker needs to start.

    Attributes:
        instance: name of the instance.
        dir: its runtime directory.
        role: ``resolver`` or ``shard-N``.
        source: ``ebpf``, ``proc-connector``, ``tracer`` or ``replay:FILE``.
        config: all settings.
        boot_id: the kernel's boot id, 32 hexadecimal digits.
        capture_id: identifies the rings. Positions are valid only for workers with the same capture_id.
        supervisor_tgid: the parent. A worker with another parent was orphaned before it could detect that.
        group_id: group of files and sockets; -1 keeps the process's own.
        ring_count: length of the ring section of the control segment (for ebpf, the number of possible CPUs).
        ring_bytes: bytes of each ring, by ring number.
        fds: descriptors of the source. A shard gets its own rings, the resolver gets all rings.
        ring_shards: for the resolver, the shard that drains each ring, by ring number.
        ready_fd: an eventfd to which the worker reports that it is ready; see `start.report_ready`.
        unwatched: (from, to) of the times before this start in which no daemon of this instance ran, boot ns.
        boot_unix_ns: Unix time of the boot clock's zero in a recording; 0 means this boot.
        recorded_from_boot_ns: a recording has every process that ended later; 0: this is no recording.
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
    fds: CaptureFds = CaptureFds()
    ring_shards: dict[int, int] = {}
    ready_fd: int = NO_FD
    unwatched: list[tuple[int, int]] = []
    boot_unix_ns: int = 0
    recorded_from_boot_ns: int = 0

    def descriptors(self) -> tuple[int, ...]:
        """Return every descriptor that the worker inherits, each once, except that of the description."""
        return all_descriptors(self.fds, self.ready_fd)

    def to_memfd(self) -> int:
        """Return a new descriptor (close-on-exec) that contains this description; the caller closes it."""
        fd = os.memfd_create("procline-worker", os.MFD_CLOEXEC)
        data = memoryview(msgspec.json.encode(self))
        while data:
            data = data[os.write(fd, data) :]
        return fd
