"""How a turn processes messages; the stages that a message passes through have tests of their own."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zmq

from pipeline.bpf import maps
from pipeline.bus.context_events import ContextEvent, encode_context
from pipeline.bus.frames.frame import Frame, FrameEncoder
from pipeline.errors import FrameError
from pipeline.host.boot import now_boot_ns
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.daemon._gathering import Gathering
from pipeline.resolver.daemon._losses import SharedCounters
from pipeline.resolver.daemon._turn import FrameReader, Turn
from pipeline.resolver.daemon._waiting import FrameSocket, TurnWaiter
from pipeline.resolver.merge._merger import Merger
from pipeline.resolver.stream._encoder import Encoder
from pipeline.resolver.stream._name_cache import NameCache, Names
from pipeline.secrets._conceal import Literals, Sieve
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter
from tests.resolver.story import BOOT_ID, Event, Story, instance, make_tables, message_of
from tests.written import constant

RINGS = 2


def forks_and_execs() -> list[Event]:
    story = Story()
    story.begin(1)
    return [story.fork(1, 10), story.exec(10, b"/bin/a"), story.fork(1, 11), story.exit(11)]


#: Nothing is configured as secret.
NOTHING = Sieve(None, lambda frame, suspected: frame)


def message(part: list[Event] | None = None, **where: Any) -> bytes:
    return message_of(forks_and_execs() if part is None else part, **{"ring": 0, "from_pos": 0, **where})


# -- reading -----------------------------------------------------------------------------------------------------------


def test_frames_that_have_something_to_hide_are_concealed_and_no_others() -> None:
    seen: list[tuple[Frame, list[tuple[int, int, int]]]] = []
    replaced = FrameReader(BOOT_ID, RINGS, NOTHING).read(message())[0]

    def hide(frame: Frame, suspected: list[tuple[int, int, int]]) -> Frame:
        seen.append((frame, suspected))
        return replaced

    reader = FrameReader(BOOT_ID, RINGS, Sieve(Literals([b"secret"]), hide))
    events = forks_and_execs()
    story = Story()
    story.begin(1)
    telling = [story.fork(1, 10), story.exec(10, b"/bin/a", args=[b"a", b"--SECRET=x"])]
    found = reader.read(message(telling) + message([events[0]], ring=1) + message(events, ring=1))
    assert [frame.ring for frame in found] == [0, 1, 1] and found[0] is replaced
    assert [(frame.ring, suspected) for frame, suspected in seen] == [(0, [(0, 1, 0)])]


@pytest.mark.parametrize(
    ("boot", "rings", "reason"),
    [(bytes(16), RINGS, "boot"), (BOOT_ID, 1, "ring")],
    ids=["another boot", "no such ring"],
)
def test_a_frame_of_another_boot_or_ring_is_refused(boot: bytes, rings: int, reason: str) -> None:
    with pytest.raises(FrameError) as refused:
        FrameReader(boot, rings, NOTHING).read(message(ring=1))
    assert refused.value.reason == reason and refused.value.peer == "story"


@pytest.mark.parametrize(("named", "own", "is_read"), [(7, 7, True), (7, 8, False), (0, 8, True), (7, 0, True)])
def test_a_frame_of_another_capture_is_refused(named: int, own: int, is_read: bool) -> None:
    """Frames need not name their capture: those of recordings and of programs that receive no acknowledgements."""
    encoder = FrameEncoder(boot_id=BOOT_ID, source="ebpf", capture_id=named)
    data = encoder.encode(ring=0, seq=0, from_pos=0, to_pos=800, count=0, lost={})
    reader = FrameReader(BOOT_ID, RINGS, NOTHING, capture_id=own)
    if is_read:
        assert [frame.capture_id for frame in reader.read(data)] == [named]
    else:
        with pytest.raises(FrameError) as refused:
            reader.read(data)
        assert refused.value.reason == "capture"


def test_a_message_is_translated_before_it_is_read() -> None:
    reader = FrameReader(BOOT_ID, RINGS, NOTHING, lambda data: message(ring=len(data)))
    assert [frame.ring for frame in reader.read(b"x")] == [1]


def test_context_events_are_passed_on_and_are_no_frames() -> None:
    packed = encode_context([ContextEvent("signal", 5, body={"target": 42, "signal": 15})], boot_id=BOOT_ID, source="x")
    reader = FrameReader(BOOT_ID, RINGS, NOTHING)
    with pytest.raises(FrameError):
        reader.read(packed)
    taken: list[Any] = []
    reader = FrameReader(BOOT_ID, RINGS, NOTHING, None, taken.append)
    assert reader.read(packed) == [] and taken == [packed]
    assert reader.read(memoryview(packed)) == [] and len(taken) == 2
    assert len(reader.read(message())) == 1
    for short in (b"", b"\x84", packed[:8]):
        with pytest.raises(FrameError):
            reader.read(short)
    assert len(taken) == 2


def test_a_boot_id_has_16_bytes() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        FrameReader(b"short", RINGS, NOTHING)


# -- a turn ------------------------------------------------------------------------------------------------------------


@dataclass
class Desk:
    """A turn over real tables and a real socket; the senders declare up to which time they are complete."""

    tables: TableWriter
    push: zmq.Socket[bytes]
    stream: zmq.Socket[bytes]
    frames: FrameSocket
    waiter: TurnWaiter
    turn: Turn = field(init=False)
    published: list[Any] = field(default_factory=list)
    refused: list[FrameError] = field(default_factory=list)
    follow_ups: int = 0

    def __post_init__(self) -> None:
        self.encoder = Encoder(BOOT_ID)
        self.merger = Merger(RINGS, timed_by_sender=True)
        self.turn = self.make_turn(evicts=False)

    def make_turn(
        self, *, evicts: bool, losses: SharedCounters | None = None, gathering: Gathering | None = None
    ) -> Turn:
        return Turn(
            tables=self.tables, merger=self.merger, applier=Applier(self.tables, self.encoder), encoder=self.encoder,
            frames=self.frames, reader=FrameReader(BOOT_ID, RINGS, NOTHING), positions=None, batch_events=2,
            evicts=evicts, send=self.published.extend, reject=self.refused.append, follow_up=self._follow_up,
            losses=losses, gathering=gathering,
        )  # fmt: skip

    def _follow_up(self) -> None:
        self.follow_ups += 1

    def send(self, *messages: bytes) -> int:
        """Send, and run turns until one did work; return how much work it did."""
        for one in messages:
            self.push.send(one)
        deadline = time.monotonic() + 60
        while not (work := self.turn.run()):
            assert time.monotonic() < deadline
        return work


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    pull.bind(f"ipc://{tmp_path}/frames")
    push = context.socket(zmq.PUSH)
    push.connect(f"ipc://{tmp_path}/frames")
    stream = context.socket(zmq.XPUB)
    stream.bind(f"ipc://{tmp_path}/stream")
    frames = FrameSocket(pull)
    waiter = TurnWaiter(frames, stream)
    with instance() as directory:
        tables = make_tables(directory / "tables", ring_count=RINGS)
        yield Desk(tables, push, stream, frames, waiter)
        tables.close()
    waiter.close()
    context.destroy(linger=0)


def test_a_message_is_applied_published_and_committed(desk: Desk) -> None:
    desk.encoder.topics_mask = 0xFF
    assert desk.turn.run() == 0 and desk.turn.wait_ms() < 0
    events = forks_and_execs()
    work = desk.send(message(events, watermark_boot_ns=events[-1].time + 1))
    assert work == 1 + len(events)
    assert {10, 11} <= {int(tgid) for tgid in desk.tables.hot_view()["tgid"]}
    # Two events a batch; each batch is published before its commit, and all batches are committed.
    assert sum(one.count for one in desk.published) == len(events)
    assert int(desk.tables.committed().rings["applied_pos"][0]) == int(desk.merger.applied_pos[0]) > 0
    assert desk.tables.counter("frames") == 1
    assert desk.turn.ended_boot_ns > events[-1].time and desk.turn.wait_ms() < 0


@pytest.mark.parametrize("evicts", [False, True])
def test_a_batch_evicts_processes_that_ended_long_ago(desk: Desk, evicts: bool) -> None:
    desk.turn = desk.make_turn(evicts=evicts)
    events = forks_and_execs()  # a few us after the boot: one process has ended, and its retention is over
    desk.send(message(events, watermark_boot_ns=events[-1].time + 1))
    assert desk.tables.counter("evictions") == evicts
    index = desk.tables.index_view()
    assert index[10] and bool(index[11]) is not evicts


def test_held_back_events_are_awaited(desk: Desk) -> None:
    events = forks_and_execs()
    assert desk.send(message(events, watermark_boot_ns=events[1].time + 1)) == 1 + 2
    assert desk.merger.pending == 2
    assert desk.turn.wait_ms() == constant("pipeline/resolver/daemon/_turn.pyx", "WAIT_FRAMES_MS")


def test_a_refused_message_costs_nothing_but_a_count(desk: Desk) -> None:
    events = forks_and_execs()
    work = desk.send(b"nonsense", message(ring=5), message(events, watermark_boot_ns=events[-1].time + 1))
    while desk.tables.counter("frames") < 3:  # they need not arrive in one turn
        work += desk.turn.run()
    assert work == 3 + len(events)
    assert desk.tables.counter("frames_refused") == 2 and [error.reason for error in desk.refused][1:] == ["ring"]


def test_a_hole_is_asked_for_again(desk: Desk) -> None:
    assert desk.send(message(from_pos=800)) == 1
    assert desk.tables.counter("rewinds") == 1 and desk.tables.counter("frames_gap") == 0
    desk.turn.commit()
    assert desk.tables.counter("frames_gap") == 1


def test_a_name_that_an_event_needs_is_wanted_at_once(desk: Desk) -> None:
    desk.encoder.topics_mask = 0xFF
    desk.encoder.names = NameCache(Names(), 0, 0)
    assert not desk.turn.wants_names
    events = forks_and_execs()
    desk.send(message(events, watermark_boot_ns=events[-1].time + 1))
    assert desk.turn.wants_names


@pytest.mark.parametrize("is_read", [False, True])
def test_how_long_events_gather_follows_from_their_age_if_somebody_reads(desk: Desk, is_read: bool) -> None:
    desk.turn = desk.make_turn(evicts=False, gathering=Gathering(100_000_000))
    assert (desk.tables.show_audience(False, not is_read) == layout.AUDIENCE_READERS) is is_read
    events = forks_and_execs()  # of the time of the boot, so they are late
    desk.send(message(events, watermark_boot_ns=events[-1].time + 1))
    assert bool(desk.tables.control_view()[0]["gather_us"]) is is_read


def test_a_rest_stores_a_heartbeat_and_advances_the_watermark(desk: Desk) -> None:
    before = int(desk.tables.control_view()[0]["heartbeat_boot_ns"])
    desk.turn.rest(before + 5)
    assert int(desk.tables.control_view()[0]["heartbeat_boot_ns"]) == before + 5


# -- turn after turn ---------------------------------------------------------------------------------------------------

LATER = 1 << 62


def follow(desk: Desk, *, idle_ms: float = 60, due_ns: int = LATER, latest_ns: int = LATER, rest_until: int = 0) -> int:
    return desk.turn.follow(desk.waiter, idle_ms, 0.0, due_ns, latest_ns, rest_until)


def test_frames_are_followed_until_nothing_comes(desk: Desk) -> None:
    events = forks_and_execs()
    parts = [events[:1], events[1:]]
    at = 0
    for part in parts:
        desk.push.send(message(part, from_pos=at, watermark_boot_ns=part[-1].time + 1))
        at += sum(8 + int(one.header["record_bytes"][0]) + 7 & ~7 for one in part)
    work = 0
    while not desk.turn.is_idle:
        work += follow(desk)
    assert work == 2 + len(events) and desk.turn.wait_ms() < 0
    assert follow(desk) == 0 and desk.turn.is_idle and not desk.turn.is_wanted


def test_due_work_waits_until_a_begun_batch_is_applied(desk: Desk) -> None:
    events = forks_and_execs()
    desk.push.send(message(events, watermark_boot_ns=events[-1].time + 1))
    work = 0
    while work < 1 + len(events):
        work += follow(desk, idle_ms=5000, due_ns=1, latest_ns=1)
        assert desk.turn.wait_ms() < 0
    assert not desk.turn.is_idle and not desk.turn.is_calm


def test_due_work_that_can_wait_waits_for_a_lull(desk: Desk) -> None:
    desk.turn.run()
    events = forks_and_execs()
    desk.push.send(message(events, watermark_boot_ns=events[-1].time + 1))
    began, work = time.monotonic(), 0
    while work < 1 + len(events):
        work += follow(desk, idle_ms=20_000, due_ns=1)
        assert desk.turn.is_calm and not desk.turn.is_idle
    assert time.monotonic() - began < 10


def test_heartbeats_are_stored_without_events(desk: Desk) -> None:
    for _ in range(100):
        began = now_boot_ns()
        assert follow(desk, idle_ms=20, rest_until=began + 100_000_000) == 0
        if desk.turn.heartbeat_boot_ns:
            break  # on a busy host the time may have passed before the first rest
    assert desk.turn.is_idle and now_boot_ns() >= began + 100_000_000
    told = int(desk.tables.control_view()[0]["heartbeat_boot_ns"])
    assert told == desk.turn.heartbeat_boot_ns and told > began
    assert told < now_boot_ns() - 10_000_000, "the last sleep is Python's"


def test_a_loss_ends_the_rest_of_an_idle_host(desk: Desk) -> None:
    """The map of the counters is a file here. The second CPU cannot write two events."""
    fd = os.memfd_create("counters")
    os.truncate(fd, maps.CPU_STATE.itemsize * (maps.MAX_CPUS + 1))
    states = maps.cpu_states(fd, writable=True)
    losses = SharedCounters(fd, 2)
    desk.turn = desk.make_turn(evicts=False, losses=losses)
    count = threading.Timer(0.1, states["lost_samples"][1].__setitem__, (3, 2))
    try:
        count.start()
        began = time.monotonic()
        assert follow(desk, idle_ms=20, rest_until=now_boot_ns() + 60_000_000_000) == 0
        assert desk.turn.has_lost and desk.turn.is_idle and 0.1 <= time.monotonic() - began < 30
        assert losses.read() and losses.lost_total == 2
        # What was read is no longer new. It is checked four times a second.
        assert follow(desk, idle_ms=20, rest_until=now_boot_ns() + 400_000_000) == 0
        assert not desk.turn.has_lost
    finally:
        count.join()
        os.close(fd)


def test_a_signal_is_not_slept_over(desk: Desk) -> None:
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        began = now_boot_ns()
        assert follow(desk, idle_ms=20_000, rest_until=began + 60_000_000_000) == 0
        assert not desk.turn.is_idle and now_boot_ns() < began + 15_000_000_000
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_question_a_subscription_and_a_refusal_are_for_others(desk: Desk, tmp_path: Path) -> None:
    there, here = os.pipe()
    try:
        desk.waiter.close()
        desk.waiter = TurnWaiter(desk.frames, desk.stream, there)
        while not desk.turn.is_idle:
            follow(desk)
        os.write(here, b"?")
        assert follow(desk, idle_ms=5000) == 0 and desk.waiter.is_asked and not desk.turn.is_idle
        os.read(there, 1)
        desk.push.send(b"nonsense")
        assert follow(desk, idle_ms=5000) == 1 and len(desk.refused) == 1
        subscriber = desk.stream.context.socket(zmq.SUB)
        subscriber.connect(f"ipc://{tmp_path}/stream")
        subscriber.subscribe(b"proc.")
        deadline = time.monotonic() + 60
        while not desk.turn.is_wanted:
            follow(desk)
            assert time.monotonic() < deadline
        assert desk.stream.recv(zmq.NOBLOCK) == b"\x01proc."
    finally:
        os.close(there)
        os.close(here)


def test_positions_are_needed_unless_senders_send_watermarks(desk: Desk) -> None:
    with pytest.raises(ValueError, match="without positions"):
        Turn(
            tables=desk.tables, merger=Merger(RINGS), applier=Applier(desk.tables, desk.encoder), encoder=desk.encoder,
            frames=desk.frames, reader=FrameReader(BOOT_ID, RINGS, NOTHING), positions=None, batch_events=2,
            evicts=True, send=list, reject=list, follow_up=list,
        )  # fmt: skip
