"""How a subscriber behaves for its caller: time limits, callbacks, threads, event loops, closing, hostile messages."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import pickle
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from pipeline import Selection, StreamPosition, Subscriber, paths
from pipeline.bus.stream.messages import TOPICS, WELCOME_PREFIX, Header
from pipeline.errors import (
    AccessError,
    ClosedError,
    ConfigError,
    InUseError,
    LayoutError,
    NoProcessError,
    ProclineError,
)
from pipeline.shm.layout import layout
from tests.client.arrivals import up_to, up_to_number
from tests.client.polled_host import PolledHost
from tests.sampling import times
from tests.stream_host import now_boot_ns
from tests.waiting import until

EXEC, EXIT = TOPICS.index("proc.exec"), TOPICS.index("proc.exit")
#: Far longer than anything here takes, also on a busy machine.
LONG_S = 60.0


class Polled(PolledHost):
    """A host of fake processes. It can lose records, and its subscribers can miss events."""

    def lose(self, count: int) -> None:
        """Report that the kernel lost records."""
        with self.host.lock:
            self.host.resolver.publisher.loss({"fork": count}, now_boot_ns())

    def skip(self, subscriber: Subscriber, count: int) -> None:
        """Let the subscriber find that it has missed events, as if messages had been dropped."""
        tracker = subscriber._reader.tracker
        tracker.last = [None if last is None else last - count for last in tracker.last]

    def execute(self, path: str) -> int:
        """Publish an exec of a process that no table has; returns its order."""
        resolver = self.host.resolver
        with self.host.lock:
            resolver.encoder.put(EXEC, {"event": "exec", "time_ns": 1, "pid": 7, "path": path, "argv": []})
            resolver.publisher.send(resolver.encoder.take())
            return int(resolver.encoder.order)

    def subscribe(self, *topics: str, **options: Any) -> Subscriber:
        return Subscriber("test", topics, path=self.directory, connect_timeout=LONG_S, **options)


@pytest.fixture
def polled() -> Iterator[Polled]:
    made = Polled(send_hwm=4096)  # more than a test publishes at once
    yield made
    made.close()


# -- positions ---------------------------------------------------------------------------------------------------------


def test_a_subscriber_goes_on_behind_a_position(polled: Polled) -> None:
    """Without a journal, what happened in between is one gap for each topic, with its times."""
    with polled.subscribe("proc") as first:
        polled.step(40)
        events: list[Any] = []
        for event in first:
            events.append(event)
            if len(events) == 7:
                break
        middle = first.position
        events += first.read(timeout=LONG_S)
        position = first.position
    for number, topic in enumerate(TOPICS[:6]):
        seqs = [event["seq"] for event in events[:7] if event["event"] == topic.partition(".")[2]]
        if seqs:
            assert middle.next[topic] == seqs[-1] + 1, number
    assert position.topics == TOPICS[:6] and position == StreamPosition.from_dict(
        json.loads(json.dumps(position.as_dict()))
    )
    made = dict(polled.host.made)
    polled.step(40)
    gaps: list[Any] = []
    with polled.subscribe("proc", resume=position, on_gap=gaps.append) as second:
        assert second.position == position and second.position.time_ns == position.time_ns
        polled.step(5)
        later: list[Any] = []
        deadline = time.monotonic() + LONG_S
        while sum(polled.host.made.values()) - sum(made.values()) > len(later) + second.missed:
            assert time.monotonic() < deadline
            later += second.read(timeout=0.1)
        for gap in gaps:
            assert gap["first"] == position.next[gap["topic"]] and gap["from_ns"] == position.time_ns < gap["to_ns"]
        assert gaps and later and second.repeats == 0


@pytest.mark.parametrize(
    "fields",
    [
        None, [], {}, {"version": 2, "stream": 1, "next": {}}, {"version": 1, "stream": -1, "next": {}},
        {"version": 1, "stream": 1}, {"version": 1, "stream": 1, "next": {"proc.none": 1}},
        {"version": 1, "stream": 1, "next": {"proc.exec": 0}}, {"version": 1, "stream": 1, "next": {"proc.exec": True}},
        {"version": 1, "stream": 1, "next": {}, "time_ns": "now"},
    ],
)  # fmt: skip
def test_a_bad_position_is_rejected(fields: Any) -> None:
    with pytest.raises(ValueError, match="a position of the stream: "):
        StreamPosition.from_dict(fields)


def test_a_position_is_a_value() -> None:
    position = StreamPosition(7, {"proc.exec": 3}, time_ns=9)
    later = StreamPosition(7, {"proc.exec": 3}, time_ns=10)
    assert position == later and hash(position) == hash(later)  # the time is not compared
    assert position != StreamPosition(7, {"proc.exec": 4}) and position != (7, {"proc.exec": 3}, 9)
    assert pickle.loads(pickle.dumps(position)) == copy.copy(position) == position
    assert repr(position) == "StreamPosition(stream=7, next=mappingproxy({'proc.exec': 3}), time_ns=9)"
    with pytest.raises(AttributeError, match="cannot be changed"):
        position.stream = 8
    with pytest.raises(AttributeError, match="cannot be changed"):
        del position.stream
    with pytest.raises(TypeError):
        position.next["proc.exec"] = 4  # type: ignore[index]


# -- selections --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_narrow", [False, True], ids=["here", "at the publisher"])
@pytest.mark.parametrize("path", ["/opt/caf\udce9", "make", "nonesuch"])
def test_messages_without_a_selected_event_are_not_decoded(
    polled: Polled, path: str, monkeypatch: pytest.MonkeyPatch, *, is_narrow: bool
) -> None:
    """The same events arrive as by comparing all, and the time limit holds although nothing of what comes is wanted."""
    if not is_narrow:
        monkeypatch.setattr(polled.host.resolver.publisher._narrowed, "subscribe", lambda prefix: None)
    with polled.subscribe("exec") as everything, polled.subscribe("exec", select=Selection(paths=[path])) as narrow:
        found: list[int] = []
        for _ in range(40):
            polled.step(1)
            found += [event["order"] for event in narrow.read(timeout=0.002)]
        last = polled.execute(f"/opt/{path}" if "/" not in path else path)  # is selected, and behind all others
        made = up_to(everything, last)[:-1]
        found += [event["order"] for event in up_to(narrow, last)][:-1]
        assert len(made) == polled.host.made["exec"]
        assert found == [event["order"] for event in made if event["path"].endswith(path)]
        assert narrow._reader.is_narrow is is_narrow and not narrow._reader.tracker.missed
        assert is_narrow or narrow._reader.tracker.skipped > 0
        assert bool(found) == (path != "nonesuch")


@pytest.mark.parametrize(
    "wanted", [Selection(paths=["/opt/wanted"]), Selection(names=["wanted"])], ids=["skipped", "decoded"]
)
@pytest.mark.parametrize("is_async", [False, True], ids=["read", "read_async"])
def test_a_read_without_waiting_ends_only_when_nothing_is_queued(
    polled: Polled, wanted: Selection, *, is_async: bool
) -> None:
    """Otherwise the descriptor stays silent for good: it signals only a message that comes to an empty queue."""

    def read(subscriber: Subscriber) -> list[Any]:
        return asyncio.run(subscriber.read_async(0)) if is_async else subscriber.read(0)

    with polled.subscribe("exec") as other, polled.subscribe("exec", select=wanted) as subscriber:
        for _ in range(times(2000, 600)):
            last = polled.execute("/opt/unwanted")
        up_to(other, last)  # now they have arrived here, too
        assert read(subscriber) == []
        polled.execute("/opt/wanted")
        while not (events := read(subscriber)):
            assert select.select([subscriber], [], [], LONG_S)[0], "messages are queued, but nothing signals them"
        assert [event["path"] for event in events] == ["/opt/wanted"]
        assert subscriber.missed == 0


# -- time limits -------------------------------------------------------------------------------------------------------


def keep_stepping(polled: Polled, stop: threading.Event) -> threading.Thread:
    def run() -> None:
        while not stop.wait(0.005):
            polled.step(3)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_timeout_ends_an_iteration_in_which_events_keep_coming(polled: Polled) -> None:
    stop = threading.Event()
    thread = keep_stepping(polled, stop)
    try:
        with polled.subscribe(timeout=0.5, idle_timeout=LONG_S) as subscriber:
            begin = time.monotonic()
            orders = [event["order"] for event in subscriber]  # the first events may be older than the subscription
            assert orders and 0.5 <= time.monotonic() - begin < LONG_S
            # What arrived after the end is not lost, and the next iteration has its own time.
            assert next(iter(subscriber))["order"] == orders[-1] + 1
    finally:
        stop.set()
        thread.join()


def test_idle_timeout_counts_from_the_last_event(polled: Polled) -> None:
    with polled.subscribe(idle_timeout=0.3, timeout=LONG_S) as subscriber:
        polled.step(5)
        assert len(list(subscriber)) == 5
        begin = time.monotonic()
        assert list(subscriber) == [] and 0.3 <= time.monotonic() - begin < LONG_S


def test_the_shorter_of_both_times_counts(polled: Polled) -> None:
    with polled.subscribe(idle_timeout=LONG_S, timeout=0.1) as subscriber:
        assert list(subscriber) == []

    async def run() -> list[object]:
        async with polled.subscribe(idle_timeout=0.1, timeout=LONG_S) as subscriber:
            return [event async for event in subscriber]

    assert asyncio.run(run()) == []


# -- callbacks ---------------------------------------------------------------------------------------------------------


def test_a_gap_is_yielded_where_it_is_unless_there_is_a_callback(polled: Polled) -> None:
    with polled.subscribe(idle_timeout=LONG_S) as subscriber:
        polled.skip(subscriber, 7)
        polled.step(3)
        kinds = [event["event"] for event in up_to(subscriber, 3)]
        assert kinds[0] == "missed" and len(kinds) > 3


def test_a_callback_comes_between_the_events_before_and_after_the_gap(polled: Polled) -> None:
    seen: list[tuple[str, object]] = []
    with polled.subscribe(
        idle_timeout=LONG_S, on_gap=lambda gap: seen.append(("gap", gap["event"] == "missed" and gap["count"]))
    ) as subscriber:
        polled.step(4)
        seen += [("event", event["order"]) for event in up_to(subscriber, 4)]
        polled.skip(subscriber, 7)
        # Messages of all topics, so that each shows its gap.
        polled.step(200)
        for event in subscriber:
            seen.append(("event", event["order"]))  # type: ignore[typeddict-item]
            if event["order"] == 204:  # type: ignore[typeddict-item]
                break
    assert [what for what, _ in seen[:5]] == ["event"] * 4 + ["gap"]
    assert [each for what, each in seen if what == "event"] == list(range(1, 205))
    assert sum(int(str(count)) for what, count in seen if what == "gap") == subscriber.missed > 0


def test_events_before_a_gap_are_returned_before_its_callback_is_called(polled: Polled) -> None:
    seen: list[object] = []
    with polled.subscribe(on_gap=seen.append) as subscriber:
        fork: Any = {"event": "fork", "seq": 1}
        gap: Any = {"event": "missed", "seq": None}
        assert subscriber._deliver([fork, gap, gap, fork]) == [fork] and seen == []
        assert subscriber.read(0) == [fork] and seen == [gap, gap]


def test_losses_have_a_callback_that_subscribes_to_them(polled: Polled) -> None:
    seen: list[Any] = []
    with polled.subscribe("exit", on_loss=seen.append) as subscriber:
        polled.lose(5)
        polled.step(20)
        assert {event["event"] for event in up_to_number(subscriber, EXIT, polled.host.made["exit"])} == {"exit"}
    assert [(each["event"], each["new"]) for each in seen] == [("loss", {"fork": 5})]


def test_an_exception_in_a_callback_ends_the_read_and_loses_no_event(polled: Polled) -> None:
    def fail(gap: object) -> None:
        raise LookupError(gap)

    with polled.subscribe("fork", "exec", "exit", idle_timeout=LONG_S, on_gap=fail) as subscriber:
        polled.skip(subscriber, 2)
        polled.step(100)
        orders: list[int] = []
        failures = 0
        for _ in range(5):
            try:
                for event in subscriber:
                    orders.append(event["order"])  # type: ignore[typeddict-item]
                    if orders[-1] == 100:
                        break
                break
            except LookupError:
                failures += 1
        assert failures > 0 and orders == list(range(1, 101))


def test_a_callback_may_close_the_subscriber(polled: Polled) -> None:
    made: list[Subscriber] = []
    with polled.subscribe(on_gap=lambda gap: made[0].close()) as subscriber:
        made.append(subscriber)
        polled.skip(subscriber, 1)
        polled.step(5)
        with pytest.raises(ClosedError):
            while True:
                subscriber.read(LONG_S)
    assert subscriber._reader._socket.closed


def test_a_callback_may_not_read(polled: Polled) -> None:
    made: list[Subscriber] = []
    with polled.subscribe(on_gap=lambda gap: made[0].read(0)) as subscriber:
        made.append(subscriber)
        polled.skip(subscriber, 1)
        polled.step(5)
        with pytest.raises(InUseError, match="callback"):
            subscriber.read(LONG_S)


# -- threads and closing -----------------------------------------------------------------------------------------------


def reading(subscriber: Subscriber) -> tuple[threading.Thread, list[BaseException]]:
    """A thread that waits in a read, and what ended it."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            subscriber.read(LONG_S)
        except ProclineError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(subscriber._lock.locked)
    return thread, errors


