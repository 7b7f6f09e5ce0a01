"""Load and attach the BPF programs, create the rings, and hold all of it for as long as the capture lasts.

The core object (fork, exec, exit) must load. Every other object is a tier: it uses an attach kind that a kernel may
reject. Then the capture runs without it, and `Capture.tiers` has the reason. Reading the rings is in _drain.pyx,
reading the maps in maps.py; both need only descriptors.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Self

from pipeline.bpf import features, host, libbpf, misses, syscall, words
from pipeline.config import methods
from pipeline.errors import LoadError, UnsupportedError
from pipeline.host.boot import now_boot_ns
from pipeline.records.capture_fds import NO_FD, CaptureFds
from pipeline.records.declared import STRING_MAX

#: Maps that the core object creates and the tiers share.
SHARED_MAPS = ("pl_rings", "pl_shared", "pl_settings", "pid_owners", "pid_cache", "proc_cache", "pl_senders")
#: The same, in a set with locks only (features.py).
_LOCKS = ("pl_locks",)
#: A program of the core object.
_CORE_PROGRAM = "pl_on_fork"
#: The program of the core object that user space runs, in a set with locks only.
_EXCHANGE = "pl_exchange"

#: LRU maps, and how many elements they have at least for each CPU. Before Linux 6.16, and in older kernels without its
#: backport, a CPU takes 128 free elements at once and keeps them. If no free ones are left for another CPU, it replaces
#: the element that it added last. With twice as many, half of the elements stay free for all.
_LRU_MAPS = ("proc_cache", "pl_senders", "pl_exits")
_LRU_ELEMENTS_OF_CPU = 256


@dataclass(frozen=True, slots=True)
class TierKind:
    """A tier that can be loaded from the object ``NAME.bpf.o``.

    Attributes:
        name: name of the object.
        attach_kind: the attach kind, which a kernel may reject.
        records: what the tier records.
        core: the program that must load. Any other program is skipped if the kernel lacks its attach point. Empty:
            every program must load.
        trial: an empty program of probe.bpf.o with the same attach kind. If the kernel rejects it, the tier is skipped
            without verification of its own programs. Empty: no trial is needed.
        compat: the program for 32-bit system calls, if they need one of their own.
        by_name_only: the tier costs processes that it does not record; "auto" never selects it.
        instead: programs that need functions which not every kernel has, with those that record the same elsewhere.
            Where all of the first are attached, the others are detached.
        whole: programs by the function that must not be divided (`features.is_split`) if they are to be used.
        can_miss: the kernel may not run its programs, and not every kernel counts that (`misses.are_counted`).
    """

    name: str
    attach_kind: str
    records: str
    core: str = ""
    trial: str = ""
    compat: str = ""
    by_name_only: bool = False
    instead: Mapping[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)
    can_miss: bool = False


_NAMES = "changes of name and cgroup"
_HANGUPS = "hangups of terminals"
_LATE_HANGUPS = (
    f"{_HANGUPS} are found late, by the next record of the session leader or by the comparison with /proc "
    "(repair.check_interval_s)"
)
#: The program of context.bpf.c that finds them, which every signal of the host runs. "auto" never loads it.
_ON_SIGNAL = "pl_on_signal"
#: The program of a tier of CREDENTIALS that finds them, if the kernel has its attach point.
_ON_HANGUP = "pl_tty_hangup"

TIERS = (
    TierKind("context", "tp_btf", f"{_NAMES}, {_HANGUPS}"),
    TierKind("iter", "iter", "all processes in one pass, for snapshot and repair"),
)

#: Loaded if `capture.capabilities_usage` is on.
CAPABILITY = TierKind("capability", "tp_btf", "capabilities that processes are asked for, and whether they have them")
#: What the kernel needs for it; libbpf reports only that something was not found.
_CAPABLE = "tracepoint cap_capable (Linux 6.14)"

#: Loaded if `capture.signal_senders` is on.
SENDERS = TierKind("signal", "tp_btf", "which process sent the signal that ended another one")

#: Loaded if `capture.calls` is on.
CALLS = TierKind(
    "calls",
    "fentry",
    "calls of ptrace and setrlimit, and seals of tracing libraries' memfds",
    "pl_ptrace_traceme",
    instead={("pl_ptrace_attach",): ("pl_ptrace_link",)},
)


def _changes(method: str) -> str:
    return f"changes of credentials, session, terminal and namespaces, {methods.SEES[method]}"


#: Detail of a tier that `auto` never selects.
_BY_NAME = "only if capture.credentials names it"

_WHOLE = {"disassociate_ctty": "pl_tty_release"}

#: Alternatives, best first; at most one is used. Keys are the values of `capture.credentials`.
CREDENTIALS = {
    "fentry": TierKind(
        "cred_fentry",
        "fexit",
        _changes("fentry"),
        "pl_commit_creds",
        "pl_try_fentry",
        whole=_WHOLE,
    ),
    "kprobe": TierKind(
        "cred_kprobe",
        "kretprobe",
        _changes("kprobe"),
        "pl_commit_creds",
        "pl_try_kprobe",
        whole=_WHOLE,
        can_miss=True,
    ),
    "sampled": TierKind("cred_sampled", "iter", _changes("sampled")),
    "syscalls": TierKind(
        "cred_syscalls",
        "tp/syscalls",
        _changes("syscalls"),
        "pl_setuid",
        "pl_try_tp_syscalls",
        compat="pl_compat",
        by_name_only=True,
        can_miss=True,
    ),
}
#: The method of CREDENTIALS that completes the others where they do not see all changes.
_COMPLETES = "sampled"

#: The program of probe.bpf.o that reports the pid namespace of its caller.
_OWN_SCOPE = "pl_own_scope"
#: struct pl_scope: the namespace's inode and level.
_SCOPE = struct.Struct("<II")

#: Machines on which any program can make 32-bit system calls. On others only 32-bit programs can; those are not traced.
_COMPAT_MACHINES = ("x86_64",)


@dataclass(frozen=True, slots=True)
class Tier:
    """The state of a tier: `is_on`, and in `detail` what it records or why it is off."""

    name: str
    attach_kind: str
    is_on: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Gaps:
    """What a tier of CREDENTIALS does not see at once on this kernel; `reason` is empty if it sees all changes.

    Attributes:
        lacking: its programs without an attach point.
        is_uncounted: this kernel does not count what the programs miss.
    """

    lacking: tuple[str, ...] = ()
    is_uncounted: bool = False

    @property
    def reason(self) -> str:
        """Why it does not see all changes."""
        reasons = [f"this kernel has no attach point for {', '.join(self.lacking)}"] if self.lacking else []
        if self.is_uncounted:
            reasons.append("this kernel does not count what the programs miss")
        return " and ".join(reasons)


@dataclass(frozen=True, slots=True)
class ProgramStats:
    """Run-time figures of a program; `runs` and `run_ns` count only while BPF statistics are enabled.

    `recursion_misses` counts events for which the kernel did not run the program because it was already running on that
    CPU; it should stay 0.
    """

    name: str
    runs: int
    run_ns: int
    recursion_misses: int


class _Beside(threading.Thread):
    """Run a call in a thread of its own, started at once.

    concurrent.futures could do this, but its import takes half of the time of a start.
    """

    def __init__(self, call: Callable[[], list[Tier]]) -> None:
        super().__init__(name="load")
        self._call = call
        self._tiers: list[Tier] = []
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._tiers = self._call()
        except BaseException as error:
            self._error = error

    def result(self) -> list[Tier]:
        """Return what the call returned, or raise its error; valid after `join`."""
        if self._error is not None:
            raise self._error
        return self._tiers


class Capture:
    """A running capture: programs attached, rings filling. Close it, or use it as a context manager.

    Descriptors are close-on-exec and belong to this object; a worker inherits copies. Nothing is pinned: when the last
    copy is closed, the kernel frees everything.

    Attributes:
        ring_bytes: size of each ring, bytes.
        ring_count: highest possible CPU number + 1; ring numbers are below it.
        fds: descriptors of rings, maps (see maps.py) and the task iterator.
        spare_ring: number of the ring that is shared by all CPUs that were offline at the start; None if there are
            none.
        tiers: which tiers are in use, and why.
        lacks: why the older set of objects is used, which is mostly what the newer one needs and this kernel lacks;
            empty: the newer one is. See features.py.
        gaps: what the tiers that are in use do not see at once, by their names.
    """

    def __init__(
        self,
        *,
        ring_bytes: int,
        args_bytes: int = STRING_MAX,
        envs_bytes: int = 0,
        wakeup_fill_bytes: int = 0,
        credentials: str = "auto",
        compat_calls: str = "auto",
        task_iterator: str = "auto",
        capabilities_usage: str = "off",
        signal_senders: str = "off",
        calls: str = "off",
        pid_ns: int = 0,
    ) -> None:
        """Load, attach and begin to record.

        Args:
            ring_bytes: a power of two, at least a page.
            args_bytes: kept of the arguments of each exec at most, up to STRING_MAX.
            envs_bytes: the same of the environment.
            wakeup_fill_bytes: a ring filled above this wakes its shard; 0: a quarter of ring_bytes.
            credentials: a key of CREDENTIALS, "auto" for the first one that the kernel accepts and that costs no other
                process anything, or "off".
            compat_calls: "auto" to trace 32-bit system calls too where that costs the others, or "off".
            task_iterator: "auto" to use it if the kernel accepts it, or "off", which also leaves out "sampled".
            capabilities_usage: "on" to use it if the kernel reports them, or "off".
            signal_senders: "on" to record which process sent the signal that ended another one, or "off".
            calls: "on" to record calls of ptrace(2) and setrlimit(2) and seals of tracing libraries' memfds, or "off".
            pid_ns: inode of the pid namespace to record, which must be the caller's; 0: record every process of the
                host, under its number in the initial namespace.

        Raises:
            UnsupportedError: no BTF, no capability, a kernel that is too old, too many CPUs, or a kernel that rejects
                the tier that `credentials` names.
            LoadError: the kernel rejected a program, or has no memory for the rings.
        """
        host.require()
        self.ring_bytes = ring_bytes
        self.ring_count = max(host.possible_cpus()) + 1
        self.fds = CaptureFds()
        self.spare_ring: int | None = None
        self.tiers: tuple[Tier, ...] = ()
        self.lacks: tuple[str, ...] = ()
        self._tier_objects: list[libbpf.TierObject] = []
        self._iter_links: dict[str, int] = {}
        self.gaps: dict[str, Gaps] = {}
        self._scope = b""
        self._sizes: dict[str, int] = {}
        self._program_fds: list[int] = []
        self._link_fds: list[int] = []
        with ExitStack() as undo:
            undo.callback(self.close)
            known = syscall.own_fds(syscall.PROGRAM, syscall.LINK)
            core, self.lacks = features.choose(partial(self._load_core, pid_ns))
            self._core: libbpf.CoreObject | None = core
            self._hold_maps(core)
            self._make_rings()
            self._write_settings(args_bytes, envs_bytes, wakeup_fill_bytes)
            core.attach()
            tiers, changes = self._load_beside(credentials, compat_calls, task_iterator)
            tiers.append(self._load_capability(capabilities_usage))
            tiers.append(self._load_senders(signal_senders))
            tiers.append(self._load_calls(calls))
            self.tiers = (self._core_tier(), *tiers, *changes)
            self.fds = self.fds._replace(
                iter_link=self._iter_links.get("iter", NO_FD), sample_link=self._iter_links.get("cred_sampled", NO_FD)
            )
            self._program_fds = sorted(syscall.own_fds(syscall.PROGRAM) - known)
            self._link_fds = sorted(syscall.own_fds(syscall.LINK) - known)
            self._begin()
            undo.pop_all()

    def _core_tier(self) -> Tier:
        older = f" (by the programs for older kernels; missing: {', '.join(self.lacks)})" if self.lacks else ""
        return Tier("core", "tp_btf", True, f"fork, exec and exit{older}")

    def _load_core(self, pid_ns: int, is_old: bool) -> libbpf.CoreObject:
        """Load the core object of one of the sets, and keep what the objects of this set are loaded with."""
        self._scope = _scope(pid_ns, is_old=is_old) if pid_ns else b""
        self._sizes = {"pl_flat_buf": self.ring_count} if is_old else {}
        least = dict.fromkeys(_LRU_MAPS, _LRU_ELEMENTS_OF_CPU * len(host.online_cpus()))
        return libbpf.CoreObject(features.object_path("procline", is_old), self._scope, self._sizes, least)

    def _hold_maps(self, core: libbpf.CoreObject) -> None:
        """Set the descriptors of the maps that the tiers share, and of those that are read from here."""
        has_locks = bool(self.lacks) and features.has_locks()
        shared = SHARED_MAPS + (_LOCKS if has_locks else ())
        self._map_fds = {name: core.map_fd(name) for name in shared}
        self.fds = CaptureFds(
            shared=self._map_fds["pl_shared"],
            settings=self._map_fds["pl_settings"],
            pid_owners=self._map_fds["pid_owners"],
            pid_cache=self._map_fds["pid_cache"],
            proc_cache=self._map_fds["proc_cache"],
            pid_exchange=core.program_fd(_EXCHANGE) if has_locks else NO_FD,
        )

    def _make_rings(self) -> None:
        assert self._core is not None
        online = host.online_cpus()
        absent = sorted(set(host.possible_cpus()) - set(online))
        ring_of_cpu = words.cpu_words(self.fds.shared, words.RING)
        numbers = {cpu: cpu for cpu in online}
        if absent:
            self.spare_ring = absent[0]
            numbers |= dict.fromkeys(absent, self.spare_ring)
        rings: dict[int, int] = {}
        self.fds = self.fds._replace(rings=rings)
        for cpu, ring in sorted(numbers.items()):
            if ring not in rings:
                try:
                    rings[ring] = libbpf.create_ring(f"pl_ring_{ring}", self.ring_bytes)
                except OSError as error:
                    raise LoadError(
                        f"cannot create ring {ring} of {len(set(numbers.values()))} with {self.ring_bytes} bytes: "
                        f"{error.strerror}; lower capture.rings_bytes or capture.ring_bytes"
                    ) from error
            ring_of_cpu[cpu] = ring
            self._core.map_update("pl_rings", cpu, rings[ring])

    def _write_settings(self, args_bytes: int, envs_bytes: int, wakeup_fill_bytes: int) -> None:
        """Write all settings of the programs except FLAGS, without which they record nothing; see `_begin`."""
        settings = words.settings_words(self.fds.settings)
        settings[words.ARGS_BYTES] = min(args_bytes, STRING_MAX)
        settings[words.ENVS_BYTES] = min(envs_bytes, STRING_MAX)
        settings[words.WAKEUP_FILL_BYTES] = wakeup_fill_bytes or self.ring_bytes // 4
        settings[words.PAGE_BYTES] = mmap.PAGESIZE

    def _begin(self) -> None:
        """Make the programs record. This is the last step, so that all kinds of events begin at the same time."""
        settings = words.settings_words(self.fds.settings)
        words.settings_longs(self.fds.settings)[words.BEGAN_BOOT_NS] = now_boot_ns()
        settings[words.FLAGS] = words.CAPTURE_ON
        if self.fds.iter_link != NO_FD:
            # Stores this process's root directory, and enters the processes that exist already into the caches.
            syscall.run_iterator(self.fds.iter_link)

    def _load_beside(self, credentials: str, compat_calls: str, task_iterator: str) -> tuple[list[Tier], list[Tier]]:
        """Load TIERS and CREDENTIALS side by side, and return their states.

        Most of the start time is the kernel's verifier, which verifies one program per thread at a time.
        """
        changes = _Beside(lambda: self._load_credentials(credentials, compat_calls, task_iterator))
        # A signal has nothing to do with a change of a process, so "auto" lets none run a program.
        unwanted = (_ON_SIGNAL,) if credentials == "auto" else ()
        others = [_Beside(partial(self._load_other, kind, task_iterator, unwanted)) for kind in TIERS]
        with ExitStack() as ended:
            for each in (changes, *others):
                ended.callback(each.join)  # after an error `close` follows, which must not meet one that still loads
            for each in (changes, *others):
                each.join()
        tiers = [tier for each in others for tier in each.result()]
        return self._show_hangups(tiers, changes.result(), is_on_signal=not unwanted)

    def _load_tier(self, kind: TierKind, unwanted: Collection[str] = ()) -> Tier:
        if self.lacks and kind.name not in features.OLD_NAMES:
            return Tier(kind.name, kind.attach_kind, False, "not among the programs for older kernels")
        assert self._core is not None
        if kind.attach_kind in features.TRAMPOLINES and features.share_buffers(self._core.program_fd(_CORE_PROGRAM)):
            return Tier(kind.name, kind.attach_kind, False, features.SHARED_BUFFERS)
        if kind.trial:
            try:
                self._try(kind.trial)
            except LoadError as error:
                return Tier(kind.name, kind.attach_kind, False, str(error))
        left_out = [program for function, program in kind.whole.items() if features.is_split(function)]
        while True:
            one: libbpf.TierObject | None = None
            try:
                one = libbpf.TierObject(
                    features.object_path(kind.name, bool(self.lacks)),
                    self._map_fds,
                    without=[*left_out, *unwanted],
                    constants=self._scope,
                    sizes=self._sizes,
                )
                one.attach()
                break
            except LoadError as error:
                if one is not None:
                    one.close()
                if not kind.core or error.program in {"", kind.core, *left_out}:
                    return Tier(kind.name, kind.attach_kind, False, str(error))
                left_out.append(error.program)
        self._tier_objects.append(one)
        if kind.attach_kind == "iter":
            (self._iter_links[kind.name],) = one.link_fds
        replaced: list[str] = []
        for names, others in kind.instead.items():
            if all(one.is_attached(name) for name in names):
                replaced += others
            left_out = [name for name in left_out if name not in names]
        for name in replaced:
            one.detach(name)
        lacking = tuple(name for name in left_out if name not in replaced)
        gaps = Gaps(lacking, kind.can_miss and not misses.are_counted(one.link_fds[0]))
        self.gaps[kind.name] = gaps
        return Tier(kind.name, kind.attach_kind, True, "; ".join(filter(None, (kind.records, gaps.reason))))

    def _show_hangups(
        self, tiers: list[Tier], changes: list[Tier], *, is_on_signal: bool
    ) -> tuple[list[Tier], list[Tier]]:
        """Return the tiers with what finds hangups of terminals.

        Args:
            tiers: those of TIERS.
            changes: those of CREDENTIALS. If one of them finds hangups, signals run no program any more.
            is_on_signal: every signal of the host runs a program that finds them.
        """
        finder = self._finder_of_hangups([tier for tier in changes if tier.is_on])
        if finder is None and is_on_signal:
            return tiers, changes
        for one in self._tier_objects:
            one.detach(_ON_SIGNAL)
        detail = _NAMES if finder else f"{_NAMES}; {_LATE_HANGUPS}"
        names = [replace(tier, detail=detail) if tier.name == "context" and tier.is_on else tier for tier in tiers]
        return names, [
            replace(tier, detail=f"{tier.detail}; finds {_HANGUPS}") if tier is finder else tier for tier in changes
        ]

    def _finder_of_hangups(self, used: list[Tier]) -> Tier | None:
        """Return which of the tiers of changes that are in use records that a terminal was hung up; None: none of them.

        A comparison does, but if it completes system calls, the program on signals is sooner.
        """
        names = {tier.name: tier for tier in used}
        if any(one.is_attached(_ON_HANGUP) for one in self._tier_objects):
            return next(tier for tier in used if tier.attach_kind != "iter")
        return None if "cred_syscalls" in names else names.get("cred_sampled")

    @staticmethod
    def _try(program: str) -> None:
        """Attach a program of probe.bpf.o for a moment.

        Raises:
            LoadError: the kernel rejected it.
        """
        one = libbpf.TierObject(features.object_path("probe", False), {}, only=program)
        try:
            one.attach()
        finally:
            one.close()

    def _load_other(self, kind: TierKind, task_iterator: str, unwanted: Collection[str]) -> list[Tier]:
        """Load a tier of TIERS without the unwanted programs, unless the settings forbid it."""
        if kind.attach_kind == "iter" and task_iterator == "off":
            return [_without_iterator(kind)]
        return [self._load_tier(kind, unwanted)]

    def _load_capability(self, choice: str) -> Tier:
        if choice == "off":
            return Tier(CAPABILITY.name, CAPABILITY.attach_kind, False, 'capture.capabilities_usage is "off"')
        tier = self._load_tier(CAPABILITY)
        return tier if tier.is_on else replace(tier, detail=f"needs the {_CAPABLE}: {tier.detail}")

    def _load_senders(self, choice: str) -> Tier:
        if choice == "off":
            return Tier(SENDERS.name, SENDERS.attach_kind, False, 'capture.signal_senders is "off"')
        return self._load_tier(SENDERS)

    def _load_calls(self, choice: str) -> Tier:
        if choice == "off":
            return Tier(CALLS.name, CALLS.attach_kind, False, 'capture.calls is "off"')
        tier = self._load_tier(CALLS)
        if tier.is_on:
            one = self._tier_objects[-1]
            self.fds = self.fds._replace(calls=one.map_fd("pl_calls"), calls_dropped=one.map_fd("pl_calls_dropped"))
        return tier

    def _load_credentials(self, choice: str, compat_calls: str, task_iterator: str) -> list[Tier]:
        """Load the first of CREDENTIALS that the kernel accepts, or the chosen one; each other one has its reason.

        If that one does not see all changes on this kernel, comparisons find the others.
        """
        if choice not in {"auto", "off", *CREDENTIALS}:
            raise ValueError(f"credentials is {choice!r}, not one of auto, off, {', '.join(CREDENTIALS)}")
        tiers: list[Tier] = []
        chosen = ""
        for key, kind in CREDENTIALS.items():
            if chosen:
                tiers.append(Tier(kind.name, kind.attach_kind, False, f"not needed: {chosen} is in use"))
            elif choice == "auto" and kind.by_name_only:
                tiers.append(Tier(kind.name, kind.attach_kind, False, _BY_NAME))
            elif choice in {"auto", key} and kind.attach_kind == "iter" and task_iterator == "off":
                tiers.append(_without_iterator(kind))
            elif choice in {"auto", key}:
                without = _compat_unwanted(compat_calls) if kind.compat else ""
                tier = self._load_tier(kind, [kind.compat] if without else [])
                if tier.is_on and without:
                    tier = replace(tier, detail=f"{tier.detail}; without 32-bit system calls: {without}")
                tiers.append(tier)
                chosen = kind.name if tiers[-1].is_on else ""
            else:
                tiers.append(Tier(kind.name, kind.attach_kind, False, f'capture.credentials is "{choice}"'))
        if choice in CREDENTIALS and not chosen:
            kind = CREDENTIALS[choice]
            refusal = next(tier.detail for tier in tiers if tier.name == kind.name)
            raise UnsupportedError(
                f'this kernel rejects capture.credentials = "{choice}": {refusal}',
                feature=f"attach {kind.attach_kind}",
                needs=f"a kernel and privileges that allow {kind.attach_kind}",
                hint='set capture.credentials = "auto"',
            )
        return [self._completing(tier, chosen, task_iterator) for tier in tiers]

    def _completing(self, tier: Tier, chosen: str, task_iterator: str) -> Tier:
        """Return a tier of CREDENTIALS, loaded if it is the one that completes the chosen one and that has gaps."""
        kind = CREDENTIALS.get(_COMPLETES)
        if kind is None or tier.name != kind.name or chosen in {"", kind.name} or not self.gaps[chosen].reason:
            return tier
        if task_iterator == "off":
            return _without_iterator(kind)
        loaded = self._load_tier(kind)
        return replace(loaded, detail=_completion(chosen, self.gaps[chosen].reason)) if loaded.is_on else loaded

    @property
    def programs(self) -> list[ProgramStats]:
        """Current figures of every loaded program."""
        found = []
        for fd in self._program_fds:
            data = syscall.info(fd, 232)
            # struct bpf_prog_info of include/uapi/linux/bpf.h.
            run_ns, runs, skipped = struct.unpack_from("<QQQ", data, 192)
            found.append(ProgramStats(data[64:80].split(b"\0")[0].decode(), runs, run_ns, skipped))
        return found

    def close(self) -> None:
        """Detach the programs, free maps and rings; idempotent. Workers' copies keep their rings readable."""
        for one in reversed(self._tier_objects):
            one.close()
        self._tier_objects = []
        self._core, core = None, getattr(self, "_core", None)
        if core is not None:
            core.close()
        for fd in self.fds.rings.values():
            with suppress(OSError):
                os.close(fd)
        self.fds = CaptureFds()
        self._program_fds = []
        self._link_fds = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CredentialsTrial(Capture):
    """A capture with one method of CREDENTIALS and nothing else. Its programs are attached, but record nothing."""

    def __init__(self, credentials: str, task_iterator: str = "auto") -> None:
        """Load and attach it; arguments and errors as in Capture."""
        super().__init__(ring_bytes=mmap.PAGESIZE, credentials=credentials, task_iterator=task_iterator)

    def _begin(self) -> None:
        pass

    def _load_other(self, kind: TierKind, task_iterator: str, unwanted: Collection[str]) -> list[Tier]:
        return []


