"""kill -9 of shards, resolver and supervisor during a storm: nothing is lost, nothing is applied twice.

Where the kernel skips runs of programs that are preempted, what it skipped is lost, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline import paths
from pipeline.bus.frames.encode import FrameEncoder
from pipeline.bus.sockets import Bus
from pipeline.host import processes
from pipeline.host.boot import boot_id
from pipeline.load.measuring import kernel_forks
from pipeline.shm.layout import layout
from tests.linux import SKIPPED_KINDS, lost_kinds
from tests.live.agreement import assert_agrees
from tests.live.harness import EMULATION_FACTOR, Daemon, Recorder
from tests.live.storms import Storm, Watcher, images_of, is_found
from tests.waiting import eventually

pytestmark = pytest.mark.live

#: Until what was lost is counted. The kernel's counts of skipped runs are read every four seconds.
COUNTED_S = 6 if SKIPPED_KINDS else 1


def kill_in_a_storm(workload: Path, roles: list[str]) -> None:
    rng = random.Random(20260)
    with Daemon() as daemon, subprocess.Popen(["sleep", "600"]) as sleeper:
        try:
            with daemon.attach() as table:
                assert table.resolve(sleeper.pid, wait_ms=60_000) is not None
                time.sleep(0.5)
                watcher = Watcher(daemon.attach(), sleeper.pid)
                watcher.start()
                with Storm(workload) as storm:
                    for role in roles:
                        time.sleep(rng.uniform(0.1, 0.5))
                        victim = eventually(lambda role=role: daemon.pids(role)[0])
                        os.kill(victim, signal.SIGKILL)
                        _assert_right_within_2s(table, sleeper.pid, workload)
                # Every process of the storm, and the workloads themselves, is counted once.
                made = storm.made
                runs = len(storm.parents)
                assert runs > 0
                time.sleep(COUNTED_S)
                lost = Counter(table.stats()["lost"])
                assert lost_kinds(lost) <= SKIPPED_KINDS, lost
                watcher.stop = True
                watcher.join()
                assert not watcher.wrong, Counter(watcher.wrong)
                assert watcher.slowest_s < 2, f"a read took {watcher.slowest_s} s"
                assert watcher.answers["right"] > 100
                identities = images_of(daemon.directory, storm.parents)
                assert 0 <= made["fork"] + made["exec"] - identities["fork"] <= lost["fork"]
                assert 0 <= made["exec"] - identities["exec"] <= lost["exec"]
                assert identities["alive"] <= lost["exit"]
                eventually(lambda: assert_agrees(table, complete=False, elsewhere=False))
        finally:
            sleeper.kill()


def _assert_right_within_2s(table, pid: int, workload: Path) -> None:
    """2 s after a kill a new process is found, and the tables are not stale."""
    child = subprocess.Popen([str(workload), "sleep", "3000"])
    try:
        eventually(
            lambda: is_found(table, child.pid) and table.resolve(pid) is not None, limit_s=2.0 * EMULATION_FACTOR
        )
    finally:
        child.kill()
        child.wait()


@pytest.mark.alone
@pytest.mark.tolerant
def test_20_kills_of_shards(live_kernel: None, workload: Path) -> None:
    kill_in_a_storm(workload, ["shard"] * 20)


@pytest.mark.alone
@pytest.mark.tolerant
def test_5_kills_of_the_resolver(live_kernel: None, workload: Path) -> None:
    kill_in_a_storm(workload, ["resolver"] * 5)


@pytest.mark.alone
@pytest.mark.tolerant
def test_subscribers_lose_nothing_that_they_do_not_know_of(live_kernel: None, workload: Path) -> None:
    """Across a kill of the resolver each number arrives once, and each missing number is reported."""
    with Daemon() as daemon, Recorder(daemon, "proc.fork", "proc.exit").started() as recorder:
        with Storm(workload):
            time.sleep(0.5)
            os.kill(daemon.pids("resolver")[0], signal.SIGKILL)
            time.sleep(2)
        time.sleep(1)
        events = recorder.stop()
    for topic, kind in (("proc.fork", "fork"), ("proc.exit", "exit")):
        numbers = [e["seq"] for e in events if e["event"] == kind]
        missed = [
            n
            for e in events
            if e["event"] == "missed" and e["topic"] == topic
            for n in range(e["first"], e["last"] + 1)
        ]
        assert len(numbers) == len(set(numbers))
        assert sorted(numbers + missed) == list(range(min(numbers), max(numbers) + 1))


def test_kill_of_the_supervisor_ends_all_and_a_new_run_starts_cleanly(live_kernel: None, workload: Path) -> None:
    with Daemon() as daemon:
        pids = [p["pid"] for p in daemon.stat()["processes"]]
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()

        def all_gone() -> bool:
            return not any(Path(f"/proc/{pid}").exists() and _is_procline(pid) for pid in pids)

        eventually(all_gone)
        done = daemon.cli("resolve", "1")
        assert done.returncode == 3, done
        daemon.start()
        assert daemon.cli("resolve", "1").returncode == 0
        assert daemon.stop() == 0
        assert not daemon.directory.exists()


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
def test_a_resolver_that_was_killed_during_the_start_has_a_successor_that_knows_all_processes(
    live_kernel: None, after_s: float
) -> None:
    """Whatever the first one had entered, the tables are complete as soon as they are ready."""
    with contextlib.ExitStack() as stack:
        sleepers = [stack.enter_context(subprocess.Popen(["sleep", "600"])) for _ in range(20)]
        stack.callback(lambda: [each.kill() for each in sleepers])
        daemon = Daemon()
        stack.callback(daemon.close)
        daemon.start(wait=False)
        resolvers = eventually(lambda: _listed(daemon, "resolver"), limit_s=30)
        eventually(lambda: (daemon.directory / "control").exists(), limit_s=30)
        time.sleep(after_s)
        os.kill(resolvers[0], signal.SIGKILL)
        done = daemon.cli("wait", "--timeout", "60")
        assert done.returncode == 0, done.stderr
        with daemon.attach() as table:
            assert [each.pid for each in sleepers if table.resolve(each.pid) is None] == []
            assert table.stats()["takeovers"] <= 1


def _listed(daemon: Daemon, role: str) -> list[int]:
    return [each.pid for each in processes.listed(daemon.directory) if each.role.startswith(role) and each.is_live]


def _is_procline(pid: int) -> bool:
    try:
        return b"pipeline" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize("is_other", [True, False])
def test_frames_of_another_capture_are_rejected(live_kernel: None, workload: Path, is_other: bool) -> None:
    """A shard of a killed instance can still send frames, and the next instance receives them.

    The positions in them are those of other rings. The second case shows what would happen if they were applied.
    """
    far = 1 << 40  # a position that these rings do not reach
    with Daemon() as daemon, daemon.attach() as table:
        control = np.memmap(daemon.directory / "control", np.uint8, "r")
        header = control[: layout.CONTROL.itemsize].view(layout.CONTROL)[0]
        rings, begin = int(header["ring_count"]), int(header["ring_offset"])
        acks = control[begin : begin + rings * layout.RING_ACK.itemsize].view(layout.RING_ACK)
        encoder = FrameEncoder(boot_id=boot_id(), source="ebpf", capture_id=int(header["capture_id"]) ^ is_other)
        with Bus() as bus:
            orphan = bus.push(paths.frames_socket(daemon.directory))
            for ring in range(rings):
                orphan.send(encoder.encode(ring=ring, seq=0, from_pos=0, to_pos=far, count=0, lost={}))
            if not is_other:
                eventually(lambda: (acks["received_pos"] == far).all())
                daemon.kill()  # an orderly end would wait for records up to these positions
                return
            eventually(lambda: table.stats()["counters"]["frames_refused"] == rings)
        with subprocess.Popen([str(workload), "sleep", "60000"]) as child:
            try:
                eventually(lambda: is_found(table, child.pid))
            finally:
                child.kill()
        assert (acks["received_pos"] < far).all()
        assert "a frame of another capture" in daemon.log.read_text()


@pytest.mark.alone
def test_a_loss_is_counted_once_across_a_kill_of_the_resolver(live_kernel: None, workload: Path) -> None:
    """Seen plus lost events never exceed those of the kernel, however often the resolver is replaced."""
    made_before = kernel_forks()
    with Daemon("[capture]\nring_bytes = 4096\n") as daemon, daemon.attach() as table:
        for takeovers in (1, 2):
            subprocess.run([str(workload), "storm", "3000", "500"], stdout=subprocess.DEVNULL, check=True)
            os.kill(daemon.pids("resolver")[0], signal.SIGKILL)

            def is_back(takeovers: int = takeovers) -> bool:
                stats = table.stats()
                return stats["takeovers"] == takeovers and stats["state"] == "ready"

            eventually(is_back)
        time.sleep(0.5)
        stats = table.stats()
        made = kernel_forks() - made_before
        assert stats["lost"]["fork"] > 1000, "a ring of one page lost next to nothing: this test showed nothing"
        assert stats["events"]["fork"] + stats["lost"]["fork"] <= made
