"""A socket that publishes to subscribers of a test, without the resolver."""

from __future__ import annotations

from pathlib import Path

import zmq

from pipeline.bus.sockets import STREAM_HWM_MESSAGES, Bus


def bind_publisher(bus: Bus, path: Path, *, mode: int = 0o666) -> zmq.Socket[bytes]:
    """Return an XPUB socket bound to the ipc socket `path`. Errors as `Bus.bind`."""
    made = bus.socket(zmq.XPUB, send_hwm=STREAM_HWM_MESSAGES, receive_hwm=1000)
    bus.bind(made, path, mode=mode)
    return made
