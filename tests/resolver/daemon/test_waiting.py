"""Sleeping on the resolver's sockets: the events that end a sleep, and those that do not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from pipeline.resolver.daemon._waiting import FrameSocket, Openings, TurnWaiter


class Sockets:
    """A PULL and an XPUB socket with a waiter on both, and peers for them."""

    def __init__(self, place: Path) -> None:
        self.context = zmq.Context()
        self.pull = self.context.socket(zmq.PULL)
        self.pull.bind(f"ipc://{place}/frames")
        self.push = self.context.socket(zmq.PUSH)
        self.push.connect(f"ipc://{place}/frames")
        self.stream = self.context.socket(zmq.XPUB)
        self.stream.bind(f"ipc://{place}/stream")
        self.frames = FrameSocket(self.pull)
        self.waiter = TurnWaiter(self.frames, self.stream)

    def close(self) -> None:
        self.waiter.close()
        self.context.destroy(linger=0)


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Sockets]:
    made = Sockets(tmp_path)
    yield made
    made.close()


def settle(sockets: Sockets) -> None:
    """Wait until the sockets' own commands, which also end a sleep, are done: the peer has connected."""
    sockets.push.send(b"")
    while sockets.frames.receive() is None:
        sockets.waiter.wait(5000)
    while not sockets.waiter.slept_through:
        sockets.waiter.wait(50)


def seconds(call: object) -> float:
    begun = time.monotonic()
    call()  # type: ignore[operator]
    return time.monotonic() - begun


def test_a_message_ends_a_sleep_and_is_there(sockets: Sockets) -> None:
    assert sockets.frames.receive() is None
    for number in range(20):
        sockets.push.send(b"%d" % number)
        deadline = time.monotonic() + 60
        while (message := sockets.frames.receive()) is None:
            assert time.monotonic() < deadline
            assert sockets.waiter.wait(5000) is False
        assert bytes(message) == b"%d" % number
    assert sockets.frames.receive() is None


def test_it_sleeps_for_the_requested_time(sockets: Sockets) -> None:
    settle(sockets)
    assert 0.03 <= seconds(lambda: sockets.waiter.wait(40)) < 5
    assert sockets.waiter.slept_through
    assert 0.0005 <= seconds(lambda: sockets.waiter.wait(0.5)) < 5
    assert sockets.waiter.may_be_asked  # so short a sleep does not check


def test_a_subscription_ends_a_sleep_and_is_reported(sockets: Sockets, tmp_path: Path) -> None:
    subscriber = sockets.context.socket(zmq.SUB)
    subscriber.connect(f"ipc://{tmp_path}/stream")
    subscriber.subscribe(b"proc.")
    deadline = time.monotonic() + 60
    while not sockets.waiter.wait(1000):
        assert time.monotonic() < deadline
    assert sockets.stream.recv(zmq.NOBLOCK) == b"\x01proc."


def test_questions_end_a_sleep_only_while_they_are_heeded(sockets: Sockets) -> None:
    there, here = os.pipe()
    settle(sockets)
    sockets.waiter.close()
    sockets.waiter = TurnWaiter(sockets.frames, sockets.stream, there)
    sockets.waiter.wait(5)
    assert not sockets.waiter.may_be_asked
    os.write(here, b"?")
    assert seconds(lambda: sockets.waiter.wait(5000)) < 2
    assert sockets.waiter.may_be_asked and not sockets.waiter.slept_through
    sockets.waiter.heed_questions(False)
    sockets.waiter.wait(1)
    assert seconds(lambda: sockets.waiter.wait(50)) >= 0.04
    sockets.waiter.heed_questions(True)
    assert seconds(lambda: sockets.waiter.wait(5000)) < 2
    os.close(there)
    os.close(here)


def test_an_opening_ends_a_sleep_once(sockets: Sockets, tmp_path: Path) -> None:
    """Another user could open the file all the time: nothing more happens until the watch is set again."""
    tables = tmp_path / "control"
    tables.write_bytes(b"")
    openings = Openings(tables)
    settle(sockets)
    sockets.waiter.close()
    sockets.waiter = waiter = TurnWaiter(sockets.frames, sockets.stream, -1, openings)
    tables.read_bytes()
    waiter.wait(5)
    assert not waiter.is_opened and not openings.is_armed
    for _ in range(3):
        assert openings.arm() and openings.is_armed
        tables.stat()
        waiter.wait(5)
        assert not waiter.is_opened
        tables.read_bytes()
        assert seconds(lambda: waiter.wait(5000)) < 2
        assert waiter.is_opened and not openings.is_armed
        waiter.is_opened = False
        for _ in range(100):
            tables.read_bytes()
        waiter.wait(5)
        assert seconds(lambda: waiter.wait(40)) >= 0.03 and not waiter.is_opened
    assert openings.arm()
    tables.unlink()
    waiter.wait(50)
    assert not openings.is_armed and not waiter.is_opened and not openings.arm()
    openings.close()


def test_a_watch_that_cannot_be_set_is_reported(tmp_path: Path) -> None:
    openings = Openings(tmp_path / "missing")
    assert not openings.arm() and not openings.is_armed
    openings.close()
    openings.close()
