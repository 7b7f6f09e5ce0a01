"""Frames of a tracer in a container, and the resolver that they feed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hand_records import BOOT_ID

from pipeline import events
from pipeline.boot import TICK_NS
from pipeline.bus.frames import Frame, decode_frame
from pipeline.resolver.ebpfless import EBPFLessResolver
from pipeline.resolver.model import CacheResolverKey, Source
from pipeline.resolver.procinfo import ProcInfo
from pipeline.resolver.tracer_frames import FrameFeed
from pipeline.sources import proc_records
from pipeline.sources.proc_records import About
from pipeline.sources.tracer import FrameSender

EXAMPLE = Path(__file__).parents[2] / "examples" / "tracer.py"
BOOT_UNIX_NS = 1_700_000_000_000_000_000


def info(pid: int, ppid: int, nsid: int, argv: bytes = b"a\0-v\0", uid: int = 0) -> ProcInfo:
    return ProcInfo(
        tgid=pid, ppid=ppid, start_ticks=1, start_boot_ns=TICK_NS, comm=b"a", state="S", task_flags=0, thread_count=1,
        pgid=pid, sid=pid, tty=b"pts1", uids=(uid, uid, uid, uid), gids=(0, 0, 0, 0), exe=b"/bin/a", argv=argv,
        exe_inode=9, pid_ns=nsid, mnt_ns=1, ns_pids=(pid,),
    )  # fmt: skip


def about(pid: int, time_ns: int, ppid: int = 0) -> About:
    return About(time_ns, pid, pid, TICK_NS, ppid=ppid)


class Bench:
    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.sender = FrameSender(
            lambda message: self.frames.append(decode_frame(message)), boot_id=BOOT_ID, name="hand", ring=3
        )
        self.resolver = EBPFLessResolver()
        self.feed = FrameFeed(self.resolver, boot_unix_ns=BOOT_UNIX_NS, container_id="c")

    def send(self, *records: bytes) -> int:
        self.sender.send(records)
        return self.feed.apply(self.frames[-1])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_frames_are_those_of_every_source(bench: Bench) -> None:
    bench.send(proc_records.fork(about(7, 100, 1), info(7, 1, 50)), proc_records.exec_(about(7, 200), info(7, 1, 50)))
    bench.sender.send([proc_records.unknown(about(7, 250), events.KIND_EXEC)], watermark_boot_ns=240, lost=2)
    first, second = bench.frames
    assert (first.source, first.ring, first.count, first.frame_seq) == ("hand", 3, 2, 0)
    assert second.from_pos == first.to_pos and second.frame_seq == 1
    assert second.watermark_boot_ns == 240 and second.lost == {"unknown": 2}


def test_a_life_in_a_container(bench: Bench) -> None:
    key = CacheResolverKey(7, 50)
    begun = proc_records.exec_(about(1, TICK_NS), info(1, 0, 50, uid=1000))
    assert bench.send(begun) == 1
    init = bench.resolver.resolve(CacheResolverKey(1, 50))
    assert init is not None and init.source is Source.PROCFS_SNAPSHOT and init.credentials.uid == 1000

    bench.send(proc_records.fork(about(7, 2 * TICK_NS, 1), info(7, 1, 50)))
    child = bench.resolver.resolve(key)
    assert child is not None and child.ancestor is init and child.fork_time == BOOT_UNIX_NS + 2 * TICK_NS

    bench.send(proc_records.exec_(about(7, 3 * TICK_NS), info(7, 1, 50, b"b\0secret\0")))
    image = bench.resolver.resolve(key)
    assert image is not None and image.ancestor is child and image.is_exec
    assert image.args_entry is not None and list(image.args_entry.values) == ["b", "secret"]
    assert image.file_event.pathname == "/bin/a" and image.tty_name == "pts1"
    assert image.container.container_id == "c"

    bench.send(proc_records.exit_(about(7, 4 * TICK_NS), 0, info(7, 1, 50)))
    assert bench.resolver.resolve(key) is None
    assert image.exit_time == BOOT_UNIX_NS + 4 * TICK_NS


def test_one_pid_in_two_namespaces_is_two_processes(bench: Bench) -> None:
    bench.send(proc_records.exec_(about(1, 5), info(1, 0, 50, b"x\0")), proc_records.exec_(about(1, 5), info(1, 0, 51)))
    one, other = (bench.resolver.resolve(CacheResolverKey(1, nsid)) for nsid in (50, 51))
    assert one is not None and other is not None and one is not other
    assert (one.comm, other.comm) == ("x", "a")


def test_a_change_of_users_changes_the_entry(bench: Bench) -> None:
    bench.send(proc_records.exec_(about(7, 5), info(7, 1, 50)))
    groups = proc_records.told_by(info(7, 1, 50, uid=33))
    bench.send(proc_records.change(about(7, 6), events.KIND_CRED, info(7, 1, 50, uid=33), groups))
    entry = bench.resolver.resolve(CacheResolverKey(7, 50))
    assert entry is not None and (entry.credentials.uid, entry.credentials.euid) == (33, 33)


def test_without_a_namespace_nothing_is_applied(bench: Bench) -> None:
    assert bench.send(proc_records.fork(about(7, 5, 1)), proc_records.comm(about(7, 6), b"x")) == 0
    assert bench.feed.skipped_total == 2 and len(bench.resolver) == 0


def test_the_example_sends_and_listens(tmp_path: Path) -> None:
    socket = tmp_path / "tracer.ipc"
    environment = dict(os.environ, PYTHONPATH=str(EXAMPLE.parents[1]))
    with subprocess.Popen(
        [sys.executable, str(EXAMPLE), "listen", str(socket), "8"], env=environment, stdout=subprocess.PIPE, text=True
    ) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        done = subprocess.run(
            [sys.executable, str(EXAMPLE), "run", str(socket), "--", "sh", "-c", "sleep 0.5; exit 3"],
            env=environment, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 3
        said = listener.communicate(timeout=30)[0]
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    told = [line for line in said.splitlines() if line.startswith("example-tracer:")]
    assert [line.split()[1] for line in told] == ["exec", "fork", "exec", "exit"]
    assert all(line.endswith(f"in namespace {namespace}") for line in told)
    assert "sh, child of" in said
