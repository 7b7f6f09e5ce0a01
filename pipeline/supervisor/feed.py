"""The open source of an instance, as the supervisor holds it: descriptors for the workers, and a way to close it.

The supervisor opens the `Feed` before it starts a worker and closes it after the last worker has ended, so that the
rings have a reader while the kernel writes to them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import proc_text
from pipeline.bpf.apart import load_apart
from pipeline.bpf.host import online_cpus
from pipeline.bpf.misses import Misses
from pipeline.bpf.sampling import Sampler
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, FrameError
from pipeline.host import pid_namespace
from pipeline.records.capture_fds import NO_FD, CaptureFds

SHARD_MODULE = "pipeline.sources.shard.main"
REPLAY_MODULE = "pipeline.sources.recording.main"
CONNECTOR_MODULE = "pipeline.sources.proc_connector.main"
TRACER_MODULE = "pipeline.sources.tracer.main"

#: The socket buffer is larger than the ring by this factor: the kernel accounts 800 bytes for an event of 76.
_SOCKET_ROOM = 8
#: The kernel keeps the size of a socket buffer in an int.
_SOCKET_MAX_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Feed:
    """An open source.

    Attributes:
        source: its name, as in the settings.
        shard_module: module that a shard process of this source runs.
        ring_count: length of the ring section of the control segment.
        fds: descriptors of the rings, the maps and the socket.
        ring_bytes: bytes of each ring, by ring number.
        shard_count: number of shards that share the rings at the start; a source without rings has one.
        capture_id: identifies the rings of this feed; positions of another feed are not valid here.
        tiers: state of each tier, for the log.
        update_counts: updates the counts that the source cannot update by itself; called every few seconds.
        sample: compares processes with their last records, if it is time; returns the seconds until it is to be called
            again. It raises OSError if the kernel does not run the comparison.
        sampling_interval_s: returns within how many seconds that finds a change at the moment; None: it finds none.
        close: closes the source.
        boot_id: 16 bytes, the boot of the records if it is not this one; else empty.
        boot_unix_ns: Unix time of that boot's clock zero; 0 if it is this boot.
        recorded_from_boot_ns: a recording has every process that ended later; 0: this is no recording.
    """

    source: str
    shard_module: str = SHARD_MODULE
    ring_count: int = 0
    fds: CaptureFds = field(default_factory=CaptureFds)
    ring_bytes: Mapping[int, int] = field(default_factory=dict)
    shard_count: int = 1
    tiers: Mapping[str, object] = field(default_factory=dict)
    update_counts: Callable[[], None] = lambda: None
    sample: Callable[[], float] = lambda: math.inf
    sampling_interval_s: Callable[[], float | None] = lambda: None
    close: Callable[[], None] = lambda: None
    boot_id: bytes = b""
    boot_unix_ns: int = 0
    recorded_from_boot_ns: int = 0
    capture_id: int = field(default_factory=lambda: int.from_bytes(os.urandom(8)) | 1)

    def shard_of(self, count: int) -> dict[int, int]:
        """Return which of `count` shards reads each ring. Neighbours differ, because busy CPUs are often adjacent."""
        return {ring: position % count for position, ring in enumerate(sorted(self.fds.rings))}


def open_feed(config: Config) -> Feed:
    """Open the source that the settings name.

    Raises:
        UnsupportedError: this host lacks what the source needs.
        LoadError: the kernel rejected a program.
        ConfigError: there is no such source, or its file cannot be read.
        FrameError: the file is not a recording.
    """
    kind = config.source.partition(":")[0]
    if kind == "ebpf":
        return _open_ebpf(config)
    if kind == "replay":
        return _open_replay(config)
    if kind == "proc-connector":
        return _open_connector(config)
    if kind == "tracer":
        return _open_tracer(config)
    raise ConfigError(
        f"source: unknown source {config.source!r}; use ebpf, proc-connector, tracer or replay:FILE",
        key="source",
        value=config.source,
    )


def _open_ebpf(config: Config) -> Feed:
    settings = config.capture
    ring_bytes = settings.bytes_of_a_ring(len(online_cpus()))
    capture = load_apart(
        ring_bytes=ring_bytes,
        args_bytes=settings.args_bytes,
        envs_bytes=settings.envs_bytes,
        wakeup_fill_bytes=settings.wakeup_level_bytes(ring_bytes),
        credentials=settings.credentials,
        compat_calls=settings.compat_calls,
        task_iterator=settings.task_iterator,
        capabilities_usage=settings.capabilities_usage,
        signal_senders=settings.signal_senders,
        calls=settings.calls,
        pid_ns=proc_text.own_pid_ns() if settings.scope == pid_namespace.NAMESPACE else 0,
    )
    hurry_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    link = capture.fds.sample_link
    sampler = None if link == NO_FD else Sampler(link, settings.sampling_interval_s)

    def close() -> None:
        if sampler is not None:
            sampler.close()
        os.close(hurry_fd)
        capture.close()

    return Feed(
        source="ebpf",
        ring_count=capture.ring_count,
        fds=capture.fds._replace(hurry=hurry_fd),
        ring_bytes=dict.fromkeys(capture.fds.rings, capture.ring_bytes),
        shard_count=config.shards.resolve(len(capture.fds.rings)),
        tiers=capture.tiers,
        update_counts=Misses(capture.program_fds, capture.link_fds, capture.fds.shared).update,
        sample=(lambda: math.inf) if sampler is None else sampler.advance,
        sampling_interval_s=lambda: None if sampler is None else round(sampler.interval_s, 1),
        close=close,
    )


def _open_connector(config: Config) -> Feed:
    """Open the socket, and create the ring and the counters, which outlive the process that uses them."""
    from pipeline.sources.proc_connector.netlink import close_socket, open_socket

    ring_bytes = config.capture.bytes_of_a_ring(1)
    with ExitStack() as stack:
        sock = open_socket(min(_SOCKET_ROOM * ring_bytes, _SOCKET_MAX_BYTES))
        stack.callback(close_socket, sock)
        ring_fd, counts_fd = _create_ring_file(ring_bytes, stack)
        return Feed(
            source="proc-connector",
            shard_module=CONNECTOR_MODULE,
            ring_count=1,
            fds=CaptureFds({0: ring_fd}, shared=counts_fd, socket=sock.fileno()),
            ring_bytes={0: ring_bytes},
            tiers={"proc-connector": "fork, exec, exit, users, groups, sessions, names; the rest from /proc"},
            close=stack.pop_all().close,
        )


def _open_tracer(config: Config) -> Feed:
    """Create the ring and the counters; the process that uses them binds the socket."""
    ring_bytes = config.capture.bytes_of_a_ring(1)
    with ExitStack() as stack:
        ring_fd, counts_fd = _create_ring_file(ring_bytes, stack)
        return Feed(
            source="tracer",
            shard_module=TRACER_MODULE,
            ring_count=1,
            fds=CaptureFds({0: ring_fd}, shared=counts_fd),
            ring_bytes={0: ring_bytes},
            tiers={"tracer": "processes that tracers report, in their pid namespaces"},
            close=stack.pop_all().close,
        )


def _create_ring_file(ring_bytes: int, stack: ExitStack) -> tuple[int, int]:
    """Create a ring and counters in memory files, for a source that fills its ring itself; return the descriptors."""
    from pipeline.bpf.declared import CPU_STATE_LAYOUT, MAX_CPUS
    from pipeline.sources.ring.handring import make_ring_file

    ring_fd = make_ring_file(ring_bytes)
    stack.callback(os.close, ring_fd)
    counts_fd = os.memfd_create("procline-counts", os.MFD_CLOEXEC)
    stack.callback(os.close, counts_fd)
    os.ftruncate(counts_fd, MAX_CPUS * CPU_STATE_LAYOUT.size)
    return ring_fd, counts_fd


def _open_replay(config: Config) -> Feed:
    from pipeline.bus.frames.frame import decode_frames
    from pipeline.records.declared import KIND_EXIT, KIND_FORK
    from pipeline.sources.recording.file import Recording

    path = Path(config.source.partition(":")[2]).absolute()
    recording = Recording(path)
    rings = began_boot_ns = 0
    # A truncated recording is replayed as far as it is readable; the replay logs a warning.
    with suppress(FrameError):
        for message in recording:
            for frame in decode_frames(message):
                rings = max(rings, frame.ring + 1)
                # The processes from before are recorded as execs, at their start. The first fork or exit shows that the
                # capture had begun. Exits before it may be missing.
                is_captured = (frame.header["kind"] == KIND_FORK) | (frame.header["kind"] == KIND_EXIT)
                if is_captured.any():
                    first = int(frame.header["time_boot_ns"][is_captured].min())
                    began_boot_ns = min(began_boot_ns or first, first)
    if rings == 0:
        raise FrameError(f"{path} has no readable frame; record it again", peer=str(path), reason="empty")
    return Feed(source=f"replay:{path}", shard_module=REPLAY_MODULE, ring_count=rings, boot_id=recording.boot_id,
                boot_unix_ns=recording.boot_unix_ns, recorded_from_boot_ns=began_boot_ns)  # fmt: skip
