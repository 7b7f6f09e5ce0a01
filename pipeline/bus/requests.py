"""Questions of readers to the resolver: the wire, and the socket at both ends. Answering is the resolver's.

A Unix socket of type SEQPACKET: a question is one packet, its answer another, in order. Each is one msgpack map; keys
that the other side does not know are ignored. A question:

    key   type   meaning
    v     uint   REQUEST_VERSION
    pid   uint   tgid in the daemon's pid namespace, from 1 to PID_MAX

and an answer:

    key         type   meaning
    v           uint   REQUEST_VERSION
    pid         uint   as asked; 0 where the question could not be read
    found       bool   it is in the tables now: row and generation say where
    how         str    "cache", "kernel_maps" or "procfs"; "" where it was not found
    reason      str    why not: one of REASONS; "" where it was found
    row         uint   of the process' newest image; 0 where it was not found
    generation  uint   of that row
    start_ns    uint   start of the process, boot clock

Not a ZeroMQ socket, because anybody may connect here: a peer that never ends its multi-part message makes a ROUTER keep
all of it, whatever its high-water mark (100 MB of parts sent: the receiver grew by 200 MB). Here what a peer can leave
waiting is bounded by the kernel's socket buffers, and what it does not fetch is dropped with its connection.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgpack

from pipeline import paths, trust
from pipeline.errors import AccessError, FrameError, NotRunningError, StaleError

REQUEST_VERSION = 1
PID_MAX = 1 << 22

#: A longer question is refused.
REQUEST_MAX_BYTES = 256
ANSWER_MAX_BYTES = 1024

#: Why a process was not found.
ABSENT = "absent"  #: nobody knows such a process
LIMITED = "limited"  #: /proc was asked about this pid a moment ago, and is not asked again yet
FILLING = "filling"  #: the tables are not complete yet
BUSY = "busy"  #: too many questions wait already
MALFORMED = "malformed"  #: the question could not be read
REASONS = (ABSENT, LIMITED, FILLING, BUSY, MALFORMED)

CLIENTS_MAX = 128
#: Of one user; root is not counted. Others get their turn then, whatever one user does.
CLIENTS_PER_UID = 32
_ACCEPTS_PER_TURN = 16
_BACKLOG = 64
_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the resolver found; the fields are those of the table above."""

    pid: int
    found: bool = False
    how: str = ""
    reason: str = ""
    row: int = 0
    generation: int = 0
    start_ns: int = 0


def encode_request(pid: int) -> bytes:
    """Return the question about `pid`."""
    packed: bytes = msgpack.packb({"v": REQUEST_VERSION, "pid": pid})
    return packed


def decode_request(data: bytes) -> int:
    """Return the pid that is asked about.

    Raises:
        FrameError: it is no question of this version, or no pid.
    """
    message = _unpack(data, REQUEST_MAX_BYTES)
    pid = message.get("pid")
    if type(pid) is not int or not 0 < pid <= PID_MAX:
        raise FrameError(f"a question about {pid!r}, which is no pid", reason="pid")
    return pid


def encode_answer(answer: Answer) -> bytes:
    """Return the packet of an answer."""
    packed: bytes = msgpack.packb({"v": REQUEST_VERSION, **asdict(answer)})
    return packed


def decode_answer(data: bytes) -> Answer:
    """Read an answer.

    Raises:
        FrameError: it is none of this version.
    """
    message = _unpack(data, ANSWER_MAX_BYTES)
    values: dict[str, Any] = {}
    for name, kind in Answer.__annotations__.items():
        value = message.get(name)
        if type(value).__name__ != kind:
            raise FrameError(f"an answer whose {name} is {value!r}", reason=name)
        values[name] = value
    return Answer(**values)


def _unpack(data: bytes, limit: int) -> dict[str, object]:
    if len(data) > limit:
        raise FrameError(f"a message of more than {limit} bytes", reason="length")
    try:
        message = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise FrameError(f"a message that is no msgpack: {error}", reason="msgpack") from None
    if not isinstance(message, dict) or message.get("v") != REQUEST_VERSION:
        raise FrameError(f"a message of another version than {REQUEST_VERSION}", reason="version")
    return message


