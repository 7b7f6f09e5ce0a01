"""A request finds a process with lost events, with its image and its parent; a flood of requests does no harm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline import ProcessTable, paths
from pipeline.bus.requests import encode_request
from pipeline.client.ask import ask, resolve
from pipeline.errors import StaleError
from tests.actor import Actor
from tests.live.agreement import assert_agrees
from tests.live.harness import Daemon, patience, unused_pid
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: Rings that are full soon if the shard is stopped, and no repairs that would find the processes.
CONFIG = """
[capture]
ring_bytes = 4096
[repair]
min_interval_ms = 3600000
check_interval_s = 0
"""
PROCESSES = 61


@pytest.fixture(scope="module")
def lossy(live_kernel: None) -> Iterator[Daemon]:
    with Daemon(CONFIG, name="asked") as running:
        yield running


def lose(daemon: Daemon, program: str, stack: ExitStack) -> list[int]:
    """Start processes while the rings are not drained; return those that are missing in the table."""
    shards = daemon.pids("shard")
    for shard in shards:
        os.kill(shard, signal.SIGSTOP)
    try:
        sleepers = [subprocess.Popen([program, "300"]) for _ in range(PROCESSES)]
    finally:
        for shard in shards:
            os.kill(shard, signal.SIGCONT)
    for sleeper in sleepers:
        stack.callback(sleeper.wait)
        stack.callback(sleeper.kill)
    table = stack.enter_context(daemon.attach())
    eventually(lambda: _is_followed(table), 20)  # so all recorded events have arrived
    missing = [sleeper.pid for sleeper in sleepers if table.resolve(sleeper.pid, wait_ms=500) is None]
    assert missing, daemon.stat()["lost"]
    return missing


@pytest.fixture(scope="module")
def long_path(live_kernel: None) -> Iterator[str]:
    """A program with a path that is too long for an entry of the kernel's map."""
    directory = Path(tempfile.mkdtemp(prefix="procline-test-"))
    deep = directory.joinpath(*["d" * 60] * 3)
    deep.mkdir(parents=True)
    yield str(shutil.copy(Path("/bin/sleep").resolve(), deep / "sleeper"))
    shutil.rmtree(directory)


def test_a_lost_process_is_found_in_the_kernels_maps(lossy: Daemon) -> None:
    with ExitStack() as stack:
        missing = lose(lossy, "/bin/sleep", stack)
        table = stack.enter_context(lossy.attach())
        before = lossy.stat()["counters"]
        pid = missing[0]
        entry = resolve(table, pid)
        assert entry is not None
        assert (entry.pid, entry.ppid, entry.comm) == (pid, os.getpid(), "sleep")
        assert entry.path == str(Path("/bin/sleep").resolve())
        assert entry.to_dict()["source"] == "map"
        assert (entry.file["mount_source"], entry.file["mount_origin"]) == ("mount_id", "event"), "an exec filled it in"
        assert (entry.file["mount_visible"], entry.file["mount_detached"]) == (True, False)
        mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
        assert [m[4] for m in mounts if int(m[0]) == entry.file["mount_id"]] == [entry.file["mount_path"]]
        # The fork is added too, so the lineage is the same as with the events.
        assert (entry.image_number, entry.is_exec, entry.is_parent_missing) == (2, True, False)
        fork = table.ancestors(pid)[0]
        assert (fork.pid, fork.is_exec, fork.exit_time_ns) == (pid, False, entry.exec_time_ns)
        answer = ask(lossy.directory, pid)
        assert (answer.found, answer.how) == (True, "cache")
        after = eventually(lambda: _counted(lossy, before, "hits_cache"))
        changed = {name: after[name] - before[name] for name in _NAMES if after[name] != before[name]}
        changed.pop("added_procfs", None)  # parents of other processes on this host, lost in the same way
        assert changed == {"requests": 2, "hits_kernel_maps": 1, "hits_cache": 1, "added_kernel_maps": 2}
        done = lossy.cli("resolve", str(missing[-1]), "--ask", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["pid"] == missing[-1]


def test_events_complete_what_the_kernels_maps_showed_before(live_kernel: None) -> None:
    """The shards are frozen when a reader asks, so the fork and the exec of two processes are still in the rings."""
    with (
        Daemon("[repair]\ncheck_interval_s = 0\n", name="early") as daemon,
        daemon.attach() as table,
        ExitStack() as stack,
    ):
        actor = stack.enter_context(Actor())
        eventually(lambda: (entry := table.resolve(actor.pid, wait_ms=1000)) is not None and entry.is_exec)
        shards = daemon.pids("shard")
        for shard in shards:
            os.kill(shard, signal.SIGSTOP)
        try:
            actor.do("if os.fork() == 0: time.sleep(600)")
            child = int(Path(f"/proc/{actor.pid}/task/{actor.pid}/children").read_text())
            stack.callback(os.kill, child, signal.SIGKILL)
            sleeper = subprocess.Popen(["/bin/sleep", "300"])
            stack.callback(sleeper.wait)
            stack.callback(sleeper.kill)
            for pid in (child, sleeper.pid):
                answer = ask(daemon.directory, pid)
                assert (answer.found, answer.how) == (True, "kernel_maps")
        finally:
            for shard in shards:
                os.kill(shard, signal.SIGCONT)
        eventually(lambda: assert_agrees(table, complete=False))
        eventually(lambda: table.resolve(sleeper.pid).argv == ["/bin/sleep", "300"])
        assert sum(table.stats()["lost"].values()) == 0


def test_a_lost_process_with_a_long_path_is_found_in_proc(lossy: Daemon, long_path: str) -> None:
    with ExitStack() as stack:
        missing = lose(lossy, long_path, stack)
        assert lossy.cli("resolve", str(missing[0])).returncode == 1
        done = lossy.cli("resolve", str(missing[0]), "--ask", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["pid"], found["ppid"], found["path"]) == (missing[0], os.getpid(), str(Path(long_path).resolve()))
        assert found["source"] == "procfs_fallback" and found["argv"] == [long_path, "300"]


def test_an_unused_pid_is_not_found_by_a_request(lossy: Daemon) -> None:
    free = unused_pid()
    done = lossy.cli("resolve", str(free), "--ask")
    assert (done.returncode, done.stdout) == (1, "")
    assert lossy.cli("resolve", str(free), "--ask").returncode == 1
    assert lossy.cli("resolve", "1", "--ask", "--at", "5").returncode == 2


def test_a_thread_is_no_process(lossy: Daemon) -> None:
    ready, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (ready.set(), done.wait()))
    thread.start()
    ready.wait()
    try:
        assert ask(lossy.directory, thread.native_id).reason == "absent"
    finally:
        done.set()
        thread.join()
    with lossy.attach() as table:
        assert table.resolve(thread.native_id) is None


