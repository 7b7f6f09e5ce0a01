"""Reading live processes: compared with psutil, and while they call exec, end, or cannot be read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import psutil
import pytest

from pipeline.host import boot
from pipeline.procfs import proc_reader
from pipeline.procfs.containers import cgroup_v2_root
from pipeline.procfs.info import UNSET, ProcInfo, to_record
from pipeline.procfs.proc_reader import ProcReader
from pipeline.procfs.survey import survey
from pipeline.records import declared, dtypes
from tests.sampling import times
from tests.waiting import until


@pytest.fixture
def reader() -> Iterator[ProcReader]:
    with ProcReader() as made:
        yield made


@contextmanager
def running(*command: str | bytes, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child; its exec is complete when the body runs, and it is killed afterwards."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    try:
        # Popen returns when the child has left the shared memory, which is before its new arguments are in place.
        until(Path(f"/proc/{child.pid}/cmdline").read_bytes, "exec is complete")
        yield child
    finally:
        child.kill()
        child.wait()


def inode(path: str | Path) -> int:
    return Path(path).stat().st_ino


def own_exe() -> bytes:
    return os.fsencode(Path("/proc/self/exe").readlink())


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_every_live_process_reads_as_psutil_sees_it(reader: ProcReader) -> None:
    """All processes of the host. A process that changes or ends between the two readings is read again."""
    compared = 0
    for tgid in reader.list_pids().tolist():
        for attempt in range(10):
            ours = reader.read(tgid, proc_reader.WANT_ALL)
            theirs = {}
            with suppress(psutil.NoSuchProcess):
                theirs = psutil.Process(tgid).as_dict(
                    ["ppid", "name", "exe", "cmdline", "uids", "gids", "status", "terminal", "num_threads", "environ"]
                )
            if ours is None or not theirs:
                break
            differing = differences(ours, theirs)
            if not differing:
                compared += 1
                break
            assert attempt < 9, (tgid, differing)
    assert compared >= 3


def differences(ours: ProcInfo, theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    def text(raw: bytes) -> str:
        return os.fsdecode(raw)

    pairs: dict[str, tuple[Any, Any]] = {
        "ppid": (ours.ppid, theirs["ppid"]),
        "uids": (ours.uids[:3], tuple(theirs["uids"])),
        "gids": (ours.gids[:3], tuple(theirs["gids"])),
        "threads": (ours.thread_count, theirs["num_threads"]),
        "status": (ours.state == "Z", theirs["status"] == psutil.STATUS_ZOMBIE),
        # psutil completes a truncated name from the arguments.
        "name": (text(ours.comm), theirs["name"][: len(text(ours.comm))]),
    }
    # psutil does not know terminals of other containers, and those that were opened after it listed /dev.
    if theirs["terminal"] or not ours.tty:
        tty = (theirs["terminal"] or "").removeprefix("/dev/").replace("pts/", "pts")
        pairs["tty"] = (text(ours.tty), tty)
    if theirs["exe"] and ours.exe is not None:
        pairs["exe"] = (text(ours.exe), theirs["exe"].removesuffix(" (deleted)"))
    if ours.argv is not None and theirs["cmdline"] and ours.argv.count(0) > 1:
        pairs["cmdline"] = ([text(a) for a in ours.args], theirs["cmdline"])
    if theirs["environ"] and ours.envs is not None and not ours.is_envs_truncated:
        kept = dict(e.split("=", 1) for e in map(text, ours.envs.split(b"\0")) if "=" in e)
        pairs["environ"] = (kept, theirs["environ"])
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def test_own_process_is_read_whole(reader: ProcReader) -> None:
    info = reader.read(os.getpid(), proc_reader.WANT_ALL)
    assert info is not None
    facts = Path("/proc/self/exe").stat()
    assert (info.tgid, info.ppid, info.pgid, info.sid) == (os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0))
    assert info.exe == own_exe()
    assert (info.exe_inode, info.exe_mode, info.exe_uid, info.exe_gid, info.exe_nlink) == (
        facts.st_ino, facts.st_mode, facts.st_uid, facts.st_gid, facts.st_nlink,
    )  # fmt: skip
    assert (info.exe_ctime_ns, info.exe_mtime_ns) == (facts.st_ctime_ns, facts.st_mtime_ns)
    assert info.exe_device == os.major(facts.st_dev) << 20 | os.minor(facts.st_dev)
    assert info.uids == (*os.getresuid(), os.geteuid())
    assert info.gids == (*os.getresgid(), os.getegid())
    assert info.argv == Path("/proc/self/cmdline").read_bytes()
    # Not readable without root once a test has made this process undumpable.
    assert (info.envs is not None) == os.access("/proc/self/environ", os.R_OK)
    for kind in ("pid", "mnt", "net", "user"):
        assert getattr(info, f"{kind}_ns") == inode(f"/proc/self/ns/{kind}")
    assert info.root == b"/"
    ns_pids = Path("/proc/self/status").read_text().partition("\nNSpid:")[2].splitlines()[0]
    assert info.ns_pids == tuple(map(int, ns_pids.split())) and info.ns_pid == info.ns_pids[-1]
    assert not (info.is_torn or info.is_zombie or info.is_kthread or info.is_leader_dead)


def test_unwanted_facts_stay_unknown(reader: ProcReader) -> None:
    info = reader.read(os.getpid(), 0)
    assert info is not None
    assert (info.ppid, info.uids, info.ns_pid, info.exe, info.argv) == (
        os.getppid(),
        (UNSET,) * 4,
        0,
        None,
        None,
    )
    assert (info.pid_ns, info.cgroup, info.is_torn) == (0, None, False)


def test_mount_id_is_the_one_of_fdinfo(reader: ProcReader) -> None:
    info = reader.read(os.getpid())
    fd = os.open("/proc/self/exe", os.O_PATH)
    try:
        lines = dict(line.split(":\t") for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
    finally:
        os.close(fd)
    assert info is not None and info.mount_id == int(lines["mnt_id"])


def test_start_time_is_the_tick_of_the_start(reader: ProcReader) -> None:
    before = boot.now_boot_ns()
    with running("sleep", "60") as child:
        after = boot.now_boot_ns()
        info = reader.read(child.pid)
        assert info is not None and info.start_is_ticks
        assert before // boot.TICK_NS <= info.start_ticks <= after // boot.TICK_NS
        assert info.start_boot_ns == info.start_ticks * boot.TICK_NS
        assert reader.read_start(child.pid) == proc_reader.read_start(child.pid) == info.start_ticks
        assert reader.read_ppid(child.pid) == proc_reader.read_ppid(child.pid) == os.getpid()


def test_absent_process_is_none(reader: ProcReader) -> None:
    absent = 4 * 1024 * 1024 + 1  # above the limit of the kernel's pid_max
    assert reader.read(absent) is reader.read_ppid(absent) is reader.read_start(absent) is None
    assert proc_reader.read_process(absent) is None


def test_listing_has_every_process_once_and_in_order(reader: ProcReader) -> None:
    with running("sleep", "60") as child:
        pids = reader.list_pids()
        assert pids.dtype == np.uint32
        assert {1, os.getpid(), child.pid} <= set(pids.tolist())
        assert (np.diff(pids.astype(np.int64)) > 0).all()
        assert child.pid in proc_reader.list_pids()


def test_kernel_thread_has_lineage_but_no_image(reader: ProcReader) -> None:
    found = next((i for t in reader.list_pids().tolist() if (i := reader.read(t)) and i.is_kthread), None)
    if found is None:
        pytest.skip("this pid namespace shows no kernel threads")
    assert (found.exe, found.argv, found.is_torn) == (None, None, False)
    assert found.comm and found.start_ticks >= 0


def test_name_with_parentheses_newlines_and_digits(reader: ProcReader, tmp_path: Path) -> None:
    """Each of these breaks a parser that splits at spaces, at the first parenthesis, or at line ends."""
    for name in (b"a) R 1 2 (", b"a\nUid:\t7", b"((", b") Z 0 0 0"):
        code = f"import ctypes,time;ctypes.CDLL(None).prctl(15,{name!r});print(flush=True);time.sleep(60)"
        with running(sys.executable, "-c", code, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            info = reader.read(child.pid)
            assert info is not None
            assert (info.comm, info.ppid, info.uids[0]) == (name, os.getpid(), os.getuid())


def test_deleted_executable_is_flagged_and_named_without_the_suffix(reader: ProcReader, tmp_path: Path) -> None:
    copy = tmp_path / "sleeper"
    copy.write_bytes(Path("/bin/sleep").read_bytes())
    copy.chmod(0o755)
    with running(str(copy), "60") as child:
        copy.unlink()
        info = reader.read(child.pid)
        assert info is not None
        assert (info.exe, info.is_exe_deleted, info.is_memfd) == (os.fsencode(copy), True, False)
        assert info.exe_nlink == 0 and info.exe_inode != 0


def test_deleted_name_with_another_link_left_is_deleted(reader: ProcReader, tmp_path: Path) -> None:
    copy = tmp_path / "sleeper"
    copy.write_bytes(Path("/bin/sleep").read_bytes())
    copy.chmod(0o755)
    (tmp_path / "other").hardlink_to(copy)
    with running(str(copy), "60") as child:
        copy.unlink()
        info = reader.read(child.pid)
        assert info is not None and info.is_exe_deleted and info.exe == os.fsencode(copy)


def test_file_that_is_called_deleted_is_not_deleted(reader: ProcReader, tmp_path: Path) -> None:
    copy = tmp_path / "sleeper (deleted)"
    copy.write_bytes(Path("/bin/sleep").read_bytes())
    copy.chmod(0o755)
    with running(str(copy), "60") as child:
        info = reader.read(child.pid)
        assert info is not None and not info.is_exe_deleted and info.exe == os.fsencode(copy)


def test_executable_without_a_file(reader: ProcReader) -> None:
    fd = os.memfd_create("hidden", 0)
    try:
        os.write(fd, Path("/bin/sleep").read_bytes())
        with running(f"/proc/self/fd/{fd}", "60", pass_fds=(fd,)) as child:
            info = reader.read(child.pid)
    finally:
        os.close(fd)
    assert info is not None
    assert (info.exe, info.is_memfd, info.is_exe_deleted) == (b"/memfd:hidden", True, True)


def test_arguments_are_raw_bytes_and_keep_empty_ones(reader: ProcReader) -> None:
    arguments = [b"sh", b"-c", b"kill -STOP $$", b"", b"\xff\xfe", b"a b", b""]
    with running(*arguments) as child:
        info = reader.read(child.pid)
    assert info is not None and info.args == arguments
    assert info.args_full_bytes == len(info.argv or b"") == sum(map(len, arguments)) + len(arguments)


def test_long_arguments_and_environment_are_cut_and_marked() -> None:
    with (
        ProcReader(args_limit=100, envs_limit=50) as reader,
        running("sh", "-c", "kill -STOP $$", "x" * 20000, env={"A": "b" * 10000}) as child,
    ):
        info = reader.read(child.pid, proc_reader.WANT_ALL)
    if info is None or info.argv is None or info.envs is None:
        pytest.fail("unreadable")
    assert info.is_args_truncated and len(info.argv) == 100 and info.argv.endswith(b"x\0")
    assert info.args_full_bytes == len("sh\0-c\0kill -STOP $$\0") + 20001
    assert info.is_envs_truncated and len(info.envs) == 50 and info.envs_full_bytes == 10003


def test_arguments_longer_than_one_read_come_whole() -> None:
    with ProcReader(envs_limit=100_000) as reader, running("sleep", "60", env={"A": "b" * 90_000}) as child:
        info = reader.read(child.pid, proc_reader.WANT_ALL)
    assert info is not None and info.envs == b"A=" + b"b" * 90_000 + b"\0" and not info.is_envs_truncated


@pytest.mark.parametrize(
    ("title", "kept"),
    [(b"nginx: master process", b"nginx: master process\0"), (b"x" + b"\0" * 30, b"x\0"), (b"a\0\0", b"a\0\0")],
)
def test_title_over_the_arguments_loses_its_padding(tmp_path: Path, title: bytes, kept: bytes) -> None:
    (tmp_path / "cmdline").write_bytes(title)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert proc_reader._read_area(b"cmdline", fd, 4096) == (kept, False)
    finally:
        os.close(fd)


def test_zombie_keeps_its_lineage(reader: ProcReader) -> None:
    child = subprocess.Popen(["true"])
    try:
        until(lambda: (reader.read(child.pid) or SimpleNamespace(is_zombie=False)).is_zombie, "child is a zombie")
        info = reader.read(child.pid)
        assert info is not None
        assert (info.ppid, info.exe, info.argv, info.is_leader_dead) == (os.getpid(), None, None, False)
        assert info.uids[0] == os.getuid() and info.pid_ns == inode("/proc/self/ns/pid")
    finally:
        child.wait()
    assert reader.read(child.pid) is None


def test_a_process_with_an_ended_leader_is_read_through_another_thread(reader: ProcReader) -> None:
    code = (
        "import ctypes,threading,time,sys\n"
        "threading.Thread(target=time.sleep,args=(60,),daemon=True).start()\n"
        "print(flush=True)\n"
        "ctypes.CDLL(None).syscall(60 if sys.maxsize and __import__('platform').machine()=='x86_64' else 93,0)\n"
    )
    with running(sys.executable, "-c", code, stdout=subprocess.PIPE) as child:
        until(lambda: (i := reader.read(child.pid)) and i.is_leader_dead, "leader has ended")
        info = reader.read(child.pid)
        assert info is not None
        assert (info.is_zombie, info.exe) == (False, own_exe())
        assert info.args[1:2] == [b"-c"] and info.mnt_ns == inode("/proc/self/ns/mnt")
        record = to_record(info)
        assert record.header["flags"][0] == declared.FLAG_PARTIAL | declared.FLAG_LEADER_DEAD


def test_terminal_is_named_by_its_number(reader: ProcReader) -> None:
    leader, follower = os.openpty()
    try:
        child = subprocess.Popen(["setsid", "--ctty", "sleep", "60"], stdin=follower)
        try:
            until(lambda: (i := reader.read(child.pid)) and i.comm == b"sleep", "setsid has become sleep")
            info = reader.read(child.pid)
        finally:
            child.kill()
            child.wait()
        number = os.ttyname(follower).removeprefix("/dev/pts/")
    finally:
        os.close(leader)
        os.close(follower)
    assert info is not None and (info.tty, info.sid) == (b"pts" + number.encode(), child.pid)


def test_executable_of_another_root_is_named_from_outside(reader: ProcReader, tmp_path: Path) -> None:
    """In a chroot: the path is the one that a reader outside can open, and the root is the prefix of it."""
    if os.geteuid() != 0:
        pytest.skip("needs root for chroot")
    inside = tmp_path / "jail/bin"
    inside.mkdir(parents=True)
    busy = tmp_path / "jail/bin/static"
    source = tmp_path / "static.c"
    source.write_text("#include <unistd.h>\nint main(void){pause();}\n")
    if not shutil.which("gcc") or subprocess.run(["gcc", "-static", "-o", busy, source], check=False).returncode:
        pytest.skip("needs gcc and a static libc")
    with running("/bin/static", preexec_fn=lambda: os.chroot(tmp_path / "jail"), cwd="/") as child:
        info = reader.read(child.pid)
        assert info is not None and (info.exe, info.root) == (os.fsencode(busy), os.fsencode(tmp_path / "jail"))
        assert to_record(info).exec["root_offset"][0] == len(os.fsencode(tmp_path / "jail"))


def test_process_of_other_namespaces(reader: ProcReader) -> None:
    """The pid in the innermost namespace, and the inodes of the namespaces."""
    if os.geteuid() != 0:
        pytest.skip("needs root for unshare")
    with running("unshare", "--pid", "--net", "--fork", "--kill-child", "sleep", "60") as child:
        until(lambda: psutil.Process(child.pid).children(), "unshare has forked")
        tgid = psutil.Process(child.pid).children()[0].pid
        until(lambda: (i := reader.read(tgid)) and i.comm == b"sleep", "its child has called exec")
        info, ours = reader.read(tgid), reader.read(os.getpid())
        assert info is not None and ours is not None
        assert info.ns_pids == (tgid, 1) and info.ns_pid == 1
        assert info.pid_ns != ours.pid_ns and info.net_ns != ours.net_ns and info.mnt_ns == ours.mnt_ns
        assert info.pid_ns == inode(f"/proc/{tgid}/ns/pid")


def test_an_unprivileged_reader_still_reads_the_parent() -> None:
    """Executable, namespaces and environment of another user's process are unknown; parent, ids, arguments are read."""
    if os.geteuid() != 0:
        pytest.skip("needs root to change the user")
    code = (
        "import os,sys;os.setgroups([]);os.setresgid(65534,65534,65534);os.setresuid(65534,65534,65534)\n"
        "from pipeline.procfs import info, proc_reader\n"
        "i=proc_reader.read_process(int(sys.argv[1]),proc_reader.WANT_ALL)\n"
        "print((i.exe,i.exe_inode,i.pid_ns,i.envs,i.root),i.ppid,i.uids,i.args,i.cgroup is None,i.is_torn)\n"
        "r=info.to_record(i).exec[0];print(int(r['exec_flags']))\n"
    )
    root = Path(__file__).parents[2]
    with running("sleep", "60") as child:
        done = subprocess.run(
            [sys.executable, "-c", code, str(child.pid)], capture_output=True, text=True, cwd=root, check=False
        )
    assert done.returncode == 0, done.stderr
    first, flags = done.stdout.splitlines()
    assert first == f"(None, 0, 0, None, None) {os.getpid()} (0, 0, 0, 0) [b'sleep', b'60'] False False"
    assert int(flags) == declared.EXEC_ENVS_UNREADABLE


