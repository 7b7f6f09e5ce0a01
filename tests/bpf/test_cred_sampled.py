"""Changes of credentials, session, terminal and namespaces that a pass over all processes finds: the tier "sampled"."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.bpf import loader, maps, syscall
from pipeline.bpf.declared import SAMPLE_PART
from pipeline.bpf.loader import Capture
from pipeline.bpf.sampling import Sampler
from pipeline.errors import UnsupportedError
from pipeline.host.boot import now_boot_ns
from pipeline.records import declared, dtypes
from tests.actor import Actor
from tests.bpf.ring_reader import RING_BYTES, Reader, Record
from tests.bpf.test_cred_tiers import LEADERLESS, NET_ADMIN, SYS_CHROOT
from tests.bpf.tiers import CRED, IDS, SID
from tests.proc import namespace, status
from tests.waiting import until

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: From linux/fcntl.h; the module `fcntl` lacks them.
F_SETOWN_EX = 15
F_OWNER_TID = 0

#: After this time a pass reports credentials in the middle of an exec too; see PL_EXEC_NS of cred_sampled.bpf.c.
LONG_EXEC_S = 3.0


class Sampled:
    """A capture with this tier, and passes when a test wants one."""

    def __init__(self) -> None:
        self.capture = Capture(ring_bytes=RING_BYTES, credentials="sampled")
        self.pids = maps.PidMap(self.capture.fds.pid_owners, self.capture.fds.pid_cache)
        self.reader = Reader(self.capture)

    def passes(self, pid: int) -> list[Record]:
        """Make one pass; return the records of changes of a process since the last call."""
        assert syscall.run_iterator(self.capture.fds.sample_link).strip(b".") == b""
        self.reader.poll()
        found = [record for record in self.reader.of(pid) if record.kind in (CRED, SID)]
        self.reader.records.clear()
        return found

    def after(self, actor: Actor, code: str) -> list[Record]:
        """Return the records of a pass after `code` has run in the actor."""
        assert self.passes(actor.pid) == []
        actor.do(code)
        return self.passes(actor.pid)


@pytest.fixture(scope="module")
def sampled(live_kernel: None) -> Iterator[Sampled]:
    one = Sampled()
    yield one
    one.capture.close()


def test_a_change_is_one_record_that_says_how_it_was_found(sampled: Sampled, actor: Actor) -> None:
    (record,) = sampled.after(actor, "libc.setegid(1021); libc.setfsuid(1022); libc.setresuid(1023, 1024, 1025)")
    assert record.kind == CRED and record.header["flags"] == declared.FLAG_SAMPLED
    assert tuple(int(record.task[name]) for name in IDS) == (1023, 1024, 1025, 1024, 0, 1021, 0, 1021)
    now = status(actor.pid)
    assert [int(record.task[name]) for name in IDS] == [int(value) for value in now["Uid"] + now["Gid"]]
    assert (record.header["tgid"], record.header["tid"], record.header["ppid"]) == (actor.pid, actor.pid, os.getpid())
    entry = sampled.pids.get(actor.pid)
    assert entry is not None and entry["cookie"] == record.task["cookie"] != 0
    assert tuple(int(entry[name]) for name in IDS) == (1023, 1024, 1025, 1024, 0, 1021, 0, 1021)
    assert sampled.passes(actor.pid) == []


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Let whatever opens a file wait; the first one sends SIGIO to this thread, because others do not block it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    fd = os.open(file, os.O_RDWR)
    try:
        fcntl.fcntl(fd, F_SETOWN_EX, struct.pack("ii", F_OWNER_TID, threading.get_native_id()))
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def span(record: Record) -> tuple[int, int]:
    """The times between which the change of a record happened."""
    return int(record.sampled["changed_after_boot_ns"]), int(record.header["time_boot_ns"])


def test_a_record_says_when_its_change_could_have_happened(sampled: Sampled, actor: Actor) -> None:
    times = [now_boot_ns()]
    assert sampled.passes(actor.pid) == []
    times.append(now_boot_ns())
    actor.do("libc.setegid(1091)")
    times.append(now_boot_ns())
    (record,) = sampled.passes(actor.pid)
    times.append(now_boot_ns())
    after, until = span(record)
    assert times[0] < after < times[1] and times[2] < until < times[3]
    actor.do("libc.setegid(0)")
    (record,) = sampled.passes(actor.pid)
    assert span(record)[0] == until, "it was as recorded when the last change was recorded"


def test_before_the_first_comparison_the_start_is_the_limit(actor: Actor) -> None:
    """The start of the capture for an older process, otherwise that of the process."""
    began = now_boot_ns()
    one = Sampled()
    try:
        actor.do("libc.setegid(1092)")
        changed = now_boot_ns()
        (record,) = one.passes(actor.pid)
        assert began < span(record)[0] < changed
        with Actor() as younger:
            younger.do("libc.setegid(1093)")
            (record,) = one.passes(younger.pid)
            assert span(record)[0] == int(record.header["start_boot_ns"])
    finally:
        one.capture.close()


def test_every_change_is_between_its_limits_however_many_readers_compare(sampled: Sampled, actor: Actor) -> None:
    """Passes at any moment of a change, two at a time, some of which are cut short."""
    sampled.passes(actor.pid)
    is_over = threading.Event()

    def compare() -> None:
        while not is_over.is_set():
            fd = syscall.iter_create(sampled.capture.fds.sample_link)
            os.read(fd, 1)
            os.close(fd)

    readers = [threading.Thread(target=compare) for _ in range(2)]
    for reader in readers:
        reader.start()
    changes: dict[int, tuple[int, int]] = {}
    try:
        while len(sampled.reader.of(actor.pid, CRED)) < 50:
            began, egid = now_boot_ns(), 2000 + len(changes)
            actor.do(f"libc.setegid({egid})")
            changes[egid] = began, now_boot_ns()
            sampled.reader.poll()
    finally:
        is_over.set()
        for reader in readers:
            reader.join()
    for record in sampled.reader.of(actor.pid, CRED):
        (after, until), (began, ended) = span(record), changes[int(record.task["egid"])]
        assert after < ended and began < until


@contextmanager
def held_exec(actor: Actor, directory: Path) -> Iterator[None]:
    """Let the leader of a process wait in an exec, which fails at the end."""
    interpreter, script = directory / "interpreter", directory / "script"
    interpreter.write_text("no program")
    script.write_text(f"#!{interpreter}\n")
    interpreter.chmod(0o755)
    script.chmod(0o755)
    with held(interpreter):
        # os.execv() would not let other threads of the interpreter run.
        actor.start(
            f"try: libc.execv({bytes(script)!r}, (ctypes.c_char_p * 2)(b'script', None))\n"
            "except OSError as error: failure = error.errno"
        )
        assert signal.sigtimedwait({signal.SIGIO}, 20) is not None
        yield
    actor.finish()


def test_what_a_pass_leaves_out_keeps_its_limit(sampled: Sampled, actor: Actor, tmp_path: Path) -> None:
    """A pass in the middle of an exec reports no credentials, and confirms nothing: a failed exec has no record."""
    sampled.passes(actor.pid)
    actor.do("libc.setegid(1094)")
    changed = now_boot_ns()
    with held_exec(actor, tmp_path):
        assert sampled.passes(actor.pid) == []
    (record,) = sampled.passes(actor.pid)
    assert record.task["egid"] == 1094 and span(record)[0] < changed


def test_an_exec_that_takes_long_hides_no_credentials(sampled: Sampled, actor: Actor, tmp_path: Path) -> None:
    """Its file can make it wait forever, with credentials that are older than the exec."""
    sampled.passes(actor.pid)
    actor.do("libc.setegid(1095)")
    changed = now_boot_ns()
    with held_exec(actor, tmp_path):
        assert sampled.passes(actor.pid) == []
        time.sleep(max(0.0, changed / 1e9 + LONG_EXEC_S - now_boot_ns() / 1e9))
        (record,) = sampled.passes(actor.pid)
        assert record.kind == CRED and record.task["egid"] == 1095 and span(record)[0] < changed
    assert sampled.passes(actor.pid) == []


def test_an_exec_hides_neither_group_nor_name(sampled: Sampled, actor: Actor, tmp_path: Path) -> None:
    """Another thread changes the process while its leader waits in an exec."""
    commands = tmp_path / "commands"
    os.mkfifo(commands)
    actor.do(
        "import threading\n"
        f"thread = threading.Thread(target=lambda: [exec(line, globals()) for line in open({str(commands)!r})])\n"
        "thread.start()"
    )
    sampled.passes(actor.pid)
    with held_exec(actor, tmp_path), commands.open("w", buffering=1) as thread:
        thread.write("os.setpgid(0, 0)\n")
        until(lambda: os.getpgid(actor.pid) == actor.pid)
        (record,) = sampled.passes(actor.pid)
        assert (record.kind, record.task["pgid"]) == (SID, actor.pid)
        thread.write(f"open('/proc/self/task/{actor.pid}/comm', 'w').write('innocent')\n")
        record = sampled.reader.one(actor.pid, declared.KIND_COMM)
        assert record.task["comm"] == b"innocent"
    actor.do("thread.join()")


@pytest.mark.parametrize(
    ("code", "kind", "fact", "value"),
    [
        ("libc.setresuid(1001, -1, -1)", CRED, "uid", 1001),
        ("libc.setresuid(-1, 1002, -1)", CRED, "euid", 1002),
        ("libc.setresuid(-1, -1, 1003)", CRED, "suid", 1003),
        ("libc.setfsuid(1004)", CRED, "fsuid", 1004),
        ("libc.setresgid(1005, -1, -1)", CRED, "gid", 1005),
        ("libc.setresgid(-1, 1006, -1)", CRED, "egid", 1006),
        ("libc.setresgid(-1, -1, 1007)", CRED, "sgid", 1007),
        ("libc.setfsgid(1008)", CRED, "fsgid", 1008),
        (f"set_caps({1 << NET_ADMIN}, {1 << NET_ADMIN | 1 << SYS_CHROOT})", CRED, "cap_effective", 1 << NET_ADMIN),
        ("os.setpgid(0, 0)", SID, "pgid", None),
        ("os.setsid()", SID, "sid", None),
    ],
)
def test_every_fact_is_compared(
    sampled: Sampled, actor: Actor, code: str, kind: int, fact: str, value: int | None
) -> None:
    (record,) = sampled.after(actor, code)
    assert (record.kind, record.task[fact]) == (kind, actor.pid if value is None else value)


def test_namespaces(sampled: Sampled, actor: Actor) -> None:
    for flag, name, kind in (("NEWNS", "mnt", SID), ("NEWNET", "net", SID), ("NEWUSER", "user", CRED)):
        (record,) = sampled.after(actor, f"os.unshare(os.CLONE_{flag})")
        assert (record.kind, record.task[f"{name}_ns"]) == (kind, namespace(actor.pid, name))


def test_the_login_uid(sampled: Sampled, actor: Actor) -> None:
    if not Path("/proc/self/loginuid").exists():
        pytest.skip("this kernel has no login uid (CONFIG_AUDIT)")
    (record,) = sampled.after(actor, "open('/proc/self/loginuid', 'w').write('1071')")
    assert (record.kind, record.task["auid"]) == (CRED, 1071)
    assert record.task["audit_session"] == int(Path(f"/proc/{actor.pid}/sessionid").read_text())


def test_terminals(sampled: Sampled, actor: Actor) -> None:
    actor.do("import fcntl, signal, termios; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    actor.do("os.setsid(); master, slave = os.openpty()")
    sampled.passes(actor.pid)
    (record,) = sampled.after(actor, "fcntl.ioctl(slave, termios.TIOCSCTTY, 0)")
    assert record.kind == SID and record.task["tty"].startswith(b"pts")
    (record,) = sampled.after(actor, "fcntl.ioctl(slave, termios.TIOCNOTTY)")
    assert record.kind == SID and record.task["tty"] == b""


def test_a_change_that_is_reverted_before_the_pass_is_not_seen(sampled: Sampled, actor: Actor) -> None:
    assert sampled.after(actor, "libc.seteuid(1031); libc.seteuid(0)") == []


def test_a_change_that_another_record_contains_is_not_found_again(sampled: Sampled, actor: Actor) -> None:
    assert sampled.after(actor, "libc.setegid(1032); libc.prctl(15, b'renamed', 0, 0, 0)") == []
    sampled.passes(actor.pid)
    actor.do("libc.setegid(1033); libc.prctl(15, b'again', 0, 0, 0)")
    record = sampled.reader.one(actor.pid, declared.KIND_COMM)
    assert record.task["egid"] == 1033


def test_the_exec_of_a_set_user_id_program_is_its_record_alone(sampled: Sampled, tmp_path: Path) -> None:
    """Passes without a pause see execs at every step, and report none of their changes."""
    tmp_path.chmod(0o755)
    program = tmp_path / "true"
    program.write_bytes(Path("/bin/true").read_bytes())
    os.chown(program, 1051, 0)
    program.chmod(0o4755)
    with subprocess.Popen(["sh", "-c", f"for i in $(seq 100); do {program}; done"]) as shell:
        while shell.poll() is None:
            syscall.run_iterator(sampled.capture.fds.sample_link)
            sampled.reader.poll()
    sampled.reader.ended(shell.pid)
    children = [r for r in sampled.reader.records if r.header["ppid"] == shell.pid]
    execs = [r for r in children if r.kind == declared.KIND_EXEC and r.task["euid"] == 1051]
    assert len(execs) == 100
    assert [r for r in children if r.kind in (CRED, SID)] == []


def test_the_facts_of_a_process_with_an_ended_leader(sampled: Sampled) -> None:
    number = {"x86_64": "117", "aarch64": "147"}[os.uname().machine]
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", LEADERLESS, number], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        assert sampled.passes(child.pid) == [], "the ids of another thread are not those of the process"
        before = sampled.pids.get(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"
        (record,) = sampled.passes(child.pid)
        assert before is not None
        assert (record.kind, record.task["pgid"], record.task["uid"]) == (SID, child.pid, 0)
        assert (record.task["mnt_ns"], record.task["net_ns"]) == (before["mnt_ns"], before["net_ns"]) != (0, 0)
    finally:
        child.communicate(timeout=60)
    assert sampled.passes(child.pid) == []


def test_ended_and_unknown_processes_are_left_out(sampled: Sampled, actor: Actor) -> None:
    child = subprocess.Popen(["sh", "-c", "exit 3"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert sampled.passes(child.pid) == [], "a process for which its parent has not waited"
    child.wait()
    assert sampled.pids.delete(actor.pid)
    actor.do("libc.setegid(1061)")
    assert sampled.passes(actor.pid) == [] and sampled.pids.get(actor.pid) is None


def test_a_full_ring_loses_nothing_for_good(actor: Actor) -> None:
    """A change that found no room in the ring is counted, and the next pass finds it again."""
    with Capture(ring_bytes=4096, credentials="sampled") as small:
        reader = Reader(small)
        allowed = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(allowed)})
            actor.do(f"os.sched_setaffinity(0, {{{min(allowed)}}})")
            actor.do("for i in range(100): libc.prctl(15, b'fill', 0, 0, 0)")
            actor.do("libc.setegid(1062)")
            changed = now_boot_ns()
            before = int(maps.cpu_states(small.fds.shared)["lost_samples"][:, CRED].sum())
            syscall.run_iterator(small.fds.sample_link)
            assert int(maps.cpu_states(small.fds.shared)["lost_samples"][:, CRED].sum()) > before
            reader.poll()
            assert reader.of(actor.pid, CRED) == []
            syscall.run_iterator(small.fds.sample_link)
            (record,) = reader.until(lambda: reader.of(actor.pid, CRED))
            assert record.task["egid"] == 1062 and span(record)[0] < changed
        finally:
            os.sched_setaffinity(0, allowed)


def test_a_change_without_room_for_its_record_has_no_header_either(actor: Actor) -> None:
    """A header alone would make the credentials of the process unknown, which the next pass finds again."""
    header, record_bytes = dtypes.HEADER.itemsize, sum(part.itemsize for part in (dtypes.HEADER, dtypes.TASK))
    with Capture(ring_bytes=4096, credentials="sampled") as small:
        reader = Reader(small)
        allowed = os.sched_getaffinity(0)
        cpu = min(allowed)
        try:
            os.sched_setaffinity(0, {cpu})
            actor.do(f"os.sched_setaffinity(0, {{{cpu}}})")
            (ring,) = (ring for ring in reader.rings if ring.ring == cpu)

            def room() -> int:
                return ring.ring_bytes - (ring.producer[0] - ring.consumer[0])

            def fill() -> bool:
                """Leave room for headers, but not for a record; other processes of this CPU also make records."""
                reader.poll()
                while room() >= record_bytes:
                    actor.do("libc.prctl(15, b'fill', 0, 0, 0)")
                return room() >= 8 + header

            until(fill)
            actor.do("libc.setegid(1064)")
            syscall.run_iterator(small.fds.sample_link)
            reader.poll()
            assert reader.of(actor.pid, CRED) == []
            syscall.run_iterator(small.fds.sample_link)
            (record,) = reader.until(lambda: reader.of(actor.pid, CRED))
            assert record.task["egid"] == 1064 and not record.is_head_only
        finally:
            os.sched_setaffinity(0, allowed)


def test_a_read_visits_a_bounded_number_of_tasks(sampled: Sampled, actor: Actor) -> None:
    """With more threads than a part has, a pass takes several reads; the change is found in one of them."""
    sampled.passes(actor.pid)
    actor.do(
        "import threading\n"
        f"for i in range({SAMPLE_PART}): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    )
    actor.do("libc.setegid(1063)")
    sampler = Sampler(sampled.capture.fds.sample_link, 2.0)
    pauses = [sampler.advance()]
    while not pauses[-1]:
        pauses.append(sampler.advance())
    assert len(pauses) > 1 and pauses[-1] > 0.5
    sampled.reader.poll()
    (record,) = sampled.reader.of(actor.pid, CRED)
    assert record.task["egid"] == 1063


def test_with_rare_passes_the_limits_are_as_far_apart(sampled: Sampled, actor: Actor) -> None:
    """Passes that would take too much CPU time become less frequent, and records say so."""
    steps = itertools.count()
    sampler = Sampler(sampled.capture.fds.sample_link, 0.05, cpu_clock=lambda: 0.0015 * next(steps))
    sampled.passes(actor.pid)
    records: list[Record] = []
    changes: dict[int, tuple[int, int]] = {}
    while len(records) < 5:
        due = time.monotonic() + sampler.advance()
        while time.monotonic() < due:
            began, egid = now_boot_ns(), 2000 + len(changes)
            actor.do(f"libc.setegid({egid}); time.sleep(0.01)")
            changes[egid] = began, now_boot_ns()
        sampled.reader.poll()
        records = sampled.reader.of(actor.pid, CRED)
    assert sampler.interval_s == pytest.approx(0.5)
    for record in records:
        (after, until), (began, ended) = span(record), changes[int(record.task["egid"])]
        assert after < ended and began < until
    assert all(until - after > 0.4e9 for after, until in map(span, records[2:]))


def test_it_runs_as_the_default_and_needs_the_task_iterator(monkeypatch: pytest.MonkeyPatch) -> None:
    # Kernels with fentry or kprobe use these first.
    monkeypatch.setattr(loader, "CREDENTIALS", {key: loader.CREDENTIALS[key] for key in ("sampled", "syscalls")})
    with Capture(ring_bytes=4096, task_iterator="off") as capture:
        tiers = {tier.name: tier for tier in capture.tiers}
        assert tiers["cred_sampled"].detail == 'capture.task_iterator is "off"' and capture.fds.sample_link == -1
        assert not tiers["cred_syscalls"].is_on, "it costs every process, so it is never selected"
    with pytest.raises(UnsupportedError, match="task_iterator"):
        Capture(ring_bytes=4096, task_iterator="off", credentials="sampled")


def test_another_method_has_no_passes() -> None:
    with Capture(ring_bytes=4096, credentials="syscalls") as capture:
        assert capture.fds.sample_link == -1
