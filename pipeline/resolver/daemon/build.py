"""Assemble the resolver process from its worker description, stage by stage: one function for each stage.

What the process does is in process.py, its duty cycle in duty_cycle.py, and how it begins (signals) in main.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline import files, paths
from pipeline.bus._relay import Relay
from pipeline.bus.context_events import USER_SESSION, ContextEvent
from pipeline.bus.requests import RequestSocket
from pipeline.bus.sockets import Bus, SocketError
from pipeline.bus.stream.journal import NAME
from pipeline.bus.stream.messages import TOPICS
from pipeline.host import boot, pid_namespace
from pipeline.log import get_logger
from pipeline.procfs.containers import CgroupTree
from pipeline.procfs.hierarchies import Hierarchies
from pipeline.procfs.proc_reader import ProcReader
from pipeline.records.capture_fds import NO_FD
from pipeline.resolver.agents.context_loop import ContextLoop, Dispatched
from pipeline.resolver.agents.context_stream import ContextStream
from pipeline.resolver.agents.recorded_calls import RecordedCalls
from pipeline.resolver.api.ebpf import EBPFResolver
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.daemon._turn import FrameReader
from pipeline.resolver.daemon._waiting import FrameSocket, Openings, TurnWaiter
from pipeline.resolver.daemon.answering import Answering
from pipeline.resolver.daemon.duty_cycle import CycleSettings, DutyCycle, Parts
from pipeline.resolver.daemon.newcomers import Newcomers
from pipeline.resolver.daemon.process import ResolverProcess
from pipeline.resolver.entries.cgroup_contexts import CgroupContexts
from pipeline.resolver.entries.kernel_maps import PID_CACHE, PROC_CACHE, KernelMap
from pipeline.resolver.entries.opts import ResolverOpts
from pipeline.resolver.merge._merger import Merger
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream.journal_writer import JournalWriter
from pipeline.resolver.stream.publisher import LINGER_MS, Publisher
from pipeline.resolver.stream.rejected_clients import RejectedClients
from pipeline.resolver.upkeep.cgroups import CgroupNamer
from pipeline.resolver.upkeep.containers import LiveContainers
from pipeline.resolver.upkeep.growth import GrowthWatch
from pipeline.resolver.upkeep.names import LiveNames
from pipeline.resolver.upkeep.repair import NEVER_NS, Repairer
from pipeline.resolver.upkeep.sessions import SshSessions
from pipeline.resolver.upkeep.terminals import SessionTerminals, TtyFallback
from pipeline.secrets.argsenvs import Unscrubbed
from pipeline.secrets.conceal import Concealer, scrubber_of, shown_envs
from pipeline.shm.names import containers as container_names
from pipeline.shm.names import executable_facts
from pipeline.shm.names.usernames import DIRECTORY
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter

if TYPE_CHECKING:
    from pipeline.bpf._positions import ProducerPositions
    from pipeline.bus.curve_server import CurveServer
    from pipeline.config.schema import Config
    from pipeline.resolver.upkeep.live_executables import LiveHashes, LivePackages
    from pipeline.worker.description import WorkerDescription

#: Slots for keys of a source that has none: the least that there can be (config.Tables.key_capacity).
KEYS_UNUSED = 64


class NoProc:
    """The ``/proc`` of a replay, which is not about the processes of this host."""

    def read(self, tgid: int, want: int = 0) -> None:
        """Return None: the process is unknown."""

    def read_ppid(self, tgid: int) -> None:
        """Return None: the parent is unknown."""

    def list_pids(self) -> tuple[int, ...]:
        """Return no pids."""
        return ()


class _Source:
    """Facts that follow from the name of the source."""

    def __init__(self, name: str) -> None:
        self.is_ebpf = name == "ebpf"
        #: Replayed events happened elsewhere or earlier: they are not about the processes of this host.
        self.is_replay = name.startswith("replay:")
        #: A tracer reports processes that /proc does not show, or shows under other numbers.
        self.is_tracer = name == "tracer"
        #: The source reports the processes that this host's /proc shows.
        self.is_live = not self.is_replay and not self.is_tracer


class _Stages(NamedTuple):
    """Tables, and the stages between a frame and a subscriber."""

    tables: TableWriter
    boot_unix_ns: int
    encoder: Encoder
    publisher: Publisher
    rejected_clients: RejectedClients
    frames: FrameSocket
    merger: Merger
    applier: Applier


class _HostReading(NamedTuple):
    """The readers of this host: of /proc, the cgroup tree, the kernel's loss counters and the task iterator."""

    proc: ProcReader
    namer: CgroupNamer
    positions: ProducerPositions | None
    losses: Any
    iterate: Any


