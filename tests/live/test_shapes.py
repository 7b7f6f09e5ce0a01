"""Unusual processes and executables, each compared with /proc."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.harness import Daemon, Recorder, resolve, running_workload
from tests.proc import exe, namespace
from tests.waiting import eventually

pytestmark = pytest.mark.live


@pytest.fixture
def table(daemon: Daemon):
    with daemon.attach() as attached:
        yield attached


def argv(pid: int) -> list[str]:
    return [os.fsdecode(a) for a in Path(f"/proc/{pid}/cmdline").read_bytes()[:-1].split(b"\0")]


def test_exec_from_a_thread_that_is_not_the_leader(table, workload: Path) -> None:
    with running_workload(workload, "threadexec", 30_000) as (pid, _):
        eventually(lambda: resolve(table, pid).argv == ["workload", "sleep", "30000"] == argv(pid))
        entry = resolve(table, pid)
        assert entry.pid == pid and entry.exit_time_ns is None
        assert entry.is_exec_exec and entry.image_number == 3


def test_a_leader_that_ends_while_its_threads_live(table, workload: Path) -> None:
    with running_workload(workload, "leaderexit", 1500) as (pid, _):
        eventually(lambda: "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1])
        assert resolve(table, pid).exit_time_ns is None
        # The thread ends the process with exit_group(7), which is the exit code, not the leader's 3.
        eventually(lambda: resolve(table, pid).exit_time_ns is not None)
        assert os.waitstatus_to_exitcode(resolve(table, pid).exit_code) == 7


def test_vfork(table, workload: Path) -> None:
    with running_workload(workload, "vfork", 30_000) as (pid, said):
        child = said[0][1]
        eventually(lambda: resolve(table, child).is_exec)
        entry = resolve(table, child)
        assert (entry.ppid, entry.creator_pid, entry.is_exec) == (pid, pid, True)
        assert entry.path == exe(child) and entry.argv == argv(child)


def test_a_script_runs_its_interpreter(table, tmp_path: Path) -> None:
    script = tmp_path / "a script"
    script.write_text("#!/bin/sh -u\nread nothing\n")
    script.chmod(0o755)
    with subprocess.Popen([script, "x"], stdin=subprocess.PIPE) as child:
        eventually(lambda: resolve(table, child.pid).is_exec)
        entry = resolve(table, child.pid)
        assert entry.script_path == str(script)
        assert entry.path == exe(child.pid)
        assert entry.argv == argv(child.pid) == ["/bin/sh", "-u", str(script), "x"]
        assert entry.comm == "a script"
        assert entry.interpreter == entry.file
        status = Path(entry.path).stat()
        assert entry.interpreter["path"] == exe(child.pid) and entry.interpreter["inode"] == status.st_ino
        assert (entry.interpreter["mode"], entry.interpreter["mtime_ns"]) == (status.st_mode, status.st_mtime_ns)
        child.communicate(b"\n")


@pytest.mark.parametrize("which", ["exec", "all"])
def test_events_have_file_and_interpreter_of_an_exec_or_always(live_kernel: None, which: str, tmp_path: Path) -> None:
    script = tmp_path / "tool.sh"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    shell = str(Path("/bin/sh").resolve())
    with Daemon(f'[stream]\nfile = "{which}"\n') as daemon, Recorder(daemon, "proc").started() as recorder:
        child = subprocess.run([script], check=True)
        assert child.returncode == 0
        recorder.wait_for(lambda events: any(e["event"] == "exit" and e["comm"] == "tool.sh" for e in events))
        recorder.stop()
        (ended,) = [e for e in recorder.events if e["event"] == "exit" and e["comm"] == "tool.sh"]
        own = [e for e in recorder.events if e["pid"] == ended["pid"] and e["start_time_ns"] == ended["start_time_ns"]]
        (image,) = [e for e in own if e["event"] == "exec"]
        assert (image["script_path"], image["path"]) == (str(script), shell)
        assert image["interpreter"] == image["file"] and image["interpreter"]["path"] == shell
        assert image["file"]["basename"] == Path(shell).name and image["file"]["is_fileless"] is False
        (fork,) = [e for e in own if e["event"] == "fork"]
        assert fork["interpreter"] is None and (fork["file"] is not None) == (which == "all")
        if which == "all":
            assert fork["file"]["path"] == exe(os.getpid())
            assert ended["file"] == ended["interpreter"] == image["file"]
        else:
            assert ended["file"] is ended["interpreter"] is None


def test_a_deleted_executable(table, tmp_path: Path) -> None:
    program = tmp_path / "gone"
    shutil.copy("/bin/sleep", program)
    fd = os.open(program, os.O_RDONLY)
    program.unlink()
    child = subprocess.Popen([f"/proc/self/fd/{fd}", "30"], pass_fds=[fd])
    try:
        eventually(lambda: resolve(table, child.pid).path == str(program))
        assert exe(child.pid) == f"{program} (deleted)"
        assert resolve(table, child.pid).is_exe_deleted
    finally:
        child.kill()
        child.wait()
        os.close(fd)


def test_a_memfd_executable(table) -> None:
    fd = os.memfd_create("payload")
    os.write(fd, Path("/bin/sleep").read_bytes())
    child = subprocess.Popen([f"/proc/self/fd/{fd}", "30"], pass_fds=[fd])
    try:
        eventually(lambda: resolve(table, child.pid).path == "/memfd:payload")
        assert exe(child.pid) == "/memfd:payload (deleted)"
        assert resolve(table, child.pid).is_memfd
        file = resolve(table, child.pid).file
        assert (file["path"], file["basename"], file["is_fileless"]) == ("", "memfd:payload", True)
    finally:
        child.kill()
        child.wait()
        os.close(fd)


def test_100_kb_of_arguments_are_cut_and_flagged(table) -> None:
    arguments = ["sleep", "30", *(f"{i:09d}" for i in range(10_000))]
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)", *arguments])
    try:
        eventually(lambda: resolve(table, child.pid).is_exec)
        entry = resolve(table, child.pid)
        whole = Path(f"/proc/{child.pid}/cmdline").read_bytes()
        assert len(whole) > 100_000
        assert entry.args_truncated
        assert entry.args_full_bytes == len(whole)
        kept = "\0".join(entry.argv).encode()
        assert len(kept) > 32_000 and whole.startswith(kept)
    finally:
        child.kill()
        child.wait()


def test_an_empty_argument_list(table, workload: Path) -> None:
    """Since 5.18 the kernel adds an empty string, so the table has one."""
    with running_workload(workload, "emptyargv", 30_000) as (pid, _):
        eventually(lambda: resolve(table, pid).argv == [""])
        assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"\0"
        assert not resolve(table, pid).args_truncated


def test_arguments_that_are_not_utf8(table) -> None:
    weird = [b"sleep", b"30", b"", b"\xff\xfe\n\x80", "é".encode()]
    child = subprocess.Popen([b"/bin/sh", b"-c", b"read nothing", *weird], stdin=subprocess.PIPE)
    try:
        eventually(lambda: resolve(table, child.pid).is_exec)
        entry = resolve(table, child.pid)
        assert [os.fsencode(a) for a in entry.argv] == [b"/bin/sh", b"-c", b"read nothing", *weird]
    finally:
        child.kill()
        child.wait()


def static_sleep(directory: Path) -> Path:
    """A program without libraries, which can run in an empty root directory."""
    source = directory / "nap.c"
    source.write_text("#include <unistd.h>\nint main(void) { sleep(30); return 0; }\n")
    subprocess.run(["gcc", "-static", "-o", directory / "nap", source], check=True)
    return directory / "nap"


def test_an_executable_in_a_chroot(table, tmp_path: Path) -> None:
    program = static_sleep(tmp_path)
    child = subprocess.Popen(["chroot", str(tmp_path), "/nap"])
    try:
        eventually(lambda: resolve(table, child.pid).comm == "nap")
        entry = resolve(table, child.pid)
        assert entry.path == exe(child.pid) == str(program)
        assert entry.path_in_root == "/nap"
    finally:
        child.kill()
        child.wait()


def test_an_executable_on_a_mount_that_only_its_namespace_has(table, tmp_path: Path) -> None:
    program = static_sleep(tmp_path)
    private = tmp_path / "private"
    private.mkdir()
    script = f"mount -t tmpfs none {private} && cp {program} {private}/nap && exec {private}/nap"
    child = subprocess.Popen(["unshare", "-m", "sh", "-c", script])
    try:
        eventually(lambda: resolve(table, child.pid).comm == "nap")
        entry = resolve(table, child.pid)
        assert entry.path == exe(child.pid) == f"{private}/nap"
        assert not (private / "nap").exists()
        assert entry.mnt_ns == namespace(child.pid, "mnt") != namespace("self", "mnt")
    finally:
        child.kill()
        child.wait()


def test_a_child_in_a_pid_namespace(table, workload: Path) -> None:
    with running_workload(workload, "pidns", 30_000) as (pid, said):
        child = said[0][1]
        eventually(lambda: resolve(table, child).is_exec)
        entry = resolve(table, child)
        assert (entry.pid, entry.ns_pid, entry.ppid) == (child, 1, pid)
        assert entry.pid_ns == namespace(child, "pid") != namespace("self", "pid")


def test_exit_codes_and_signals(table) -> None:
    for command, expected in (("exit 41", 41), ("kill -KILL $$", -signal.SIGKILL), ("kill -TERM $$", -signal.SIGTERM)):
        child = subprocess.Popen(["sh", "-c", command])
        assert child.wait() == expected
        eventually(lambda pid=child.pid: resolve(table, pid).exit_time_ns is not None)
        assert os.waitstatus_to_exitcode(resolve(table, child.pid).exit_code) == expected


def test_names_and_ids_that_change_while_it_lives(table) -> None:
    """prctl(PR_SET_NAME) is recorded at once; new ids at the latest with the next event of the process."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setresgid(12, 13, 14)
        os.setresuid(2, 3, 4)
        ctypes.CDLL(None).prctl(15, b"renamed", 0, 0, 0)
        os.write(write, b"x")
        signal.pause()
        os._exit(0)
    try:
        os.read(read, 1)
        eventually(lambda: resolve(table, pid).comm == "renamed")
        entry = resolve(table, pid)
        assert (entry.uid, entry.euid, entry.suid) == (2, 3, 4)
        assert (entry.gid, entry.egid, entry.sgid) == (12, 13, 14)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
