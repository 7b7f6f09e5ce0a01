"""The process of a source, from start to end. Each source's `main` passes in the parts that differ.

After SIGTERM, a source hands over its records and waits until they are applied. It waits for at most a part of the
supervisor's stop timeout. Records that have not been applied by then stay in the rings for the next process. If the
supervisor was killed, there is no next process for these rings, and the resolver ends too, perhaps at once. The next
instance waits until this process has ended, so it waits no longer than a resolver can still apply records.
"""

from __future__ import annotations

import gc
import mmap
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pipeline import paths, proc_text
from pipeline.bpf.declared import CPU_STATE_LAYOUT
from pipeline.bus import pushing
from pipeline.bus._push import FramePush
from pipeline.records.capture_fds import NO_FD, CaptureFds
from pipeline.sources.ring._acks import ControlAcks
from pipeline.sources.ring._ring import PAGE_BYTES, Ring
from pipeline.sources.ring._shared import CpuStates
from pipeline.sources.shard._pacing import RingWaiter
from pipeline.worker.start import report_ready, run_worker

if TYPE_CHECKING:
    from pipeline.sources.ring.acks import AckReader
    from pipeline.worker.description import WorkerDescription

#: The part of the stop timeout during which a source waits until its records are applied.
_DRAIN_PART = 0.8
#: The same after the supervisor was killed, in seconds: a little longer than the resolver's DRAIN_SECONDS.
_ORPHAN_DRAIN_S = 2.5


class SourceParts(NamedTuple):
    """The parts that a source is built from, in a worker process and in `procline record`.

    Attributes:
        fds: the source's descriptors.
        rings: the source's rings, by number; none for a recording.
        states: `pl_shared`; None for a recording.
        acks: reports which positions have been applied.
        send: sends a message; returns False if it would block.
        boot_id: 16 bytes, for the frames.
        frame_max_bytes: a frame is closed when its records have this many bytes.
        capture_id: identifies the rings, for the frames; 0: there is no resolver that could mistake them for others.
    """

    fds: CaptureFds
    rings: Sequence[Ring]
    states: CpuStates | None
    acks: AckReader
    send: Callable[[bytes], bool]
    boot_id: bytes
    frame_max_bytes: int
    capture_id: int = 0

    def of_shard(self) -> dict[str, Any]:
        """Return the arguments that every source passes to its Shard."""
        return {
            "acks": self.acks, "send": self.send, "cpus": self.states, "boot_id": self.boot_id,
            "frame_max_bytes": self.frame_max_bytes, "capture_id": self.capture_id,
        }  # fmt: skip


def open_parts(
    fds: CaptureFds,
    *,
    source: str,
    ring_count: int,
    ring_bytes: Mapping[int, int],
    acks_of: Callable[[Sequence[Ring]], AckReader],
    send: Callable[[bytes], bool],
    boot_id: bytes,
    frame_max_bytes: int,
    capture_id: int = 0,
) -> SourceParts:
    """Map the rings and the counters of a source, in a worker process or in `procline record`.

    Args:
        fds: see SourceParts.
        source: see `open_rings`.
        ring_count: see `open_rings`.
        ring_bytes: see `open_rings`.
        send: see SourceParts.
        boot_id: see SourceParts.
        frame_max_bytes: see SourceParts.
        capture_id: see SourceParts.
        acks_of: returns what reports which positions of the rings have been applied.
    """
    states = None if fds.shared == NO_FD else map_cpu_states(fds.shared)
    rings = open_rings(fds, states, source, ring_count, ring_bytes)
    return SourceParts(fds, rings, states, acks_of(rings), send, boot_id, frame_max_bytes, capture_id)


class Source(Protocol):
    """An open source in its process."""

    @property
    def descriptors(self) -> Iterable[int]:
        """Descriptors that end a wait when they become readable."""

    def run(self, waiter: RingWaiter) -> None:
        """Hand over records until the waiter reports that it is time to stop."""

    def drain(self, deadline_s: float) -> None:
        """Wait until every record now in the rings is applied, at most until this monotonic time."""