class _Publishing(NamedTuple):
    """The stream of context events, and the facts about users that it contains: their names and their ssh sessions."""

    stream: ContextStream
    names: LiveNames | None
    sessions: SshSessions | None


@contextlib.contextmanager
def build(description: WorkerDescription) -> Iterator[ResolverProcess]:
    """Make the resolver process of `description`, and release everything at the end.

    Raises:
        WriterExistsError: another resolver writes this instance.
        UnsupportedError: no tmpfs, or no room on it.
        ConfigError: a setting cannot be used.
    """
    config, source = description.config, _Source(description.source)
    with contextlib.ExitStack() as stack:
        stages = _stages(description, source, stack)
        tree = CgroupTree()
        host = _host_reading(description, source, stages, tree, stack)
        scrubber = scrubber_of(config)
        capture_boot_ns = boot.now_boot_ns()
        if stages.tables.was_complete:  # a predecessor's capture continues
            capture_boot_ns = int(stages.tables.control_view()[0]["ready_boot_ns"])
        resolver = EBPFResolver(
            _kernel_maps(description) if source.is_live else None, config, scrubber=scrubber or Unscrubbed(),
            cgroup_resolver=CgroupContexts(tree, host.namer.learn), opts=_opts(config), tables=stages.tables,
            applier=stages.applier, proc=host.proc if source.is_live else NoProc(), capture_boot_ns=capture_boot_ns,
            learn_cgroup=host.namer.learn,
        )  # fmt: skip
        resolver.bind_maps()
        questions = _questions(description, stack)
        openings = _openings(description, stack)
        publishing = _publishing(description, source, stages, resolver, stack)
        keep_client = publishing.sessions.keep_client if publishing.sessions is not None and source.is_ebpf else None
        concealer = Concealer.of(config, scrubber, keep_client)
        parts = _parts(description, source, stages, host, concealer, resolver, questions, openings, publishing, stack)
        loop = _duty_cycle(description, source, stages, host, concealer, parts)
        waiter = TurnWaiter(stages.frames, stages.publisher.socket, questions.fileno(), openings)
        stack.callback(waiter.close)
        yield ResolverProcess(loop, resolver, waiter, has_several_shards=len(set(description.ring_shards.values())) > 1)


# -- stages ------------------------------------------------------------------------------------------------------------


def _stages(description: WorkerDescription, source: _Source, stack: contextlib.ExitStack) -> _Stages:
    config = description.config
    boot_unix_ns = description.boot_unix_ns or boot.BootClock.read().offset_ns
    tables = stack.enter_context(_tables(description, boot_unix_ns))
    boot_unix_ns = int(tables.control_view()[0]["boot_unix_ns"])  # a predecessor's, if there was one
    encoder = Encoder(description.boot_id_bytes, envs=envs_form(config), file=config.stream.file)
    encoder.restore(tables.committed().topic_seq)
    # The relay ends after the bus, so that the bus can send its last messages. It starts after the publisher, to which
    # it connects. Clients that come earlier wait in the kernel's queue, or try again.
    after_bus = stack.enter_context(contextlib.ExitStack())
    bus = Bus()
    stack.callback(bus.close, linger_ms=LINGER_MS)
    pull = bus.pull(paths.frames_socket(description.directory), mode=0o600, hwm_frames=config.frames.push_hwm_frames)
    curve = _curve(description, bus, stack)
    publisher = _publisher(description, encoder, bus, tables, boot_unix_ns, curve)
    stack.callback(publisher.close)
    relay = after_bus.enter_context(_relay(description))
    rejected_clients = RejectedClients(tables, relay, curve, get_logger().warning)
    merger = _merger(description, source, tables)
    is_inner = source.is_ebpf and pid_namespace.is_inner()
    applier = Applier(tables, encoder, kthreadd=0) if is_inner else Applier(tables, encoder)
    return _Stages(tables, boot_unix_ns, encoder, publisher, rejected_clients, FrameSocket(pull), merger, applier)


