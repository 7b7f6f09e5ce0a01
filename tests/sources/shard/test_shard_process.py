"""The shard as a process: killed, stopped, orphaned, and with a producer process that does not wait for it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from pipeline.bus.frames.frame import Frame
from pipeline.config.schema import Config, Supervision
from pipeline.records import declared
from pipeline.records.capture_fds import CaptureFds
from pipeline.sources.ring._ring import PAGE_BYTES
from pipeline.sources.ring.handring import RingWriter, make_ring_file
from pipeline.sources.shard.process import map_cpu_states, open_rings
from tests.sampling import times
from tests.sources import storm_writer
from tests.sources.hand_control import RINGS
from tests.sources.hand_records import SPAN, record, records_in
from tests.sources.stage import DEADLINE_S, KILL, TERM, Stage, make_states_file
from tests.waiting import until

RING_BYTES = 16 * PAGE_BYTES


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Two rings of 64 KiB. The time to end is short, so that records that are not applied do not delay the tests."""
    rings = {number: make_ring_file(RING_BYTES) for number in range(2)}
    shared_fd = make_states_file(RINGS)
    made = Stage(
        rings, shared_fd=shared_fd, ring_count=RINGS, config=Config(supervision=Supervision(stop_timeout_s=1.0))
    )
    yield made
    made.close()
    for fd in (*rings.values(), shared_fd):
        os.close(fd)


def test_a_ring_has_the_cpus_of_the_machine() -> None:
    """The map has room for thousands of CPUs, and a shard reads the counters of a ring's CPUs in each cycle."""
    ring_fd, states_fd = make_ring_file(RING_BYTES), make_states_file(3, room=4096)
    states = map_cpu_states(states_fd)
    fds = CaptureFds(rings={0: ring_fd, 2: ring_fd}, shared=states_fd)
    for source, expected in (("ebpf", [(0,), (2,)]), ("proc_connector", [tuple(range(4096)), ()])):
        rings = open_rings(fds, states, source, 3, {})
        assert [ring.cpus for ring in rings] == expected
        for ring in rings:
            ring.close()
    states.release()
    os.close(ring_fd)
    os.close(states_fd)


def _enough(count: int) -> object:
    return lambda frames: sum(frame.count for frame in frames) >= count


def _with_records(frames: list[Frame]) -> list[Frame]:
    """A message also has empty frames, of the rings that were read in vain."""
    return [frame for frame in frames if frame.count]


def test_records_arrive_and_space_is_released(stage: Stage) -> None:
    with RingWriter(stage.description.fds.rings[1]) as writer:
        one = record(declared.KIND_EXEC, 1, strings=(b"/bin/true", b"true", b"true\0", b""))
        writer.write(one)
        stage.start()
        (frame,) = _with_records(stage.frames_until(_enough(1)))
        assert (frame.ring, frame.from_pos, frame.source, records_in(frame)) == (1, 0, "ebpf", [one])
        assert writer.consumer_pos == 0
        assert stage.control is not None
        stage.control.answer(1, applied=frame.to_pos, wanted=0, rewind=0)
        until(lambda: writer.consumer_pos == frame.to_pos)


def test_stop_hands_over_everything_and_waits_until_it_is_applied(stage: Stage) -> None:
    stage.start()
    assert stage.process is not None and stage.control is not None
    with RingWriter(stage.description.fds.rings[0]) as writer:
        writer.write(record(declared.KIND_FORK, 0))
        stage.frames_until(_enough(1))
        for number in range(1, 100):
            writer.write(record(declared.KIND_FORK, number))
        stage.process.send_signal(TERM)
        frames = _with_records(stage.frames_until(_enough(99)))
        with pytest.raises(subprocess.TimeoutExpired):
            stage.process.wait(0.2)
        stage.control.answer(0, applied=frames[-1].to_pos, wanted=0, rewind=0)
        assert stage.process.wait(DEADLINE_S) == 0
        assert writer.consumer_pos == writer.producer_pos
    assert stage.log.read_text() == ""


