"""Shards on the kernel's own rings: the events of 23 children arrive exactly, idle shards wake, space is released."""

from __future__ import annotations

import mmap
import os
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.bpf.maps import cpu_states
from pipeline.bus.frames.frame import Frame
from pipeline.host import boot
from pipeline.records import declared
from pipeline.sources.ring._ring import PAGE_BYTES, Ring, ring_data_bytes
from tests.sources.hand_control import CAPTURE_ID
from tests.sources.stage import KILL, TERM, Stage
from tests.waiting import until

pytestmark = pytest.mark.live

CHILDREN = 23
#: Room for the records of other tests on the host: their storms continue while a shard is started again.
RING_BYTES = 32 << 20


@pytest.fixture
def capture(live_kernel: None) -> Iterator[object]:
    from pipeline.bpf.loader import Capture

    with Capture(ring_bytes=RING_BYTES) as running:
        yield running


@pytest.fixture
def stage(capture: object) -> Iterator[Stage]:
    made = Stage(
        capture.fds.rings, shared_fd=capture.fds.shared, ring_count=capture.ring_count, capture_id=CAPTURE_ID,
        boot_id=boot.boot_id(),
    )  # fmt: skip
    yield made
    made.close()


def _fork(count: int) -> list[int]:
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            if number % 2:
                os.execv("/bin/true", ["true", str(number)])
            os._exit(number)
        os.waitpid(pid, 0)
        pids.append(pid)
    return pids


def _images(frame: Frame) -> list[tuple[int, bytes]]:
    """(tgid, last part of the path) of the exec records that have a body."""
    found = []
    at = 0
    bodies = iter(frame.exec)
    for header in frame.header:
        if header["kind"] == declared.KIND_EXEC and not header["flags"] & declared.FLAG_HEAD_ONLY:
            path = bytes(frame.blob[at : at + int(next(bodies)["path_bytes"])])
            found.append((int(header["tgid"]), path.rpartition(b"/")[2]))
        at += int(header["var_bytes"])
    return found


class Collected:
    """Records of this process's children, by kind and pid, with everything received applied at once."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.received = dict.fromkeys(stage.description.fds.rings, 0)
        self.frames: list[Frame] = []
        self.exits: Counter[int] = Counter()

    def poll(self, timeout_ms: int = 5) -> bool:
        frames = self.stage.receive(timeout_ms)
        for frame in frames:
            assert frame.from_pos <= self.received[frame.ring]
            part = frame.since(self.received[frame.ring])
            self.received[frame.ring] = max(self.received[frame.ring], frame.to_pos)
            self.frames.append(part)
            self.exits.update(part.header["tgid"][self._mine(part, declared.KIND_EXIT)].tolist())
            if self.stage.control is not None:
                self.stage.control.acks["applied_pos"][frame.ring] = self.received[frame.ring]
        return bool(frames)

    def of(self, pids: list[int], kind: int) -> Counter[int]:
        """Count how often each of these pids occurs in records of a kind."""
        found: Counter[int] = Counter()
        for frame in self.frames:
            found.update(frame.header["tgid"][self._mine(frame, kind) & np.isin(frame.header["tgid"], pids)].tolist())
        return found

    @staticmethod
    def _mine(frame: Frame, kind: int) -> np.ndarray:
        """Return a mask of the records of this process's children: other tests can use the same pids again."""
        return (frame.header["kind"] == kind) & (frame.header["ppid"] == os.getpid())

    def wait_for(self, pids: list[int]) -> None:
        def is_there() -> bool:
            # On a busy host the records of others are most of what arrives.
            for _ in range(1000):
                if not self.poll(0):
                    break
            return not Counter(pids) - self.exits

        until(is_there, lambda: (Counter(pids) - self.exits, self.received, self.stage.log.read_text()))
        # Other rings may lag behind the ring with the last exit.
        deadline = time.monotonic() + 2
        while self.poll(100) and time.monotonic() < deadline:
            pass


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_every_act_of_known_children_arrives_once(stage: Stage) -> None:
    stage.start()
    collected = Collected(stage)
    pids = _fork(CHILDREN)
    collected.wait_for(pids)
    assert collected.of(pids, declared.KIND_FORK) == collected.of(pids, declared.KIND_EXIT) == Counter(pids)
    assert collected.of(pids, declared.KIND_EXEC) == Counter(pids[1::2])
    names = [name for frame in collected.frames for pid, name in _images(frame) if pid in pids]
    assert names == [b"true"] * (CHILDREN // 2)
    assert all(frame.boot_id == boot.boot_id() and frame.malformed == 0 for frame in collected.frames)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_killed_shard_is_replaced_without_loss_or_repetition(stage: Stage) -> None:
    stage.start()
    collected = Collected(stage)
    pids: list[int] = []
    for _ in range(5):
        pids += _fork(CHILDREN)
        stage.end(KILL)
        pids += _fork(CHILDREN)
        stage.start()
    collected.wait_for(pids)
    assert collected.of(pids, declared.KIND_FORK) == collected.of(pids, declared.KIND_EXIT) == Counter(pids)


@pytest.mark.alone
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_idle_shard_sleeps_and_the_next_record_wakes_it(stage: Stage, capture: object) -> None:
    """Without the wake-up, a shard that was observed to fall asleep would read again only after a second."""
    states = cpu_states(capture.fds.shared)
    stage.start()
    collected = Collected(stage)
    collected.wait_for(_fork(1))

    def is_asleep() -> bool:
        collected.poll()
        return all(states["sleeping"][ring] for ring in capture.fds.rings)

    latencies_ms = []
    for _ in range(11):
        until(is_asleep)
        time.sleep(0.02)
        (pid,) = _fork(1)
        start = time.monotonic()
        until(lambda pid=pid: (collected.poll(), collected.of([pid], declared.KIND_EXIT).total())[1] == 1)
        latencies_ms.append((time.monotonic() - start) * 1000)
    assert sorted(latencies_ms)[5] < 500, latencies_ms


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_space_comes_back_and_stop_drains(stage: Stage, capture: object) -> None:
    stage.start()
    collected = Collected(stage)
    collected.wait_for(_fork(CHILDREN))

    def is_given_back() -> bool:
        collected.poll()
        for number, fd in capture.fds.rings.items():
            with Ring(fd, number=number) as ring:
                if ring.consumer_pos != collected.received[number] or ring.consumer_pos == 0:
                    return False
        return True

    until(is_given_back)
    assert stage.process is not None
    stage.process.send_signal(TERM)

    def has_ended() -> bool:
        collected.poll()
        return stage.process is not None and stage.process.poll() is not None

    until(has_ended)
    assert stage.process.returncode == 0
    assert stage.log.read_text() == ""


def test_the_kernel_refuses_a_writable_mapping_of_the_data(capture: object) -> None:
    fd = next(iter(capture.fds.rings.values()))
    assert ring_data_bytes(fd) == RING_BYTES
    with pytest.raises(PermissionError):
        mmap.mmap(fd, PAGE_BYTES, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=PAGE_BYTES)
    with Ring(fd, number=0) as ring:
        assert ring.data_bytes == RING_BYTES and ring.consumer_pos <= ring.producer_pos