def _relay(description: WorkerDescription) -> Relay:
    directory = description.directory
    return Relay(
        paths.stream_socket(directory), paths.stream_inner_socket(directory),
        mode=int(description.config.access.stream_mode, 8), group=description.group_id,
    )  # fmt: skip


def _curve(description: WorkerDescription, bus: Bus, stack: contextlib.ExitStack) -> CurveServer | None:
    stream = description.config.stream
    if not stream.tcp_endpoint:
        return None
    from pipeline.bus.curve_server import CurveServer

    # Ended before the bus is: a context waits for the sockets of its authenticator.
    return stack.enter_context(
        CurveServer(bus.context, key=Path(stream.curve_secret_key_file), clients=Path(stream.curve_clients_dir))
    )


def _tables(description: WorkerDescription, boot_unix_ns: int) -> TableWriter:
    config = description.config
    tables = config.tables
    access = config.access
    modes = dict.fromkeys(paths.SEGMENTS, int(access.tables_mode, 8))
    modes |= {paths.ARGS: int(access.args_mode, 8), paths.ENVS: int(access.envs_mode, 8)}
    return open_tables(
        description.directory,
        boot_id=description.boot_id_bytes,
        capture_id=description.capture_id,
        ring_count=description.ring_count,
        row_capacity=tables.max_entries,
        chunk_rows=tables.chunk_rows,
        pid_capacity=tables.pid_capacity or boot.pid_max(),
        # Only tracers use such keys. The segment is touched as a whole: 1.3 MB with the default.
        key_capacity=tables.key_capacity if description.source == "tracer" else KEYS_UNUSED,
        names_bytes=tables.names_bytes,
        args_bytes=tables.args_bytes,
        envs_bytes=tables.envs_bytes,
        boot_unix_ns=boot_unix_ns,
        retention_ns=int(tables.retention_s * 1e9),
        horizon_boot_ns=description.recorded_from_boot_ns,
        chain_max=tables.chain_max,
        checked=tables.checked,
        modes=modes,
        group=description.group_id if description.group_id >= 0 else None,
        has_successor=config.supervision.keep_tables,
    )


def _publisher(
    description: WorkerDescription,
    encoder: Encoder,
    bus: Bus,
    tables: TableWriter,
    boot_unix_ns: int,
    curve: CurveServer | None,
) -> Publisher:
    stream = description.config.stream
    journal = _journal(description)
    if journal is not None:
        repeated = journal.adopt(encoder, boot_unix_ns)
        if repeated:
            get_logger().info("continued the journal", events=repeated)
    return Publisher(
        encoder, bus, paths.stream_inner_socket(description.directory), mode=0o600,
        boot=description.boot_id_bytes, boot_unix_ns=boot_unix_ns, epoch=tables.epoch, takeovers=tables.takeovers,
        tcp=stream.tcp_endpoint, curve=curve, send_hwm=stream.hwm_messages,
        heartbeat_ns=stream.heartbeat_ms * 1_000_000, unwatched=[(begin, end) for begin, end in description.unwatched],
        journal=journal,
    )  # fmt: skip


def _journal(description: WorkerDescription) -> JournalWriter | None:
    stream, directory = description.config.stream, description.directory / paths.STREAM_DIR
    if not stream.journal_bytes:
        (directory / NAME).unlink(missing_ok=True)
        return None
    try:
        return JournalWriter(
            directory, boot=description.boot_id_bytes, journal_bytes=stream.journal_bytes,
            mode=int(description.config.access.stream_mode, 8), group=description.group_id,
            topics=sum(1 << TOPICS.index(topic) for topic in set(stream.journal_topics)),
            keep_ns=int(stream.journal_keep_s * 1e9),
        )  # fmt: skip
    except OSError as error:
        get_logger().warning(
            f"no journal: {error.strerror}; subscribers cannot read again what they miss. "
            "Correct the cause, and start the instance again"
        )
        return None


def _merger(description: WorkerDescription, source: _Source, tables: TableWriter) -> Merger:
    """A merger that continues where the predecessor committed."""
    stall_ms = description.config.merge.stall_ms
    merger = Merger(description.ring_count, stall_ms=stall_ms, hold_ms=2 * stall_ms, timed_by_sender=not source.is_ebpf)
    committed = tables.committed()
    times = committed.rings["watermark_boot_ns"]
    # A tracer's records may be of any time: none may count as applied because of its time.
    seen = np.zeros_like(times) if source.is_tracer else times.copy()
    merger.resume(committed.rings["applied_pos"].copy(), seen, committed.watermark)
    return merger


