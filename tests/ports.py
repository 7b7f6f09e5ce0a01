"""Ports for servers that a test starts a moment later."""

from __future__ import annotations

import random
import socket

#: Below the range from which Linux takes the ports of outgoing connections: no connection takes the port of a server
#: that is down, or is not up yet.
_PORTS = range(12_000, 32_000)
#: Not the common generator, which begins alike in all processes of pytest-xdist.
_random = random.SystemRandom()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on."""
    while True:
        port = _random.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
