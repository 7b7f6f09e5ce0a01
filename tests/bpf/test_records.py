"""Every field of the records, for a known workload on the running kernel, compared with /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.bpf import maps
from pipeline.bpf.loader import Capture
from pipeline.host.boot import is_same_start, now_boot_ns
from pipeline.procfs.hierarchies import Hierarchies, lines_of
from pipeline.records import declared
from pipeline.records.cgroup_sets import cgroup_set
from tests.actor import Actor
from tests.bpf.acts import act, ended, waiting
from tests.bpf.ring_reader import Reader
from tests.bpf.task_check import LEADERLESS, cgroup_root, check_task, codes_of_separate_ends
from tests.proc import namespace, stat

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


# include/uapi/linux/sched.h
CLONE_VM, CLONE_VFORK, CLONE_PARENT, CLONE_NEWPID = 0x100, 0x4000, 0x8000, 0x20000000


def kernel_dev(dev: int) -> int:
    return os.major(dev) << 20 | os.minor(dev)


def test_23_forks_are_23_records_of_each_kind(reader: Reader, actions: Path) -> None:
    pid, children = act(actions, "forks", "23")
    assert len(children) == 23
    reader.ended(pid, *children)
    for number, child in enumerate(children):
        fork, exit_ = reader.of(child)
        assert (fork.kind, exit_.kind) == (declared.KIND_FORK, declared.KIND_EXIT)
        assert fork.header["ppid"] == pid
        assert fork.body["creator_tgid"] == fork.body["creator_tid"] == pid
        assert fork.body["creator_start_boot_ns"] == fork.header["parent_start_boot_ns"]
        assert fork.header["start_boot_ns"] == exit_.header["start_boot_ns"] <= fork.header["time_boot_ns"]
        assert fork.task["comm"] == b"actions"
        assert exit_.body["exit_code"] == number << 8
    assert [r.kind for r in reader.of(pid)] == [declared.KIND_FORK, declared.KIND_EXEC, declared.KIND_EXIT]


def test_time_and_cpu_are_those_of_the_event(reader: Reader, capture: Capture, actions: Path) -> None:
    before = now_boot_ns()
    pid, children = act(actions, "forks", "3")
    after = now_boot_ns()
    reader.ended(pid, *children)
    for record in reader.of([pid, *children]):
        assert before <= record.header["time_boot_ns"] <= after
        assert record.header["cpu"] == record.ring
        assert record.header["ring_pos"] == 0


def test_ring_numbers_have_no_gap(reader: Reader, actions: Path) -> None:
    pid, children = act(actions, "forks", "101")
    reader.ended(pid, *children)
    for ring in {r.ring for r in reader.records}:
        numbers = [int(r.header["ring_seq"]) for r in reader.records if r.ring == ring]
        assert sorted(numbers) == list(range(min(numbers), min(numbers) + len(numbers)))


def test_an_exec_record_equals_proc(reader: Reader, actions: Path) -> None:
    environment = {"A": "1", "LONG": "x" * 1000, "EMPTY": ""}
    with waiting(actions, "wait", "", "b c", env=environment) as pid:
        record = reader.one(pid, declared.KIND_EXEC)
        check_task(record, pid)
        body, file = record.body, actions.stat()
        assert record.path == os.fsencode(Path(f"/proc/{pid}/exe").readlink())
        assert body["root_offset"] == 0
        assert record.args == Path(f"/proc/{pid}/cmdline").read_bytes()
        assert record.envs == Path(f"/proc/{pid}/environ").read_bytes()
        assert (body["args_full_bytes"], body["envs_full_bytes"]) == (len(record.args), len(record.envs))
        assert (body["argc"], body["envc"]) == (4, 3)
        assert record.name == os.fsencode(actions)
        assert body["exec_flags"] == 0
        assert (body["inode"], body["mode"], body["nlink"]) == (file.st_ino, file.st_mode, file.st_nlink)
        assert (body["file_uid"], body["file_gid"]) == (file.st_uid, file.st_gid)
        assert (body["ctime_ns"], body["mtime_ns"]) == (file.st_ctime_ns, file.st_mtime_ns)
        assert body["device"] == kernel_dev(file.st_dev)
        assert body["exec_tid"] == pid
        assert body["prev_tid"] == pid
        mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_bytes().splitlines()]
        (where,) = [m[4] for m in mounts if int(m[0]) == body["mount_id"]]
        assert (record.path[: body["mount_end"] - 1] or b"/") == where


def test_fork_and_exit_records_equal_proc(reader: Reader, actions: Path) -> None:
    with waiting(actions, "wait") as pid:
        fork = reader.one(pid, declared.KIND_FORK)
        exec_ = reader.one(pid, declared.KIND_EXEC)
        assert fork.header["ppid"] == os.getpid()
        assert fork.task["exe_inode"] == Path("/proc/self/exe").resolve().stat().st_ino
        assert fork.task["comm"] == Path("/proc/self/comm").read_bytes().rstrip(b"\n")
    exit_ = reader.one(pid, declared.KIND_EXIT)
    for field in ("uid", "gid", "sid", "pgid", "mnt_ns", "cgroup_id", "comm", "cookie"):
        assert exit_.task[field] == exec_.task[field], field
    assert exit_.body["exit_code"] == 0
    _, (child,) = act(actions, "forks", "1")
    fork, file = reader.one(child, declared.KIND_FORK), actions.stat()
    assert (fork.task["exe_inode"], fork.task["exe_dev"]) == (file.st_ino, kernel_dev(file.st_dev))


def test_threads_are_counted_and_not_recorded(reader: Reader, capture: Capture, actions: Path) -> None:
    states = maps.cpu_states(capture.fds.shared)
    forked, exited = states["threads_forked"].sum(), states["threads_exited"].sum()
    pid, _ = act(actions, "threads", "23")
    reader.ended(pid)
    assert [r.kind for r in reader.of(pid)] == [declared.KIND_FORK, declared.KIND_EXEC, declared.KIND_EXIT]
    assert states["threads_forked"].sum() - forked >= 23
    assert states["threads_exited"].sum() - exited >= 23


def test_exec_from_a_thread_keeps_the_process(reader: Reader, actions: Path) -> None:
    pid, (tid,) = act(actions, "thread-exec", actions, "nothing")
    reader.ended(pid)
    assert tid != pid
    fork, first, second, exit_ = reader.of(pid)
    assert first.body["exec_tid"] == pid
    assert second.header["tid"] == pid
    assert second.body["exec_tid"] == second.body["prev_tid"] == tid
    assert len({int(r.header["start_boot_ns"]) for r in (fork, first, second, exit_)}) == 1
    assert second.body["prev_cookie"] == first.task["cookie"] != second.task["cookie"]
    assert second.body["prev_inode"] == second.task["exe_inode"] == first.body["inode"]
    assert not reader.of(tid)


def test_exit_is_the_groups_not_the_leaders(reader: Reader, actions: Path) -> None:
    pid, _, code = ended(actions, "leader-leaves")
    assert code in codes_of_separate_ends()
    exit_ = reader.one(pid, declared.KIND_EXIT)
    assert exit_.body["exit_code"] == code << 8
    assert exit_.header["tid"] != pid
    assert exit_.header["flags"] == declared.FLAG_LEADER_DEAD
    assert exit_.task["ns_pid"] == pid


OF_THE_PROCESS = (
    "uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid", "cap_effective", "cap_permitted", "user_ns", "auid",
    "audit_session", "comm", "mnt_ns", "net_ns", "pid_ns", "ns_pid", "sid", "pgid", "cgroup_id", "cookie",
)  # fmt: skip


@pytest.mark.parametrize(("how", "code", "leader_code"), [("last", 7, 5), ("child", 7, 5), ("group", 9, 9)])
def test_an_exit_has_the_facts_of_the_process_not_of_its_last_thread(
    reader: Reader, capture: Capture, actions: Path, how: str, code: int, leader_code: int
) -> None:
    """Name, credentials and network namespace belong to each thread. `code` is the status that wait() reports."""
    pid, children, status = ended(actions, "own-facts", how)
    assert status in ({code} if how == "group" else codes_of_separate_ends())
    exec_, exit_ = reader.one(pid, declared.KIND_EXEC), reader.one(pid, declared.KIND_EXIT)
    assert exit_.task["comm"] == b"actions"
    assert exit_.task["uid"] == 0 and exit_.task["cap_effective"] != 0
    assert {name: exit_.task[name] for name in OF_THE_PROCESS} == {name: exec_.task[name] for name in OF_THE_PROCESS}
    assert exit_.body["exit_code"] == status << 8
    # The exit of the whole group is under way, and the leader may not have stored its code yet.
    assert exit_.body["leader_exit_code"] in ({leader_code << 8} if how != "group" else {0, leader_code << 8})
    entry = maps.PidMap(capture.fds.pid_owners, capture.fds.pid_cache).get(pid)
    assert entry is not None
    for name in ("uid", "euid", "gid", "cap_effective", "cap_permitted", "mnt_ns", "net_ns"):
        assert entry[name] == exec_.task[name], name
    for child in children:
        # A child has the facts of the thread that forked it; its parent is the process.
        fork = reader.one(child, declared.KIND_FORK)
        assert (fork.task["comm"], fork.task["uid"], fork.header["ppid"]) == (b"own-name", 65534, pid)
        assert fork.task["net_ns"] != exec_.task["net_ns"]
        assert fork.body["creator_tgid"] == pid != fork.body["creator_tid"]


def test_an_exec_by_a_thread_has_the_facts_of_that_thread(reader: Reader, actions: Path) -> None:
    """The thread becomes the leader, so from then on its facts are the process's."""
    pid, (tid,) = act(actions, "own-facts", "exec", "/bin/true")
    reader.ended(pid)
    first, second = reader.of(pid, declared.KIND_EXEC)
    exit_ = reader.one(pid, declared.KIND_EXIT)
    assert second.body["exec_tid"] == tid != pid
    for record in (second, exit_):
        assert (record.task["uid"], record.task["gid"], record.task["cap_effective"]) == (65534, 65534, 0)
        assert record.task["net_ns"] != first.task["net_ns"]
        assert record.task["comm"] == b"true"