def _host_reading(
    description: WorkerDescription, source: _Source, stages: _Stages, tree: CgroupTree, stack: contextlib.ExitStack
) -> _HostReading:
    positions, losses, iterate = _kernel_side(description, stack)
    proc = stack.enter_context(ProcReader.of(description.config.capture))
    namer = CgroupNamer(
        stages.applier.cgroups, tree, Hierarchies() if source.is_live else None,
        # In a container the kernel's paths contain the container's own; those in /proc do not.
        learns=not (source.is_ebpf and pid_namespace.is_inner()) or pid_namespace.sees_kernel_cgroup_paths(),
    )  # fmt: skip
    return _HostReading(proc, namer, positions, losses, iterate)


def _parts(
    description: WorkerDescription, source: _Source, stages: _Stages, host: _HostReading, concealer: Concealer,
    resolver: EBPFResolver, questions: RequestSocket, openings: Openings | None, publishing: _Publishing,
    stack: contextlib.ExitStack,
) -> Parts:  # fmt: skip
    """The parts of the duty cycle beside its stages."""
    config, tables, applier, merger = description.config, stages.tables, stages.applier, stages.merger
    containers = _containers(description, tables, stages.encoder, stack)
    packages, hashes = _files(description, source, tables, stages.encoder, stack)
    repairer = contexts = calls = tty_fallback = scripts = None
    if source.is_live:
        repairer = Repairer(
            tables, applier, host.proc, host.iterate,
            now_boot_ns=boot.now_boot_ns,
            watermark=lambda: merger.watermark,
            concealer=concealer,
            learn_cgroups=host.namer.learn_all,
            rows=resolver.rows,
            close=resolver.flush_all_gone,
            fill_maps=resolver.fill_maps,
            with_envs=config.capture.envs_bytes > 0,
        )  # fmt: skip
        contexts = ContextLoop(resolver, tables, publishing.stream, lambda: merger.watermark, description.boot_id_bytes)
        if description.fds.calls != NO_FD:
            calls = RecordedCalls.of(tables, contexts, description.fds.calls, description.fds.calls_dropped)
        if config.contexts.tty_fallback:
            tty_fallback = TtyFallback(tables, applier, lambda: merger.watermark)
        if config.contexts.script_files:
            from pipeline.resolver.upkeep.scripts import ScriptFiles  # deferred: off by default

            scripts = ScriptFiles(tables, applier)
            stack.callback(scripts.close)
    return Parts(
        repairer=repairer,
        rejected_clients=stages.rejected_clients,
        newcomers=Newcomers(tables, openings, _hurry(description.fds.hurry)),
        answering=Answering(
            questions,
            resolver,
            tables,
            lambda: merger.watermark,
            source.is_live,
            _hurry(description.fds.hurry),
            lambda: merger.is_lagging,
            stages.publisher.journal,
        ),
        contexts=contexts,
        calls=calls,
        names=publishing.names,
        containers=containers,
        packages=packages,
        hashes=hashes,
        sessions=publishing.sessions,
        session_terminals=SessionTerminals(tables, applier, host.proc, tty_fallback),
        tty_fallback=tty_fallback,
        scripts=scripts,
        name_cgroups=host.namer if source.is_live else None,
        watch_growth=GrowthWatch(tables, description.directory, get_logger().warning),
        complete=resolver.complete_batch,
    )


def _publishing(
    description: WorkerDescription, source: _Source, stages: _Stages, resolver: EBPFResolver,
    stack: contextlib.ExitStack,
) -> _Publishing:  # fmt: skip
    stream = ContextStream(
        stages.encoder, stages.applier.followups, stages.tables, description.boot_id_bytes, stages.boot_unix_ns
    )
    names = _names(description, stages.tables, stages.encoder, stack)
    sessions = None if source.is_replay else _sessions(description, source, stages, resolver, stream, names)
    return _Publishing(stream, names, sessions)