def _completion(chosen: str, gap: str) -> str:
    found = "found within capture.sampling_interval_s by comparison, at no cost to others"
    return f"changes that {chosen} does not see, because {gap}: {found}"


def _without_iterator(kind: TierKind) -> Tier:
    return Tier(kind.name, kind.attach_kind, False, 'capture.task_iterator is "off"')


def _scope(pid_ns: int, *, is_old: bool) -> bytes:
    """Return the value of `pl_scope` (scope.bpf.h) that limits a capture to a pid namespace, which is the caller's.

    Raises:
        UnsupportedError: this process is in another pid namespace.
        LoadError: the kernel does not load the program that reads the namespace.
    """
    one = libbpf.TierObject(features.object_path("probe", is_old), {}, only=_OWN_SCOPE)
    try:
        level, own = (syscall.run_program(one.program_fd(_OWN_SCOPE), argument) for argument in (0, 1))
    except OSError as error:
        raise LoadError(f"the level of the pid namespace cannot be read: {error}", program=_OWN_SCOPE) from error
    finally:
        one.close()
    if own != pid_ns:
        raise UnsupportedError(
            f"the BPF programs would be loaded in pid namespace {own}, not in {pid_ns}",
            feature="pid namespace",
            needs="the daemon's own pid namespace",
            hint="start `procline run` in the pid namespace that it records",
        )
    # Every process of the host is in the initial namespace, at level 0.
    return _SCOPE.pack(own, level) if level else b""


def _compat_unwanted(choice: str) -> str:
    """Return why 32-bit system calls are not traced; empty if they are."""
    if choice == "off":
        return 'capture.compat_calls is "off"'
    machine = os.uname().machine
    return "" if machine in _COMPAT_MACHINES else f"not on {machine}"