def test_a_second_thread_is_refused_while_the_first_one_reads(polled: Polled) -> None:
    with polled.subscribe() as subscriber:
        thread, errors = reading(subscriber)
        with pytest.raises(InUseError, match="make a subscriber for each"):
            subscriber.read(0)
        with pytest.raises(InUseError):
            next(iter(subscriber))
        with pytest.raises(InUseError):
            subscriber.fileno()
        with pytest.raises(InUseError):
            asyncio.run(subscriber.read_async(0))
        polled.step(1)
        thread.join()
        assert errors == []
        # Another thread may read when the first one is done.
        polled.step(1)
        assert len(subscriber.read(LONG_S)) == 1


def test_close_ends_a_read_in_another_thread(polled: Polled) -> None:
    subscriber = polled.subscribe()
    thread, errors = reading(subscriber)
    subscriber.close()
    thread.join(LONG_S)
    assert not thread.is_alive() and [type(error) for error in errors] == [ClosedError]
    assert subscriber.closed and subscriber._reader._socket.closed


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_that_closes_its_copy_does_not_wake_the_parent(polled: Polled) -> None:
    with polled.subscribe() as subscriber:
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                subscriber._reader.interrupt()
            os._exit(0)
        os.waitpid(pid, 0)
        assert not select.select([subscriber._reader._wake_fd], [], [], 0)[0]
        assert subscriber.read(0.05) == []