def test_a_stop_does_not_wait_for_ever_and_logs_the_rest(stage: Stage) -> None:
    stage.start()
    with RingWriter(stage.description.fds.rings[0]) as writer:
        writer.write(record(declared.KIND_FORK, 0))
        stage.frames_until(_enough(1))
        start = time.monotonic()
        assert stage.end(TERM) == 0
        assert time.monotonic() - start < 5
        assert writer.consumer_pos == 0
    line = json.loads(stage.log.read_text())
    assert line["event"] == "stopped before every record was applied; the next process reads the rest"
    assert line["unapplied_bytes"] == SPAN
    assert line["role"] == "shard-0" and line["level"] == "warning"


def test_orphaned_shard_ends_by_itself(stage: Stage) -> None:
    """The parent is killed; the shard also ends if the parent was gone before the shard could notice.

    No resolver applies its records any more. It does not wait for that as long as it would wait for a living resolver.
    """
    config = Config(supervision=Supervision(stop_timeout_s=3600.0))
    stage.description = msgspec.structs.replace(stage.description, config=config)
    fd = stage.description.to_memfd()
    keep = (fd, *stage.description.descriptors())
    code = f"""
import json, os, subprocess, sys
spec = json.loads(os.pread({fd}, 1 << 20, 0))
spec["supervisor_tgid"] = os.getpid()
inner = os.memfd_create("spec")
os.write(inner, json.dumps(spec).encode())
child = subprocess.Popen([sys.executable, "-m", "pipeline.sources.shard.main", "--description-fd", str(inner)],
                         pass_fds=(inner, *{keep!r}))
print(child.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=keep, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        os.close(fd)
        assert parent.stdout is not None
        shard = int(parent.stdout.readline())
        with RingWriter(stage.description.fds.rings[0]) as writer:
            writer.write(record(declared.KIND_FORK, 0))
        stage.frames_until(_enough(1))
        parent.kill()
        parent.wait(DEADLINE_S)
        until(lambda: _is_gone(shard))
    stage.description = msgspec.structs.replace(stage.description, supervisor_tgid=1 << 22)
    assert stage.start().wait(DEADLINE_S) == 2
    assert "supervisor has ended" in stage.log.read_text()


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_shard_has_no_privileges_and_leaves_no_core(stage: Stage) -> None:
    process = stage.start()
    with RingWriter(stage.description.fds.rings[0]) as writer:
        writer.write(record(declared.KIND_FORK, 0))
    stage.frames_until(_enough(1))
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        status = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines() if ":\t" in line)
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory maps of a worker, which is not dumpable")
def test_shard_is_small(stage: Stage) -> None:
    """It loads neither numpy nor msgspec, nor the TLS library."""
    process = stage.start()
    with RingWriter(stage.description.fds.rings[0]) as writer:
        writer.write(record(declared.KIND_FORK, 0))
    stage.frames_until(_enough(1))
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "_drain" in maps
    for name in ("numpy", "msgspec", "pylibbpf", "llvmlite", "libcrypto"):
        assert name not in maps
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    pss_kb = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    assert pss_kb < 24_000


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "started by `procline run`"),
        (["--description-fd", "x"], "started by `procline run`"),
        (["--description-fd", "999"], "no worker description"),
    ],
)
def test_start_by_hand_ends_with_one_clear_line(arguments: list[str], reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.sources.shard.main", *arguments],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and reason in done.stderr and len(done.stderr.splitlines()) == 1


def test_description_of_another_version_is_named(stage: Stage) -> None:
    fd = os.memfd_create("spec")
    os.write(fd, b'{"role": "shard-0"}')
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.sources.shard.main", "--description-fd", str(fd)],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False, pass_fds=(fd,),
    )  # fmt: skip
    os.close(fd)
    assert done.returncode == 2 and "has no 'config'" in done.stderr


class Ledger:
    """The records received from each ring; checks that no record is torn, out of order, or repeated."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.received = dict.fromkeys(stage.description.fds.rings, 0)
        self.numbers: dict[int, list[np.ndarray]] = {ring: [] for ring in stage.description.fds.rings}
        self.rewinds = 0

    def total(self) -> int:
        return sum(len(part) for parts in self.numbers.values() for part in parts)

    def take(self, frame: Frame) -> None:
        ring = frame.ring
        if frame.from_pos > self.received[ring]:
            self.rewind(ring, self.received[ring])
            return
        if frame.to_pos <= self.received[ring]:
            return
        part = frame.since(self.received[ring])
        _check_whole(part)
        self.numbers[ring].append(part.header["ring_seq"].copy())
        self.received[ring] = frame.to_pos

    def rewind(self, ring: int, position: int) -> None:
        assert self.stage.control is not None
        self.rewinds += 1
        acks = self.stage.control.acks
        acks["wanted_pos"][ring] = position
        acks["rewind_seq"][ring] = self.rewinds

    def apply(self) -> None:
        assert self.stage.control is not None
        for ring, position in self.received.items():
            self.stage.control.acks["applied_pos"][ring] = position

    def restart(self) -> None:
        """Start a new receiver: received records are kept (all are applied at once here), pending frames are lost."""
        self.stage.restart_receiver()
        for ring, position in self.received.items():
            self.rewind(ring, position)


