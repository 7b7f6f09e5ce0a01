"""Answer the questions of readers that missed a process: cache, then the kernel's maps, then ``/proc``.

`Lookup` is the order (specification 3.3.1) over the live tables: what it finds is entered with its missing ancestors,
oldest first, through `Applier.insert_snapshot`, as a snapshot is. `Requests` is the part of the resolver's duty cycle
that takes questions and answers them, with bounds on both. The wire and the socket are in `pipeline.bus.requests`.

A question about a process that is not in the tables waits until the watermark has passed the time of the question: what
was merely on its way is there then, and only what the capture missed is looked for elsewhere.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pipeline import events
from pipeline.boot import TICK_NS
from pipeline.bus import requests as wire
from pipeline.errors import FrameError
from pipeline.resolver._apply import Applier
from pipeline.resolver.conceal import Concealer
from pipeline.resolver.limiter import Limiter
from pipeline.resolver.procfs import WANT_DEFAULT, WANT_ENVS
from pipeline.resolver.procinfo import ProcInfo, to_record
from pipeline.resolver.repair import proc_knows
from pipeline.shm import layout
from pipeline.shm._writer import TableWriter

#: Missing ancestors that one question enters at most.
ANCESTORS_MAX = 16

#: Questions answered a second, and at once; a second for those that are not in the cache.
RATE_PER_S = 5000
BURST = 64
MISS_RATE_PER_S = 500
MISS_BURST = 16
#: Questions that wait for the watermark or for their turn; more are refused.
WAITING_MAX = 256
#: A question does not wait longer for a watermark that stands still.
WAIT_MAX_NS = 300_000_000

CACHE, KERNEL_MAPS, PROCFS = "cache", "kernel_maps", "procfs"

_MAP_KNOWS = (
    layout.KNOWN_CREDS | layout.KNOWN_CAPS | layout.KNOWN_AUID | layout.KNOWN_SID | layout.KNOWN_COMM
    | layout.KNOWN_TTY
)  # fmt: skip


class KernelMap(Protocol):
    """`pid_cache` or `proc_cache` (pipeline.bpf.maps)."""

    def get(self, key: int) -> np.void | None: ...


class Proc(Protocol):
    """A reader of ``/proc``, see procfs.ProcReader."""

    def read(self, tgid: int, want: int = ...) -> ProcInfo | None: ...


@dataclass(slots=True)
class _Facts:
    """One process as it is entered: records, and where they are from."""

    tgid: int
    ppid: int
    start_boot_ns: int
    how: str
    head: bytes
    task: bytes
    exec: bytes
    strings: bytes
    known: int
    start_is_ticks: bool


@dataclass(frozen=True, slots=True)
class Found:
    """Where a process is in the tables, and what found it."""

    row: int
    how: str


def is_process(pid: int) -> bool:
    """Whether `pid` is a process of this pid namespace; a thread that is not its process' leader is none."""
    try:
        os.close(os.pidfd_open(pid))
    except OSError:
        return False
    return True


