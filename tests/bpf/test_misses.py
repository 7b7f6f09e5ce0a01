"""An event for which the kernel did not run a program is lost, and counted as lost.

In reality this is rare: it needs a kernel that preempts programs, or many processes in one function with a kretprobe.
So some of these tests make the kernel's answers by hand. `tests/vm/run --boot preempt=full` and `--flavour rt` start
kernels that preempt programs of `fentry`.
"""

from __future__ import annotations

import os
import re
import signal
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pipeline.bpf import build, maps, misses, syscall, words
from pipeline.bpf.apart import load_apart
from pipeline.bpf.loader import Capture
from pipeline.host import privileges
from pipeline.records import declared
from pipeline.records.capture_fds import NO_FD
from pipeline.resolver.daemon._losses import SharedCounters
from tests.actor import Actors
from tests.bpf.acts import act
from tests.bpf.ring_reader import RING_BYTES, Reader
from tests.bpf.tiers import ALL
from tests.linux import COUNTS_EVERY_SKIP, SKIPS_RUNS
from tests.proc import namespace

#: Processes that change their user at the same time, and how often each does. There are more of them than returns from
#: a function for which the kernel has room.
CHANGERS, CHANGES = 32, 500
#: Processes that get a mount namespace at the same time, and how often each does. The second ends the first. A third
#: could have the first one's number, and then there is no record of it if that of the second was skipped.
MOVERS, MOVES = 100, 2
#: Processes that read a map by bpf(2) all the time.
READERS = 2


@pytest.fixture
def shared() -> int:
    fd = os.memfd_create("shared")
    os.ftruncate(fd, words.CPU_STATE_LAYOUT.size * words.MAX_CPUS)
    return fd


def described(program: int, name: str, missed: int) -> bytes:
    data = bytearray(misses._INFO_BYTES)
    struct.pack_into("<I", data, 4, program)
    data[64 : 64 + len(name)] = name.encode()
    struct.pack_into("<QQQ", data, 192, 11, 22, missed)
    return bytes(data)


def link(kind: int, program: int, event: int, missed: int) -> bytes:
    data = bytearray(misses._LINK_BYTES)
    struct.pack_into("<III", data, 0, kind, 77, program)
    struct.pack_into("<I", data, 16, event)
    struct.pack_into("<Q", data, 48, missed)
    return bytes(data)


def test_missed_runs_of_a_program_count_as_lost(shared: int) -> None:
    """A program counts once, however many descriptors it has; programs that seldom make records count apart."""
    names = {
        10: "pl_on_fork", 12: "pl_on_exit", 13: "pl_on_signal", 14: "pl_change_pid", 15: "pl_switch_ns", 16: "pl_write",
        17: "pl_setfsuid",
    }  # fmt: skip
    programs = {fd: [fd + 100, name, 0] for fd, name in names.items()}
    programs[11] = [110, "pl_on_fork", 0]
    watch = misses.Misses(programs, (), shared, info=lambda fd, _: described(*programs[fd]))
    counters = SharedCounters(shared, 2)
    watch.update()
    assert not counters.read()
    for fd, count in ((10, 7), (11, 7), (12, 3), (13, 100), (14, 1), (15, 1), (16, 20), (17, 4)):
        programs[fd][2] = count
    watch.update()
    assert counters.read()
    assert {declared.KIND_NAMES[kind]: int(count) for kind, count in enumerate(counters.lost) if count} == {
        "fork": 7, "exit": 3, "cred": 4, "sid": 2,
    }  # fmt: skip
    assert (counters.runs_skipped, counters.lost_total) == (120, 16)
    watch.update()
    assert not counters.read()
    # These come on top of the losses that the programs themselves count.
    maps.cpu_states(shared, writable=True)["lost_samples"][1, declared.KIND_FORK] = 5
    assert counters.read() and counters.lost[declared.KIND_FORK] == 12


def test_missed_kprobes_count_as_lost(shared: int) -> None:
    """On top of the runs that the program itself missed. Links of other kinds have another value at that place."""
    programs = {10: (110, "pl_commit_creds", 1), 11: (111, "pl_change_pid", 0), 12: (112, "pl_write", 3)}
    links = {
        20: [7, 110, 4, 5], 21: [7, 111, 4, 6], 22: [7, 112, 3, 4], 23: [7, 110, 5, 999], 24: [2, 110, 4, 999],
    }  # fmt: skip
    watch = misses.Misses(
        programs, links, shared, info=lambda fd, _: described(*programs[fd]) if fd in programs else link(*links[fd])
    )
    counters = SharedCounters(shared, 2)
    watch.update()
    assert counters.read()
    lost = {declared.KIND_NAMES[kind]: int(count) for kind, count in enumerate(counters.lost) if count}
    assert (lost, counters.runs_skipped) == ({"cred": 1 + 5, "sid": 6}, 3 + 4)
    links[20][3] = 8
    watch.update()
    assert counters.read() and counters.lost[declared.KIND_CRED] == 1 + 8
    watch.update()
    assert not counters.read()