def test_a_group_that_is_ended_by_a_thread_exits_once(reader: Reader, actions: Path) -> None:
    pids = [act(actions, "group-exit", "7", expect=9)[0] for _ in range(23)]
    reader.ended(*pids)
    for pid in pids:
        assert reader.one(pid, declared.KIND_EXIT).body["exit_code"] == 9 << 8


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_exit_by_signal(reader: Reader, actions: Path, number: signal.Signals) -> None:
    _, (child,) = act(actions, "signal", str(int(number)))
    assert reader.one(child, declared.KIND_EXIT).body["exit_code"] == number


def test_clone_parent_makes_creator_and_parent_differ(reader: Reader, actions: Path) -> None:
    pid, (child, sibling) = act(actions, "clone-parent")
    fork = reader.one(sibling, declared.KIND_FORK)
    assert fork.header["ppid"] == pid
    assert fork.body["creator_tgid"] == child
    assert fork.body["creator_start_boot_ns"] == reader.one(child, declared.KIND_FORK).header["start_boot_ns"]
    assert fork.body["clone_flags"] == CLONE_PARENT


def test_clone_flags(reader: Reader, actions: Path) -> None:
    """vfork by the C library's posix_spawn. A fork has no flags except those that the library adds."""
    child = os.posix_spawn(actions, [actions, "nothing"], {})
    os.waitpid(child, 0)
    reader.ended(child)
    vfork = CLONE_VM | CLONE_VFORK
    # Newer libraries also set CLONE_CLEAR_SIGHAND.
    assert int(reader.one(child, declared.KIND_FORK).body["clone_flags"]) in (vfork, vfork | 1 << 32)
    child = os.fork() or os._exit(0)
    os.waitpid(child, 0)
    reader.ended(child)
    # CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID
    assert int(reader.one(child, declared.KIND_FORK).body["clone_flags"]) & ~0x1200000 == 0