def _sessions(
    description: WorkerDescription, source: _Source, stages: _Stages, resolver: EBPFResolver, stream: ContextStream,
    names: LiveNames | None,
) -> SshSessions:  # fmt: skip
    def publish_session(row: int, body: dict[str, Any]) -> None:
        entry = resolver.book.entry(row)
        event = ContextEvent(USER_SESSION, entry.pid, body=body)
        stream.dispatch(Dispatched(event, boot.now_boot_ns(), entry, None, None, []))

    pids = None
    if source.is_tracer:
        from pipeline.resolver.upkeep.foreign import ForeignPids  # deferred: no other source needs it

        pids = ForeignPids()
    return SshSessions(
        stages.tables, stages.applier.followups, description.directory,
        mode=int(description.config.access.tables_mode, 8),
        publish=publish_session, pids=pids,
        user_name=lambda uid: names.user(uid) if names is not None else None,
    )  # fmt: skip


def _duty_cycle(
    description: WorkerDescription,
    source: _Source,
    stages: _Stages,
    host: _HostReading,
    concealer: Concealer,
    parts: Parts,
) -> DutyCycle:
    config, tables, log = description.config, stages.tables, get_logger()
    translate = receive_context = None
    if source.is_tracer:
        from pipeline.resolver.merge.keyed_frames import KeyedFrames  # deferred: no other source needs them
        from pipeline.shm.writer.keyspace import KeySpace

        keys = KeySpace(tables, boot.now_boot_ns, is_awaited=stages.applier.py_is_awaited)
        translate = KeyedFrames(tables, keys).message
    contexts = parts.contexts
    if contexts is not None:

        def receive_context(message: bytes | memoryview) -> object:
            return contexts.receive(message, boot.now_boot_ns())

    return DutyCycle(
        tables=tables, merger=stages.merger, applier=stages.applier, encoder=stages.encoder,
        publisher=stages.publisher, frames=stages.frames, positions=host.positions, losses=host.losses,
        reader=FrameReader(
            description.boot_id_bytes, description.ring_count, concealer.sieve, translate, receive_context,
            capture_id=description.capture_id,
        ),
        now_boot_ns=boot.now_boot_ns,
        settings=CycleSettings(
            repair_interval_ns=int(config.repair.check_interval_s * 1e9) or NEVER_NS,
            repair_again_ns=config.repair.min_interval_ms * 1_000_000,
            evicts_by_age=not source.is_replay,
            freshness_ns=int(config.capture.freshness_ms * 1e6) if source.is_ebpf else 0,
        ),
        parts=parts,
        log_refused=lambda error: log.warning(
            "rejected a frame; the counter frames_refused has the number of all", peer=error.peer, reason=str(error)
        ),
    )  # fmt: skip


def _questions(description: WorkerDescription, stack: contextlib.ExitStack) -> RequestSocket:
    path = paths.requests_socket(description.directory)
    try:
        mode = int(description.config.access.requests_mode, 8)
        return stack.enter_context(RequestSocket(path, mode=mode, group=description.group_id))
    except OSError as error:
        raise SocketError(
            f"cannot listen on {path}: {error.strerror}; make sure that this user can create files in {path.parent} "
            "and belongs to the group access.group"
        ) from None


def _openings(description: WorkerDescription, stack: contextlib.ExitStack) -> Openings | None:
    try:
        openings = Openings(description.directory / paths.CONTROL)
    except OSError as error:
        get_logger().warning(
            f"cannot notice programs that open the tables: {error.strerror}; the daemon will cost as much as with a "
            "reader (raise fs.inotify.max_user_instances)"
        )
        return None
    stack.callback(openings.close)
    return openings


def _hurry(fd: int) -> Callable[[], object]:
    """Return a function that makes the shards read their rings at once; without the descriptor it does nothing."""
    return (lambda: None) if fd == NO_FD else (lambda: os.eventfd_write(fd, 1))


def _names(
    description: WorkerDescription, tables: TableWriter, encoder: Encoder, stack: contextlib.ExitStack
) -> LiveNames | None:
    show = description.config.contexts.user_names
    if show == "off" or description.source.startswith("replay:"):
        files.remove_tree(description.directory / DIRECTORY)
        return None
    names = LiveNames(
        tables, encoder, description.directory,
        mode=int(description.config.access.tables_mode, 8), with_containers=show == "all",
        is_traced=description.source == "tracer", forget_ns=_forget_ns(description),
    )  # fmt: skip
    stack.callback(names.close)
    return names