def test_every_program_has_its_kind() -> None:
    """By the names in the source; programs of tiers that compare a process's state have no kind."""
    names = set()
    for source in build.SOURCES:
        if source.startswith(("procline", "context", "capability", "cred_fentry")):
            text = (build.PROGRAMS / source).read_text()
            names |= set(re.findall(r'SEC\("(?:tp_btf|fexit|fentry)/[^\n]*\nint (?:BPF_PROG\()?(pl_\w+)', text))
    names |= probes()
    text = (build.PROGRAMS / "cred_syscalls.bpf.c").read_text()
    after = dict(re.findall(r"^PL_AFTER\((\w+), (\w+)", text, re.MULTILINE))
    kinds = {"cred": declared.KIND_CRED, "session": declared.KIND_SID, "setpgid": declared.KIND_SID}
    calls = {f"pl_{call}": kinds[what] for call, what in after.items() if what in kinds}
    assert len(calls) == 13 and {name: misses.KINDS.get(name) for name in calls} == calls
    others = {"pl_on_signal", "pl_on_wakeup", "pl_tty_release"}
    assert names - others == set(misses.KINDS) - calls.keys(), "few runs of these make a record, or none"
    of = {
        "fork": "pl_on_fork", "exec": "pl_on_exec", "exit": "pl_on_exit", "comm": "pl_on_rename",
        "cgroup": "pl_on_cgroup", "cred": "pl_commit_creds", "sid": "pl_change_pid", "caps": "pl_on_capable",
    }  # fmt: skip
    assert {kind: misses.KINDS[name] for kind, name in of.items()} == {
        kind: number for number, kind in enumerate(declared.KIND_NAMES) if number
    }


@pytest.mark.parametrize(("description_bytes", "expected"), [(24, False), (48, False), (56, True), (72, True)])
def test_whether_missed_runs_are_counted(
    monkeypatch: pytest.MonkeyPatch, description_bytes: int, expected: bool
) -> None:
    monkeypatch.setattr(syscall, "info_bytes", lambda fd: description_bytes)
    assert misses.are_counted(5) is expected


def test_a_link_that_the_kernel_does_not_describe_counts_nothing() -> None:
    """Before Linux 5.15 it is a perf event."""
    with Path("/dev/null").open("rb") as other:
        assert not misses.are_counted(other.fileno())


def name_of(program_fd: int) -> str:
    return syscall.info(program_fd, misses._INFO_BYTES)[misses._NAME].split(b"\0")[0].decode()


def probes() -> set[str]:
    """Return the names of the programs of `kprobe`."""
    text = (build.PROGRAMS / "cred_kprobe.bpf.c").read_text()
    return {
        *re.findall(r'SEC\("k(?:ret)?probe/[^\n]*\nint (pl_\w+)', text),
        *re.findall(r"^PL_AFTER_(?:CRED|SESSION)\((\w+),", text, re.MULTILINE),
    }


@pytest.mark.live
def test_the_programs_of_a_capture_are_asked(live_kernel: None) -> None:
    capture = load_apart(ring_bytes=4096, credentials="off")
    try:
        names = {name_of(fd) for fd in capture.program_fds}
        assert {"pl_on_fork", "pl_on_exec", "pl_on_exit", "pl_on_rename", "pl_on_cgroup"} <= names
        watch = misses.Misses(capture.program_fds, capture.link_fds, capture.fds.shared)
        assert len(watch._programs) == len(names)
        assert {kind for _, kind in watch._programs} == {misses.KINDS.get(name) for name in names}
        watch.update()
        missed = maps.cpu_states(capture.fds.shared)[words.MISSED]
        assert int(missed["ring_seq"]) == 0
        assert SKIPS_RUNS or not missed["lost_samples"].any()
    finally:
        capture.close()


@pytest.mark.live
@pytest.mark.vm
def test_the_probes_of_a_capture_are_asked(live_kernel: None) -> None:
    capture = load_apart(ring_bytes=4096, credentials="kprobe")
    try:
        names = probes() & {name_of(fd) for fd in capture.program_fds}
        assert {"pl_commit_creds", "pl_switch_ns"} <= names
        watch = misses.Misses(capture.program_fds, capture.link_fds, capture.fds.shared)
        if COUNTS_EVERY_SKIP:
            assert sorted(str(kind) for _, kind in watch._probes) == sorted(
                str(misses.KINDS.get(name)) for name in names
            )
    finally:
        capture.close()