def test_child_in_a_pid_namespace(reader: Reader, actions: Path) -> None:
    _, (child,) = act(actions, "newpid")
    reader.ended(child)
    fork, exit_ = reader.one(child, declared.KIND_FORK), reader.one(child, declared.KIND_EXIT)
    assert fork.body["clone_flags"] == CLONE_NEWPID
    assert fork.task["ns_pid"] == exit_.task["ns_pid"] == 1
    assert fork.task["pid_ns"] != namespace(os.getpid(), "pid")
    assert exit_.body["exit_flags"] & declared.EXIT_NS_DIES
    assert exit_.body["reaper_tgid"] == 0
    inner = [r for r in reader.records if r.kind == declared.KIND_FORK and r.header["ppid"] == child]
    assert [r.task["ns_pid"] for r in inner] == [2]
    reader.ended(inner[0].tgid)
    assert reader.one(inner[0].tgid, declared.KIND_EXIT).body["exit_code"] == signal.SIGKILL


def test_the_reaper_is_the_subreaper(reader: Reader, actions: Path) -> None:
    pid, (middle, grandchild, parent) = act(actions, "orphan", "subreaper")
    reader.ended(middle, grandchild, pid)
    exit_ = reader.one(middle, declared.KIND_EXIT)
    assert exit_.body["reaper_tgid"] == parent == pid
    assert exit_.body["reaper_start_boot_ns"] == reader.one(pid, declared.KIND_FORK).header["start_boot_ns"]
    assert reader.one(grandchild, declared.KIND_EXIT).header["ppid"] == pid