def test_close_in_a_signal_handler_ends_the_read_that_it_interrupts(polled: Polled) -> None:
    subscriber = polled.subscribe()
    before = signal.signal(signal.SIGUSR1, lambda *_: subscriber.close())
    main = threading.main_thread().ident
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGUSR1) if main else None)
    timer.start()
    try:
        with pytest.raises(ClosedError):
            subscriber.read(LONG_S)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert subscriber._reader._socket.closed


def test_a_closed_subscriber_says_so(polled: Polled) -> None:
    subscriber = polled.subscribe()
    assert repr(subscriber) == "<Subscriber 'test'>"
    subscriber.close()
    subscriber.close()
    assert repr(subscriber) == "<Subscriber 'test' closed>"
    for use in (subscriber.read, subscriber.fileno, lambda: list(subscriber), lambda: asyncio.run(collect(subscriber))):
        with pytest.raises(ClosedError, match="'test' is closed"):
            use()  # type: ignore[operator]
    assert issubclass(ClosedError, ValueError), "as for a closed file, and for closed tables"
    assert subscriber.missed == 0, "counters can still be read"


def test_a_child_process_is_refused(polled: Polled) -> None:
    with polled.subscribe() as subscriber:
        subscriber._pid = os.getpid() + 1  # as it looks to a child
        with pytest.raises(InUseError, match="in each child process"):
            subscriber.read(0)


