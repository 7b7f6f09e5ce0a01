"""User names and ssh sessions of processes that a tracer reports and the daemon can also see."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.bus.sockets import Bus
from pipeline.client.frame_sender import FrameSender
from pipeline.host import boot
from pipeline.procfs.info import ProcInfo
from pipeline.procfs.proc_reader import WANT_ALL, read_process
from pipeline.sources.proc_connector import proc_records
from pipeline.sources.proc_connector.proc_records import About
from tests.live.harness import Daemon, Recorder
from tests.live.test_contexts import SSHD, compile_c
from tests.waiting import eventually

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to create namespaces"),
]


@pytest.fixture(scope="module")
def traced() -> Iterator[Daemon]:
    with Daemon("", "--source", "tracer", name="traced") as daemon:
        yield daemon


@contextmanager
def inside(*command: str | Path, mounts: str = "") -> Iterator[int]:
    """Run a command as pid 1 of a new pid namespace, with `mounts` in a new mount namespace too; yield its pid here."""
    own = ["--mount"] if mounts else []
    unshare = ["unshare", "--pid", *own, "--fork", "--kill-child", "sh", "-c", f'{mounts}\nexec "$@"', "sh"]
    started = subprocess.Popen([*unshare, *command], stdout=subprocess.DEVNULL)
    try:

        def child() -> int:
            (one,) = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split() or ("",)
            assert one and Path(f"/proc/{one}/exe").resolve() == Path(command[0]).resolve()
            return int(one)

        yield eventually(child)
    finally:
        started.kill()
        started.wait()


def told(pid: int) -> ProcInfo:
    """Return the facts that a tracer in the pid namespace of a process would read."""
    info = read_process(pid, WANT_ALL)
    assert info is not None
    above = read_process(info.ppid, WANT_ALL)
    ppid = above.ns_pid if above is not None and above.pid_ns == info.pid_ns else 0
    return replace(info, tgid=info.ns_pid, ppid=ppid)


def tell(daemon: Daemon, *infos: ProcInfo, container_id: str = "") -> None:
    """Report processes like a tracer that finds them when it begins, the last one with its exec."""
    with Bus() as bus:
        push = bus.push(daemon.directory / "tracers" / "tracers.ipc")
        sender = FrameSender(
            push.send, boot_id=boot.boot_id(), name="contexts", ring=infos[0].pid_ns, container_id=container_id
        )
        for info in infos:
            is_last = info is infos[-1]
            time_ns = boot.now_boot_ns() if is_last else info.start_boot_ns
            about = About(time_ns, info.tgid, info.tgid, info.start_boot_ns, ppid=info.ppid)
            sender.send([*([proc_records.fork(about, info)] if is_last else []), proc_records.exec_(about, info)])
        bus.close(linger_ms=1000)


@pytest.fixture
def mounts(tmp_path: Path) -> str:
    """Return commands that replace the host's users and groups by others."""
    (tmp_path / "passwd").write_text("boss:x:0:0::/:/bin/sh\n")
    (tmp_path / "group").write_text("bosses:x:0:\n")
    return f"mount --bind {tmp_path}/passwd /etc/passwd && mount --bind {tmp_path}/group /etc/group"


def test_names_are_those_in_its_own_root(traced: Daemon, mounts: str) -> None:
    with inside("/bin/sleep", "300", mounts=mounts) as own, inside("/bin/sleep", "301") as hosts:
        for pid, names in ((own, ("boss", "bosses")), (hosts, ("root", "root"))):
            info = told(pid)
            tell(traced, info)
            eventually(lambda info=info, names=names: names_of(traced, info) == names)


def test_a_tracers_ids_of_another_user_namespace_have_no_names(traced: Daemon, mounts: str) -> None:
    """The ids differ from the kernel's ids, which are the keys of the names."""
    with inside("/bin/sleep", "302", mounts=mounts) as pid, inside("/bin/sleep", "303", mounts=mounts) as other:
        info, known = replace(told(pid), user_ns=4_026_599_999), told(other)
        tell(traced, info)
        tell(traced, known)  # reported after the first one
        eventually(lambda: names_of(traced, known) == ("boss", "bosses"))
        assert names_of(traced, info) == (None, None)


def names_of(daemon: Daemon, info: ProcInfo) -> tuple[Any, Any]:
    with daemon.attach() as table:
        entry = table.resolve(info.tgid, pid_ns=info.pid_ns)
        assert entry is not None and "foreign" in entry.marks
        return entry.user, entry.group


def test_an_ssh_session(traced: Daemon, tmp_path: Path) -> None:
    sshd = compile_c(SSHD, tmp_path / "sshd")
    with inside(sshd) as server, traced.attach() as table, Recorder(traced, "proc.context", "proc.exec") as recorder:

        def shell_pid() -> int:
            (one,) = Path(f"/proc/{server}/task/{server}/children").read_text().split() or ("",)
            assert one and b"SSH_CONNECTION" in Path(f"/proc/{one}/environ").read_bytes()
            return int(one)

        shell = told(eventually(shell_pid))
        eventually(lambda: _is_heard(traced, recorder), 30, 0.1)
        tell(traced, told(server), shell)
        found = lambda: table.resolve(shell.tgid, pid_ns=shell.pid_ns)  # noqa: E731
        eventually(lambda: found() is not None and found().ssh_session is not None)
        session = found().ssh_session
        assert (session["username"], session["client_ip"], session["client_port"]) == ("root", "192.0.2.7", 50022)
        assert table.resolve(1, pid_ns=shell.pid_ns).ssh_session is None
        recorder.wait_for(lambda events: any(e["event"] == "user_session" for e in events))
        (event,) = [e for e in recorder.stop() if e["event"] == "user_session"]
        assert (event["pid"], event["pid_ns"]) == (shell.tgid, shell.pid_ns)
        assert event["context"]["ssh_username"] == "root"


def _is_heard(daemon: Daemon, recorder: Recorder) -> bool:
    """Report processes until an event of one has arrived."""
    info = read_process(os.getpid(), WANT_ALL)
    assert info is not None
    now = boot.now_boot_ns()
    pid = 1 + now // 1_000_000 % 30_000
    tell(daemon, replace(info, tgid=pid, ppid=0, pid_ns=4_026_588_888, start_boot_ns=now, mnt_ns=1, user_ns=1))
    return bool(recorder.events)