def _containers(
    description: WorkerDescription, tables: TableWriter, encoder: Encoder, stack: contextlib.ExitStack
) -> LiveContainers | None:
    show = description.config.contexts.container_details
    if show == "off" or description.source.startswith("replay:"):
        files.remove_tree(description.directory / container_names.DIRECTORY)
        return None
    containers = LiveContainers(
        tables, encoder, description.directory,
        # Root alone can read the files that this comes from, and labels may hold secrets.
        mode=int(description.config.access.args_mode, 8), with_labels=show == "all", warn=get_logger().warning,
        forget_ns=_forget_ns(description),
    )  # fmt: skip
    stack.callback(containers.close)
    return containers


def _files(
    description: WorkerDescription, source: _Source, tables: TableWriter, encoder: Encoder, stack: contextlib.ExitStack
) -> tuple[LivePackages | None, LiveHashes | None]:
    """Packages and hashes of executables, where the settings ask for them and the files are of this host."""
    contexts, directory = description.config.contexts, description.directory
    # Some users may not read some of these files. A hash says whether a guess of the content is right.
    options: dict[str, Any] = {
        "mode": int(description.config.access.args_mode, 8), "forget_ns": _forget_ns(description)
    }  # fmt: skip
    packages = hashes = None
    if contexts.file_packages and source.is_live:
        from pipeline.resolver.upkeep.live_executables import LivePackages
        from pipeline.software import dpkg  # deferred, as below: both are off by default

        packages = LivePackages(tables, encoder, directory, **options)
        if not (Path(dpkg.DIRECTORY) / "status").exists():
            get_logger().warning("executables have no packages: this host has no files of dpkg")
        stack.callback(packages.close)
    if contexts.file_hashes and source.is_live:
        from pipeline.resolver.upkeep.live_executables import LiveHashes

        hashes = LiveHashes(tables, encoder, directory, bytes_max=contexts.file_hash_bytes, **options)
        stack.callback(hashes.close)
    for field, part in (("file_package", packages), ("file_sha256", hashes)):
        if part is None:
            files.remove_tree(directory / executable_facts.DIRECTORIES[field])
    return packages, hashes


def _forget_ns(description: WorkerDescription) -> int:
    """Return how long names are kept. Exited processes are shown with their names, too."""
    return int(max(60.0, description.config.tables.retention_s) * 1e9)


def _kernel_maps(description: WorkerDescription) -> dict[str, KernelMap] | None:
    """Return the kernel's own process caches by name; None: this capture has none."""
    if NO_FD in {description.fds.pid_owners, description.fds.pid_cache, description.fds.proc_cache}:
        return None
    from pipeline.bpf import maps

    return {
        PID_CACHE: maps.PidMap(description.fds.pid_owners, description.fds.pid_cache, description.fds.pid_exchange),
        PROC_CACHE: maps.proc_cache(description.fds.proc_cache),
    }


def _opts(config: Config) -> ResolverOpts:
    shown = shown_envs(config)
    opts = ResolverOpts().with_all_envs_values() if shown is None else ResolverOpts().with_envs_value(shown)
    if config.contexts.tty_fallback:
        opts.with_tty_fallback_enabled()
    return opts.with_envs_resolution_enabled() if config.capture.envs_bytes > 0 else opts


def envs_form(config: Config) -> str:
    """Return whether events have environments: they do if the settings show the values of some variables."""
    shown = shown_envs(config)
    return "stored" if shown is None or shown else "none"


def _kernel_side(
    description: WorkerDescription, stack: contextlib.ExitStack
) -> tuple[ProducerPositions | None, Any, Any]:
    """Return producer positions, loss counters and the task iterator of an eBPF capture; None: the source has none."""
    from pipeline.resolver.daemon._losses import SharedCounters

    if description.source != "ebpf":
        from pipeline.bpf.host import possible_cpus

        counts = (
            None
            if description.fds.shared == NO_FD
            else SharedCounters(description.fds.shared, max(possible_cpus()) + 1)
        )
        return None, counts, None
    from pipeline.bpf._positions import ProducerPositions
    from pipeline.bpf.iterator import read_tasks

    positions = ProducerPositions(dict(description.fds.rings), description.ring_count)
    stack.callback(positions.close)
    losses = SharedCounters(description.fds.shared, description.ring_count) if description.fds.shared != NO_FD else None
    iterate = None if description.fds.iter_link == NO_FD else (lambda: read_tasks(description.fds.iter_link))
    return positions, losses, iterate