def _check_whole(frame: Frame) -> None:
    numbers = frame.header["ring_seq"].astype(np.uint64)
    fill = numbers * np.uint64(storm_writer.FACTOR)
    assert (frame.header["time_boot_ns"] == numbers).all()
    assert (frame.task.view(np.uint64).reshape(-1, storm_writer.TASK_WORDS) == fill[:, None]).all()
    for kind, bodies in ((declared.KIND_FORK, frame.fork), (declared.KIND_EXIT, frame.exit)):
        assert (bodies.view(np.uint64).reshape(-1, 4) == fill[frame.header["kind"] == kind][:, None]).all()
    words = frame.header["var_bytes"] // 8
    assert (words == numbers * np.uint64(7) % np.uint64(29)).all()
    assert (np.frombuffer(frame.blob, np.uint64) == np.repeat(fill, words)).all()


@pytest.mark.expensive
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_storm_arrives_once_and_whole_through_kills_of_both_ends(stage: Stage, request: pytest.FixtureRequest) -> None:
    """A producer for each ring writes without a pause while the shard and the receiver are killed.

    The shard is killed 12 times at random moments, the receiver 4 times with its pending frames (once each in a quick
    run). Every record arrives once, in order, whole; every kill finds records on their way.
    """
    count, kill_count, restart_count = times(30_000, 2000), times(12, 1), times(4, 1)
    chance = random.Random(11)
    stage.start()
    writers = [
        subprocess.Popen(
            [sys.executable, storm_writer.__file__, str(fd), "0", str(count), str(ring)], pass_fds=(fd,)
        )
        for ring, fd in stage.description.fds.rings.items()
    ]  # fmt: skip
    for writer in writers:
        request.addfinalizer(writer.kill)  # they wait for room without a limit
    ledger = Ledger(stage)
    kills = sorted(chance.randrange(1000, 2 * count - 1000) for _ in range(kill_count))
    restarts = sorted(chance.randrange(1000, 2 * count - 1000) for _ in range(restart_count))
    killed_under_way = 0
    deadline = time.monotonic() + 90
    while ledger.total() < 2 * count:
        assert time.monotonic() < deadline, (ledger.total(), stage.log.read_text())
        for frame in stage.receive(2):
            ledger.take(frame)
        if kills and ledger.total() >= kills[0]:
            kills.pop(0)
            killed_under_way += stage.pull.poll(0) > 0 or any(writer.poll() is None for writer in writers)
            stage.end(KILL)
            stage.start()
        if restarts and ledger.total() >= restarts[0]:
            restarts.pop(0)
            ledger.restart()
        ledger.apply()
    assert [writer.wait(DEADLINE_S) for writer in writers] == [0, 0]
    for parts in ledger.numbers.values():
        found = np.concatenate(parts)
        # Busy records were filled late, but lie in the ring in the order of reservation, that is of their numbers.
        assert (found == np.arange(count, dtype=np.uint64)).all()
    ends = {ring: RingWriter(fd) for ring, fd in stage.description.fds.rings.items()}
    until(lambda: all(end.consumer_pos == end.producer_pos for end in ends.values()))
    for end in ends.values():
        end.close()
    assert stage.end(TERM) == 0
    assert killed_under_way == kill_count and not kills and not restarts
    assert stage.log.read_text() == ""
