"""Direct calls of libzmq: they reach the library that pyzmq loaded, on pyzmq's own sockets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from pipeline.bus import _libzmq, pushing
from pipeline.bus._libzmq import NativeSocket, PushSocket
from pipeline.bus.sockets import Bus


def test_the_constants_are_those_of_libzmq() -> None:
    """Each one stands beside its name in zmq.h, which is its name in pyzmq too."""
    text = Path(_libzmq.__file__).with_name("_libzmq.pyx").read_text(encoding="utf-8")
    written = {name: int(value) for value, name in re.findall(r"^    _\w+ = (\d+)  # ZMQ_(\w+)$", text, re.MULTILINE)}
    assert {"PUSH", "FD", "EVENTS", "LINGER", "SNDHWM", "RCVHWM", "DONTWAIT", "POLLIN"} < written.keys()
    assert {name: int(getattr(zmq, name)) for name in written} == written


@pytest.mark.parametrize("modules", ["zmq, pipeline.bus._libzmq", "pipeline.bus._libzmq, zmq"])
def test_no_second_libzmq_is_loaded(modules: str) -> None:
    """A socket of one copy of libzmq is not valid in another."""
    program = (
        f"import {modules}\n"
        "files = {line.split()[-1] for line in open('/proc/self/maps')}\n"
        "print(*(file for file in files if file.rpartition('/')[2].startswith('libzmq')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert len(done.stdout.split()) <= 1  # none if pyzmq contains libzmq itself


def test_a_socket_is_readable_once_a_message_has_arrived(tmp_path: Path) -> None:
    with Bus() as bus:
        pull = bus.pull(tmp_path / "f.ipc")
        native = NativeSocket(pull)
        assert not native.is_readable()
        bus.push(tmp_path / "f.ipc").send(b"message")
        assert pull.poll(10_000, zmq.POLLIN)
        assert native.is_readable()
        assert pull.recv() == b"message"
        assert not native.is_readable()


def test_an_impossible_endpoint_is_an_error() -> None:
    with pytest.raises(OSError, match="cannot connect to nothing"):
        PushSocket("nothing", hwm_messages=1, reconnect_ms=1, reconnect_max_ms=1)


def test_a_socket_is_closed_once_and_not_in_a_forked_child(tmp_path: Path) -> None:
    socket = pushing.connect(tmp_path / "f.ipc", hwm_frames=1)
    child = os.fork()
    if child == 0:
        socket.close()
        os._exit(0 if socket.underlying else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert socket.underlying
    socket.close()
    socket.close()
    assert not socket.underlying
