"""A client that speaks ZMTP 3 byte by byte, to send what no ZeroMQ library sends (https://rfc.zeromq.org/spec/23/)."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

MORE, LONG, COMMAND = 1, 2, 4
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def frame(body: bytes, flags: int = 0) -> bytes:
    """Return a frame on the wire."""
    if len(body) > 255:
        return bytes([flags | LONG]) + struct.pack(">Q", len(body)) + body
    return bytes([flags, len(body)]) + body


def command(name: bytes, data: bytes = b"") -> bytes:
    """Return a command on the wire."""
    return frame(bytes([len(name)]) + name + data, COMMAND)


READY = command(b"READY", b"\x0bSocket-Type\x00\x00\x00\x03SUB")


def subscription(prefix: bytes) -> bytes:
    """Return a subscription on the wire, as ZMTP 3.0 has it."""
    return frame(b"\x01" + prefix)


def connect(path: Path, *, timeout: float = 60.0) -> socket.socket:
    """Return a connection on which nothing was sent."""
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(timeout)
    made.connect(os.fspath(path))
    return made


def subscriber(path: Path, *prefixes: bytes, timeout: float = 60.0) -> socket.socket:
    """Return a connection after its handshake, and with its subscriptions."""
    made = connect(path, timeout=timeout)
    made.sendall(GREETING + READY)
    await_ready(made)
    made.sendall(b"".join(map(subscription, prefixes)))
    return made


def await_ready(client: socket.socket) -> None:
    """Read until the server's handshake is complete. libzmq closes a connection on which more was sent before that."""
    received = b""
    while b"XPUB" not in received:
        more = client.recv(1)
        assert more, f"the server closed the connection after {received!r}"
        received += more


def is_closed(client: socket.socket) -> bool:
    """Read until the server closes the connection; False if it has not, before the timeout of a blocking socket."""
    try:
        while client.recv(65536):
            pass
    except (TimeoutError, BlockingIOError):
        return False
    except ConnectionError:
        pass
    return True