@pytest.mark.live
@pytest.mark.parametrize("credentials", ALL)
def test_a_change_is_recorded_or_counted_as_lost(live_kernel: None, actions: Path, credentials: str) -> None:
    """Each process is preempted in the program more often than elsewhere, because it does nothing else."""
    recorded, lost = changes(actions, credentials, "change-user", CHANGERS, CHANGES, declared.KIND_CRED)
    assert 0 <= CHANGERS * CHANGES - recorded <= lost


@pytest.mark.live
@pytest.mark.parametrize("credentials", ALL)
def test_a_change_in_a_function_that_sleeps_is_recorded_or_counted_as_lost(
    live_kernel: None, actions: Path, credentials: str
) -> None:
    """The end of a mount namespace makes switch_task_namespaces() sleep, so that more processes are in it than a
    kretprobe has room for. What it missed can be counted only if the kernel shows it."""
    kinds = declared.KIND_SID, declared.KIND_CRED
    recorded, lost = changes(actions, credentials, "change-mounts", MOVERS, MOVES, *kinds)
    assert 0 < recorded <= MOVERS * MOVES
    if credentials != "kprobe" or COUNTS_EVERY_SKIP:
        assert MOVERS * MOVES - recorded <= lost


@pytest.mark.live
@pytest.mark.parametrize("credentials", ALL)
def test_what_a_method_missed_is_counted_or_found_by_comparisons(
    live_kernel: None, actors: Actors, credentials: str
) -> None:
    """As above, with processes that live on."""
    changing = [actors() for _ in range(20)]
    with Capture(ring_bytes=RING_BYTES, credentials=credentials) as capture:
        for actor in changing:
            actor.start("for _ in range(2): os.unshare(os.CLONE_NEWNS)")
        for actor in changing:
            actor.finish()
        if is_completed := capture.fds.sample_link != NO_FD:
            syscall.run_iterator(capture.fds.sample_link)
        assert is_completed or COUNTS_EVERY_SKIP or credentials == "fentry"
        misses.Misses(capture._program_fds, capture._link_fds, capture.fds.shared).update()
        lost = int(
            maps.cpu_states(capture.fds.shared)["lost_samples"][:, (declared.KIND_SID, declared.KIND_CRED)].sum()
        )
        pids = maps.PidMap(capture.fds.pid_owners, capture.fds.pid_cache)
        entries = {actor.pid: pids.get(actor.pid) for actor in changing}
        wrong = [pid for pid, entry in entries.items() if entry is None or entry["mnt_ns"] != namespace(pid, "mnt")]
    assert len(wrong) <= (0 if is_completed else lost)


@pytest.mark.live
@pytest.mark.parametrize("credentials", ALL)
def test_a_change_during_calls_of_bpf_is_recorded_or_counted_as_lost(
    live_kernel: None, actions: Path, credentials: str
) -> None:
    """The kernel runs no program of kprobes and system calls on a CPU where such a call was preempted."""
    recorded, lost = changes(
        actions, credentials, "change-user", CHANGERS, CHANGES, declared.KIND_CRED, readers=READERS
    )
    assert 0 < recorded <= CHANGERS * CHANGES
    if credentials == "fentry" or COUNTS_EVERY_SKIP:
        assert CHANGERS * CHANGES - recorded <= lost


def changes(
    actions: Path, credentials: str, what: str, processes: int, times: int, *kinds: int, readers: int = 0
) -> tuple[int, int]:
    """Make each process change `times` times; return how many records of the first kind there are, and what was lost.

    The further kinds are those of programs that record changes of several kinds. Meanwhile `readers` processes read a
    map.
    """
    with Capture(ring_bytes=RING_BYTES, credentials=credentials) as capture, ExitStack() as reading:
        reader = Reader(capture)
        for _ in range(readers):
            reading.enter_context(reads(capture.fds.proc_cache))
        _, pids = act(actions, what, str(processes), str(times))
        reading.close()
        reader.poll()
        recorded = len(reader.of(pids, kinds[0]))
        misses.Misses(capture._program_fds, capture._link_fds, capture.fds.shared).update()
        lost = int(maps.cpu_states(capture.fds.shared)["lost_samples"][:, kinds].sum())
    print(f"{credentials}, {what}, {readers} readers: {processes * times} changes, {recorded} recorded, {lost} lost")
    return recorded, lost


@contextmanager
def reads(map_fd: int) -> Iterator[None]:
    """Let a child read all of a map by bpf(2), again and again."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            while privileges.pdeathsig(parent, signal.SIGKILL):
                maps.proc_cache(map_fd).items()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
