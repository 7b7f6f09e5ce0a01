"""Changes of credentials, session, terminal and namespaces, by each tier that sees them.

Each change makes one record, and a call without effect makes none. Tiers that a kernel may refuse are marked `vm` and
tested in the guest (tests/vm).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.bpf import build, features, loader, maps, misses, syscall, tracefs
from pipeline.bpf.loader import Capture
from pipeline.errors import LoadError, UnsupportedError
from pipeline.records import declared
from pipeline.records.capture_fds import NO_FD
from tests import older_programs
from tests.actor import Actor, Actors
from tests.bpf.copied_objects import use_copied_objects
from tests.bpf.ring_reader import RING_BYTES, Reader
from tests.bpf.run_time import run_time_measured
from tests.bpf.tiers import ALL, CRED, IDS, SID, Tier, require_login_uid
from tests.proc import namespace, stat, status

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


NET_ADMIN, SYS_CHROOT = 12, 18


@pytest.mark.parametrize(
    ("code", "ids"),
    [
        ("libc.setuid(1001)", (1001, 1001, 1001, 1001, 0, 0, 0, 0)),
        ("libc.setreuid(1002, 1003)", (1002, 1003, 1003, 1003, 0, 0, 0, 0)),
        ("libc.setresuid(1004, 1005, 1006)", (1004, 1005, 1006, 1005, 0, 0, 0, 0)),
        ("libc.setresuid(-1, 1007, -1)", (0, 1007, 0, 1007, 0, 0, 0, 0)),
        ("libc.setfsuid(1008)", (0, 0, 0, 1008, 0, 0, 0, 0)),
        ("libc.setgid(1011)", (0, 0, 0, 0, 1011, 1011, 1011, 1011)),
        ("libc.setregid(1012, 1013)", (0, 0, 0, 0, 1012, 1013, 1013, 1013)),
        ("libc.setresgid(1014, 1015, 1016)", (0, 0, 0, 0, 1014, 1015, 1016, 1015)),
        ("libc.setfsgid(1018)", (0, 0, 0, 0, 0, 0, 0, 1018)),
    ],
)
def test_each_call_that_changes_ids(tier: Tier, actor: Actor, code: str, ids: tuple[int, ...]) -> None:
    (record,) = tier.during(actor, code)
    assert record.kind == CRED
    assert tuple(int(record.task[name]) for name in IDS) == ids
    now = status(actor.pid)
    assert [int(record.task[name]) for name in IDS] == [int(value) for value in now["Uid"] + now["Gid"]]
    assert int(record.task["cap_effective"]) == int(now["CapEff"][0], 16)
    assert (record.header["tgid"], record.header["tid"], record.header["ppid"]) == (actor.pid, actor.pid, os.getpid())
    entry = tier.pids.get(actor.pid)
    assert entry is not None and entry["cookie"] == record.task["cookie"] != 0
    assert tuple(int(entry[name]) for name in IDS) == ids


def test_dropped_capabilities(tier: Tier, actor: Actor) -> None:
    both, one = 1 << NET_ADMIN | 1 << SYS_CHROOT, 1 << NET_ADMIN
    (record,) = tier.during(actor, f"set_caps({one}, {both})")
    assert (record.kind, record.task["cap_effective"], record.task["cap_permitted"]) == (CRED, one, both)


def test_several_changes_are_several_records(tier: Tier, actor: Actor) -> None:
    records = tier.during(actor, "libc.setegid(1021); libc.setfsuid(1022); libc.setresuid(1023, 1023, 1023)")
    assert [r.kind for r in records] == [CRED] * 3
    assert [(int(r.task["egid"]), int(r.task["fsuid"]), int(r.task["uid"])) for r in records] == [
        (1021, 0, 0), (1021, 1022, 0), (1021, 1023, 1023),
    ]  # fmt: skip


def test_a_call_that_changes_nothing_is_not_recorded(tier: Tier, actor: Actor) -> None:
    assert tier.during(actor, "libc.setuid(0); libc.setgid(0); libc.setresuid(-1, -1, -1); libc.setfsuid(-1)") == []
    actor.do("import fcntl, termios; r, w = os.pipe()")
    assert tier.during(actor, "fcntl.ioctl(r, termios.FIONREAD, bytes(4))") == []
    assert len(tier.during(actor, "libc.setuid(1031)")) == 1
    failing = "try:\n    libc.setuid(0)\nexcept PermissionError:\n    pass\nelse:\n    raise RuntimeError"
    assert tier.during(actor, failing) == []


def test_a_thread_has_credentials_of_its_own(tier: Tier, actor: Actor) -> None:
    """setresuid by its number: the C library's function changes all threads, with a signal."""
    number = {"x86_64": 117, "aarch64": 147}[os.uname().machine]
    assert tier.during(actor, f"in_thread(lambda: libc.syscall({number}, 1041, 1041, 1041))") == []
    assert Path(f"/proc/{actor.pid}").stat().st_uid == 0
    (record,) = tier.during(actor, "os.setresuid(1042, 1042, 1042)")
    assert record.task["uid"] == 1042