def test_the_reaper_is_init_or_an_outer_subreaper(reader: Reader, actions: Path) -> None:
    _, (middle, _, parent) = act(actions, "orphan")
    exit_ = reader.one(middle, declared.KIND_EXIT)
    assert exit_.body["reaper_tgid"] == parent
    assert is_same_start(int(exit_.body["reaper_start_boot_ns"]), int(stat(parent)[19]))


def test_rename_of_the_leader_only(reader: Reader, actions: Path) -> None:
    with waiting(actions, "rename", "new-name") as pid:
        reader.until(lambda: len(reader.of(pid, declared.KIND_COMM)) == 2)
        first, second = reader.of(pid, declared.KIND_COMM)
        assert first.body is None
        assert first.task["comm"] == b"new-name"
        assert second.task["comm"] == b"by-thread"
        check_task(second, pid)
    assert reader.one(pid, declared.KIND_EXIT).task["comm"] == b"by-thread"


@pytest.fixture
def group(missing: Callable[[str], NoReturn]) -> Iterator[Path]:
    """A new cgroup of version 2; a process in it must have ended by the end of the test."""
    root = cgroup_root()
    if root is None or not os.access(root, os.W_OK):
        missing("no writable cgroup v2 hierarchy")
    path = root / f"procline-test-{os.getpid()}"
    path.mkdir()
    yield path
    for _ in range(100):  # the directory is busy until the process is completely gone
        try:
            path.rmdir()
            break
        except OSError:
            time.sleep(0.01)


def test_cgroup_move(reader: Reader, actions: Path, group: Path) -> None:
    with waiting(actions, "wait") as pid:
        reader.one(pid, declared.KIND_EXEC)
        (group / "cgroup.procs").write_text(str(pid))
        record = reader.one(pid, declared.KIND_CGROUP)
        assert record.task["cgroup_id"] == group.stat().st_ino
        check_task(record, pid)
        assert (record.named["named_id"], record.named["named_hierarchy"]) == (group.stat().st_ino, 0)
        assert record.path == f"/{group.name}".encode()
    reader.ended(pid)
    made = next(r for r in reader.records if r.is_about_a_cgroup and r.path == record.path)
    assert made.named["named_id"] == group.stat().st_ino and made.header["time_boot_ns"] < record.header["time_boot_ns"]
    assert (made.tgid, made.members) == (os.getpid(), [])