def test_a_flood_of_questions_does_not_keep_the_resolver_from_its_work(daemon: Daemon) -> None:
    stop = time.monotonic() + 3
    floods = [_flood(daemon, stop, garbage=number % 2 == 1) for number in range(4)]
    with daemon.attach() as table:
        (resolver,) = daemon.pids("resolver")
        began, cpu = time.monotonic(), _cpu_seconds(resolver)
        waits = []
        while time.monotonic() < stop:
            process = subprocess.Popen(["/bin/sleep", "5"])
            asked = time.monotonic()
            assert table.resolve(process.pid, wait_ms=60_000) is not None
            waits.append(time.monotonic() - asked)
            process.kill()
            process.wait()
            assert ask(daemon.directory, os.getpid(), 60_000).found
        used = (_cpu_seconds(resolver) - cpu) / (time.monotonic() - began)
    for flood in floods:
        flood.join()
    counters = daemon.stat()["counters"]
    assert counters["requests_refused"] > 0
    assert sorted(waits)[len(waits) // 2] < 0.1 * patience(), waits
    assert used < 0.6, f"{used:.0%} of a core"


def test_the_socket_has_its_mode_and_is_gone_at_the_end() -> None:
    daemon = Daemon('[access]\nrequests_mode = "0600"\n', name="closed")
    try:
        daemon.start()
        path = paths.requests_socket(daemon.directory)
        assert path.stat().st_mode & 0o777 == 0o600
        (resolver,) = daemon.pids("resolver")
        os.kill(resolver, signal.SIGKILL)
        eventually(lambda: daemon.pids("resolver") not in ([], [resolver]))
        eventually(lambda: _is_found(daemon, os.getpid()))
        assert daemon.stop() == 0
        assert not path.exists()
    finally:
        daemon.close()


_NAMES = (
    "requests", "requests_refused", "hits_cache", "hits_kernel_maps", "hits_procfs", "miss", "limiter_drop",
    "added_kernel_maps", "added_procfs",
)  # fmt: skip


def _is_found(daemon: Daemon, pid: int) -> bool:
    try:
        return ask(daemon.directory, pid).found
    except StaleError:
        return False


def _is_followed(table: ProcessTable) -> bool:
    """Whether a new process is in the table; the events of the first ones can be lost in a full ring."""
    with subprocess.Popen(["/bin/sleep", "5"]) as marker:
        try:
            return table.resolve(marker.pid, wait_ms=60_000) is not None
        finally:
            marker.kill()


def _counted(daemon: Daemon, before: dict[str, int], name: str) -> dict[str, int]:
    after: dict[str, int] = daemon.stat()["counters"]
    assert after[name] > before[name]
    return after


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _flood(daemon: Daemon, stop: float, garbage: bool) -> threading.Thread:
    def run() -> None:
        number = 0
        while time.monotonic() < stop:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                try:
                    client.settimeout(1)
                    client.connect(str(paths.requests_socket(daemon.directory)))
                    while time.monotonic() < stop:
                        number += 1
                        client.send(b"\xc1" * 40 if garbage else encode_request(1 + number % 30_000))
                except OSError:
                    continue  # dropped, because it does not read its answers

    thread = threading.Thread(target=run)
    thread.start()
    return thread
