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

There are two sockets. Anybody may connect to the public one, as far as its mode allows. Only root and the user that the
daemon runs as may connect to the other one, `OWN_SOCKET` beside it, so that no flood at the public one delays them.

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
import time
from collections import Counter, OrderedDict
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

#: Connections of all users but root and the daemon's own.
CLIENTS_MAX = 128
#: Connections of one user.
CLIENTS_PER_UID = 32
#: Connections of root and of the user that the daemon runs as, together.
CLIENTS_OWN = 32
#: What `RequestSocket.user_of` returns for root and for the user that the daemon runs as.
OWN = -1
#: The socket beside the public one that only these two may connect to.
OWN_SOCKET = "own.ipc"

_ACCEPTS_PER_TURN = 32
#: Connections that the kernel keeps for us. With more of them a client can wait longer in line instead of failing.
_BACKLOG = 512
_UCRED = struct.Struct("3i")
_TIMEVAL = struct.Struct("@ll")
#: A client waits this long before it connects again, and twice as long each further time.
_RETRY_S = 0.002
_RETRY_MAX_S = 0.05


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


@dataclass(slots=True)
class _Client:
    socket: socket.socket
    user: int  #: uid, or OWN
    served: int  #: turn of its last question, so that the longest silent one can be found


class RequestSocket:
    """The resolver's end. `fileno` is readable when there is something to take.

    Args:
        path: of the public socket. A file of a predecessor is replaced: the caller holds the instance's writer lock, so
            nobody listens there.
        mode, group: of the public file; -1 leaves the group.

    Attributes:
        accepted: connections so far.
        dropped: connections that were closed so far to make room for others, and may have waited for an answer.

    Raises:
        ConfigError: the path is longer than a Unix socket address can be.
        OSError: it cannot be bound.
    """

    def __init__(self, path: Path, *, mode: int = 0o666, group: int = -1) -> None:
        # By a number that is never given out again, as a descriptor is: an answer that comes late must find nobody.
        self._clients: OrderedDict[int, _Client] = OrderedDict()  # silent first
        self._numbers: dict[int, int] = {}  # by descriptor
        self._turns = 0
        self.accepted = 0
        self.dropped = 0
        self._listeners: list[_Listener] = []
        self._epoll = select.epoll()
        try:
            for name, is_own in ((path, False), (path.with_name(OWN_SOCKET), True)):
                paths.endpoint(name)  # its check of the length
                listener = _Listener(name, 0o600 if is_own else mode, -1 if is_own else group, is_own)
                self._listeners.append(listener)
                self._epoll.register(listener.socket.fileno(), select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """A descriptor to poll for reading."""
        return self._epoll.fileno()

    @property
    def clients(self) -> int:
        """Connections that are open."""
        return len(self._clients)

    def user_of(self, client: int) -> int:
        """The uid behind a connection; OWN: root or the daemon's user, or the connection is gone."""
        known = self._clients.get(client)
        return OWN if known is None else known.user

    def receive(self, budget: int) -> list[tuple[int, bytes]]:
        """Return at most `budget` questions with the connections that they came on; one of each connection a turn.

        Root and the daemon's user come first. Then each other user gets one question in turn, and among the connections
        of one user the one that has waited longest.
        """
        self._turns += 1
        # All that are ready, so that nobody's place in the kernel's list decides.
        ready = {fd for fd, _ in self._epoll.poll(0, len(self._clients) + len(self._listeners))}
        for listener in self._listeners:
            if listener.socket.fileno() in ready:
                self._accept(listener)
        waiting = sorted((number for fd in ready if (number := self._numbers.get(fd))), key=self._served)
        places: Counter[int] = Counter()
        order = []
        for number in waiting:
            user = self._clients[number].user
            order.append((user != OWN, places[user], number))
            places[user] += 1
        questions: list[tuple[int, bytes]] = []
        for _, _, number in sorted(order)[: max(1, budget)]:
            try:
                data = self._clients[number].socket.recv(REQUEST_MAX_BYTES + 1)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if data:
                self._clients[number].served = self._turns
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
            self._clients[client].socket.send(data, socket.MSG_NOSIGNAL)
        except OSError:
            self._drop(client)
            return False
        return True

    def _served(self, number: int) -> tuple[int, int]:
        return self._clients[number].served, number

    def _accept(self, listener: _Listener) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                client, _ = listener.socket.accept()
            except OSError:
                return
            client.setblocking(False)
            uid = _UCRED.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
            user = OWN if listener.is_own or uid in {0, os.geteuid()} else uid
            self._make_room(user)
            self.accepted += 1
            self._clients[self.accepted] = _Client(client, user, self._turns)
            self._numbers[client.fileno()] = self.accepted
            self._epoll.register(client.fileno(), select.EPOLLIN)

    def _make_room(self, user: int) -> None:
        """Close the connection that has been silent for longest: one of the user's own, or else anybody's but OWN."""
        same = [number for number, client in self._clients.items() if client.user == user]
        if len(same) >= (CLIENTS_OWN if user == OWN else CLIENTS_PER_UID):
            self.dropped += 1
            self._drop(same[0])
        elif user != OWN:
            others = [number for number, client in self._clients.items() if client.user != OWN]
            if len(others) >= CLIENTS_MAX:
                self.dropped += 1
                self._drop(others[0])

    def _drop(self, number: int) -> None:
        client = self._clients.pop(number).socket
        del self._numbers[client.fileno()]
        client.close()  # the kernel takes it out of the epoll set

    def close(self) -> None:
        """End all connections and remove the socket files, unless a successor has put its own there."""
        for number in list(self._clients):
            self._drop(number)
        self._epoll.close()
        for listener in self._listeners:
            listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Listener:
    """A socket that listens at `path`. It appears there complete, in place of a predecessor's."""

    def __init__(self, path: Path, mode: int, group: int, is_own: bool) -> None:
        self.is_own = is_own
        self._path = path
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise FileExistsError(errno.EEXIST, "there is something that is no socket", os.fspath(path))
        # Made under another name and then renamed, so that a client never finds a socket that is missing, closed to it
        # or not listening yet.
        made = path.with_name(f".{'o' if is_own else 'p'}")
        made.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            before = os.umask(0o177)
            try:
                self.socket.bind(os.fspath(made))
            finally:
                os.umask(before)
            if group != -1:
                os.chown(made, -1, group)
            made.chmod(mode)
            status = made.stat()
            self._identity = (status.st_dev, status.st_ino)
            self.socket.listen(_BACKLOG)
            made.rename(path)
        except OSError:
            self.socket.close()
            raise

    def close(self) -> None:
        self.socket.close()
        with suppress(OSError):
            status = self._path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self._path.unlink()


def exchange(path: Path, pid: int, timeout_ms: int) -> Answer:
    """Ask the resolver that listens at `path` about `pid`, and wait for its answer.

    A question that the resolver did not take or answer, because it has too many or is being replaced, is asked again as
    long as there is time.

    Raises:
        NotRunningError: there is no such socket.
        AccessError: the socket's mode does not let this user ask.
        UntrustedError: another user could have made the socket.
        StaleError: no answer came in time; the message says why and after how long.
        FrameError: the answer is of another version.

    An answer that says BUSY is returned only when the time is over.
    """
    paths.endpoint(path)
    began = time.monotonic()
    deadline = began + timeout_ms / 1000
    pause = _RETRY_S
    busy: Answer | None = None
    while True:
        answer, reason = _attempt(path, pid, deadline)
        if answer is not None and answer.reason != BUSY:
            return answer
        busy = answer or busy
        left = deadline - time.monotonic()
        if left <= 0:
            if busy is not None:
                return busy
            waited_ms = (time.monotonic() - began) * 1000
            raise StaleError(f"{path}: no answer after {waited_ms:.0f} ms: {reason}; ask again")
        time.sleep(min(pause, left))
        pause = min(2 * pause, _RETRY_MAX_S)


def _attempt(path: Path, pid: int, deadline: float) -> tuple[Answer | None, str]:
    """Ask once; returns the answer, or why there is none although there may be one if the question is asked again."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            _connect(connection, path, deadline)
            trust.check_socket(path)  # after connecting: what could be connected to exists
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.send(encode_request(pid), socket.MSG_NOSIGNAL)
            data = connection.recv(ANSWER_MAX_BYTES + 1)
        except TimeoutError:
            return None, "the resolver took the connection and did not answer"
        except BlockingIOError:
            return None, "too many others wait to connect"
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EPERM}:
                raise AccessError(
                    f"{path}: you may not ask this instance: see access.requests_mode", path=str(path)
                ) from None
            if error.errno == errno.ENOENT:
                raise NotRunningError(f"there is no {path}: the instance does not run, or is just starting") from None
            if error.errno == errno.ECONNREFUSED:  # a socket without a listener: its resolver is being replaced
                return None, "the resolver is gone and not replaced yet"
            return None, f"the resolver closed the connection ({error.strerror})"
    if not data:
        return None, "the resolver closed the connection: it ended, or has too many of them"
    answer = decode_answer(data)
    if answer.pid != pid:
        raise FrameError(f"an answer about pid {answer.pid} to a question about {pid}", reason="pid")
    return answer, ""


def _connect(connection: socket.socket, path: Path, deadline: float) -> None:
    """Connect to the socket for root and the daemon's user if this process may, else to the public one."""
    # Not settimeout(): a socket that does not block fails at once where the listener's queue is full, and one that
    # blocks waits in line.
    left = max(0.001, deadline - time.monotonic())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(left), int(left % 1 * 1_000_000)))
    try:
        connection.connect(os.fspath(path.with_name(OWN_SOCKET)))
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ECONNREFUSED}:
            raise
        connection.connect(os.fspath(path))
