"""Every command of the command line on an instance of each source without eBPF, also after its resolver was killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pipeline.bus.sockets import Bus
from pipeline.client.frame_sender import FrameSender
from pipeline.errors import BusyError, StaleError, UnsupportedError
from pipeline.host import boot
from pipeline.procfs.info import ProcInfo
from pipeline.records import declared
from pipeline.shm.layout import layout
from pipeline.sources.proc_connector import proc_records
from pipeline.sources.proc_connector.netlink import close_socket, open_socket
from pipeline.sources.proc_connector.proc_records import About
from tests.live.harness import Daemon, Recorder
from tests.waiting import eventually

pytestmark = [pytest.mark.live]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "tracer.py"
CONTAINER = "c0ffee" * 10


class Traced:
    """An instance, and a shell with a child below a tracer, in their own pid namespace or in ours."""

    def __init__(self, daemon: Daemon, source: str) -> None:
        self.daemon = daemon
        self.source = source
        shell = ["sh", "-c", "sleep 600 & echo $! > $OUT; exec sleep 601"]
        self.out = daemon.root / "pid"
        environment = dict(daemon.environment, PYTHONPATH=str(ROOT), OUT=str(self.out), CONTAINER_ID=CONTAINER)
        command = shell
        if source == "tracer":
            tracer = [sys.executable, str(EXAMPLE), str(daemon.directory / "tracers" / "tracers.ipc"), "--", *shell]
            command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *tracer]
        self.process = subprocess.Popen(command, env=environment, start_new_session=True)
        self.option: tuple[str, ...] = ()
        self.pid = self.process.pid
        if source == "tracer":
            inner = soon(lambda: _children(self.process.pid))[0]
            self.namespace = Path(f"/proc/{inner}/ns/pid").stat().st_ino
            self.option = ("--pid-ns", str(self.namespace))
            self.pid = soon(self._told)

    def _told(self) -> int | None:
        told = self.json("dump", option=False)["entries"]
        # Only in this pid namespace; another may contain processes of another test.
        mine = (one["pid"] for one in told if one["pid_ns"] == self.namespace and not one["exit_time_ns"])
        return next((pid for pid in mine if pid != 1), None)

    def run(self, *arguments: str, option: bool = True, code: int = 0) -> str:
        done = self.daemon.cli(*arguments, *(self.option if option else ()))
        assert done.returncode == code, (arguments, done.stderr[-2000:])
        return done.stdout

    def json(self, *arguments: str, option: bool = True) -> Any:
        return json.loads(self.run(*arguments, "--json", option=option))

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


def soon(check: Callable[[], Any]) -> Any:
    """Return the first true value of `check`."""
    found: list[Any] = []

    def look() -> bool:
        found[:] = [check()]
        return bool(found[0])

    eventually(look, 30)
    return found[0]


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module", params=["proc-connector", "tracer"])
def traced(request: pytest.FixtureRequest, missing: Callable[[str], NoReturn]) -> Iterator[Traced]:
    try:
        close_socket(open_socket(1 << 16))  # `record` needs it too
    except UnsupportedError as error:
        missing(str(error))
    daemon = Daemon("", "--source", request.param)
    try:
        daemon.start()
        traced = Traced(daemon, request.param)
        yield traced
        traced.end()
        assert daemon.stop() == 0
    finally:
        daemon.close()


def resolve(traced: Traced) -> None:
    entry = traced.json("resolve", str(traced.pid))
    assert entry["pid"] == traced.pid and ("foreign" in entry["marks"]) == (traced.source == "tracer")
    assert f"{traced.pid}" in traced.run("resolve", str(traced.pid))
    assert traced.run("resolve", "4194303", code=1) == ""
    if traced.source == "tracer":
        assert entry["container_id"] == CONTAINER and entry["pid_ns"] == traced.namespace
        traced.run("resolve", str(traced.pid), option=False, code=1)
    else:
        inner = Path("/proc/self/ns/pid").stat().st_ino
        assert traced.json("resolve", str(traced.pid), "--pid-ns", str(inner), option=False) == entry


def ancestors(traced: Traced) -> None:
    found = traced.json("ancestors", str(traced.pid))
    assert found and found[-1]["pid"] == 1
    assert traced.run("ancestors", str(traced.pid))


def children(traced: Traced) -> None:
    parent = 1 if traced.source == "tracer" else traced.pid
    wanted = traced.pid if traced.source == "tracer" else int(traced.out.read_text())
    assert wanted in [one["pid"] for one in traced.json("children", str(parent))]


def tree(traced: Traced) -> None:
    whole = traced.json("tree", option=False)
    assert whole and all(set(root) >= {"pid", "children"} for root in whole)
    assert traced.json("tree", str(traced.pid))["pid"] == traced.pid
    assert traced.run("tree", str(traced.pid), "--dot").startswith("digraph")
    assert traced.run("tree", option=False)
    if traced.source == "tracer":
        assert [root["pid"] for root in whole] == [1] and whole[0]["pid_ns"] == traced.namespace
    if shutil.which("dot"):
        drawing = traced.daemon.root / "tree.svg"
        traced.run("tree", str(traced.pid), "--svg", str(drawing))
        assert "<svg" in drawing.read_text()
    else:
        traced.run("tree", str(traced.pid), "--svg", "/dev/null", code=1)


def dump(traced: Traced) -> None:
    entries = traced.json("dump", option=False)["entries"]
    assert [one for one in entries if one["pid"] == traced.pid and not one["exit_time_ns"]]
    assert traced.run("dump", "--dot", option=False).rstrip().endswith("}")


def subscribe(traced: Traced) -> None:
    lines = traced.run("subscribe", "--snapshot", "--count", "2", "--timeout", "20", "--json", option=False)
    events = [json.loads(line) for line in lines.splitlines()]
    assert len(events) == 2 and {event["event"] for event in events} == {"snapshot"}
    if traced.source == "tracer":
        assert {event["pid_ns"] for event in events} == {traced.namespace}


def stat(traced: Traced) -> None:
    found = traced.json("stat", option=False)
    assert found["entries"]["live"] >= 2 and {one["role"] for one in found["processes"]} >= {"resolver", "shard-0"}
    assert found["lost"]["unknown"] == 0 and traced.run("stat", option=False)


def doctor(traced: Traced) -> None:
    done = traced.daemon.cli("doctor", "--json")
    assert done.returncode in (0, 1) and json.loads(done.stdout)
    assert traced.source in done.stdout


def record(traced: Traced) -> None:
    """A recording is independent of the instance. That of the proc connector runs in the same place as the instance."""
    file = traced.daemon.root / "some.rec"
    command = [sys.executable, "-m", "pipeline.cli.main", "record", str(file), "--seconds", "1"]
    done = subprocess.run(
        [*command, "--source", "proc-connector"], env=traced.daemon.environment, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0 and file.stat().st_size > 0, done.stderr[-500:]


COMMANDS = (resolve, ancestors, children, tree, dump, subscribe, stat, doctor, record)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_commands(traced: Traced, command: Callable[[Traced], None]) -> None:
    eventually(lambda: traced.daemon.cli("resolve", str(traced.pid), *traced.option).returncode == 0)
    if command is children and traced.source == "proc-connector":
        soon(lambda: traced.out.exists() and traced.out.read_text())
    command(traced)


@pytest.mark.parametrize("times", [1, 2])
def test_after_the_resolver_was_killed(traced: Traced, times: int) -> None:
    """The successor finds the rows and keys unchanged, and continues."""
    before = traced.json("resolve", str(traced.pid))
    stat_before = traced.json("stat", option=False)
    os.kill(stat_before["writer_pid"], signal.SIGKILL)

    def taken_over() -> bool:
        now = traced.json("stat", option=False)
        return bool(now["takeovers"] > stat_before["takeovers"] and now["state"] == "ready")

    eventually(taken_over, 30)
    after = traced.json("resolve", str(traced.pid))
    same = ("row", "generation", "entity_id", "argv", "ppid", "container_id")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    for command in (ancestors, children, tree, dump, subscribe):
        command(traced)
    if traced.source == "tracer":
        other = Traced(traced.daemon, "tracer") if times == 2 else None
        if other is not None:
            assert other.namespace != traced.namespace and other.json("resolve", str(other.pid))["pid"] == other.pid
            other.end()


@pytest.mark.parametrize("traced", ["tracer"], indirect=True)
def test_subscribers_get_fork_exec_and_exit(traced: Traced) -> None:
    """fork, exec and exit arrive with pids of their own namespace. (test_proc_connector tests the proc connector.)"""
    with Recorder(traced.daemon, "proc.fork", "proc.exec", "proc.exit") as recorder:
        time.sleep(1.5)
        subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, str(EXAMPLE),
             str(traced.daemon.directory / "tracers" / "tracers.ipc"), "--", "sh", "-c", "sleep 0.3; exit 3"],
            env=dict(traced.daemon.environment, PYTHONPATH=str(ROOT)), timeout=60, check=False,
        )  # fmt: skip

        # The kernel can reuse the inode of an ended namespace, so a pid in it can have a new owner.
        def told(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [event for event in events if "exit_unseen" not in event["marks"]]

        recorder.wait_for(lambda events: len(told(events)) >= 4)
        events = told(recorder.stop())
    assert [event["event"] for event in events] == ["exec", "fork", "exec", "exit"]
    init, fork, exec_, exit_ = events
    assert init["pid"] == 1 and fork["ppid"] == exec_["ppid"] == 1 and fork["pid"] == exec_["pid"] == exit_["pid"]
    assert fork["lineage"][0]["entity_id"] == init["entity_id"] and exit_["exit_cause_code"] == 3
    assert all("foreign" in event["marks"] for event in events)


@pytest.mark.parametrize("traced", ["proc-connector"], indirect=True)
def test_a_process_of_the_host_by_its_number_in_an_inner_namespace(traced: Traced) -> None:
    inner = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sleep", "602"])
    try:
        pid = soon(lambda: _children(inner.pid))[0]
        namespace = str(Path(f"/proc/{pid}/ns/pid").stat().st_ino)

        def is_found() -> bool:
            done = traced.daemon.cli("resolve", "1", "--pid-ns", namespace, "--json")
            return done.returncode == 0 and json.loads(done.stdout)["argv"] == ["sleep", "602"]

        eventually(is_found, 30)
        entry = traced.json("resolve", "1", "--pid-ns", namespace)
        assert (entry["pid"], entry["ppid"], entry["ns_pid"]) == (pid, inner.pid, 1) and "foreign" not in entry["marks"]
        assert traced.json("tree", "1", "--pid-ns", namespace)["pid"] == pid
    finally:
        inner.kill()
        inner.wait()


def _live_writer(traced: Traced) -> int:
    """Return the pid of the resolver, 0 while it is being replaced."""
    found = traced.json("stat", option=False)
    is_there = found["state"] == "ready" and Path(f"/proc/{found['writer_pid']}").exists()
    return int(found["writer_pid"]) if is_there else 0


@pytest.mark.parametrize("traced", ["tracer"], indirect=True)
def test_events_during_a_kill_of_the_resolver_are_kept(traced: Traced) -> None:
    namespace, count = 424_242, 601
    start = boot.now_boot_ns()
    with Bus() as bus:
        push = bus.push(traced.daemon.directory / "tracers" / "tracers.ipc")
        sender = FrameSender(push.send, boot_id=boot.boot_id(), name="storm", container_id=CONTAINER)
        for pid in range(2, count + 2):
            info = ProcInfo(
                tgid=pid, ppid=1, start_ticks=1, start_boot_ns=start + pid, comm=b"told", state="S", task_flags=0,
                thread_count=1, pgid=pid, sid=pid, tty=b"", pid_ns=namespace, mnt_ns=1, ns_pids=(pid,),
            )  # fmt: skip
            about = About(boot.now_boot_ns(), pid, pid, info.start_boot_ns, ppid=1)
            change = proc_records.change(about, declared.KIND_COMM, info, layout.KNOWN_COMM)
            sender.send([proc_records.fork(about, info), change])
            if pid in (200, 400):
                os.kill(soon(lambda: _live_writer(traced)), signal.SIGKILL)
        with traced.daemon.attach() as table:

            def all_are_there() -> bool:
                try:
                    living = [entry for entry in table.walk(exited=False) if entry.pid_ns == namespace]
                except (StaleError, BusyError):
                    return False
                known = {entry.pid for entry in living if entry.comm == "told" and entry.container_id == CONTAINER}
                return known == set(range(2, count + 2))

            eventually(all_are_there, 30)
    assert traced.json("stat", option=False)["lost"]["unknown"] == 0
