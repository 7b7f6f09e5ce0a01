"""Pass descriptors to another process over a unix socket (SCM_RIGHTS of unix(7)), any number of them."""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence

#: Descriptors in a message; the kernel allows 253 (SCM_MAX_FD).
_FDS_A_MESSAGE = 200


def send_fds(to: socket.socket, fds: Sequence[int]) -> None:
    """Send descriptors; the receiver must know how many there are."""
    for begin in range(0, len(fds), _FDS_A_MESSAGE):
        socket.send_fds(to, [b"\0"], fds[begin : begin + _FDS_A_MESSAGE])


def receive_fds(by: socket.socket, count: int, fds: list[int]) -> bool:
    """Append `count` descriptors to `fds`, close-on-exec; return False if the sender ended before it had sent all."""
    while len(fds) < count:
        # Not socket.recv_fds: it does not set the close-on-exec flag, and workers would inherit all of them.
        more, ancillary, _, _ = by.recvmsg(1, socket.CMSG_SPACE(4 * _FDS_A_MESSAGE), socket.MSG_CMSG_CLOEXEC)
        for _, _, data in ancillary:
            fds += array.array("i", data)
        if not more:
            return False
    return True
