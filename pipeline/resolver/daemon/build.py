"""Build the resolver of an instance from its worker specification, and take it through start, take-over and end.

What it does while it runs is in loop.py, how it begins (signals, the cycle itself) in main.py.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import paths
from pipeline.bus.context_events import USER_SESSION, ContextEvent
from pipeline.bus.requests import RequestSocket
from pipeline.bus.sockets import Bus, SocketError
from pipeline.host import boot
from pipeline.log import get_logger
from pipeline.procfs.containers import CgroupTree, cgroup_v2_root
from pipeline.procfs.hierarchies import Hierarchies
from pipeline.procfs.reader import ProcReader
from pipeline.resolver.agents.context_events import ContextLoop, Dispatched
from pipeline.resolver.agents.context_stream import ContextStream
from pipeline.resolver.api.ebpf import EBPFResolver
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.daemon._turn import FrameReader
from pipeline.resolver.daemon._waiting import FrameSocket, Waiter
from pipeline.resolver.daemon.loop import LoopSettings, Resolver
from pipeline.resolver.daemon.requests import Requests
from pipeline.resolver.entries.cgroup_contexts import CgroupContexts
from pipeline.resolver.entries.kernel_maps import PID_CACHE, PROC_CACHE, KernelMap
from pipeline.resolver.entries.model import SNAPSHOTTED
from pipeline.resolver.entries.opts import ResolverOpts
from pipeline.resolver.merge._merger import Merger
from pipeline.resolver.merge.keyed_frames import KeyedFrames
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream.publisher import Publisher
from pipeline.resolver.upkeep.cgroups import CgroupNamer
from pipeline.resolver.upkeep.foreign import ForeignPids
from pipeline.resolver.upkeep.growth import GrowthWatch
from pipeline.resolver.upkeep.names import LiveNames
from pipeline.resolver.upkeep.repair import Repairer, end_torn
from pipeline.resolver.upkeep.sessions import SshSessions
from pipeline.resolver.upkeep.terminals import SessionTerminals, TtyFallback
from pipeline.secrets.argsenvs import Unscrubbed
from pipeline.secrets.conceal import Concealer, scrubber_of
from pipeline.shm.layout import tables as layout
from pipeline.shm.names.usernames import DIRECTORY
from pipeline.shm.writer._writer import TableWriter
from pipeline.shm.writer.keyspace import KeySpace
from pipeline.worker.reading import NO_FD

if TYPE_CHECKING:
    from pipeline.bpf._positions import ProducerPositions
    from pipeline.config.schema import Config
    from pipeline.worker.specification import WorkerSpec

#: How long a start waits for the events that were under way when the live processes were looked at.
CATCH_UP_SECONDS = 10.0
#: In a storm, how long a turn waits for further frames when the first is there.
GATHER_MS = 0.5
#: Slots for keys of a source that has none: the least that there can be (config.Tables.key_capacity).
KEYS_UNUSED = 64
#: Linger of the stream's last messages.
LINGER_MS = 500


class NoProc:
    """The ``/proc`` of a replay, which is not about the processes of this host."""

    def read(self, tgid: int, want: int = 0) -> None:
        return None

    def read_ppid(self, tgid: int) -> None:
        return None

    def list_pids(self) -> tuple[int, ...]:
        return ()


class Worker:
    """Everything that the resolver process holds; made by `build`."""

    def __init__(
        self, spec: WorkerSpec, loop: Resolver, resolver: EBPFResolver, repairer: Repairer | None, waiter: Waiter
    ) -> None:
        self.spec = spec
        self.loop = loop
        self.resolver = resolver
        self.repairer = repairer
        self._waiter = waiter
        # In a storm the frames of other shards are right behind the first one: one turn for all of them.
        self._gather_ms = GATHER_MS if len(set(spec.ring_shards.values())) > 1 else 0.0
        self._log = get_logger()

    def follow(self) -> None:
        """Sleep, and take in frames, until there is something for the loop's `poll`."""
        if self.loop.attends:
            self.wait(self.loop.idle_ms())
        else:
            self.loop.follow(self._waiter, self._gather_ms)

    def wait(self, ms: float) -> None:
        """Sleep until a frame, a subscription or a question comes, at most `ms`."""
        loop, waiter = self.loop, self._waiter
        requests = loop.requests
        if requests is not None and requests.is_flooded:
            waiter.heed_questions(requests.may_take(boot.now_boot_ns()))
        is_wanted = waiter.wait(ms)
        loop.may_be_asked = waiter.may_be_asked
        if is_wanted:
            loop.publisher.poll(boot.now_boot_ns())

    def start(self) -> None:
        """Fill the tables, or go on with the predecessor's; they are complete when this returns (state READY)."""
        loop, tables = self.loop, self.loop.tables
        for ring in range(tables.ring_count):
            tables.request_rewind(ring, int(loop.merger.received_pos[ring]))
        began = boot.now_boot_ns()
        if tables.is_takeover:
            self._begin_names()
            self._begin_contexts()
            torn = list(tables.torn_rows)
            while loop.publisher.is_awaiting(boot.now_boot_ns()):
                loop.beat()
                self.wait(2)
            self._catch_up(began)
            if self.repairer is not None:
                self.repairer.mend(torn)
            else:
                end_torn(tables, torn)
            if loop.contexts is not None:
                loop.contexts.begin()
            self._log.info("took over", entries=tables.heads_live, torn=len(torn), reason=tables.fresh_reason or "same")
        else:
            entered = self.repairer.snapshot() if self.repairer is not None else 0
            self._begin_names()
            self._begin_contexts()
            loop.beat()
            self._catch_up(boot.now_boot_ns())
            self._log.info("snapshot", entries=entered, ms=(boot.now_boot_ns() - began) // 1_000_000)
        loop.commit()
        self.resolver.set_state(SNAPSHOTTED)
        tables.set_state(layout.STATE_READY)
        if tables.is_takeover:
            loop.repair_soon(boot.now_boot_ns())

    def _begin_contexts(self) -> None:
        for contexts in (self.loop.sessions, self.loop.session_terminals, self.loop.terminals):
            if contexts is not None:
                contexts.begin()

    def _begin_names(self) -> None:
        """Names of users, from now on: whose count is told by the namespaces of pid 1, which is in the tables now."""
        if self.loop.names is None:
            return
        try:
            self.loop.names.begin()
        except OSError as error:
            self._log.warning("no names of users and groups", reason=str(error))

    def _catch_up(self, boot_ns: int) -> None:
        """Apply what was under way at `boot_ns`."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while self.loop.merger.watermark <= boot_ns and time.monotonic() < deadline:
            if self.loop.poll() == 0:
                self.wait(0.3)

    def drain(self, seconds: float) -> None:
        """Apply what still comes, for at most `seconds`; the shards have ended or are ending."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.loop.poll() == 0:
                if not self.loop.merger.pending:
                    break
                self.wait(0.3)


@contextlib.contextmanager
def build(spec: WorkerSpec) -> Iterator[Worker]:
    """Make the resolver of `spec` and give everything back at the end.

    Raises:
        WriterExistsError: another resolver writes this instance.
        UnsupportedError: no tmpfs, or no room on it.
        ConfigError: a setting cannot be used.
    """
    config = spec.config
    boot_id = spec.boot_id_bytes
    with contextlib.ExitStack() as stack:
        boot_unix_ns = spec.boot_unix_ns or boot.BootClock.read().offset_ns
        tables = stack.enter_context(_tables(spec, boot_unix_ns))
        boot_unix_ns = int(tables.control_view()[0]["boot_unix_ns"])  # a predecessor's, if there was one
        committed = tables.committed()
        encoder = Encoder(spec.boot_id_bytes, envs=envs_form(config), file=config.stream.file)
        encoder.restore(committed.topic_seq)
        bus = Bus()
        stack.callback(bus.close, linger_ms=LINGER_MS)
        pull = bus.pull(paths.frames_socket(spec.directory), mode=0o600, hwm_frames=config.frames.push_hwm_frames)
        publisher = _publisher(spec, encoder, bus, tables, boot_unix_ns, stack)
        stack.callback(publisher.close)
        is_ebpf = spec.source == "ebpf"
        # What is replayed happened elsewhere or earlier: the processes of this host have nothing to do with it.
        is_replay = spec.source.startswith("replay:")
        # What a tracer tells, it tells of processes that /proc does not show, or not by these numbers.
        is_tracer = spec.source == "tracer"
        is_live = not is_replay and not is_tracer
        stall_ms = config.merge.stall_ms
        merger = Merger(spec.ring_count, stall_ms=stall_ms, hold_ms=2 * stall_ms, timed_by_sender=not is_ebpf)
        rings = committed.rings
        # Tracers' records may be of any time: none may count as applied because of its time.
        seen = np.zeros_like(rings["watermark_boot_ns"]) if is_tracer else rings["watermark_boot_ns"].copy()
        merger.resume(rings["applied_pos"].copy(), seen, committed.watermark)
        applier = Applier(tables, encoder)
        keyed = None
        if is_tracer:
            keyed = KeyedFrames(tables, KeySpace(tables, boot.now_boot_ns, is_awaited=applier.py_is_awaited))
        scrubber = scrubber_of(config)
        concealer = Concealer.of(config, scrubber)
        positions, losses, iterate = _kernel_side(spec, stack)
        reader = stack.enter_context(
            ProcReader(
                cgroup_root=cgroup_v2_root(),
                args_limit=config.capture.args_bytes,
                envs_limit=config.capture.envs_bytes,
            )
        )
        tree = CgroupTree()
        namer = CgroupNamer(applier.cgroups, tree, Hierarchies() if is_live else None)
        log = get_logger()

        frames = FrameSocket(pull)
        loop = Resolver(
            tables=tables, merger=merger, applier=applier, encoder=encoder, publisher=publisher,
            frames=frames, positions=positions, losses=losses,
            reader=FrameReader(boot_id, spec.ring_count, concealer.sieve, None if keyed is None else keyed.message),
            now_boot_ns=boot.now_boot_ns,
            settings=LoopSettings(
                repair_interval_ns=int(config.repair.check_interval_s * 1e9) or 1 << 62,
                repair_again_ns=config.repair.min_interval_ms * 1_000_000,
                evicts_by_age=not is_replay,
            ),
            log_refused=lambda error: log.warning("frame refused", peer=error.peer, reason=str(error)),
        )  # fmt: skip
        capture_boot_ns = boot.now_boot_ns()
        resolver = EBPFResolver(
            _kernel_maps(spec) if is_live else None, config, scrubber=scrubber or Unscrubbed(),
            cgroup_resolver=CgroupContexts(tree, namer.learn), opts=_opts(config), tables=tables, applier=applier,
            proc=reader if is_live else NoProc(),
            capture_boot_ns=capture_boot_ns, learn_cgroup=namer.learn,
        )  # fmt: skip
        resolver.bind_maps()
        loop.complete = resolver.complete_batch
        repairer = None
        stream = ContextStream(encoder, applier.followups, tables, boot_id, boot_unix_ns)
        if is_live:
            repairer = Repairer(
                tables, applier, reader, iterate,
                now_boot_ns=boot.now_boot_ns,
                watermark=lambda: merger.watermark,
                concealer=concealer,
                learn_cgroup=namer.learn,
                rows=resolver.rows,
                close=resolver.flush_if_gone,
                fill_maps=resolver.fill_maps,
                with_envs=config.capture.envs_bytes > 0,
            )  # fmt: skip
            loop.repairer = repairer
            contexts = ContextLoop(resolver, tables, stream, lambda: merger.watermark, boot_id)
            loop.contexts = contexts
            loop.reader.take_context = lambda message: contexts.take(message, boot.now_boot_ns())
            loop.name_cgroups = namer
            if config.contexts.tty_fallback:
                loop.terminals = TtyFallback(tables, applier, lambda: merger.watermark)
        loop.session_terminals = SessionTerminals(tables, applier, reader, loop.terminals)
        if not is_replay:

            def tell_session(row: int, body: dict[str, Any]) -> None:
                entry = resolver.book.entry(row)
                event = ContextEvent(USER_SESSION, entry.pid, body=body)
                stream.dispatch(Dispatched(event, boot.now_boot_ns(), entry, None, None, []))

            loop.sessions = SshSessions(
                tables, applier.followups, spec.directory, mode=int(config.access.tables_mode, 8), tell=tell_session,
                pids=ForeignPids() if is_tracer else None,
                user_name=lambda uid: loop.names.user(uid) if loop.names is not None else None,
            )  # fmt: skip
            if is_ebpf:
                concealer.take_ssh = loop.sessions.take
        loop.names = _names(spec, tables, encoder, stack)
        loop.watch_growth = GrowthWatch(tables, spec.directory, log.warning)
        waiter = Waiter(frames, pull, publisher.socket)
        stack.callback(waiter.close)
        worker = Worker(spec, loop, resolver, repairer, waiter)
        questions = _questions(spec, stack)
        loop.requests = Requests(questions, resolver, tables, lambda: merger.watermark, use_procfs=is_live)
        waiter.listen(questions.fileno())
        yield worker


def _tables(spec: WorkerSpec, boot_unix_ns: int) -> TableWriter:
    config = spec.config
    tables = config.tables
    access = config.access
    modes = dict.fromkeys(("control", "index", "keys", "hot", "cold", "names"), int(access.tables_mode, 8))
    modes |= {"args": int(access.args_mode, 8), "envs": int(access.envs_mode, 8)}
    return TableWriter.create(
        spec.directory,
        boot_id=spec.boot_id_bytes,
        capture_id=spec.capture_id,
        ring_count=spec.ring_count,
        row_capacity=tables.max_entries,
        chunk_rows=tables.chunk_rows,
        pid_capacity=tables.pid_capacity or boot.pid_max(),
        # Only tracers tell of processes by such keys; the segment is touched as a whole, 1.3 MB with the default.
        key_capacity=tables.key_capacity if spec.source == "tracer" else KEYS_UNUSED,
        names_bytes=tables.names_bytes,
        args_bytes=tables.args_bytes,
        envs_bytes=tables.envs_bytes,
        boot_unix_ns=boot_unix_ns,
        retention_ns=int(tables.retention_s * 1e9),
        chain_max=tables.chain_max,
        checked=tables.checked,
        modes=modes,
        group=spec.group_id if spec.group_id >= 0 else None,
    )


def _publisher(
    spec: WorkerSpec, encoder: Encoder, bus: Bus, tables: TableWriter, boot_unix_ns: int, stack: contextlib.ExitStack
) -> Publisher:
    stream = spec.config.stream
    secure: Any = None
    if stream.tcp_endpoint:
        from pipeline.bus.auth import CurveServer

        # Ended before the bus is: a context waits for the sockets of its authenticator.
        server = stack.enter_context(
            CurveServer(bus.context, key=Path(stream.curve_secret_key_file), clients=Path(stream.curve_clients_dir))
        )
        secure = server.secure
    return Publisher(
        encoder, bus, paths.stream_socket(spec.directory),
        mode=int(spec.config.access.stream_mode, 8), group=spec.group_id,
        boot=spec.boot_id_bytes, boot_unix_ns=boot_unix_ns, epoch=tables.epoch, takeovers=tables.takeovers,
        tcp=stream.tcp_endpoint, secure=secure, send_hwm=stream.hwm_messages,
        heartbeat_ns=stream.heartbeat_ms * 1_000_000, unwatched=[(begin, end) for begin, end in spec.unwatched],
    )  # fmt: skip


def _questions(spec: WorkerSpec, stack: contextlib.ExitStack) -> RequestSocket:
    path = paths.requests_socket(spec.directory)
    try:
        mode = int(spec.config.access.requests_mode, 8)
        return stack.enter_context(RequestSocket(path, mode=mode, group=spec.group_id))
    except OSError as error:
        raise SocketError(f"cannot listen on {path}: {error.strerror}") from None


def _names(spec: WorkerSpec, tables: TableWriter, encoder: Encoder, stack: contextlib.ExitStack) -> LiveNames | None:
    show = spec.config.contexts.user_names
    if show == "off" or spec.source.startswith("replay:"):
        shutil.rmtree(spec.directory / DIRECTORY, ignore_errors=True)
        return None
    names = LiveNames(
        tables, encoder, spec.directory,
        mode=int(spec.config.access.tables_mode, 8), with_containers=show == "all", is_traced=spec.source == "tracer",
        # Exited processes are shown with their names, too.
        forget_ns=int(max(60.0, spec.config.tables.retention_s) * 1e9),
    )  # fmt: skip
    stack.callback(names.close)
    return names


def _kernel_maps(spec: WorkerSpec) -> dict[str, KernelMap] | None:
    """The kernel's own process caches by name; None: this capture has none."""
    if NO_FD in {spec.pid_owners_fd, spec.pid_cache_fd, spec.proc_cache_fd}:
        return None
    from pipeline.bpf import maps

    return {
        PID_CACHE: maps.PidMap(spec.pid_owners_fd, spec.pid_cache_fd),
        PROC_CACHE: maps.proc_cache(spec.proc_cache_fd),
    }


def _opts(config: Config) -> ResolverOpts:
    opts = ResolverOpts().with_envs_value(config.envs.show_values)
    if config.contexts.tty_fallback:
        opts.with_tty_fallback_enabled()
    return opts.with_envs_resolution_enabled() if config.capture.envs_bytes > 0 else opts


def envs_form(config: Config) -> str:
    """Whether events have environments: who lists variables to see their values is to see them there, too."""
    return "stored" if config.envs.show_values else "none"


def _kernel_side(spec: WorkerSpec, stack: contextlib.ExitStack) -> tuple[ProducerPositions | None, Any, Any]:
    """Producer positions, loss counters and the task iterator of an eBPF capture; None for what a source has not."""
    from pipeline.resolver.daemon._losses import SharedCounters

    if spec.source != "ebpf":
        from pipeline.bpf.host import possible_cpus

        counts = None if spec.shared_fd == NO_FD else SharedCounters(spec.shared_fd, max(possible_cpus()) + 1)
        return None, counts, None
    from pipeline.bpf._positions import ProducerPositions
    from pipeline.bpf.iterator import read_tasks

    positions = ProducerPositions(spec.rings, spec.ring_count)
    stack.callback(positions.close)
    losses = SharedCounters(spec.shared_fd, spec.ring_count) if spec.shared_fd != NO_FD else None
    iterate = None if spec.iter_link_fd == NO_FD else (lambda: read_tasks(spec.iter_link_fd))
    return positions, losses, iterate
