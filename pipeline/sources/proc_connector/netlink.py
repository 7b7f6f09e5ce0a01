"""The kernel's proc connector: its netlink socket, and the layout of its messages. `source` uses them.

Every datagram is a struct nlmsghdr (16 bytes), a struct cn_msg (20) and a struct proc_event (40), in native byte order:

    offset  size  field                 type  unit       meaning
    0       16    nlmsghdr              -     -          length, type, flags, sequence, port
    16      8     id                    2u4   -          CN_IDX_PROC, CN_VAL_PROC
    24      4     seq                   u4    -          messages of this CPU so far: a gap is a loss
    28      4     ack                   u4    -
    32      2     len                   u2    bytes      of the proc_event
    34      2     flags                 u2    -
    36      4     what                  u4    mask       one of the PROC_EVENT_* below; 0 answers a request
    40      4     cpu                   u4    -
    44      8     timestamp_ns          u8    ns (mono)  taken before the message is numbered and sent
    52      24    data                  6u4   -          ids of thread and process first, then as the kind has it

Processes and threads are identified by their numbers in the initial pid namespace. The kernel numbers all messages of a
CPU without gaps, whether or not there is a listener, and drops a message if a receiver's buffer is full. Losses are
therefore counted exactly as long as the kernel filters nothing. For this reason the source requests all kinds of
events, although it does not use two of them and newer kernels (6.6) could filter them out.

Source: linux/cn_proc.h, linux/connector.h, drivers/connector/cn_proc.c (Linux 6.12, 6.18).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

from pipeline.errors import UnsupportedError

NETLINK_CONNECTOR = 11
CN_IDX_PROC = 1
CN_VAL_PROC = 1

PROC_CN_MCAST_LISTEN = 1
PROC_CN_MCAST_IGNORE = 2

EVENT_NONE = 0
EVENT_FORK = 0x1
EVENT_EXEC = 0x2
EVENT_UID = 0x4
EVENT_GID = 0x40
EVENT_SID = 0x80
EVENT_COMM = 0x200
EVENT_EXIT = 0x80000000

MESSAGE_BYTES = 76
#: id, seq, what, cpu, time and six words.
_MESSAGE = struct.Struct("=16xIII8xIIQ6I")
_DATA_BYTES = 24
_REQUEST = struct.Struct("=IHHIIIIIIHHI")
assert _MESSAGE.size == MESSAGE_BYTES
_NLMSG_DONE = 3
_SO_RCVBUFFORCE = 33  # linux/asm-generic/socket.h; the socket module has no constant for it
#: How long to wait for the answer to the request, in seconds. Before Linux 6.6, a rejected request gets no answer.
_ANSWER_S = 1.0

#: One event: what, cpu, seq, time (monotonic ns), and the six words of its data.
Event = tuple[int, int, int, int, int, int, int, int, int, int]


def open_socket(receive_bytes: int) -> socket.socket:
    """Open a non-blocking socket that receives every event from now on.

    Args:
        receive_bytes: room for unread events; the kernel accounts about 800 bytes for each.

    Raises:
        UnsupportedError: this kernel has no proc connector, or this process may not listen to it.
    """
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR)
    except OSError as error:
        raise _refused(f"cannot open the proc connector: {error.strerror}") from None
    try:
        # Only CAP_NET_ADMIN allows a size above net.core.rmem_max; without it, the kernel limits the size.
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_bytes // 2)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes // 2)
        sock.bind((0, CN_IDX_PROC))
        request(sock, PROC_CN_MCAST_LISTEN)
        _await_answer(sock)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _refused(f"cannot subscribe to the proc connector: {error.strerror}") from None
    except UnsupportedError:
        sock.close()
        raise
    return sock


def request(sock: socket.socket, operation: int) -> None:
    """Ask the kernel to start (PROC_CN_MCAST_LISTEN) or stop (PROC_CN_MCAST_IGNORE) sending events."""
    length = _REQUEST.size
    sock.send(_REQUEST.pack(length, _NLMSG_DONE, 0, 0, 0, CN_IDX_PROC, CN_VAL_PROC, 0, 0, 4, 0, operation))


def close_socket(sock: socket.socket) -> None:
    """Stop listening, and close the socket.

    Before Linux 6.6, the kernel continues to generate events unless the last listener explicitly stops them.
    """
    with contextlib.suppress(OSError):
        request(sock, PROC_CN_MCAST_IGNORE)
    sock.close()


def _await_answer(sock: socket.socket) -> None:
    deadline = time.monotonic() + _ANSWER_S
    buffer = bytearray(4096)
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            length, sender = sock.recvfrom_into(buffer)
        except TimeoutError:
            break
        event = parse(buffer, length) if sender[0] == 0 else None
        if event is None:
            continue
        if event[0] != EVENT_NONE:
            return  # events arrive: this socket receives them, even if another listener requested them
        if event[4]:
            raise _refused(f"the kernel rejected the subscription to the proc connector: {os.strerror(event[4])}")
        return
    raise _refused("the proc connector does not answer")


def _refused(what: str) -> UnsupportedError:
    hint = "run as root in the host's network and pid namespaces, on a kernel with CONFIG_PROC_EVENTS"
    return UnsupportedError(what, feature="proc-connector", needs="CONFIG_PROC_EVENTS", hint=hint)


def parse(buffer: bytearray, length: int) -> Event | None:
    """Parse a datagram; return None if it is not from the proc connector.

    Args:
        buffer: at least MESSAGE_BYTES long; the bytes after `length` may be overwritten with zeros.
        length: length of the datagram in bytes.
    """
    if length < MESSAGE_BYTES:
        if length < MESSAGE_BYTES - _DATA_BYTES:
            return None
        # An older kernel's events are shorter: the missing fields are 0.
        buffer[length:MESSAGE_BYTES] = bytes(MESSAGE_BYTES - length)
    index, value, seq, what, cpu, time_ns, *data = _MESSAGE.unpack_from(buffer)
    if index != CN_IDX_PROC or value != CN_VAL_PROC:
        return None
    return (what, cpu, seq, time_ns, *data)


def name(event: Event) -> bytes:
    """Return the name in an EVENT_COMM, without its NUL."""
    return struct.pack("=4I", *event[6:]).partition(b"\0")[0]