@pytest.mark.parametrize("moment", range(1, 31))
def test_process_that_vanishes_at_any_moment(reader: ProcReader, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """The child is killed and reaped just before the n-th system call of the read: the result is None, not an error."""
    child = subprocess.Popen(["sleep", "60"])
    until(Path(f"/proc/{child.pid}/cmdline").read_bytes, "exec is complete")
    calls = 0

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment:
                child.kill()
                child.wait()
            return function(*arguments, **options)

        return call

    patched = SimpleNamespace(**{name: getattr(os, name) for name in dir(os) if not name.startswith("__")})
    for name in ("open", "read", "pread", "readlink", "stat", "listdir"):
        setattr(patched, name, counting(getattr(os, name)))
    monkeypatch.setattr(proc_reader, "os", patched)
    fds = open_fds()
    info = reader.read(child.pid, proc_reader.WANT_ALL)
    if calls >= moment:
        assert info is None
    else:
        assert info is not None and info.argv == b"sleep\x0060\0"
        child.kill()
        child.wait()
    assert open_fds() == fds, "descriptors are given back"


def test_reused_pid_is_not_read_as_its_predecessor(reader: ProcReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events in order: /proc/PID is opened, the process ends, its pid is reused, the rest is read."""
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    if os.geteuid() != 0 or not last_pid.exists():
        pytest.skip("needs root and CONFIG_CHECKPOINT_RESTORE to choose a pid")
    first = subprocess.Popen(["sleep", "60"])
    heirs: list[subprocess.Popen[bytes]] = []
    read_small = proc_reader._read_small

    def replace_then_read(name: bytes, dir_fd: int) -> bytes:
        if not heirs:
            first.kill()
            first.wait()
            for _ in range(200):
                last_pid.write_text(str(first.pid - 1))
                heirs.append(subprocess.Popen(["sleep", "61"]))
                if heirs[-1].pid == first.pid:
                    break
        return read_small(name, dir_fd)

    monkeypatch.setattr(proc_reader, "_read_small", replace_then_read)
    try:
        assert reader.read(first.pid) is None
        if heirs[-1].pid != first.pid:
            pytest.skip("another process got the pid each time")
        until(Path(f"/proc/{first.pid}/cmdline").read_bytes, "exec is complete")
        heir = reader.read(first.pid)
        assert heir is not None and heir.argv == b"sleep\x0061\0"
    finally:
        for heir_process in heirs:
            heir_process.kill()
            heir_process.wait()


@pytest.mark.slow
def test_process_that_keeps_calling_exec_is_read_whole_or_marked(reader: ProcReader, tmp_path: Path) -> None:
    """Two scripts exec each other: name, arguments and environment of one read belong to the same script."""
    for name, other in (("aaaa", "bbbb"), ("bbbb", "aaaa")):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\nMARK={other} exec {tmp_path}/{other}\n")
        script.chmod(0o755)
    names = set()
    with running(str(tmp_path / "aaaa"), env={"MARK": "aaaa"}) as child:
        for _ in range(times(2000, 300)):
            info = reader.read(child.pid, proc_reader.WANT_ALL)
            assert info is not None
            if info.is_torn or not info.envs:
                continue
            names.add(info.comm)
            assert info.args[1].endswith(info.comm)
            assert b"MARK=" + info.comm in info.envs
            assert info.script_path == info.args[1]
    assert names == {b"aaaa", b"bbbb"}


def test_kernel_without_audit_leaves_login_uid_unset(reader: ProcReader, monkeypatch: pytest.MonkeyPatch) -> None:
    read_small = proc_reader._read_small

    def without_audit(name: bytes, dir_fd: int) -> bytes:
        if name in (b"loginuid", b"sessionid"):
            raise FileNotFoundError
        return read_small(name, dir_fd)

    monkeypatch.setattr(proc_reader, "_read_small", without_audit)
    info = reader.read(os.getpid())
    assert info is not None and (info.auid, info.audit_session) == (UNSET, UNSET)


def test_login_uid_and_session_are_read(reader: ProcReader) -> None:
    info = reader.read(os.getpid())
    assert info is not None
    assert info.auid == int(Path("/proc/self/loginuid").read_text())
    assert info.audit_session == int(Path("/proc/self/sessionid").read_text())


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"0::/a/b\n", b"/a/b"),
        (b"2:cpu,cpuacct:/x\n1:name=systemd:/y:z\n0::/\n", b"/"),
        (b"1:name=systemd:/0::/trap\n", None),
        (b"0::/gone (deleted)\n", b"/gone"),
        (b"0::/../outside\n", b"/../outside"),
    ],
)
def test_cgroup_lines(tmp_path: Path, text: bytes, path: bytes | None) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_bytes(text)
    (tmp_path / "7/stat").write_bytes(Path("/proc/self/stat").read_bytes())
    (tmp_path / "7/status").write_bytes(Path("/proc/self/status").read_bytes())
    with ProcReader(str(tmp_path)) as reader:
        info = reader.read(7, proc_reader.WANT_CGROUP)
    assert info is not None and (info.cgroup_path, info.cgroup, info.cgroup_id) == (path, text, 0)


def test_cgroup_id_is_the_inode_of_the_directory(tmp_path: Path) -> None:
    root = cgroup_v2_root()
    if root is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    with ProcReader(cgroup_root=root) as reader:
        info = reader.read(os.getpid())
    assert info is not None and info.cgroup_path is not None
    assert info.cgroup_id == inode(root + os.fsdecode(info.cgroup_path))


def test_path_outside_of_the_cgroup_namespace_gets_no_id(tmp_path: Path) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "proc/7/cgroup").write_bytes(b"0::/../other\n")
    for name in ("stat", "status"):
        (tmp_path / "proc/7" / name).write_bytes(Path("/proc/self", name).read_bytes())
    with ProcReader(str(tmp_path / "proc"), str(tmp_path / "cgroup")) as reader:
        info = reader.read(7, proc_reader.WANT_CGROUP)
    assert info is not None and info.cgroup_id == 0


def test_damaged_files_are_no_process(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    with ProcReader(str(tmp_path)) as reader:
        assert reader.read(7) is None
        (tmp_path / "7/stat").write_bytes(b"")
        assert reader.read(7) is None and reader.read_ppid(7) is None
        (tmp_path / "7/stat").write_bytes(Path("/proc/self/stat").read_bytes())
        (tmp_path / "7/status").write_bytes(b"Name:\tx\n")
        assert reader.read(7) is None


@pytest.fixture
def memory() -> Iterator[IO[bytes]]:
    """An empty file on a tmpfs, which stores every time."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm")
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        yield file


@pytest.mark.parametrize("seconds", [-315_619_200, 20_000_000_000], ids=["1960", "2603"])
def test_any_time_of_a_file_and_any_argument_area_fit_in_a_record(
    tmp_path: Path, memory: IO[bytes], seconds: int
) -> None:
    (tmp_path / "7").mkdir()
    program = Path(memory.name)
    os.utime(program, ns=(0, seconds * 1_000_000_000 + 5))
    if program.stat().st_mtime_ns != seconds * 1_000_000_000 + 5:
        pytest.skip("the file system cannot store this time")
    (tmp_path / "7/exe").symlink_to(program)
    for name in ("cmdline", "environ"):
        (tmp_path / "7" / name).write_bytes(b"a\0" * 100)
    head, _, tail = Path("/proc/self/stat").read_bytes().rpartition(b") ")
    fields = tail.split()
    fields[45:49] = [b"4096", b"%d" % (1 << 46), b"4096", b"%d" % (1 << 46)]
    (tmp_path / "7/stat").write_bytes(head + b") " + b" ".join(fields) + b"\n")
    (tmp_path / "7/status").write_bytes(Path("/proc/self/status").read_bytes())

    def iterate() -> SimpleNamespace:  # two passes show different images, so the process is read again
        columns = [np.zeros(1, dtype) for dtype in (dtypes.HEADER, dtypes.TASK, dtypes.EXEC)]
        columns[0]["tgid"], columns[0]["start_boot_ns"] = 7, int(fields[19]) * boot.TICK_NS
        columns[2]["inode"] = next(inodes)
        return SimpleNamespace(header=columns[0], task=columns[1], exec=columns[2], paths=[b"/bin/a"])

    inodes = iter((1, 2))
    with ProcReader(str(tmp_path), args_limit=10, envs_limit=10) as reader:
        info = reader.read(7, proc_reader.WANT_ALL)
        assert info is not None
        rows = [to_record(info).exec[0], survey(reader, None, lambda: 1, proc_reader.WANT_ALL).exec[0]]
        repeated = survey(reader, iterate, lambda: 1, proc_reader.WANT_ALL).exec[0]  # type: ignore[arg-type]
    for row in rows:
        assert row["mtime_ns"] == (seconds * 1_000_000_000 + 5) % (1 << 64)
    for row in (*rows, repeated):
        assert (row["args_full_bytes"], row["envs_full_bytes"]) == (0xFFFF_FFFF, 0xFFFF_FFFF)


def test_missing_cgroup_mount_is_an_error_and_leaks_nothing() -> None:
    fds = open_fds()
    with pytest.raises(FileNotFoundError):
        ProcReader(cgroup_root="/nonexistent")
    assert open_fds() == fds