#: A process with an ended leader; a thread with its own name and ids lives on. Argument: number of setresuid.
LEADERLESS = """
import ctypes, os, sys, threading, time
libc = ctypes.CDLL(None)
def live():
    while open("/proc/self/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.001)
    libc.prctl(15, b"own-name", 0, 0, 0)
    libc.syscall(int(sys.argv[1]), 1044, 1044, 1044)
    print("ready", flush=True)
    sys.stdin.readline()
    os.setsid()
    print("done", flush=True)
    sys.stdin.readline()
    os._exit(0)
threading.Thread(target=live).start()
libc.pthread_exit(None)
"""


def test_a_change_that_a_thread_reports_has_the_facts_of_the_process(tier: Tier) -> None:
    number = {"x86_64": "117", "aarch64": "147"}[os.uname().machine]
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", LEADERLESS, number], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        before = tier.pids.get(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"
        (record,) = tier._reader.until(lambda: [r for r in tier._reader.of(child.pid) if r.kind in (CRED, SID)])
        assert (record.kind, record.task["pgid"]) == (SID, child.pid)
        assert (record.task["uid"], record.task["comm"]) == (0, Path(f"/proc/{child.pid}/comm").read_bytes().strip())
        after = tier.pids.get(child.pid)
        assert before is not None and after is not None
        assert (after["uid"], after["mnt_ns"], after["pgid"]) == (0, before["mnt_ns"], child.pid)
    finally:
        child.communicate(timeout=60)


def test_an_exec_record_has_the_change_of_the_exec(tier: Tier, tmp_path: Path) -> None:
    """A set-user-id program: one exec record, with the new ids, and no record of a change."""
    tmp_path.chmod(0o755)
    program = tmp_path / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    os.chown(program, 1051, 0)
    program.chmod(0o4755)
    child = subprocess.Popen([program, "0"])
    child.wait()
    tier._reader.ended(child.pid)
    records = tier._reader.of(child.pid)
    assert [r.kind for r in records] == [declared.KIND_FORK, declared.KIND_EXEC, declared.KIND_EXIT]
    assert [int(r.task["euid"]) for r in records] == [0, 1051, 1051]


def test_sessions_and_groups(tier: Tier, actors: Actors, actor: Actor) -> None:
    (record,) = tier.during(actor, "os.setpgid(0, 0)")
    assert (record.kind, record.task["pgid"], record.task["sid"]) == (SID, actor.pid, os.getsid(0))
    with actors() as other:
        (record,) = tier.during(other, "os.setsid()")
        assert (record.kind, record.task["pgid"], record.task["sid"]) == (SID, other.pid, other.pid)
        entry = tier.pids.get(other.pid)
        assert entry is not None and (entry["sid"], entry["pgid"]) == (other.pid, other.pid)
        failing = "try:\n    os.setsid()\nexcept PermissionError:\n    pass\nelse:\n    raise RuntimeError"
        assert tier.during(other, failing) == []
    with actors() as third:
        (record,) = tier.during(third, "in_thread(os.setsid)")
        assert (record.header["tid"], record.task["sid"]) == (third.pid, third.pid)


