"""The supervisor of an instance: it claims the directory, opens the source, keeps the workers running, and ends them.

Start order: directory, source (BPF programs attached, rings created), resolver, shards. The resolver's process begins
before the source is opened, and imports its modules meanwhile: both take about half a second, and a restart should be
short. It receives its description afterwards. The instance is ready when the state in the control segment is READY. A
worker that ends is reaped and started again (restart.py decides when); a worker that hangs is killed first (watchdog.py
decides). SIGTERM and SIGINT end an instance. Its parts end in this order:

1. a change of the number of shards, if its old shards are ending
2. the shards, which hand over the content of the rings
3. the resolver, which applies that content and commits
4. the source
5. the directory, unless the next daemon continues with the tables in it (supervision.keep_tables)

The supervisor holds the links of the BPF programs and the only other descriptors of the rings, and handles no event. So
a worker can be killed at any moment and replaced without a loss.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

import msgspec

from pipeline import paths
from pipeline.bpf.host import possible_cpus
from pipeline.config.schema import Config
from pipeline.errors import GivingUpError
from pipeline.host import memory, notify, privileges, processes, retention, sampling_interval, tiers
from pipeline.host.boot import boot_id, now_boot_ns, pid_max
from pipeline.host.vitals import Vitals, VitalsReader
from pipeline.log import get_logger
from pipeline.shm.layout import control_header
from pipeline.supervisor import limits, priority
from pipeline.supervisor.child import Child, Waiting, module_command
from pipeline.supervisor.directory import InstanceDirectory, group_id
from pipeline.supervisor.feed import Feed, open_feed
from pipeline.supervisor.metrics import measured
from pipeline.supervisor.restart import RestartPolicy
from pipeline.supervisor.shard_change import ShardChange
from pipeline.supervisor.shard_count import ShardCount, most_shards
from pipeline.supervisor.shared_cpu import SharedCpu
from pipeline.supervisor.unwatched import WatchRecord
from pipeline.supervisor.watchdog import Watchdog
from pipeline.worker.description import WorkerDescription

RESOLVER = "resolver"
RESOLVER_MODULE = "pipeline.resolver.daemon.main"

#: A resolver without a heartbeat, or a shard that hands over nothing of a stalled ring, hangs after this time. Only
#: time that the process could have used is counted: see watchdog.py.
HANG_S = 10.0

#: SIGHUP is sent when the terminal of an interactive run is closed.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: Descriptors report at once that a worker is ready or has ended. The pauses between checks: of a ready daemon, for
#: hangs, and of one that starts, for its time limit and to show progress.
_CHECK_S = 4.0
_CHECK_STARTING_S = 0.1
#: A check may be this much early if the supervisor is awake for something else, so that it wakes up less often.
_CHECK_EARLY_S = 0.5

#: Errors of a host that has no process, descriptor or memory left at the moment. The rings keep events meanwhile, so
#: trying again is better than an end.
_SCARCE = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_SCARCE_PAUSE_S = 0.5


@dataclass
class _Worker:
    """A role in the daemon, and the process that has it now."""

    description: WorkerDescription
    command: Sequence[str]
    policy: RestartPolicy
    waiting: Waiting | None = None  # a process that its first child takes
    child: Child | None = None
    watchdog: Watchdog | None = None
    start_watchdog: Watchdog | None = None  # how long the child has been starting
    due_s: float = 0.0
    starts: int = 0


class Supervisor:
    """One instance, from its start to its end.

    Args:
        config: all settings.
        name: name of the instance.
        opener: opens the source.
        resolver_command: command of the resolver.
        shard_command: command of a shard; None: the module that the source names.
        starting: called several times a second until the instance is ready, at last with true.

    Raises:
        ConfigError: the name or the group cannot be used.
    """

    def __init__(
        self,
        config: Config,
        name: str = paths.DEFAULT_INSTANCE,
        *,
        opener: Callable[[Config], Feed] = open_feed,
        resolver_command: Sequence[str] = module_command(RESOLVER_MODULE),
        shard_command: Sequence[str] | None = None,
        starting: Callable[[bool], None] = lambda is_ready: None,
    ) -> None:
        self._config = config
        self._name = paths.check_name(name)
        self._group_id = group_id(config.access.group)
        self._opener = opener
        self._resolver_command = resolver_command
        self._shard_command = shard_command
        self._starting = starting
        self._log = get_logger()
        self._workers: dict[str, _Worker] = {}
        self._shard_count: ShardCount | None = None
        self._change: ShardChange | None = None
        self._old_shards: list[_Worker] = []  # those that a change ends
        self._selector = selectors.DefaultSelector()
        self._signals = 0
        self._is_ready = False
        self._can_sample = True
        self._sampling_interval_s: float | None = None
        self._scarce: set[str] = set()  # what has failed for lack of resources, and has not succeeded since
        self._is_list_due = False
        self._vitals: Vitals | None = None
        self._record: WatchRecord | None = None
        self._shared_cpu = SharedCpu() if config.supervision.share_cpu else None
        self._watchdog_s = notify.watchdog_interval_s()
        self._fed_s = 0.0
        self._checked_s = 0.0

    def run(self) -> int:
        """Run until a signal arrives.

        Returns:
            0 if every worker drained in time, 1 if a process had to be killed.

        Raises:
            WriterExistsError: the instance is already running.
            UnsupportedError, LoadError: the host lacks something.
            GivingUpError: a worker cannot be kept alive.
        """
        limits.check(self._config, max(possible_cpus()) + 1, pid_max())
        privileges.disable_core_dumps()
        with (
            self._signals_as_input(),
            self._claimed() as directory,
            Waiting(self._resolver_command) as resolver,
            self._opened() as feed,
            measured(self._config.metrics, directory.path, feed, self._log),
            contextlib.closing(VitalsReader(directory.path)) as vitals,
        ):
            opened_boot_ns = now_boot_ns()
            self._log.info("starting", instance=self._name, directory=str(directory.path), source=feed.source,
                           rings=len(feed.fds.rings), rings_bytes=sum(feed.ring_bytes.values()),
                           shards=feed.shard_count, tiers=dict(feed.tiers))  # fmt: skip
            try:
                directory.write(paths.TIERS, tiers.describe(feed.tiers))
                is_replay = self._config.source.startswith("replay:")
                retention_s = None if is_replay else self._config.tables.retention_s
                directory.write(retention.FILE, retention.describe(retention_s))
                directory.write(sampling_interval.FILE, sampling_interval.describe(self._sampling_interval_s))
                holes = () if self._record is None else self._record.begin(opened_boot_ns)
                if self._config.shards.count == "auto" and feed.fds.rings:
                    self._shard_count = ShardCount(most_shards(self._config.shards, len(feed.fds.rings)))
                self._place_resolver(directory, feed, holes, resolver)
                self._place_shards(feed, feed.shard_count)
                while not self._signals:
                    pause_s = self._sample(feed)
                    self._report_interval(directory, feed)
                    self._step(directory, feed, vitals, pause_s)
                notify.notify("STOPPING=1", "STATUS=draining")
                is_clean = self._stop(directory, feed)
            except BaseException:
                self._kill_all()
                raise
        self._log.info("stopped", instance=self._name, drained=is_clean)
        return 0 if is_clean else 1

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[InstanceDirectory]:
        settings = self._config.supervision
        with InstanceDirectory(self._name, settings.stop_timeout_s, self._group_id) as directory:
            # The events of a replay happened earlier or on another host.
            if not self._config.source.startswith("replay:"):
                self._record = WatchRecord(directory.path, boot_id())
            try:
                yield directory
            finally:
                if self._record is not None:
                    self._record.end()
                if not settings.keep_tables:
                    directory.remove()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Feed]:
        # Compiling, verifying and trying the BPF programs takes several seconds on a busy host.
        doing = "checking what the kernel offers" if self._config.source == "ebpf" else "opening the source"
        self._log.info(doing, instance=self._name, source=self._config.source)
        feed = self._opener(self._config)
        try:
            yield feed
        finally:
            feed.close()

    # -- start -------------------------------------------------------------------------------------------------------

    def _place_resolver(
        self, directory: InstanceDirectory, feed: Feed, unwatched: Sequence[tuple[int, int]], waiting: Waiting
    ) -> None:
        description = WorkerDescription(
            instance=self._name,
            dir=str(directory.path),
            role=RESOLVER,
            source=feed.source,
            config=self._config,
            boot_id=(feed.boot_id or boot_id()).hex(),
            capture_id=feed.capture_id,
            supervisor_tgid=os.getpid(),
            group_id=self._group_id,
            ring_count=feed.ring_count,
            ring_bytes=dict(feed.ring_bytes),
            fds=feed.fds.for_resolver(),
            unwatched=list(unwatched),
            boot_unix_ns=feed.boot_unix_ns,
            recorded_from_boot_ns=feed.recorded_from_boot_ns,
        )
        self._place(description, self._resolver_command, waiting)

    def _place_shards(self, feed: Feed, count: int, waiting: Sequence[Waiting] = ()) -> None:
        """Divide the rings among `count` shards; `waiting` are their processes, if these were started already."""
        resolver = self._workers[RESOLVER]
        shard_of = feed.shard_of(count)
        # For a successor. The running resolver is not notified of the change; this costs a few turns in a storm.
        resolver.description = msgspec.structs.replace(resolver.description, ring_shards=shard_of)
        for number in range(count):
            own = [ring for ring, shard in shard_of.items() if shard == number]
            description = msgspec.structs.replace(
                resolver.description,
                role=f"shard-{number}",
                fds=feed.fds.for_shard(own),
                ring_bytes={ring: feed.ring_bytes[ring] for ring in own},
                ring_shards={},
            )
            self._place(description, self._command_of_shard(feed), waiting[number] if waiting else None)

    def _command_of_shard(self, feed: Feed) -> Sequence[str]:
        return self._shard_command or module_command(feed.shard_module)

    def _place(self, description: WorkerDescription, command: Sequence[str], waiting: Waiting | None = None) -> None:
        policy = RestartPolicy(description.role, self._config.supervision)
        self._workers[description.role] = _Worker(description, command, policy, waiting)

    def _start_due(self, directory: InstanceDirectory) -> None:
        now = time.monotonic()
        due = [worker for worker in self._workers.values() if worker.child is None and worker.due_s <= now]
        for worker in due:
            worker.due_s = now + _SCARCE_PAUSE_S  # if it cannot be started
            with self._despite_scarcity(f"cannot start {worker.description.role}"):
                self._start(worker)
                self._is_list_due = True
        if self._is_list_due and not self._scarce:
            self._is_list_due = False
            try:
                directory.write(processes.FILE, processes.describe(self._pids()))
            except OSError as error:
                self._log.warning(f"{directory.path / processes.FILE}: {error.strerror}; `stat` will not list workers")

    def _start(self, worker: _Worker) -> None:
        waiting, worker.waiting = worker.waiting, None
        worker.child = Child(worker.description, worker.command, waiting)
        worker.starts += 1
        self._selector.register(worker.child.pidfd, selectors.EVENT_READ)
        self._selector.register(worker.child.ready_fd, selectors.EVENT_READ, worker.child)
        worker.watchdog, worker.start_watchdog = Watchdog(worker.child.pid), Watchdog(worker.child.pid)
        self._log.debug("worker started", worker=worker.description.role, worker_pid=worker.child.pid)

    @contextlib.contextmanager
    def _despite_scarcity(self, failure: str) -> Iterator[None]:
        """Continue after an error for lack of resources. It is logged once, and again when it is over."""
        try:
            yield
        except OSError as error:
            if error.errno not in _SCARCE:
                raise
            if failure not in self._scarce:
                self._log.warning(f"{failure}: {error.strerror}; trying again")
            self._scarce.add(failure)
            return
        if failure in self._scarce:
            self._scarce.remove(failure)
            self._log.info(f"recovered: {failure}")

    def _pids(self) -> dict[str, int]:
        pids = {"supervisor": os.getpid()}
        return pids | {role: worker.child.pid for role, worker in self._workers.items() if worker.child}

    # -- duty --------------------------------------------------------------------------------------------------------

    def _sample(self, feed: Feed) -> float:
        """Compare processes with their last records, if it is time; return the seconds until the next time."""
        try:
            pause = feed.sample()
        except OSError as error:
            if self._can_sample:
                self._can_sample = False
                self._log.warning(
                    f"processes cannot be compared with their last records: {error.strerror}; trying again"
                )
            return _CHECK_S
        self._can_sample = True
        return pause

    def _report_interval(self, directory: InstanceDirectory, feed: Feed) -> None:
        """Write within which time a change is found, if that has changed: with more processes it takes longer."""
        interval_s = feed.sampling_interval_s()
        if interval_s != self._sampling_interval_s:
            with contextlib.suppress(OSError):  # without memory, readers see the former figure
                directory.write(sampling_interval.FILE, sampling_interval.describe(interval_s))
                self._sampling_interval_s = interval_s

    def _step(self, directory: InstanceDirectory, feed: Feed, vitals: VitalsReader, pause_s: float) -> None:
        """Start workers that are due, wait until something happens or a check is due, and react.

        Args:
            directory: of the instance.
            feed: the source.
            vitals: reads the state of the instance.
            pause_s: waits no longer than this.
        """
        self._start_due(directory)
        now = time.monotonic()
        pauses = [worker.due_s - now for worker in self._workers.values() if worker.child is None]
        pauses += pause_s, _CHECK_S if self._is_ready else _CHECK_STARTING_S
        if self._watchdog_s:
            pauses.append(self._watchdog_s)
        if self._change is not None:
            pauses.append(self._change.due_s - now)
        has_news = self._wait(min(pauses))
        if self._signals:
            return
        self._feed_watchdog()
        now = time.monotonic()
        is_check_due = now - self._checked_s >= _CHECK_S - _CHECK_EARLY_S
        if self._is_ready and self._change is None and not has_news and not is_check_due:
            return  # only a comparison of processes is due
        self._checked_s = now
        for worker in self._workers.values():
            self._reap(worker)
        self._vitals = None  # without them nothing is known, so nothing hangs
        with self._despite_scarcity("cannot read the state of the tables"):
            self._vitals = vitals.read()
        self._see_readiness()
        self._see_hangs()
        self._balance_workers()
        feed.update_counts()
        if self._change is None:
            self._fit_shards(feed)
        else:
            self._advance_change(directory, feed)

    def _reap(self, worker: _Worker) -> None:
        child = worker.child
        if child is None or not child.has_ended():
            return
        was_ready = child.was_ready
        self._forget(worker)
        now = time.monotonic()
        pause = worker.policy.after(
            child.started_s, now, child.how(), was_ready=was_ready, is_hopeless=child.is_hopeless
        )
        worker.due_s = now + pause
        if child.role == RESOLVER:
            self._is_ready = False
            notify.notify("STATUS=resolver is being replaced")
        self._log.warning(
            f"{child.role} {child.how()}; starting it again", worker=child.role, worker_pid=child.pid, pause_s=pause
        )

    def _forget(self, worker: _Worker) -> None:
        if worker.child is not None:
            self._selector.unregister(worker.child.pidfd)
            self._selector.unregister(worker.child.ready_fd)
            worker.child.close()
            worker.child = worker.watchdog = worker.start_watchdog = None

    def _see_readiness(self) -> None:
        resolver = self._workers[RESOLVER]
        vitals = self._vitals
        now = time.monotonic()
        if self._is_ready:
            return
        if (
            vitals is not None
            and resolver.child is not None
            and vitals.writer_tgid == resolver.child.pid
            and vitals.state == control_header.STATE_READY
        ):
            self._is_ready = True
            is_first = resolver.starts == 1
            self._starting(True)
            # The first time counts from the start of this process: it includes the check of the kernel.
            after_s = processes.age_s(os.getpid()) if is_first else now - resolver.child.started_s
            self._log.info("ready", instance=self._name, after_s=round(after_s, 3), replaced=not is_first)
            if priority.was_raised():
                priority.settle([os.getpid(), *(child.pid for child in _children(list(self._workers.values())))])
            memory.give_back()  # memory of imports and settings
            notify.notify("READY=1", f"STATUS=following processes from {self._config.source}")
            return
        self._starting(False)
        if resolver.start_watchdog is None:
            return
        resolver.start_watchdog.observe("starting", now)
        if resolver.start_watchdog.counted_s > self._config.supervision.start_timeout_s:
            limit = f"{self._config.supervision.start_timeout_s:g} s"
            raise GivingUpError(
                f"the tables were not complete {limit} after the start; the log above may have the reason. "
                "If the host is only slow, raise supervision.start_timeout_s (waiting for a CPU is not counted)",
                role=RESOLVER,
            )

    def _see_hangs(self) -> None:
        """Kill workers that hang; they are then replaced like any other worker that ended."""
        if self._vitals is None:
            return
        now = time.monotonic()
        signs = self._signs(self._vitals)
        resolver = self._workers[RESOLVER].watchdog
        # Every watchdog observes every time, so that each has the times of the last observation.
        for role, worker in self._workers.items():
            if worker.watchdog is not None:
                worker.watchdog.observe(signs[role], now)
        # While the resolver receives nothing, starved or hung, no shard can hand over anything: the resolver comes
        # first.
        is_receiving = self._is_ready and resolver is not None and resolver.still_s <= _CHECK_S * 2
        for role, worker in self._workers.items():
            child, watchdog = worker.child, worker.watchdog
            if child is None or watchdog is None:
                continue
            if role != RESOLVER and not is_receiving:
                watchdog.observe(None, now)
            elif watchdog.counted_s > HANG_S:
                self._log.error(f"{role} shows no sign of life; killing it", worker=role, worker_pid=child.pid)
                watchdog.observe(None, now)
                child.send(signal.SIGKILL)

    def _signs(self, vitals: Vitals) -> Mapping[str, object]:
        """Return by role the value that must change between checks; None if no change is expected."""
        signs: dict[str, object] = {}
        for role, worker in self._workers.items():
            if role == RESOLVER:
                is_writing = worker.child is not None and vitals.writer_tgid == worker.child.pid
                signs[role] = vitals.heartbeat_boot_ns if is_writing else None
            else:
                stalled = [
                    ring for ring in worker.description.fds.rings if ring < len(vitals.stalled) and vitals.stalled[ring]
                ]
                signs[role] = tuple(vitals.received_pos[ring] for ring in stalled) or None
        return signs

    def _balance_workers(self) -> None:
        """Keep the workers on one CPU if that is better; not during a start, which uses all CPUs."""
        if self._shared_cpu is None or not self._is_ready:
            return
        was = self._shared_cpu.cpu
        pids = [worker.child.pid for worker in self._workers.values() if worker.child]
        self._shared_cpu.balance(pids, time.monotonic())
        if self._shared_cpu.cpu != was:
            self._log.debug("workers share a CPU" if was is None else "workers use all CPUs", cpu=self._shared_cpu.cpu)

    def _shards(self) -> list[_Worker]:
        return [worker for role, worker in self._workers.items() if role != RESOLVER]

    def _fit_shards(self, feed: Feed) -> None:
        """Change the number of shards if they use much CPU time, or little; see shard_count.py."""
        if self._shard_count is None or not self._is_ready:
            return
        now = time.monotonic()
        shards = self._shards()
        count = self._shard_count.observe([child.pid for child in _children(shards)], now)
        if count != len(shards):
            try:
                stall_s = self._config.merge.stall_ms / 1000
                self._change = ShardChange(self._command_of_shard(feed), count, now, stall_s)
            except OSError as error:
                self._give_up_change(f"cannot start {count} shards: {error.strerror}", now)

    def _advance_change(self, directory: InstanceDirectory, feed: Feed) -> None:
        """Make the next step of a change of the number of shards; see shard_change.py."""
        now = time.monotonic()
        change = self._change
        assert change is not None
        for worker in self._old_shards:
            if worker.child is not None and worker.child.has_ended():
                if worker.child.exit_code not in {0, -signal.SIGTERM}:
                    self._log.warning(f"{worker.child.role} {worker.child.how()} while the number of shards changed")
                self._forget(worker)
        old = self._old_shards or self._shards()
        are_gone = change.advance(_children(old), now)
        if change.has_failed:
            self._give_up_change(f"cannot start {change.count} shards", now)
        elif change.is_ending and not self._old_shards:
            # From here on they are not restarted.
            self._old_shards, self._workers = old, {RESOLVER: self._workers[RESOLVER]}
        if are_gone:
            self._place_shards(feed, change.count, change.waiting)
            self._start_due(directory)
            self._log.info("number of shards changed", shards=change.count, before=len(old))
            change.close()
            self._change, self._old_shards = None, []

    def _give_up_change(self, reason: str, now_s: float) -> None:
        if self._change is not None:
            self._change.close()
            self._change = None
        if self._shard_count is not None:
            self._shard_count.stay(len(self._shards()), now_s)
        self._log.warning(f"{reason}; continuing with {len(self._shards())}")

    def _feed_watchdog(self) -> None:
        """Report to systemd that the daemon works: a resolver runs, or is being replaced."""
        now = time.monotonic()
        if self._watchdog_s and now - self._fed_s >= self._watchdog_s / 2:
            self._fed_s = now
            notify.notify("WATCHDOG=1")

    # -- end ---------------------------------------------------------------------------------------------------------

    def _stop(self, directory: InstanceDirectory, feed: Feed) -> bool:
        """End the shards, then the resolver; return whether every worker drained and ended by itself."""
        timeout_s = self._config.supervision.stop_timeout_s
        began_s = time.monotonic()
        signals = self._signals
        # No process reads the rings of old shards that have ended until the new ones run.
        while self._change is not None and self._change.is_ending and self._signals == signals:
            left_s = began_s + timeout_s / 2 - time.monotonic()
            if left_s <= 0:
                break
            self._wait(min(left_s, self._change.due_s - time.monotonic()))
            self._advance_change(directory, feed)
        if self._change is not None:
            self._change.close()
        deadline = began_s + timeout_s if self._signals == signals else began_s
        is_clean = self._stop_these([*self._shards(), *self._old_shards], deadline)
        return self._stop_these([self._workers[RESOLVER]], time.monotonic() + timeout_s) and is_clean

    def _stop_these(self, workers: Sequence[_Worker], deadline: float) -> bool:
        """Let these workers drain and end; kill them at a further signal or at the deadline.

        A shard that is starting has no handler of SIGTERM yet, so the signal would end it before it has read anything.
        It gets the signal when it is ready, or halfway to the deadline.
        """
        patient_s = (time.monotonic() + deadline) / 2
        signals = self._signals
        is_clean = True
        left = [worker for worker in workers if worker.child is not None]
        starting = [child for child in _children(left) if self._is_starting_shard(child)]
        for child in _children(left):
            if child not in starting:
                child.send(signal.SIGTERM)
        while left:
            for worker in left:
                ended = worker.child
                if ended is not None and ended.has_ended():
                    # A worker that SIGTERM itself ended had not yet begun its work, so there was nothing to drain.
                    if ended.exit_code not in {0, -signal.SIGTERM}:
                        is_clean = False
                        self._log.warning(
                            f"{ended.role} {ended.how()} while the daemon was stopping", worker=ended.role
                        )
                    self._forget(worker)
            left = [worker for worker in left if worker.child is not None]
            for child in [child for child in starting if child in _children(left)]:
                if time.monotonic() >= patient_s or not self._is_starting_shard(child):
                    child.send(signal.SIGTERM)
                    starting.remove(child)
            if left and (time.monotonic() >= deadline or self._signals != signals):
                for child in _children(left):
                    self._log.error(f"{child.role} did not drain in time; killing it", worker=child.role)
                    child.send(signal.SIGKILL)
                deadline = float("inf")
                signals = self._signals
            if left:
                pause_s = _CHECK_STARTING_S if starting else _CHECK_S
                self._wait(min(deadline - time.monotonic(), pause_s))
        return is_clean

    def _is_starting_shard(self, child: Child) -> bool:
        """Whether a shard is about to read its rings: it does so soon if the resolver is ready."""
        return self._is_ready and child.role != RESOLVER and not child.was_ready

    def _kill_all(self) -> None:
        if self._change is not None:
            self._change.close()
        workers = [*self._workers.values(), *self._old_shards]
        for child in _children(workers):
            child.send(signal.SIGKILL)
        for worker in workers:
            if worker.child is not None:
                worker.child.wait(self._config.supervision.stop_timeout_s)
                self._forget(worker)

    # -- signals -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals_as_input(self) -> Iterator[None]:
        """Make the ending signals readable by the selector; restore the previous handlers at the end."""

        def count(number: int, frame: FrameType | None) -> None:
            self._signals += 1

        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        previous = {number: signal.signal(number, count) for number in _ENDING}
        wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        self._waker = reading
        self._selector.register(reading, selectors.EVENT_READ)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._selector.close()
            reading.close()
            writing.close()

    def _wait(self, pause_s: float) -> bool:
        """Wait until a signal arrives, or a worker is ready or has ended; return whether one of these happened."""
        news = self._selector.select(max(0.0, pause_s))
        for key, _ in news:
            if key.data is not None:
                key.data.read_ready()
        with contextlib.suppress(BlockingIOError):
            while self._waker.recv(64):
                pass
        return bool(news)


def _children(workers: Sequence[_Worker]) -> list[Child]:
    return [worker.child for worker in workers if worker.child is not None]