class RequestSocket:
    """The resolver's end. `fileno` is readable when there is something to take.

    Args:
        path: of the socket. A file of a predecessor is replaced: the caller holds the instance's writer lock, so
            nobody listens there.
        mode, group: of the file; -1 leaves the group.

    Raises:
        ConfigError: the path is longer than a Unix socket address can be.
        OSError: it cannot be bound.
    """

    def __init__(self, path: Path, *, mode: int = 0o666, group: int = -1) -> None:
        paths.endpoint(path)  # its check of the length
        self._path = path
        # By a number that is never given out again, as a descriptor is: an answer that comes late must find nobody.
        self._clients: OrderedDict[int, tuple[socket.socket, int]] = OrderedDict()  # -> (socket, uid), silent first
        self._numbers: dict[int, int] = {}  # by descriptor
        self._accepted = 0
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            # Born closed to everybody and then opened, so that there is no moment with a wider mode than asked for.
            before = os.umask(0o177)
            try:
                self._listener.bind(os.fspath(path))
            finally:
                os.umask(before)
            if group != -1:
                os.chown(path, -1, group)
            path.chmod(mode)
            status = path.stat()
            self._identity = (status.st_dev, status.st_ino)
            self._listener.listen(_BACKLOG)
            self._epoll = select.epoll()
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        except OSError:
            self._listener.close()
            raise

    def fileno(self) -> int:
        """A descriptor to poll for reading."""
        return self._epoll.fileno()

    @property
    def clients(self) -> int:
        """Connections that are open."""
        return len(self._clients)

    def receive(self, budget: int) -> list[tuple[int, bytes]]:
        """Return at most `budget` questions with the connections that they came on; one of each connection a turn."""
        questions: list[tuple[int, bytes]] = []
        # The kernel hands out ready descriptors in turn, so a connection that is always ready delays others by one.
        for fd, _ in self._epoll.poll(0, max(1, budget)):
            if fd == self._listener.fileno():
                self._accept()
                continue
            number = self._numbers.get(fd)
            if number is None:
                continue  # made room for another in this very turn
            try:
                data = self._clients[number][0].recv(REQUEST_MAX_BYTES + 1)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if data:
                self._clients.move_to_end(number)
                questions.append((number, data))
            else:
                self._drop(number)
        return questions

    def answer(self, client: int, data: bytes) -> bool:
        """Send an answer; False: the connection is gone, or does not fetch its answers and is dropped."""
        if client not in self._clients:
            return False
        try:
            self._clients[client][0].send(data, socket.MSG_NOSIGNAL)
        except OSError:
            self._drop(client)
            return False
        return True

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setblocking(False)
            uid = _UCRED.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
            # Whoever waits longest without a question goes first: the user's own, else anybody's.
            own = [number for number, (_, other) in self._clients.items() if other == uid]
            if uid and len(own) >= CLIENTS_PER_UID:
                self._drop(own[0])
            elif len(self._clients) >= CLIENTS_MAX:
                self._drop(next(iter(self._clients)))
            self._accepted += 1
            self._clients[self._accepted] = (client, uid)
            self._numbers[client.fileno()] = self._accepted
            self._epoll.register(client.fileno(), select.EPOLLIN)

    def _drop(self, number: int) -> None:
        client, _ = self._clients.pop(number)
        del self._numbers[client.fileno()]
        client.close()  # the kernel takes it out of the epoll set

    def close(self) -> None:
        """End all connections and remove the socket file, unless a successor has put its own there."""
        for number in list(self._clients):
            self._drop(number)
        self._epoll.close()
        self._listener.close()
        with suppress(OSError):
            status = self._path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def exchange(path: Path, pid: int, timeout_ms: int) -> Answer:
    """Ask the resolver that listens at `path` about `pid`, and wait for its answer.

    Raises:
        NotRunningError: there is no such socket.
        AccessError: the socket's mode does not let this user ask.
        UntrustedError: another user could have made the socket.
        StaleError: no answer came in time, or the resolver is being replaced.
        FrameError: the answer is of another version.
    """
    paths.endpoint(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(timeout_ms / 1000)
        try:
            connection.connect(os.fspath(path))
            trust.check_socket(path)  # after connecting: what could be connected to exists
            connection.send(encode_request(pid), socket.MSG_NOSIGNAL)
            data = connection.recv(ANSWER_MAX_BYTES + 1)
        except (TimeoutError, BlockingIOError):
            raise StaleError(f"the resolver did not answer within {timeout_ms} ms: ask again") from None
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EPERM}:
                raise AccessError(
                    f"{path}: you may not ask this instance: see access.requests_mode", path=str(path)
                ) from None
            if error.errno == errno.ENOENT:
                raise NotRunningError(f"there is no {path}: the instance does not run, or is just starting") from None
            # A socket without a listener: its resolver is being replaced.
            raise StaleError(f"{path}: {error.strerror}: the resolver is gone; ask again when it is back") from None
    if not data:
        raise StaleError(f"{path}: the resolver ended, or had too many connections, before it answered: ask again")
    answer = decode_answer(data)
    if answer.pid != pid:
        raise FrameError(f"an answer about pid {answer.pid} to a question about {pid}", reason="pid")
    return answer