@pytest.mark.slow
def test_reading_by_many_threads_in_turn_loses_nothing(polled: Polled) -> None:
    """Threads that retry when they are refused get each event exactly once between them."""
    orders: list[int] = []
    events = times(2000, 600)
    with polled.subscribe(receive_hwm=1 << 16) as subscriber:

        def run() -> None:
            deadline = time.monotonic() + LONG_S
            while len(orders) < events and time.monotonic() < deadline:
                try:
                    orders.extend(event["order"] for event in subscriber.read(0.05))  # type: ignore[typeddict-item]
                except InUseError:
                    time.sleep(0.001)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(events // 100):
            polled.step(100)
        for thread in threads:
            thread.join()
    assert sorted(orders) == list(range(1, events + 1))


# -- event loops -------------------------------------------------------------------------------------------------------


async def collect(subscriber: Subscriber, last: int = 0) -> list[int]:
    """Return the orders of events, up to the one with the order `last`."""
    orders: list[int] = []
    async for event in subscriber:
        orders.append(event["order"])  # type: ignore[typeddict-item]
        if orders[-1] == last:
            break
    return orders


def test_other_tasks_run_while_events_keep_coming(polled: Polled) -> None:
    """Iteration suspends even if there is always another event."""

    async def run() -> tuple[int, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        async with polled.subscribe(idle_timeout=LONG_S) as subscriber:
            with polled.subscribe() as other:
                polled.step(2000)
                up_to(other, 2000)  # now all of them have arrived here, too
            ticking = asyncio.create_task(tick())
            count = 0
            at = []
            async for _ in subscriber:
                count += 1
                at.append(ticks)
                if count == 2000:
                    break
            ticking.cancel()
        return count, len(set(at))

    count, turns = asyncio.run(run())
    assert count == 2000 and turns > 10


def test_a_long_list_of_processes_suspends_too(polled: Polled) -> None:
    polled.step(1500)

    async def run() -> set[int]:
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with polled.subscribe(snapshot=True, idle_timeout=0.2) as subscriber:
            ticking = asyncio.create_task(tick())
            seen = {turns async for _ in subscriber}
            ticking.cancel()
        return seen

    seen = asyncio.run(run())
    assert len(polled.host.live) > 128 and len(seen) > 2


def test_a_cancelled_read_loses_nothing_and_frees_the_subscriber(polled: Polled) -> None:
    async def run() -> list[int]:
        orders: list[int] = []
        subscriber = polled.subscribe()
        for _ in range(20):
            task = asyncio.create_task(subscriber.read_async(LONG_S))
            await asyncio.sleep(0.01)
            threading.Thread(target=polled.step, args=(5,)).start()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                orders += [event["order"] for event in await task]  # type: ignore[typeddict-item]
        subscriber.idle_timeout = LONG_S
        if orders[-1:] != [100]:
            orders += await collect(subscriber, 100)
        subscriber.close()
        return orders

    assert asyncio.run(run()) == list(range(1, 101))


def test_a_second_task_is_refused_and_close_ends_the_first(polled: Polled) -> None:
    async def run() -> None:
        subscriber = polled.subscribe()
        first = asyncio.create_task(subscriber.read_async())
        await asyncio.sleep(0.05)
        with pytest.raises(InUseError):
            await subscriber.read_async(0)
        with pytest.raises(InUseError):
            subscriber.read(0)
        subscriber.close()
        with pytest.raises(ClosedError):
            await asyncio.wait_for(first, LONG_S)
        assert subscriber._reader._socket.closed

    asyncio.run(run())


def test_leaving_the_context_ends_a_task_that_reads(polled: Polled) -> None:
    async def run() -> None:
        async with polled.subscribe() as subscriber:
            task = asyncio.create_task(collect(subscriber))
            await asyncio.sleep(0.05)
        with pytest.raises(ClosedError):
            await asyncio.wait_for(task, LONG_S)

    asyncio.run(run())


def test_many_subscribers_in_one_loop_need_no_thread(polled: Polled) -> None:
    async def run() -> list[list[int]]:
        subscribers = [polled.subscribe("fork", "exec", "exit", idle_timeout=LONG_S) for _ in range(5)]
        count = threading.active_count()
        tasks = [asyncio.create_task(collect(subscriber, 50)) for subscriber in subscribers]
        await asyncio.sleep(0.05)
        assert threading.active_count() == count
        polled.step(50)
        found = await asyncio.gather(*tasks)
        for subscriber in subscribers:
            subscriber.close()
        return found

    assert asyncio.run(run()) == [list(range(1, 51))] * 5


# -- tables that cannot be read any more -------------------------------------------------------------------------------


def spoil(directory: Path, how: str) -> None:
    """Leave the tables as an upgrade to another version does, or so that another user could have forged them."""
    control = directory / paths.CONTROL
    data = np.frombuffer(bytearray(control.read_bytes()), layout.CONTROL, 1)
    if how == "layout":
        data["layout_version"] = 99
    new = directory / "control.new"
    new.write_bytes(data.tobytes() + control.read_bytes()[data.nbytes :])
    new.chmod(0o666 if how == "access" else 0o644)
    new.rename(control)


@pytest.mark.parametrize(("how", "error"), [("layout", LayoutError), ("access", AccessError)])
@pytest.mark.parametrize("what", ["snapshot", "under"])
def test_after_an_upgrade_the_events_in_hand_are_returned_before_the_error(
    polled: Polled, how: str, error: type[ProclineError], what: str
) -> None:
    polled.step(20)
    host, root = polled.host, next(iter(polled.host.live))
    options: dict[str, Any] = {"snapshot": True} if what == "snapshot" else {"select": Selection(under=[root])}
    found: list[str | None] = []
    errors: list[int] = []

    def execute(number: int) -> None:
        path = b"/bin/%d" % number
        host.resolver.apply([host.story.exec(root, path, args=[path])])

    def read_until(is_over: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONG_S
        while not is_over():
            assert time.monotonic() < deadline, (found, errors)
            try:
                found.extend(event["path"] for event in subscriber.read(0.1) if event["event"] == "exec")
            except error:
                errors.append(len(found))

    with polled.subscribe("fork", "exec", "exit", on_gap=lambda gap: None, **options) as subscriber:
        subscriber.read(0)
        spoil(polled.directory, how)
        subscriber._synced_s = 0.0  # a list may be read again at once
        with host.lock:
            host.resolver.tables.set_state(layout.STATE_SUPERSEDED)
            polled.skip(subscriber, 7)
            for number in range(5):
                execute(number)
        read_until(lambda: len(errors) > 0 and len(found) >= 5)
        with host.lock:
            execute(5)
        read_until(lambda: len(found) >= 6)
    assert found == [f"/bin/{number}" for number in range(6)]
    assert errors[0] > 0, "the events that arrived with the gap come first"


# -- selecting ---------------------------------------------------------------------------------------------------------


def test_a_selection_is_applied_to_events_and_to_the_list(polled: Polled) -> None:
    polled.step(200)
    select = Selection(paths=["make"])
    with polled.subscribe(select=select, snapshot=True, idle_timeout=0.3) as subscriber:
        polled.step(200)
        events = list(subscriber)
    kinds = {event["event"] for event in events}
    assert {"snapshot", "exec"} <= kinds
    assert {event.get("path") for event in events} == {"/usr/bin/make"}


def test_descendants_are_selected_however_deep(polled: Polled) -> None:
    polled.step(100)
    roots = list(polled.host.live)[:10]
    with (
        polled.subscribe("exec", select=Selection(under=roots)) as subscriber,
        polled.subscribe(snapshot=True, idle_timeout=LONG_S) as everything,
    ):
        polled.step(1500)
        below: set[str | None] = set()
        wanted = []
        found = [
            event["order"]
            for event in up_to_number(subscriber, EXEC, polled.host.made["exec"])
            if event["event"] == "exec"
        ]
        for event in up_to(everything, polled.host.resolver.encoder.order):
            if "pid" in event:
                above = {event["parent_entity_id"], event["creator_entity_id"]} - {None}
                if event["pid"] in roots or above & below:
                    below.add(event["entity_id"])
                if event["event"] == "exec" and event["entity_id"] in below:
                    wanted.append(event["order"])
        assert found == wanted and len(below) > 5 and len(found) > 5


def test_wrong_selections_are_clear_errors(polled: Polled) -> None:
    with pytest.raises(NoProcessError, match="knows no process 59999") as caught:
        polled.subscribe(select=Selection(under=[59999]))
    assert caught.value.pids == (59999,)
    with pytest.raises(ConfigError, match="descendants"):
        Subscriber(endpoint="tcp://127.0.0.1:1", select=Selection(under=[1]))


# -- a hostile publisher -----------------------------------------------------------------------------------------------


def hostile(directory: Path, bodies: list[bytes], stop: threading.Event) -> None:
    """Answer the welcome, then send bodies that contain anything."""
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.bind(f"ipc://{paths.stream_socket(directory)}")
    common: Any = {
        "host": "h", "boot": bytes(16), "epoch": 1, "stream": 7, "step": 0, "rest": 0, "time_ns": 5, "watermark_ns": 0,
    }  # fmt: skip
    sent = 0
    while not stop.is_set():
        if not socket.poll(10):
            continue
        word = socket.recv()
        if not word.startswith(b"\x01" + WELCOME_PREFIX):
            continue
        header = Header(writer=0, group=0, first=0, count=0, seqs=(0,) * 8, **common).pack()
        socket.send_multipart([word[1:], header, b""])
        for number, body in enumerate(bodies, 1):
            header = Header(writer=number, group=number, first=number, count=1, **common).pack()
            socket.send_multipart([b"proc.exec", header, body])
            sent += 1
    socket.close(linger=0)
    context.term()


ANYTHING = (None, 0, -1, 2**64 - 1, 1.5, True, "x", "\x1b[31m", b"\xff", [], [[]], {}, {"a": [1]}, [{"entity_id": []}])


def test_a_publisher_that_sends_anything_stops_nobody() -> None:
    bodies = [
        msgpack.packb({"event": "exec", "seq": number, "order": number, "time_ns": number, "pid": 5, key: value})
        for number, (key, value) in enumerate(
            (
                (key, value)
                for key in ("event", "pid", "entity_id", "time_ns", "images", "lineage", "uid", "path", "cgroup")
                for value in ANYTHING
            ),
            1,
        )
    ]
    bodies.append(msgpack.packb({"event": "exec", "seq": len(bodies) + 1, "order": 1, "pid": 5, "path": "/bin/last"}))
    directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    (directory / paths.STREAM_DIR).mkdir()  # a subscriber waits for the socket only if its directory exists
    stop = threading.Event()
    thread = threading.Thread(target=hostile, args=(directory, bodies, stop))
    thread.start()
    try:
        for options in ({}, {"select": Selection(users=["x"], paths=["last"])}, {"select": Selection(units=["x"])}):
            with Subscriber(
                "test", ["exec"], path=directory, connect_timeout=LONG_S, on_gap=print, **options
            ) as subscriber:
                events = up_to_number(subscriber, EXEC, len(bodies))
                assert subscriber.refused + subscriber._reader.tracker.skipped > 0
                if not options:
                    assert events[-1].get("path") == "/bin/last"
                    assert all(isinstance(event["event"], str) for event in events)
    finally:
        stop.set()
        thread.join()
        shutil.rmtree(directory, ignore_errors=True)
