"""Calls that BPF programs queued: as context events, with their process, their target and what was dropped."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.bpf import declared, libbpf, syscall
from pipeline.bus import context_events
from pipeline.resolver.agents import recorded_calls
from pipeline.resolver.agents.context_loop import ContextLoop
from pipeline.resolver.agents.recorded_calls import RecordedCalls, event_of
from tests.resolver.agents.scene import Scene
from tests.resolver.story import BOOT_ID

QUEUE, ARRAY = 22, 2


def call(
    kind: int, tgid: int, *, start: int = 0, target: int = 0, number: int = 0, target_start: int = 0, **limits: int
) -> bytes:
    made = struct.pack(
        "<QQQQIIIII4xQ", 5, start, limits.get("soft", 0), limits.get("hard", 0), tgid, tgid, kind, target, number,
        target_start,
    )  # fmt: skip
    assert len(made) == declared.CALL_LAYOUT.size
    return made


class Queue:
    """Stands for the kernel's queue."""

    def __init__(self, scene: Scene) -> None:
        self.calls: list[bytes] = []
        self.dropped = 0
        self.scene = scene
        self.part = RecordedCalls(
            scene.w.tables, scene.loop, lambda: self.calls.pop(0) if self.calls else None, lambda: self.dropped
        )

    def run(self) -> list[Any]:
        before = len(self.scene.stream.seen)
        now = self.scene.w.clock()
        self.part.do_work(now)
        self.scene.loop.do_work(now + 1)
        return self.scene.stream.seen[before:]


@pytest.fixture
def queue(s: Scene) -> Queue:
    return Queue(s)


def test_each_call_is_an_event_of_its_kind() -> None:
    attach = event_of(call(declared.CALL_PTRACE, 3, target=4, number=16, target_start=8))
    assert (attach.kind, attach.body) == (context_events.PTRACE, {"target": 4, "request": 16})
    limit = event_of(call(declared.CALL_SETRLIMIT, 3, target=4, number=7, soft=1, hard=(1 << 64) - 1, target_start=8))
    assert (limit.kind, limit.body) == (
        context_events.SETRLIMIT, {"target": 4, "resource": 7, "soft": 1, "hard": (1 << 64) - 1},
    )  # fmt: skip
    assert attach.target_start_boot_ns == limit.target_start_boot_ns == 8
    seal = event_of(call(declared.CALL_MEMFD_SEAL, 3, start=9, number=12))
    assert (seal.kind, seal.pid, seal.start_boot_ns, seal.time_boot_ns) == ("tracer_memfd_seal", 3, 9, 5)
    assert seal.body == {"fd": 12} and seal.target_start_boot_ns == 0


def test_what_is_dropped_is_counted_once(queue: Queue) -> None:
    for queue.dropped in (0, 3, 3, 5):
        queue.part.count_dropped()
    assert queue.scene.w.tables.counter("calls_unrecorded") == 5


def test_what_is_dropped_while_no_resolver_runs_is_counted_by_the_next_one(queue: Queue) -> None:
    queue.dropped = 5
    queue.part.count_dropped()
    queue.dropped = 105
    successor = Queue(queue.scene)
    successor.dropped = queue.dropped
    successor.part.count_dropped()
    assert queue.scene.w.tables.counter("calls_unrecorded") == 105
    successor.dropped = 2
    successor.part.count_dropped()
    assert queue.scene.w.tables.counter("calls_unrecorded") == 2, "the total of another capture"


def test_calls_that_a_killed_resolver_had_taken_are_counted_by_the_next_one(queue: Queue) -> None:
    s = queue.scene
    s.mark = 0
    queue.calls = [call(declared.CALL_SETRLIMIT, 1)] * 3
    assert queue.run() == [] and s.loop.waiting == 3
    s.loop = ContextLoop(s.r, s.w.tables, s.stream, lambda: s.mark, BOOT_ID)
    assert s.w.tables.counter("context_dropped") == 3
    s.loop = ContextLoop(s.r, s.w.tables, s.stream, lambda: s.mark, BOOT_ID)
    assert s.w.tables.counter("context_dropped") == 3, "and not by the one after that"


def test_a_turn_is_bounded(queue: Queue) -> None:
    queue.calls = [call(declared.CALL_SETRLIMIT, 1)] * (recorded_calls.CALLS_PER_TURN + 7)
    assert queue.part.do_work(queue.scene.w.clock()) == recorded_calls.CALLS_PER_TURN
    assert queue.part.do_work(queue.scene.w.clock()) == 7


@pytest.fixture
def maps(live_kernel: None) -> Iterator[tuple[int, int]]:
    made = [
        int(libbpf.library().bpf_map_create(kind, name, key, size, entries, None))
        for kind, name, key, size, entries in ((QUEUE, b"calls", 0, 64, 4), (ARRAY, b"dropped", 4, 8, 1))
    ]
    assert min(made) >= 0
    yield made[0], made[1]
    for fd in made:
        os.close(fd)


@pytest.mark.live
def test_the_kernels_queue_is_emptied_in_order(s: Scene, maps: tuple[int, int]) -> None:
    calls, dropped = maps
    syscall.update(dropped, bytes(4), (7).to_bytes(8, "little"))
    part = RecordedCalls.of(s.w.tables, s.loop, calls, dropped)
    for number in range(4):
        syscall.update(calls, b"", call(declared.CALL_SETRLIMIT, 1, number=number))
    with pytest.raises(OSError, match="too long"):
        syscall.update(calls, b"", call(declared.CALL_SETRLIMIT, 1))
    assert part.do_work(s.w.clock()) == 4 and part.do_work(s.w.clock()) == 0
    part.count_dropped()
    assert s.w.tables.counter("calls_unrecorded") == 7
    assert s.loop.waiting == 4
