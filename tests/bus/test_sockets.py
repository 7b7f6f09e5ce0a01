"""Sockets: modes, stale files, limits, and blocked or absent peers."""

from __future__ import annotations

import multiprocessing
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from pipeline.bus.sockets import Bus, SocketError, is_listening
from pipeline.errors import ConfigError, WriterExistsError
from tests.waiting import until


def test_a_frame_is_sent_from_push_to_pull(tmp_path: Path) -> None:
    with Bus() as bus:
        pull = bus.pull(tmp_path / "frames.ipc")
        push = bus.push(tmp_path / "frames.ipc")
        push.send(b"x" * 100_000)
        assert pull.poll(60_000) and pull.recv() == b"x" * 100_000


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_socket_has_exactly_the_mode_asked_for(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o027)
    try:
        with Bus() as bus:
            bus.pull(tmp_path / "stream.ipc", mode=mode)
            assert stat.S_IMODE((tmp_path / "stream.ipc").stat().st_mode) == mode
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a socket to another group")
def test_socket_gets_the_group_asked_for(tmp_path: Path) -> None:
    with Bus() as bus:
        bus.pull(tmp_path / "frames.ipc", mode=0o660, group=65534)
        assert (tmp_path / "frames.ipc").stat().st_gid == 65534


def test_path_that_is_too_long_is_named_with_the_limit(tmp_path: Path) -> None:
    with Bus() as bus, pytest.raises(ConfigError, match="107"):
        bus.pull(tmp_path / ("x" * 107))


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with Bus() as bus, pytest.raises(SocketError, match="does not exist"):
        bus.pull(tmp_path / "none" / "frames.ipc")


def test_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "frames.ipc"
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(os.fspath(path))
    left.close()
    assert path.exists() and not is_listening(path)
    with Bus() as bus:
        bus.pull(path)
        assert is_listening(path)
    assert not path.exists()


def test_socket_of_a_living_process_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "frames.ipc"
    with Bus() as first, Bus() as second:
        pull = first.pull(path)
        with pytest.raises(WriterExistsError, match="another process listens"):
            second.pull(path)
        first.push(path).send(b"still there")
        assert pull.poll(60_000) and pull.recv() == b"still there"


def test_ordinary_file_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "frames.ipc"
    path.write_text("precious")
    with Bus() as bus, pytest.raises(SocketError, match="is not a socket"):
        bus.pull(path)
    assert path.read_text() == "precious"


def test_close_leaves_the_socket_of_a_successor(tmp_path: Path) -> None:
    path = tmp_path / "frames.ipc"
    bus = Bus()
    bus.pull(path)
    path.unlink()
    with Bus() as successor:
        successor.pull(path)
        bus.close()
        assert is_listening(path)


def test_push_without_a_peer_blocks_instead_of_holding_frames(tmp_path: Path) -> None:
    with Bus() as bus:
        push = bus.push(tmp_path / "frames.ipc")
        with pytest.raises(zmq.Again):
            push.send(b"frame", zmq.DONTWAIT)


def test_push_blocks_at_the_high_water_mark(tmp_path: Path) -> None:
    with Bus() as bus:
        bus.pull(tmp_path / "frames.ipc", hwm_frames=2)
        push = bus.push(tmp_path / "frames.ipc", hwm_frames=2)
        push.send(b"x" * 300_000)
        sent = 1
        while push.poll(200, zmq.POLLOUT) and sent < 100:
            push.send(b"x" * 300_000, zmq.DONTWAIT)
            sent += 1
        with pytest.raises(zmq.Again):
            push.send(b"x" * 300_000, zmq.DONTWAIT)
        # Both high-water marks, plus the messages in the kernel's socket buffers.
        assert 2 <= sent <= 10


def test_push_finds_a_pull_that_starts_later_and_again(tmp_path: Path) -> None:
    path = tmp_path / "frames.ipc"
    with Bus() as bus:
        push = bus.push(path)
        for _ in range(2):
            with Bus() as other:
                pull = other.pull(path)
                assert push.poll(5000, zmq.POLLOUT)
                push.send(b"frame")
                assert pull.poll(60_000) and pull.recv() == b"frame"
            # Until the socket notices the disconnection, it would still send to the closed peer.
            until(lambda: not push.poll(0, zmq.POLLOUT))


def _use_in_child(bus: Bus, out: multiprocessing.connection.Connection) -> None:
    try:
        bus.socket(zmq.PUSH, send_hwm=1, receive_hwm=1)
        out.send("used")
    except RuntimeError as error:
        out.send(str(error))
    bus.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_context_refuses_to_cross_a_fork(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with Bus() as bus:
        pull = bus.pull(tmp_path / "frames.ipc")
        ours, theirs = context.Pipe()
        child = context.Process(target=_use_in_child, args=(bus, theirs))
        child.start()
        assert ours.poll(60) and "fork" in ours.recv()
        child.join(60)
        assert child.exitcode == 0
        bus.push(tmp_path / "frames.ipc").send(b"unharmed")
        assert pull.poll(60_000) and pull.recv() == b"unharmed"


def test_an_unclosed_bus_is_collected_without_a_wait(tmp_path: Path) -> None:
    """In a reference cycle the context could be collected first, and a context waits for its open sockets."""
    code = f"""
import gc, pathlib
from pipeline.bus.sockets import Bus
bus = Bus()
sockets = [bus.pull(pathlib.Path({str(tmp_path)!r}) / "a"), bus.push(pathlib.Path({str(tmp_path)!r}) / "b")]
cycle = [bus, sockets]
cycle.append(cycle)
del bus, sockets, cycle
gc.collect()
print("collected")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.stdout == "collected\n", done.stderr
