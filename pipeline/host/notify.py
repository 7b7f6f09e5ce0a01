"""Report the daemon's state to systemd: sd_notify(3) over its datagram socket. Without systemd it does nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(*fields: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send fields such as ``READY=1`` or ``STATUS=...`` and return whether they were sent.

    A missing service manager is not an error.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect("\0" + address[1:] if address[0] == "@" else address)
            sender.sendall("\n".join(fields).encode())
        except OSError:
            return False
    return True


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return how often to send ``WATCHDOG=1``: half of systemd's limit. None: systemd does not watch this process."""
    try:
        allowed_us = int(environ["WATCHDOG_USEC"])
        asked = int(environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return allowed_us / 2_000_000 if allowed_us > 0 and asked == os.getpid() else None
