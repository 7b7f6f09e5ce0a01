"""Twenty subscribers, two of which never read: the others receive every event. The workload counts what it made."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq

from pipeline import Subscriber, paths
from pipeline.bus.stream.messages import Header
from tests import zmtp
from tests.live.harness import Daemon, run_workload

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

TOPICS = ("proc.fork", "proc.exec", "proc.exit")
#: Subscribers that read every event, and those that only follow the numbers, which takes a tenth of the time.
READERS, FOLLOWERS = 3, 15
#: The workload comes in small rounds, after which the healthy subscribers catch up. So none of their queues can be full
#: because the machine is busy, while those of the subscribers that never read fill in the course of the rounds.
FORKS, EXECS = 20, 5
ROUNDS, ROUNDS_MAX = 20, 600


class Follower:
    """A subscriber that checks that no number is missing."""

    def __init__(self, context: zmq.Context, path: Path) -> None:
        self.socket = context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.setsockopt(zmq.LINGER, 0)
        for topic in TOPICS:
            self.socket.subscribe(topic.encode())
        self.socket.connect(f"ipc://{path}")
        self.next: dict[bytes, int] = {}
        self.gaps: list[tuple[bytes, int, int]] = []

    def read(self) -> None:
        while self.socket.poll(0):
            topic, packed, _ = self.socket.recv_multipart()
            header = Header.parse(packed)
            if header.first != self.next.get(topic, header.first):
                self.gaps.append((topic, self.next[topic], header.first))
            self.next[topic] = header.first + header.count


class Reader:
    """A subscriber that records which of the workload's processes were reported to it."""

    def __init__(self, directory: Path) -> None:
        self.subscriber = Subscriber(topics=TOPICS, path=directory, connect_timeout=20, receive_hwm=1 << 20)
        self.seen: dict[int, Counter[tuple[str, int]]] = {}
        self.missed: list[dict] = []
        self.over: dict[int, int] = {}  # pid -> number of its exit

    def read(self) -> None:
        for event in self.subscriber.read(0.02):
            if event["event"] == "missed":
                self.missed.append(dict(event))
            else:
                self.seen.setdefault(event["ppid"], Counter())[event["event"], event["pid"]] += 1
                if event["event"] == "exit":
                    self.over[event["pid"]] = event["seq"]


@pytest.fixture
def own_daemon(live_kernel: None) -> Iterator[Daemon]:
    # A short queue, so that the subscribers that never read are full soon.
    with Daemon("[stream]\nhwm_messages = 256\n", name="slow") as running:
        yield running


def _read_until(readers: list[Reader | Follower], ended: threading.Event) -> None:
    while not ended.is_set():
        for reader in readers:
            reader.read()


def test_healthy_subscribers_miss_nothing(own_daemon: Daemon, workload: Path) -> None:
    path = paths.stream_socket(own_daemon.directory)
    with ExitStack() as stack:
        # One that never reads has ZeroMQ's queue in its own process too, the other one has only its socket.
        context = stack.enter_context(zmq.Context())
        library = stack.enter_context(context.socket(zmq.SUB))
        library.setsockopt(zmq.RCVHWM, 1)
        library.setsockopt(zmq.LINGER, 0)
        library.subscribe(b"proc.")
        library.connect(f"ipc://{path}")
        stack.enter_context(zmtp.subscriber(path, b"proc.", timeout=20))
        readers = [Reader(own_daemon.directory) for _ in range(READERS)]
        followers = [Follower(context, path) for _ in range(FOLLOWERS)]
        for reader in readers:
            stack.callback(reader.subscriber.close)
        for follower in followers:
            stack.callback(follower.socket.close)
        deadline = time.monotonic() + 60
        while not all(follower.next.keys() == followers[0].next.keys() != set() for follower in followers):
            assert time.monotonic() < deadline, "no heartbeat arrived"
            for follower in followers:
                follower.read()
        ended = threading.Event()
        thread = threading.Thread(target=_read_until, args=([*readers, *followers], ended), daemon=True)
        thread.start()
        truth: dict[int, Counter[tuple[str, int]]] = {}
        while len(truth) < ROUNDS_MAX:
            made = run_workload(workload, "storm", FORKS, EXECS)
            parent = made[0][2]
            truth[parent] = _events(made)
            deadline = time.monotonic() + 60
            while not all(parent in reader.over for reader in readers) or not all(
                follower.next[b"proc.exit"] > readers[0].over[parent] for follower in followers
            ):
                assert thread.is_alive() and time.monotonic() < deadline, "a healthy subscriber did not catch up"
                time.sleep(0.005)
            if len(truth) % ROUNDS == 0 and own_daemon.stat()["counters"]["publish_unsent"]:
                break
        ended.set()
        thread.join(60)
        counters = own_daemon.stat()["counters"]
        assert counters["publish_unsent"] > 0, "no queue of a subscriber that does not read was ever full"
        assert [follower.gaps for follower in followers] == [[]] * FOLLOWERS
        for reader in readers:
            assert not reader.missed
            for parent, events in truth.items():
                assert reader.seen[parent] == events
        assert (counters["stream_refused"], counters["stream_rejected"]) == (0, 0)


def _events(made: list[tuple[str, int, int]]) -> Counter[tuple[str, int]]:
    """Return the events that the workload's processes must have."""
    events: Counter[tuple[str, int]] = Counter()
    for kind, pid, _ in made:
        events["fork", pid] += 1
        events["exit", pid] += 1
        if kind == "exec":
            events["exec", pid] += 1
    return events