def test_a_terminal_is_acquired_and_released(tier: Tier, actor: Actor) -> None:
    actor.do("os.setsid(); master, slave = os.openpty()")
    (record,) = tier.during(actor, "import fcntl, termios; fcntl.ioctl(slave, termios.TIOCSCTTY, 0)")
    assert record.kind == SID and record.task["tty"].startswith(b"pts")
    actor.do("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    (record,) = tier.during(actor, "fcntl.ioctl(slave, termios.TIOCNOTTY)", is_compared=True)
    assert record.kind == SID and record.task["tty"] == b""


def test_an_ioctl_that_changes_no_process_runs_no_program(tier: Tier, actor: Actor) -> None:
    method = method_of(tier.capture)
    actor.do("import termios; master, slave = os.openpty()")
    with run_time_measured():
        before = {program.name: program.runs for program in tier.capture.programs}
        actor.do("for _ in range(100): termios.tcgetattr(slave)")
        ran = {program.name for program in tier.capture.programs if program.runs - before[program.name] >= 100}
    assert bool(ran) == (method == "cred_syscalls"), "only with that method every system call runs a program"


def test_a_method_that_lacks_a_function_is_completed_by_comparisons(tier: Tier) -> None:
    """Debian's compilers divided a function in 5.10 and 6.1, and 5.10 and 6.1 do not count what a kprobe misses."""
    method = method_of(tier.capture)
    details = {one.name: one.detail for one in tier.capture.tiers}
    is_lacking = method != "cred_syscalls" and features.is_split("disassociate_ctty")
    assert ("no attach point for" in details[method]) >= is_lacking
    gaps = [text for text in ("no attach point for", "does not count") if text in details[method]]
    assert ("cred_sampled" in in_force(tier.capture)) == bool(gaps)
    assert all(f"changes that {method} does not see" in details["cred_sampled"] for _ in gaps)
    assert all(gap in details["cred_sampled"] for gap in gaps)
    assert (tier.capture.fds.sample_link != NO_FD) == bool(gaps)


def test_a_member_of_a_session_releases_the_terminal(tier: Tier, actor: Actor) -> None:
    leader = actor.join_session()
    (record,) = tier.during(actor, "fcntl.ioctl(slave, termios.TIOCNOTTY)", is_compared=True)
    assert (record.kind, record.task["tty"], record.task["sid"]) == (SID, b"", leader)
    assert stat(actor.pid)[4] == "0" != stat(leader)[4]
    entry = tier.pids.get(actor.pid)
    assert entry is not None and entry["tty"] == b""


@pytest.mark.parametrize("call", ["os.setsid()", "in_thread(os.setsid)"])
def test_a_new_session_is_without_the_terminal_of_the_old_one(tier: Tier, actor: Actor, call: str) -> None:
    actor.join_session()
    assert stat(actor.pid)[4] != "0"
    (record,) = tier.during(actor, call)
    assert (record.kind, record.task["tty"], record.task["sid"], record.task["pgid"]) == (SID, b"", *(actor.pid,) * 2)
    assert stat(actor.pid)[4] == "0"
    entry = tier.pids.get(actor.pid)
    assert entry is not None and (entry["tty"], entry["sid"]) == (b"", actor.pid)


@pytest.mark.parametrize("call", ["os.close(master)", "libc.vhangup()"])
def test_a_terminal_that_is_hung_up(tier: Tier, actor: Actor, call: str) -> None:
    """Also if the leader ignores the hangup. A SIGHUP that a process sends by hand removes no terminal."""
    actor.do("import fcntl, signal, termios; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    actor.do("os.setsid(); master, slave = os.openpty(); fcntl.ioctl(slave, termios.TIOCSCTTY, 0)")
    assert tier.during(actor, "os.kill(os.getpid(), signal.SIGHUP)") == []
    (record,) = tier.during(actor, call)
    assert (record.kind, record.task["sid"], record.task["tty"]) == (SID, actor.pid, b"")
    assert tier.during(actor, "os.kill(os.getpid(), signal.SIGHUP)") == []


def test_a_terminal_that_a_member_of_its_session_hangs_up(tier: Tier, actor: Actor) -> None:
    """The leader's record stands for the whole session, and the next record of the member shows it too."""
    actor.do("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    leader = actor.join_session()
    assert tier.during(actor, "libc.vhangup()") == []
    (record,) = tier._reader.of(leader, SID)
    assert (record.task["sid"], record.task["tty"]) == (leader, b"")
    assert stat(actor.pid)[4] == "0"
    (record,) = tier.during(actor, "libc.setegid(1062)")
    assert (record.task["sid"], record.task["tty"]) == (leader, b"")


def test_a_signal_runs_no_program_where_the_method_finds_hangups(tier: Tier, actor: Actor) -> None:
    """Only `syscalls` does not find them."""
    finds = "cred_syscalls" not in in_force(tier.capture)
    with run_time_measured():
        actor.do("for _ in range(100): os.kill(os.getpid(), 28)")  # SIGWINCH, which is ignored
        (program,) = [each for each in tier.capture.programs if each.name == "pl_on_signal"]
    assert program.runs == 0 if finds else program.runs >= 100
    details = {one.name: "hangups" in one.detail for one in tier.capture.tiers if one.is_on}
    assert (details["context"], details[method_of(tier.capture)]) == (not finds, finds)


def test_namespaces(tier: Tier, actor: Actor) -> None:
    (record,) = tier.during(actor, "os.unshare(os.CLONE_NEWNS)")
    assert (record.kind, record.task["mnt_ns"]) == (SID, namespace(actor.pid, "mnt"))
    actor.do("before = os.open('/proc/self/ns/net', os.O_RDONLY)")
    (record,) = tier.during(actor, "os.unshare(os.CLONE_NEWNET)")
    assert (record.kind, record.task["net_ns"]) == (SID, namespace(actor.pid, "net"))
    (record,) = tier.during(actor, "os.setns(before)")
    assert (record.kind, record.task["net_ns"]) == (SID, namespace(os.getpid(), "net"))
    (record,) = tier.during(actor, "os.unshare(os.CLONE_NEWUSER)")
    assert (record.kind, record.task["user_ns"]) == (CRED, namespace(actor.pid, "user"))


def test_a_process_that_the_cache_does_not_know_is_recorded(tier: Tier, actor: Actor) -> None:
    assert tier.pids.delete(actor.pid)
    (record,) = tier.during(actor, "libc.setegid(1061)")
    assert (record.kind, record.task["egid"], record.task["cookie"]) == (CRED, 1061, 0)
    assert tier.during(actor, "libc.setegid(1061)") == []
    entry = tier.pids.get(actor.pid)
    assert entry is not None and entry["egid"] == 1061


def test_the_login_uid(tier: Tier, actor: Actor) -> None:
    require_login_uid(tier)
    (record,) = tier.during(actor, "open('/proc/self/loginuid', 'w').write('1071')")
    assert (record.kind, record.task["auid"]) == (CRED, 1071)
    assert record.task["audit_session"] == int(Path(f"/proc/{actor.pid}/sessionid").read_text())
    # Every call that writes changes it, also back again; a text that is not a number changes nothing.
    actor.do("fd = os.open('/proc/self/loginuid', os.O_WRONLY)")
    for code, auid in (
        ("os.writev(fd, [b'1072'])", 1072), ("os.pwrite(fd, b'1073', 0)", 1073),
        ("os.write(os.open('/proc/self/loginuid', os.O_WRONLY), b'1071\\n')", 1071),
        ("os.write(os.open('/proc/self/loginuid', os.O_WRONLY), b'4294967295')", 4294967295),
    ):  # fmt: skip
        (record,) = tier.during(actor, code)
        assert record.task["auid"] == auid == int(Path(f"/proc/{actor.pid}/loginuid").read_text())
    actor.do("r, w = os.pipe()")
    assert tier.during(actor, "[os.write(w, b'1') for i in range(23)]") == []


@pytest.mark.parametrize(
    "call",
    ["os.write(fd, b'%d')", "os.writev(fd, [b'%d'])", "os.pwrite(fd, b'%d', 0)", "os.pwritev(fd, [b'%d'], 0)",
     "os.pwritev(fd, [b'%d'], 0, os.RWF_HIPRI)"],
    ids=["write", "writev", "pwrite64", "pwritev", "pwritev2"],
)  # fmt: skip
@pytest.mark.parametrize("tier", ALL[2:], indirect=True)  # the others do not ask which call it was
def test_the_system_call_reports_a_login_uid(tier: Tier, actor: Actor, call: str) -> None:
    """Another change follows at once, so the record cannot come from a later call, such as the actor's answer."""
    require_login_uid(tier)
    actor.do("fd = os.open('/proc/self/loginuid', os.O_WRONLY)")
    records = tier.during(actor, f"{call}; libc.setfsuid(1099)" % 1071)
    assert [(int(r.task["auid"]), int(r.task["fsuid"])) for r in records] == [(1071, 0), (1071, 1099)]


def test_a_parent_sets_the_group_of_its_child(tier: Tier, actor: Actor) -> None:
    actor.do("children = [os.fork() or time.sleep(60) for _ in range(3)]")
    task = Path(f"/proc/{actor.pid}/task/{actor.pid}/children")
    for n, child in enumerate(int(pid) for pid in task.read_text().split()):
        assert tier.during(actor, f"os.setpgid(children[{n}], children[{n}])") == []
        (record,) = tier._reader.of(child, SID)
        assert (record.task["pgid"], record.header["ppid"]) == (child, actor.pid)
    assert tier.during(actor, "os.setpgid(children[2], children[2])") == []
    actor.do("for child in children: os.kill(child, 9); os.waitpid(child, 0)")


def forked_by_another_thread(actor: Actor) -> int:
    """Let another thread of the actor fork; return the child, which is `forked[0]` there."""
    actor.do(
        "import threading\n"
        "forked = []\n"
        "def fork():\n"
        "    forked.append(os.fork())\n"
        "    time.sleep(600)\n"
        "threading.Thread(target=fork, daemon=True).start()\n"
        "while not forked: time.sleep(0.01)"
    )
    (child,) = (
        int(pid) for file in Path(f"/proc/{actor.pid}/task").glob("*/children") for pid in file.read_text().split()
    )
    return child


@pytest.mark.parametrize("task_iterator", ["auto", "off"])
def test_comparisons_find_what_the_method_does_not_see(
    monkeypatch: pytest.MonkeyPatch, actor: Actor, task_iterator: str
) -> None:
    """On a kernel that does not count what the method misses: a group that `syscalls` does not see at once."""
    child = forked_by_another_thread(actor)
    monkeypatch.setattr(misses, "are_counted", lambda link_fd: False)
    with Capture(ring_bytes=RING_BYTES, credentials="syscalls", task_iterator=task_iterator) as capture:
        tiers = {one.name: one for one in capture.tiers}
        assert tiers["cred_syscalls"].detail.endswith("; this kernel does not count what the programs miss")
        reader = Reader(capture)
        try:
            actor.do("os.setpgid(forked[0], forked[0])")
            reader.poll()
            assert reader.of(child, SID) == []
            if task_iterator == "off":
                assert capture.fds.sample_link == NO_FD
                assert tiers["cred_sampled"].detail == 'capture.task_iterator is "off"'
                return
            assert tiers["cred_sampled"].detail.startswith("changes that cred_syscalls does not see, because this ")
            syscall.run_iterator(capture.fds.sample_link)
            record = reader.one(child, SID)
            assert (record.task["pgid"], record.header["flags"]) == (child, declared.FLAG_SAMPLED)
            # What the method sees is not found again.
            actor.do("libc.setegid(1063)")
            syscall.run_iterator(capture.fds.sample_link)
            assert reader.one(actor.pid, CRED).header["flags"] == 0
        finally:
            actor.do("os.kill(forked[0], 9); os.waitpid(forked[0], 0)")


def test_a_parent_sets_the_group_of_a_child_that_another_thread_forked(tier: Tier, actor: Actor) -> None:
    """It is seen at once by the methods that read the argument of change_pid(), later by those that search it."""
    child = forked_by_another_thread(actor)
    reads_it = {"cred_fentry"} | ({"cred_kprobe"} if tier.capture.lacks else set())
    try:
        assert tier.during(actor, "os.setpgid(forked[0], forked[0])") == []
        assert [record.task["pgid"] for record in tier._reader.of(child, SID)] == (
            [child] if method_of(tier.capture) in reads_it else []
        )
    finally:
        actor.do("os.kill(forked[0], 9); os.waitpid(forked[0], 0)")


def test_a_parent_sets_the_group_of_its_child_in_a_pid_namespace(tier: Tier) -> None:
    """The number is the child's pid in the caller's namespace."""
    with Actor(("unshare", "--pid", "--fork")) as outer:
        (inner,) = (int(pid) for pid in Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split())
        outer.do("child = os.fork() or time.sleep(60)")
        (child,) = (int(pid) for pid in Path(f"/proc/{inner}/task/{inner}/children").read_text().split())
        outer.do("assert child != os.getpid(); os.setpgid(child, child)")
        record = tier._reader.until(lambda: tier._reader.of(child, SID))[0]
        assert (record.task["pgid"], record.header["ppid"]) == (child, inner)


@pytest.mark.parametrize("call", ["os.open(name, os.O_RDWR)", "libc.open(name.encode(), 2)"])
def test_a_terminal_acquired_by_open(tier: Tier, actor: Actor, call: str) -> None:
    actor.do("os.setsid(); master, slave = os.openpty(); name = os.ttyname(slave)")
    assert tier.during(actor, "os.open('/dev/null', os.O_RDWR); os.open(name, os.O_RDWR | os.O_NOCTTY)") == []
    (record,) = tier.during(actor, f"fd = {call}")
    assert record.kind == SID and record.task["tty"].startswith(b"pts")
    assert tier.during(actor, "os.open(name, os.O_RDWR)") == []


def test_loss_is_counted_under_its_kind(tier: Tier, actor: Actor) -> None:
    name = next(key for key, kind in loader.CREDENTIALS.items() if kind.name == method_of(tier.capture))
    with Capture(ring_bytes=4096, credentials=name) as small:
        reader = Reader(small)
        # On one CPU, because another CPU's ring has room for later records.
        actor.do("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})")
        actor.do("for i in range(401): libc.setfsuid(2000 + i)")
        reader.poll()
        states = maps.cpu_states(small.fds.shared)
        lost = int(states["lost_samples"][:, CRED].sum())
        assert lost > 300
        mine = reader.of(actor.pid, CRED)
        assert len(mine) + lost >= 401  # other processes may have lost records too
        assert [int(r.task["fsuid"]) for r in mine if r.task is not None] == [
            2000 + i for i in range(sum(r.task is not None for r in mine))
        ]


def in_force(capture: Capture) -> set[str]:
    return {tier.name for tier in capture.tiers if tier.is_on and tier.name.startswith("cred_")}


def method_of(capture: Capture) -> str:
    """Return the method in use, without the comparisons that complete it."""
    used = in_force(capture)
    (method,) = used - {"cred_sampled"} or used
    return method


def test_exactly_one_method_is_used_and_the_others_have_a_reason() -> None:
    with Capture(ring_bytes=4096) as capture:
        chosen = method_of(capture)
        tiers = {tier.name: tier for tier in capture.tiers}
        names = [kind.name for kind in loader.CREDENTIALS.values()]
        for name in names[: names.index(chosen)]:
            assert "cannot be" in tiers[name].detail
        for name in names[names.index(chosen) + 1 :]:
            if not tiers[name].is_on:
                assert tiers[name].detail == f"not needed: {chosen} is in use"


def test_the_method_that_costs_every_process_is_used_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {key: loader.TierKind(f"no_{key}", kind.attach_kind, "") for key, kind in loader.CREDENTIALS.items()}
    monkeypatch.setattr(loader, "CREDENTIALS", {**absent, "syscalls": loader.CREDENTIALS["syscalls"]})
    with Capture(ring_bytes=4096) as capture:
        assert in_force(capture) == set()
        (tier,) = (tier for tier in capture.tiers if tier.name == "cred_syscalls")
        assert tier.detail == "only if capture.credentials names it"


def test_off_is_off(actor: Actor) -> None:
    with Capture(ring_bytes=RING_BYTES, credentials="off") as capture:
        assert in_force(capture) == set()
        reader = Reader(capture)
        actor.do("libc.setuid(1081)")
        actor.do("libc.prctl(15, b'renamed', 0, 0, 0)")
        record = reader.one(actor.pid, declared.KIND_COMM)
        assert record.task["uid"] == 1081
        assert reader.of(actor.pid, CRED) == []


def test_a_refused_method(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {key: loader.TierKind(f"no_{key}", kind.attach_kind, "") for key, kind in loader.CREDENTIALS.items()}
    monkeypatch.setattr(loader, "CREDENTIALS", {**absent, "sampled": loader.CREDENTIALS["sampled"]})
    monkeypatch.setattr(features, "OLD_NAMES", (*features.OLD_NAMES, *(kind.name for kind in absent.values())))
    with Capture(ring_bytes=4096) as capture:
        assert in_force(capture) == {"cred_sampled"}
    with pytest.raises(UnsupportedError, match=r"no_kprobe(\.old(\.aarch64)?)?\.bpf\.o") as caught:
        Capture(ring_bytes=4096, credentials="kprobe")
    assert caught.value.hint == 'set capture.credentials = "auto"'
    monkeypatch.setattr(loader, "CREDENTIALS", absent)
    with Capture(ring_bytes=4096) as capture:
        assert in_force(capture) == set()


TWO = """
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "Dual BSD/GPL";
SEC("tp_btf/%s") int pl_one(void *ctx) { return 0; }
SEC("tp_btf/%s") int %s(void *ctx) { return 0; }
"""


def use_objects_with_two(
    monkeypatch: pytest.MonkeyPatch, directory: Path, missing: Callable[[str], NoReturn], *words: str
) -> None:
    """Let the loader find its objects in the directory, and beside them one of two programs, `two`."""
    source = directory / "two.bpf.c"
    source.write_text(TWO % words)
    (directory / "vmlinux_min.h").write_bytes((build.PROGRAMS / "vmlinux_min.h").read_bytes())
    use_copied_objects(monkeypatch, directory, "two")
    output = features.object_path("two", bool(older_programs.why()))
    try:
        build.compile_object(source, output, suffix=output.name.removeprefix("two"))
    except build.BuildError as error:
        missing(str(error))


@pytest.mark.parametrize(("place", "is_on"), [("sched_process_exec", True), ("no_such_either", False)])
def test_a_program_that_has_no_place_is_left_out_unless_it_is_the_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: Callable[[str], NoReturn], place: str, is_on: bool
) -> None:
    use_objects_with_two(monkeypatch, tmp_path, missing, place, "no_such_tracepoint", "pl_two")
    monkeypatch.setattr(loader, "TIERS", (loader.TierKind("two", "tp_btf", "something", "pl_one"), *loader.TIERS))
    with Capture(ring_bytes=4096, credentials="off") as capture:
        tier = next(tier for tier in capture.tiers if tier.name == "two")
        assert tier.is_on == is_on
        assert ("pl_two" if is_on else "pl_one") in tier.detail
        assert ("pl_one" in {program.name for program in capture.programs}) == is_on


@pytest.mark.parametrize(
    ("place", "other", "better", "attached", "lacks"),
    [
        ("sched_process_exec", "sched_process_exit", ("pl_two",), {"pl_two"}, False),
        ("no_such_tracepoint", "sched_process_exit", ("pl_two",), {"pl_one"}, False),
        ("sched_process_exec", "no_such_tracepoint", ("pl_two",), {"pl_two"}, False),
        ("no_such_tracepoint", "no_such_either", ("pl_two",), set(), True),
        ("sched_process_exec", "sched_process_exit", ("pl_two", "pl_absent"), {"pl_one", "pl_two"}, False),
    ],
)
def test_of_programs_that_record_the_same_the_better_one_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: Callable[[str], NoReturn], place: str, other: str,
    better: tuple[str, ...], attached: set[str], lacks: bool,
) -> None:  # fmt: skip
    use_objects_with_two(monkeypatch, tmp_path, missing, other, place, "pl_two")
    kind = loader.TierKind("two", "tp_btf", "something", "pl_none", instead={better: ("pl_one",)})
    monkeypatch.setattr(loader, "TIERS", (kind, *loader.TIERS))
    with Capture(ring_bytes=4096, credentials="off") as capture:
        tier = next(tier for tier in capture.tiers if tier.name == "two")
        assert tier.is_on and ("no attach point for pl_one" in tier.detail) == lacks
        assert "pl_two" not in tier.detail
        two = ("pl_one", "pl_two")
        assert {name for one in capture._tier_objects for name in two if one.is_attached(name)} == attached


@pytest.mark.parametrize("is_split", [False, True])
def test_a_program_on_a_divided_function_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: Callable[[str], NoReturn], is_split: bool
) -> None:
    use_objects_with_two(monkeypatch, tmp_path, missing, "sched_process_exec", "sched_process_exit", "pl_two")
    monkeypatch.setattr(features, "is_split", lambda function: is_split and function == "divided")
    kind = loader.TierKind(
        "two", "tp_btf", "something", "pl_one", instead={("pl_two",): ("pl_one",)}, whole={"divided": "pl_two"}
    )
    monkeypatch.setattr(loader, "TIERS", (kind, *loader.TIERS))
    with Capture(ring_bytes=4096, credentials="off") as capture:
        attached = {name for one in capture._tier_objects for name in ("pl_one", "pl_two") if one.is_attached(name)}
    assert attached == ({"pl_one"} if is_split else {"pl_two"})


@pytest.mark.parametrize(("place", "finds"), [("sched_process_exec", True), ("no_such_tracepoint", False)])
@pytest.mark.parametrize("credentials", ["auto", "fentry"])
def test_signals_run_a_program_only_where_a_named_method_has_no_place_for_hangups(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: Callable[[str], NoReturn], credentials: str, place: str,
    finds: bool,
) -> None:  # fmt: skip
    use_objects_with_two(monkeypatch, tmp_path, missing, "sched_process_exec", place, "pl_tty_hangup")
    kind = loader.TierKind("two", "tp_btf", "something", "pl_one")
    monkeypatch.setattr(loader, "CREDENTIALS", {"fentry": kind})
    runs = credentials != "auto" and not finds
    with Capture(ring_bytes=4096, credentials=credentials) as capture:
        assert [one.is_attached("pl_on_signal") for one in capture._tier_objects].count(True) == runs
        details = {one.name: one.detail for one in capture.tiers}
        assert ("hangups" in details["context"], "hangups" in details["two"]) == (not finds, finds)
        assert ("hangups of terminals are found late" in details["context"]) == (not runs and not finds)
        assert ("no attach point for pl_tty_hangup" in details["two"]) == (not finds)


def test_no_signal_runs_a_program_by_default_even_without_any_method(
    monkeypatch: pytest.MonkeyPatch, actor: Actor
) -> None:
    monkeypatch.setattr(loader, "CREDENTIALS", {"syscalls": loader.CREDENTIALS["syscalls"]})
    with Capture(ring_bytes=4096) as capture:
        assert in_force(capture) == set()
        before = {program.name: program.runs for program in capture.programs}
        with run_time_measured():
            actor.do("for _ in range(100): os.kill(os.getpid(), 28)")  # SIGWINCH, which is ignored
            ran = [program for program in capture.programs if program.runs - before[program.name] >= 100]
        assert ran == [] and "pl_on_signal" not in before
        (context,) = (tier for tier in capture.tiers if tier.name == "context")
        assert "hangups of terminals are found late" in context.detail


def test_tracepoints_are_found_without_a_mounted_tracefs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracefs, "MOUNT_POINTS", ())
    before = Path("/proc/self/mountinfo").read_text()
    with tracefs.Tracefs() as events_:
        number = events_.event_id("syscalls", "sys_exit_setuid")
        with pytest.raises(FileNotFoundError):
            events_.event_id("syscalls", "sys_exit_no_such_call")
    assert number > 0
    assert Path("/proc/self/mountinfo").read_text() == before
    with Capture(ring_bytes=4096, credentials="syscalls") as capture:
        assert method_of(capture) == "cred_syscalls"


def test_a_tracefs_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: tracefs.Tracefs) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tracefs.Tracefs, "__init__", refuse)
    with pytest.raises(UnsupportedError, match="Permission denied") as caught:
        Capture(ring_bytes=4096, credentials="syscalls")
    assert "pl_try_tp_syscalls" in str(caught.value), "an empty program is tried before the others are verified"
    assert not isinstance(caught.value, LoadError)