class Lookup:
    """The order in which a process is looked for. Belongs to the resolver's duty cycle: it changes the tables.

    Args:
        tables, applier: the tables and what writes them.
        proc: of ``/proc``; None: the tables are not about this host, so neither it nor the maps are asked.
        pid_cache, proc_cache: the kernel's maps, None where there are none.
        concealer: hides what may not be stored.
        learn_cgroup: told (cgroup id, path) of what ``/proc`` named.
        now_boot_ns: the boot clock.
        capture_boot_ns: when the capture began; what is older is marked as from before it.
        with_envs: whether environments are captured.
        limiter: how often ``/proc`` is asked about one pid.
        is_process: tells a process from a thread.
    """

    def __init__(
        self,
        tables: TableWriter,
        applier: Applier,
        proc: Proc | None,
        *,
        pid_cache: KernelMap | None,
        proc_cache: KernelMap | None,
        concealer: Concealer,
        learn_cgroup: Callable[[int, bytes], None],
        now_boot_ns: Callable[[], int],
        capture_boot_ns: int,
        with_envs: bool = False,
        limiter: Limiter[int] | None = None,
        is_process: Callable[[int], bool] = is_process,
    ) -> None:
        self._tables = tables
        self._applier = applier
        self._proc = proc
        self._pid_cache = pid_cache
        self._proc_cache = proc_cache
        self._concealer = concealer
        self._learn_cgroup = learn_cgroup
        self._now_boot_ns = now_boot_ns
        self._capture_boot_ns = capture_boot_ns
        self._want = WANT_DEFAULT | (WANT_ENVS if with_envs else 0)
        self._limiter = limiter if limiter is not None else Limiter()
        self._is_process = is_process
        self._pid_capacity = len(tables.index_view())

    def cached(self, pid: int) -> Found | None:
        """The process that has the pid now, if the tables have it. Changes nothing and counts a hit."""
        row = self._live(pid)
        if not row:
            return None
        self._tables.count("hits_cache")
        return Found(row, CACHE)

    def find(self, pid: int) -> Found | str:
        """Look in the cache, in the kernel's maps and in ``/proc``, and enter what is found.

        Returns:
            Where it is, or why it was not found (ABSENT or LIMITED of pipeline.bus.requests).
        """
        found = self.cached(pid)
        if found is not None:
            return found
        reason = wire.ABSENT
        facts = None
        if self._proc is not None and pid < self._pid_capacity and self._is_process(pid):
            facts = self._from_maps(pid)
            if facts is None and self._limiter.allow(pid):
                facts = self._from_proc(pid)
            elif facts is None:
                self._tables.count("limiter_drop")
                reason = wire.LIMITED
        if facts is not None:
            self._enter_with_ancestors(facts)
            row = self._live(pid)
            if row and int(self._tables.hot_view()[row]["start_boot_ns"]) // TICK_NS == facts.start_boot_ns // TICK_NS:
                self._tables.count(f"hits_{facts.how}")
                return Found(row, facts.how)
        self._tables.count("miss")
        return reason

    def _live(self, pid: int) -> int:
        row = self._tables.py_head(pid) if pid < self._pid_capacity else 0
        return row if row and not int(self._tables.hot_view()[row]["exit_boot_ns"]) else 0

    # -- facts ---------------------------------------------------------------------------------------------------------

    def _from_maps(self, pid: int) -> _Facts | None:
        """What the kernel's maps know of the process that has the pid now.

        The maps are LRU and keep processes that ended, so the start time is compared with what ``stat`` says; the
        parent and the name, which change without an exec, are taken from there.
        """
        if self._pid_cache is None or self._proc_cache is None or self._proc is None:
            return None
        try:
            owner = self._pid_cache.get(pid)
            image = self._proc_cache.get(int(owner["cookie"])) if owner is not None else None
        except OSError:
            return None  # a kernel that does not let us ask
        if owner is None or image is None or int(owner["exit_boot_ns"]):
            return None
        path_bytes = int(image["path_bytes"])
        if path_bytes > image.dtype["path"].itemsize:
            return None  # only the beginning is there, and /proc has it whole
        now = self._now_boot_ns()
        info = self._proc.read(pid, 0)
        start = int(owner["start_boot_ns"])
        if info is None or info.is_kthread or info.is_zombie or info.start_ticks != start // TICK_NS:
            return None
        head, task, body = np.zeros(1, events.HEAD), np.zeros(1, events.TASK), np.zeros(1, events.EXEC)
        head["kind"], head["tgid"], head["tid"], head["ppid"] = events.KIND_EXEC, pid, pid, info.ppid
        head["time_boot_ns"], head["start_boot_ns"], head["var_bytes"] = now, start, path_bytes
        for name in (
            "uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid", "cap_effective", "cap_permitted", "auid",
            "audit_session", "cgroup_id", "cookie",
        ):  # fmt: skip
            task[name] = owner[name]
        task["sid"], task["pgid"], task["comm"], task["tty"] = info.sid, info.pgid, info.comm, info.tty[:15]
        for name in (
            "inode", "ctime_ns", "mtime_ns", "device", "mount_id", "file_uid", "file_gid", "nlink", "mode", "fs_magic",
            "root_offset", "path_bytes",
        ):  # fmt: skip
            body[name] = image[name]
        body["exec_flags"] = int(image["exec_flags"]) | events.EXEC_ARGS_UNREADABLE | events.EXEC_ENVS_UNREADABLE
        body["exec_tid"] = body["prev_tid"] = pid
        known = _MAP_KNOWS | (layout.KNOWN_CGROUP if int(owner["cgroup_id"]) else 0)
        return _Facts(
            pid, info.ppid, start, KERNEL_MAPS, head.tobytes(), task.tobytes(), body.tobytes(),
            bytes(image["path"])[:path_bytes], known, False,
        )  # fmt: skip

    def _from_proc(self, pid: int) -> _Facts | None:
        if self._proc is None:
            return None
        now = self._now_boot_ns()
        self._tables.count("procfs_reads")
        info = self._proc.read(pid, self._want)
        if info is None or info.is_kthread or info.is_zombie:
            self._tables.count("procfs_failed")
            return None
        info.argv, info.envs = self._conceal(info)
        if info.cgroup_path is not None and info.cgroup_id:
            self._learn_cgroup(info.cgroup_id, info.cgroup_path)
        record = to_record(info, time_boot_ns=now)
        return _Facts(
            pid, info.ppid, info.start_boot_ns, PROCFS, record.head.tobytes(), record.task.tobytes(),
            record.exec.tobytes(), record.blob, proc_knows(record.task[0]), info.start_is_ticks,
        )  # fmt: skip

    def _conceal(self, info: ProcInfo) -> tuple[bytes | None, bytes | None]:
        args, envs = self._concealer.strings(info.argv or b"", info.envs or b"")
        # Nothing is not the same as unknown.
        return (None if info.argv is None else args), (None if info.envs is None else envs)

    # -- entering ------------------------------------------------------------------------------------------------------

    def _enter_with_ancestors(self, facts: _Facts) -> None:
        chain = [facts]
        while len(chain) <= ANCESTORS_MAX:
            ppid = chain[-1].ppid
            if ppid == 0 or ppid >= self._pid_capacity or self._live(ppid):
                break
            above = self._from_maps(ppid) or self._from_proc(ppid)
            if above is None or above.start_boot_ns > chain[-1].start_boot_ns + TICK_NS:
                break  # gone meanwhile; whoever has its number now is no ancestor
            chain.append(above)
        for one in reversed(chain):
            # The capture ran and has not got it: events of it were lost.
            flags = layout.ROW_GAP | (layout.ROW_BEFORE_CAPTURE if one.start_boot_ns < self._capture_boot_ns else 0)
            self._applier.insert_snapshot(
                one.head, one.task, one.exec, one.strings,
                source=layout.SOURCE_MAP if one.how == KERNEL_MAPS else layout.SOURCE_PROCFS,
                known=one.known, start_ticks=one.start_is_ticks, flags=flags,
            )  # fmt: skip