def run_source(
    open_source: Callable[[WorkerDescription, SourceParts, ExitStack], Source],
    *,
    keep: tuple[int, ...] = (),
) -> int:
    """Run the process of a source until SIGTERM.

    Args:
        open_source: builds the source, and registers on the stack whatever must be closed. It runs after the privileges
            are dropped, so numpy, which starts threads, is not imported before then.
        keep: capabilities that the source needs; draining a ring needs none.

    Returns:
        The exit code.
    """

    def work(description: WorkerDescription) -> int:
        with ExitStack() as last, ExitStack() as stack:
            acks = ControlAcks(description.directory / paths.CONTROL, capture_id=description.capture_id)
            last.callback(acks.close)
            hwm_frames = description.config.frames.push_hwm_frames
            socket = pushing.connect(paths.frames_socket(description.directory), hwm_frames=hwm_frames)
            send = FramePush(stack.enter_context(socket))
            parts = open_parts(
                description.fds,
                source=description.source,
                ring_count=description.ring_count,
                ring_bytes=description.ring_bytes,
                acks_of=lambda _: acks,
                send=send,
                boot_id=description.boot_id_bytes,
                frame_max_bytes=description.config.frames.max_bytes,
                capture_id=description.capture_id,
            )
            source = open_source(description, parts, stack)
            waiter = RingWaiter(source.descriptors, description.fds.hurry)
            # Runs after everything else has been closed: until then, another SIGTERM must not end this process.
            last.callback(waiter.close)
            # All of these objects live as long as the process, so the garbage collector need not visit them again. A
            # garbage collection would take 5 ms and free hardly anything.
            gc.freeze()
            gc.enable()
            report_ready(description)
            source.run(waiter)
            seconds = description.config.supervision.stop_timeout_s * _DRAIN_PART
            if os.getppid() != description.supervisor_tgid:
                seconds = min(seconds, _ORPHAN_DRAIN_S)
            source.drain(time.monotonic() + seconds)
        return 0

    return run_worker(work, keep=keep)


def map_counts(fd: int) -> mmap.mmap:
    """Return the memory of `pl_shared`, writable: a map with BPF_F_MMAPABLE, or a file of the same form."""
    length = os.fstat(fd).st_size
    if length == 0:
        # stat() does not report the length of a map: its entries, rounded up to a page.
        entries = int(proc_text.fdinfo_value(fd, b"max_entries"))
        length = -(-entries * CPU_STATE_LAYOUT.size // PAGE_BYTES) * PAGE_BYTES
    return mmap.mmap(fd, length)


def map_cpu_states(fd: int) -> CpuStates:
    """Map `pl_shared` as the states of the CPUs."""
    return CpuStates(map_counts(fd))


def open_rings(
    fds: CaptureFds, states: CpuStates | None, source: str, ring_count: int, ring_bytes: Mapping[int, int]
) -> list[Ring]:
    """Map a source's rings, each with the CPUs that write to it.

    Args:
        fds: descriptors of the rings.
        states: contains the number of the ring that each CPU writes to.
        source: only rings of ``ebpf`` belong to certain CPUs; the ring of another source belongs to all.
        ring_count: ring numbers of ``ebpf``, and its CPUs, are below it. A shard reads the counters of a ring's CPUs in
            each cycle, and `states` has room for thousands of CPUs that no machine has.
        ring_bytes: length of each ring by number; the length of a missing ring is read from its descriptor.
    """
    cpus_of: dict[int, list[int]] = {}
    if states is not None and source == "ebpf":
        for cpu in range(min(states.count, ring_count)):
            cpus_of.setdefault(states.ring(cpu), []).append(cpu)
    elif states is not None:
        cpus_of[0] = list(range(states.count))
    return [
        Ring(fd, number=number, cpus=tuple(cpus_of.get(number, ())), data_bytes=ring_bytes.get(number))
        for number, fd in sorted(fds.rings.items())
    ]