def test_a_leader_that_has_ended_is_where_it_was(reader: Reader, capture: Capture, group: Path) -> None:
    """The leader has no namespaces any more; its process lives on in them."""
    spaces = {f"{name}_ns": namespace(os.getpid(), name) for name in ("pid", "mnt", "net", "user")}
    child = subprocess.Popen([sys.executable, "-c", LEADERLESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    child.stdout.readline()
    child.stdin.write(b"\n")
    child.stdin.flush()
    renamed = reader.one(child.pid, declared.KIND_COMM)
    assert renamed.task["comm"] == b"leaderless"
    (group / "cgroup.procs").write_text(str(child.pid))
    moved = reader.one(child.pid, declared.KIND_CGROUP)
    entry = maps.PidMap(capture.fds.pid_owners, capture.fds.pid_cache).get(child.pid)
    assert entry is not None
    for said, names in ((renamed.task, spaces), (moved.task, spaces), (entry, ("mnt_ns", "net_ns", "user_ns"))):
        assert {name: int(said[name]) for name in names} == {name: spaces[name] for name in names}
    child.communicate(timeout=60)
    reader.ended(child.pid)


def test_cgroups_of_version_1(reader: Reader, actions: Path, v1: Path) -> None:
    """One number stands for all of them until the process changes cgroup; a new cgroup and a move report the paths."""
    hierarchies = Hierarchies()
    inner = v1 / "some" / "group"
    inner.mkdir(parents=True)
    with waiting(actions, "wait") as pid:
        before = reader.one(pid, declared.KIND_EXEC)
        text = Path(f"/proc/{pid}/cgroup").read_bytes()
        assert before.task["cgroups_v1"] == hierarchies.set_of(text) != 0
        (inner / "cgroup.procs").write_text(str(pid))
        record = reader.one(pid, declared.KIND_CGROUP)
        text = Path(f"/proc/{pid}/cgroup").read_bytes()
        number = next(line.hierarchy for line in lines_of(text) if line.controllers == f"name={v1.name}")
        assert record.task["cgroups_v1"] == Hierarchies().set_of(text) == cgroup_set(record.members)
        assert record.task["cgroup_id"] == before.task["cgroup_id"]
        assert (record.named["named_id"], record.named["named_hierarchy"]) == (inner.stat().st_ino, number)
        assert record.path == b"/some/group" and (number, inner.stat().st_ino) in record.members
        (v1 / "cgroup.procs").write_text(str(pid))
        reader.until(lambda: len(reader.of(pid, declared.KIND_CGROUP)) == 2)
        assert reader.of(pid, declared.KIND_CGROUP)[1].task["cgroups_v1"] == before.task["cgroups_v1"]
    reader.ended(pid)
    assert reader.one(pid, declared.KIND_EXIT).task["cgroups_v1"] == before.task["cgroups_v1"]


@pytest.mark.alone  # hierarchies that other tests mount change the set
def test_a_child_is_in_its_creators_cgroups_of_version_1(reader: Reader, v1: Path) -> None:
    inner = v1 / "group"
    inner.mkdir()
    with Actor() as actor:
        (inner / "cgroup.procs").write_text(str(actor.pid))
        moved = reader.one(actor.pid, declared.KIND_CGROUP)
        actor.do("child = os.fork() or os._exit(0); os.waitpid(child, 0)")
        # A thread that was moved alone forks into its own cgroup.
        actor.do(
            "import threading\n"
            "def elsewhere():\n"
            f"    open('{v1}/tasks', 'w').write(str(threading.get_native_id()))\n"
            "    if (child := os.fork()) == 0:\n"
            "        os._exit(0)\n"
            "    os.waitpid(child, 0)\n"
            "in_thread(elsewhere)"
        )
        children = reader.until(
            lambda: (
                (two := [r for r in reader.records if r.kind == declared.KIND_FORK and r.header["ppid"] == actor.pid])
                and len(two) == 2
                and two
            )
        )
        children.sort(key=lambda fork: int(fork.header["time_boot_ns"]))  # rings are read one after the other
        assert children[0].task["cgroups_v1"] == moved.task["cgroups_v1"]
        assert children[1].task["cgroups_v1"] == Hierarchies().set_of_process(os.getpid())[0]


def test_tty(reader: Reader, actions: Path) -> None:
    main, terminal = os.openpty()
    name = os.ttyname(terminal).removeprefix("/dev/").replace("/", "")
    # setsid and opening the terminal make it the controlling one.
    child = subprocess.Popen(
        ["setsid", "--ctty", actions, "nothing"], stdin=terminal, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    child.wait(timeout=60)
    reader.ended(child.pid)
    assert reader.of(child.pid, declared.KIND_EXEC)[-1].task["tty"] == name.encode()
    os.close(main)
    os.close(terminal)