class TokenBucket:
    """Allows `rate_per_s` uses a second on average and `burst` at once."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._ns_per_token = 1e9 / rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._filled_ns = 0

    def available(self, now_ns: int) -> int:
        """Uses that are left now."""
        if self._filled_ns:
            gained = (now_ns - self._filled_ns) / self._ns_per_token
            self._tokens = min(float(self._burst), self._tokens + max(0.0, gained))
        self._filled_ns = now_ns
        return int(self._tokens)

    def take(self, count: int = 1) -> None:
        """Count uses; the caller knows that they are available."""
        self._tokens -= count


class Channel(Protocol):
    """Where questions come from; see pipeline.bus.requests.RequestSocket."""

    def receive(self, budget: int) -> list[tuple[int, bytes]]: ...

    def answer(self, client: int, data: bytes) -> bool: ...


@dataclass(slots=True)
class _Question:
    client: int
    pid: int
    asked_boot_ns: int


@dataclass
class Requests:
    """Takes and answers questions, a bounded number each turn.

    Attributes:
        channel: the socket.
        lookup: finds processes.
        tables: whose counters count, and whose state says whether absent is an answer.
        watermark: how far events are applied, boot ns.
    """

    channel: Channel
    lookup: Lookup
    tables: TableWriter
    watermark: Callable[[], int]
    _waiting: deque[_Question] = field(default_factory=deque)
    _all: TokenBucket = field(default_factory=lambda: TokenBucket(RATE_PER_S, BURST))
    _misses: TokenBucket = field(default_factory=lambda: TokenBucket(MISS_RATE_PER_S, MISS_BURST))

    @property
    def waiting(self) -> int:
        """Questions that were taken and are not answered yet."""
        return len(self._waiting)

    def may_take(self, now_boot_ns: int) -> bool:
        """Whether a question that comes now would be taken; else there is no use in waking up for it."""
        return self._all.available(now_boot_ns) > 0

    def poll(self, now_boot_ns: int) -> int:
        """Answer what can be answered; returns how many questions were taken or answered."""
        done = self._answer_waiting(now_boot_ns)
        budget = min(BURST, self._all.available(now_boot_ns))
        if budget <= 0:
            return done
        questions = self.channel.receive(budget)
        if questions:
            self._all.take(len(questions))
            self.tables.count("requests", len(questions))
        for client, data in questions:
            self._take(client, data, now_boot_ns)
        return done + len(questions)

    def _take(self, client: int, data: bytes, now_boot_ns: int) -> None:
        try:
            pid = wire.decode_request(data)
        except FrameError:
            self._refuse(client, 0, wire.MALFORMED)
            return
        if self.tables.state != layout.STATE_READY:
            self._refuse(client, pid, wire.FILLING)
            return
        found = self.lookup.cached(pid)
        if found is not None:
            self._tell(client, pid, found)
        elif len(self._waiting) >= WAITING_MAX:
            self._refuse(client, pid, wire.BUSY)
        else:
            self._waiting.append(_Question(client, pid, now_boot_ns))

    def _answer_waiting(self, now_boot_ns: int) -> int:
        done = 0
        while self._waiting:
            question = self._waiting[0]
            is_due = self.watermark() > question.asked_boot_ns or now_boot_ns - question.asked_boot_ns > WAIT_MAX_NS
            if not is_due or self._misses.available(now_boot_ns) < 1:
                break
            self._waiting.popleft()
            self._misses.take()
            self._tell(question.client, question.pid, self.lookup.find(question.pid))
            done += 1
        return done

    def _refuse(self, client: int, pid: int, reason: str) -> None:
        self.tables.count("requests_refused")
        self._tell(client, pid, reason)

    def _tell(self, client: int, pid: int, result: Found | str) -> None:
        if isinstance(result, Found):
            hot = self.tables.hot_view()[result.row]
            answer = wire.Answer(
                pid, True, result.how, "", result.row, int(hot["generation"]), int(hot["start_boot_ns"])
            )
        else:
            answer = wire.Answer(pid, reason=result)
        self.channel.answer(client, wire.encode_answer(answer))
