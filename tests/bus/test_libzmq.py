"""Direct calls of libzmq: they reach the library that pyzmq loaded, on pyzmq's own sockets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import zmq

from pipeline.bus._libzmq import NativeSocket
from pipeline.bus.sockets import Bus


def test_no_second_libzmq_is_loaded() -> None:
    """A socket of one copy of libzmq is not valid in another."""
    program = (
        "import zmq, pipeline.bus._libzmq\n"
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
