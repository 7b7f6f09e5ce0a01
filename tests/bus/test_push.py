"""Frames over direct calls of libzmq, with `FramePush` on one side and `FrameSocket` on the other."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from pipeline.bus import pushing
from pipeline.bus._libzmq import PushSocket
from pipeline.bus._push import FramePush
from pipeline.bus.sockets import PUSH_HWM_FRAMES, Bus
from pipeline.resolver.daemon._waiting import FrameSocket
from tests.waiting import until

Connect = Callable[..., "zmq.Socket[bytes] | PushSocket"]


@pytest.fixture
def bus() -> Iterator[Bus]:
    with Bus() as made:
        yield made


@pytest.fixture(params=["pyzmq", "own"])
def connect(request: pytest.FixtureRequest, bus: Bus) -> Iterator[Connect]:
    """Return a connected PUSH socket: of pyzmq, or one that does without it."""
    made: list[PushSocket] = []

    def connected(path: Path, hwm_frames: int = PUSH_HWM_FRAMES) -> zmq.Socket[bytes] | PushSocket:
        if request.param == "pyzmq":
            return bus.push(path, hwm_frames=hwm_frames)
        made.append(pushing.connect(path, hwm_frames=hwm_frames))
        return made[-1]

    yield connected
    for socket in made:
        socket.close()


def offered(push: FramePush, message: bytes) -> None:
    """Offer the message until the socket accepts it, because connecting takes a moment."""
    until(lambda: push(message), pause_s=0.001)


def received(frames: FrameSocket) -> bytes:
    deadline = time.monotonic() + 60
    while (message := frames.receive()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return bytes(message)


@pytest.mark.parametrize("size", [0, 1, 100, 8191, 65_536, 3 << 20])
def test_a_message_arrives_as_it_was(bus: Bus, connect: Connect, tmp_path: Path, size: int) -> None:
    frames = FrameSocket(bus.pull(tmp_path / "f.ipc"))
    push = FramePush(connect(tmp_path / "f.ipc"))
    sent = os.urandom(size)
    offered(push, sent)
    assert received(frames) == sent and frames.receive() is None


def test_without_a_peer_and_with_a_full_queue_nothing_is_accepted(bus: Bus, connect: Connect, tmp_path: Path) -> None:
    push = FramePush(connect(tmp_path / "f.ipc", hwm_frames=2))
    assert not push(b"nobody is there")
    frames = FrameSocket(bus.pull(tmp_path / "f.ipc", hwm_frames=2))
    offered(push, b"first")
    filler = bytes(1 << 20)  # larger than the kernel's socket buffers
    full_since = 0.0
    while full_since == 0 or time.monotonic() - full_since < 0.3:
        if push(filler):
            full_since = 0.0  # the I/O thread has made room
        else:
            full_since = full_since or time.monotonic()
            time.sleep(0.001)
    assert received(frames) == b"first"
    offered(push, b"there is room again" if received(frames) else b"")


def test_a_message_outlives_those_after_it(bus: Bus, connect: Connect, tmp_path: Path) -> None:
    frames = FrameSocket(bus.pull(tmp_path / "f.ipc"))
    push = FramePush(connect(tmp_path / "f.ipc"))
    views = []
    for n in range(50):
        offered(push, b"%d" % n * 100)
        deadline = time.monotonic() + 60
        while (message := frames.receive()) is None:
            assert time.monotonic() < deadline
        views.append(memoryview(message))
    del message
    assert [bytes(view) for view in views] == [b"%d" % n * 100 for n in range(50)]
    assert views[0].readonly


def test_an_invalid_message_is_refused(connect: Connect, tmp_path: Path) -> None:
    push = FramePush(connect(tmp_path / "f.ipc"))
    with pytest.raises(TypeError):
        push("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        push(None)  # type: ignore[arg-type]


def test_a_context_that_ends_is_an_error_and_no_crash(tmp_path: Path) -> None:
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    pull.bind(f"ipc://{tmp_path}/f.ipc")
    frames = FrameSocket(pull)
    ending = threading.Thread(target=context.term)
    ending.start()
    try:
        deadline = time.monotonic() + 60
        with pytest.raises(zmq.ZMQError):
            while time.monotonic() < deadline:
                frames.receive()
    finally:
        pull.close(linger=0)
        ending.join()
