"""Requests from readers to the resolver: message format, the server's socket and the client's side.

The resolver computes the answers (`pipeline.resolver.daemon`); this module only transports them. The transport is a
Unix socket of type SEQPACKET. A request is one packet and its answer is one packet, in order. Each is one msgpack map;
unknown keys are ignored. A request:

    key   type   meaning
    v     uint   REQUEST_VERSION
    pid   uint   tgid in the daemon's pid namespace, from 1 to PID_MAX
    fresh bool   answer only when everything that happened before the question is in the tables; may be missing

An answer:

    key         type   meaning
    v           uint   REQUEST_VERSION
    pid         uint   the requested pid; 0 if the request could not be read
    found       bool   the process is in the tables now, at `row` and `generation`
    how         str    "cache", "kernel_maps" or "procfs"; "" if the process was not found
    reason      str    why it was not found, one of REASONS; "" if it was found
    row         uint   row of the process's newest image; 0 if it was not found
    generation  uint   generation of that row
    start_ns    uint   start of the process, boot clock

A request for a part of the stream's journal (`pipeline.bus.stream.journal`), for clients that cannot open its file:

    key      type   meaning
    v        uint   REQUEST_VERSION
    journal  uint   offset in the file
    bytes    uint   how many, at most JOURNAL_PART_BYTES

Its answer is {v, journal, data: bin, reason}. `data` is shorter at the end of the file. `reason` is "", or why there is
no data: "absent": there is no journal; "refused": the client may not read the stream; "busy"; "malformed".

There are two sockets. Every user that the file mode admits can connect to the public one. Only root and the daemon's
user can connect to the other one, `OWN_SOCKET` in the same directory, so a flood on the public socket does not delay
them.

These are not ZeroMQ sockets, because every local user can connect. A ROUTER keeps all parts of a multi-part message
that a peer never ends, regardless of its high-water mark (100 MB of parts sent: the receiver grew by 200 MB). With a
plain socket the kernel's socket buffers limit the data that a peer can leave waiting, and answers that a peer does not
read are dropped with its connection.
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
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgpack

from pipeline import paths, trust
from pipeline.bus.stream.journal import JournalBytes
from pipeline.errors import AccessError, BusyError, FrameError, NotRunningError, StaleError, UntrustedError
from pipeline.records.limits import PID_MAX as PID_MAX

REQUEST_VERSION = 1

#: A longer request is rejected.
REQUEST_MAX_BYTES = 256
ANSWER_MAX_BYTES = 1024

#: Why a process was not found.
ABSENT = "absent"  #: no such process exists
LIMITED = "limited"  #: /proc was read for this pid a moment ago and is not read again yet
FILLING = "filling"  #: the tables are not complete yet
BUSY = "busy"  #: too many requests are waiting
MALFORMED = "malformed"  #: the request could not be read
REASONS = (ABSENT, LIMITED, FILLING, BUSY, MALFORMED)
REFUSED = "refused"  #: of the journal: the client may not read the stream

#: Default time for an answer to a reader.
TIMEOUT_MS = 1000

#: Largest part of the journal in one answer.
JOURNAL_PART_BYTES = 32768
_JOURNAL_ANSWER_MAX_BYTES = JOURNAL_PART_BYTES + 256
_OFFSET_MAX = 1 << 62

#: Connections of all users except root and the daemon's user.
CLIENTS_MAX = 128
#: Connections of one user.
CLIENTS_PER_UID = 32
#: Connections of root and the daemon's user, together.
CLIENTS_OWN = 32
#: Return value of `RequestSocket.user_of` for root and the daemon's user.
OWN = -1
#: Name of the socket to which only root and the daemon's user can connect.
OWN_SOCKET = "own.ipc"

_ACCEPTS_PER_TURN = 32
#: Connections that the kernel queues. With a long queue a client waits instead of failing.
_BACKLOG = 512
_UCRED = struct.Struct("3i")
#: unix(7), since Linux 4.13; Python has no name for it.
_SO_PEERGROUPS = 59
_GROUPS_MAX = 256
_TIMEVAL = struct.Struct("@ll")
#: A client waits this long before it connects again; the pause doubles with each attempt.
_RETRY_S = 0.002
_RETRY_MAX_S = 0.05


class Answer(NamedTuple):
    """The resolver's answer; its fields are described in the module's docstring."""

    pid: int
    found: bool = False
    how: str = ""
    reason: str = ""
    row: int = 0
    generation: int = 0
    start_ns: int = 0


_ANSWER_TYPES = {name: type(value) for name, value in Answer(0)._asdict().items()}
#: Largest numbers of an answer.
_ANSWER_MAX = {"pid": PID_MAX, "row": (1 << 32) - 1, "generation": (1 << 32) - 1, "start_ns": (1 << 64) - 1}


def encode_request(pid: int, *, fresh: bool = False) -> bytes:
    """Return the request packet for `pid`."""
    packed: bytes = msgpack.packb({"v": REQUEST_VERSION, "pid": pid, **({"fresh": True} if fresh else {})})
    return packed


class Request(NamedTuple):
    """A request; its fields are described in the module's docstring."""

    pid: int
    fresh: bool = False


def decode_request(data: bytes) -> Request:
    """Read a request.

    Raises:
        FrameError: the packet is not a request of this version, or its pid is invalid.
    """
    message = _unpack(data, REQUEST_MAX_BYTES)
    pid = message.get("pid")
    if type(pid) is not int or not 0 < pid <= PID_MAX:
        raise FrameError(f"the request asks for {pid!r}, which is not a pid from 1 to {PID_MAX}", reason="pid")
    return Request(pid, message.get("fresh") is True)


def is_journal_request(data: bytes) -> bool:
    """Whether a packet asks for the journal."""
    return b"\xa7journal" in data


def encode_journal_request(offset: int, count: int) -> bytes:
    """Return the request packet for a part of the journal."""
    packed: bytes = msgpack.packb({"v": REQUEST_VERSION, "journal": offset, "bytes": count})
    return packed


def decode_journal_request(data: bytes) -> tuple[int, int]:
    """Return the offset and the number of bytes that a packet asks for.

    Raises:
        FrameError: the packet is no such request of this version.
    """
    message = _unpack(data, REQUEST_MAX_BYTES)
    offset, count = message.get("journal"), message.get("bytes")
    if type(offset) is not int or not 0 <= offset <= _OFFSET_MAX:
        raise FrameError(f"the offset in the journal is {offset!r}", reason="journal")
    if type(count) is not int or not 0 < count <= JOURNAL_PART_BYTES:
        raise FrameError(f"the request is for {count!r} bytes, not for 1 to {JOURNAL_PART_BYTES}", reason="bytes")
    return offset, count


def encode_journal_answer(offset: int, data: bytes, reason: str = "") -> bytes:
    """Return the packet with a part of the journal."""
    packed: bytes = msgpack.packb({"v": REQUEST_VERSION, "journal": offset, "data": data, "reason": reason})
    return packed


def decode_journal_answer(data: bytes, offset: int) -> tuple[bytes, str]:
    """Return a part of the journal and the reason why there is none.

    Raises:
        FrameError: the packet is not an answer to the request for `offset`.
    """
    message = _unpack(data, _JOURNAL_ANSWER_MAX_BYTES)
    part, reason = message.get("data"), message.get("reason")
    if message.get("journal") != offset or type(part) is not bytes or type(reason) is not str:
        raise FrameError("the answer is not a part of the journal", reason="journal")
    return part, reason


def encode_answer(answer: Answer) -> bytes:
    """Return the packet of an answer."""
    packed: bytes = msgpack.packb({"v": REQUEST_VERSION, **answer._asdict()})
    return packed


def decode_answer(data: bytes) -> Answer:
    """Read an answer.

    Raises:
        FrameError: the packet is not an answer of this version.
    """
    message = _unpack(data, ANSWER_MAX_BYTES)
    values: dict[str, Any] = {}
    for name, kind in _ANSWER_TYPES.items():
        value = message.get(name)
        if type(value) is not kind:
            raise FrameError(f"the answer's {name} is {value!r}, not a {kind.__name__}", reason=name)
        if type(value) is int and not 0 <= value <= _ANSWER_MAX[name]:
            raise FrameError(f"the answer's {name} is {value}, which is out of range", reason=name)
        values[name] = value
    return Answer(**values)


def _unpack(data: bytes, limit: int) -> dict[str, object]:
    if len(data) > limit:
        raise FrameError(f"the message is longer than {limit} bytes", reason="length")
    try:
        message = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise FrameError(f"the message is not msgpack: {error}", reason="msgpack") from None
    if not isinstance(message, dict) or message.get("v") != REQUEST_VERSION:
        raise FrameError(
            f"the message does not have version {REQUEST_VERSION}: both sides must run the same release",
            reason="version",
        )
    return message


class _Client:
    __slots__ = ("is_idle", "served", "socket", "user")

    def __init__(self, socket: socket.socket, user: int, served: int) -> None:
        self.socket = socket
        self.user = user  #: uid, or OWN
        self.served = served  #: turn in which its last request was read
        self.is_idle = False  #: its last request has been answered


class RequestSocket:
    """The resolver's side. Its descriptor (`fileno`) is readable when a request or a connection waits.

    Args:
        path: of the public socket. A predecessor's file is replaced; the caller holds the instance's writer lock, so
            no other process listens there.
        mode: mode of the public socket file.
        group: gid of the public socket file; -1 leaves it unchanged.

    Attributes:
        accepted: connections accepted so far.
        dropped: connections that were closed to make room for others while a request was not answered yet.

    Raises:
        ConfigError: the path is too long for a Unix socket address.
        OSError: the socket cannot be bound.
    """

    def __init__(self, path: Path, *, mode: int = 0o666, group: int = -1) -> None:
        # Keyed by a number that is never reused, unlike a descriptor: a late answer must not reach another client.
        self._clients: OrderedDict[int, _Client] = OrderedDict()  # the longest silent client first
        self._numbers: dict[int, int] = {}  # descriptor -> number of the client
        self._turns = 0
        self.accepted = 0
        self.dropped = 0
        self._listeners: list[_Listener] = []
        self._epoll = select.epoll()
        try:
            for name, is_own in ((path, False), (path.with_name(OWN_SOCKET), True)):
                paths.endpoint(name)  # raises ConfigError if the path is too long
                listener = _Listener(name, 0o600 if is_own else mode, -1 if is_own else group, is_own)
                self._listeners.append(listener)
                self._epoll.register(listener.socket.fileno(), select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return a descriptor to poll for reading."""
        return self._epoll.fileno()

    @property
    def clients(self) -> int:
        """Number of open connections."""
        return len(self._clients)

    def user_of(self, client: int) -> int:
        """Return the uid of a connection; OWN for root and the daemon's user, and if the connection is closed."""
        known = self._clients.get(client)
        return OWN if known is None else known.user

    def may_read(self, client: int, status: os.stat_result) -> bool:
        """Whether the user of a connection could read a file of this status; root and the daemon's user can."""
        known = self._clients.get(client)
        if known is None or known.user == OWN or status.st_mode & stat.S_IROTH:
            return known is not None
        return bool(status.st_mode & stat.S_IRGRP) and status.st_gid in _groups_of(known.socket)

    def receive(self, budget: int) -> list[tuple[int, bytes]]:
        """Return at most `budget` requests, each with the number of its connection.

        Each connection gets at most one request a call. Requests of root and the daemon's user come first. The other
        users then take turns, and among the connections of one user the longest waiting one is served first.
        """
        self._turns += 1
        # Fetch all ready descriptors, so that the order of the kernel's list does not matter.
        ready = {fd for fd, _ in self._epoll.poll(0, len(self._clients) + len(self._listeners))}
        for listener in self._listeners:
            if listener.socket.fileno() in ready:
                # A client sends its first request directly after it has connected.
                ready.update(self._accept(listener))
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
                self._clients[number].is_idle = False
                self._clients.move_to_end(number)
                questions.append((number, data))
            else:
                self._drop(number)
        return questions

    def answer(self, client: int, data: bytes) -> bool:
        """Send an answer.

        Returns:
            False if the connection is closed, or was dropped now because the client does not read its answers.
        """
        known = self._clients.get(client)
        if known is None:
            return False
        try:
            known.socket.send(data, socket.MSG_NOSIGNAL)
        except OSError:
            self._drop(client)
            return False
        known.is_idle = True
        return True

    def _served(self, number: int) -> tuple[int, int]:
        return self._clients[number].served, number

    def _accept(self, listener: _Listener) -> list[int]:
        """Accept the connections that wait, but not too many; return their descriptors."""
        accepted: list[int] = []
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                client, _ = listener.socket.accept()
            except OSError:
                break
            client.setblocking(False)
            uid = _UCRED.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
            user = OWN if listener.is_own or uid in {0, os.geteuid()} else uid
            self._make_room(user)
            self.accepted += 1
            self._clients[self.accepted] = _Client(client, user, self._turns)
            self._numbers[client.fileno()] = self.accepted
            self._epoll.register(client.fileno(), select.EPOLLIN)
            accepted.append(client.fileno())
        return accepted

    def _make_room(self, user: int) -> None:
        """Close the longest silent connection if the user, or all users except OWN together, have reached the limit."""
        same = [number for number, client in self._clients.items() if client.user == user]
        if len(same) >= (CLIENTS_OWN if user == OWN else CLIENTS_PER_UID):
            self._dismiss(same[0])
        elif user != OWN:
            others = [number for number, client in self._clients.items() if client.user != OWN]
            if len(others) >= CLIENTS_MAX:
                self._dismiss(others[0])

    def _dismiss(self, number: int) -> None:
        """Close a connection to make room. One that waits for nothing is not counted: its client makes a new one."""
        self.dropped += not self._clients[number].is_idle
        self._drop(number)

    def _drop(self, number: int) -> None:
        client = self._clients.pop(number).socket
        del self._numbers[client.fileno()]
        client.close()  # the kernel also removes it from the epoll set

    def close(self) -> None:
        """Close all connections and remove the socket files, unless a successor has already replaced them."""
        for number in list(self._clients):
            self._drop(number)
        self._epoll.close()
        for listener in self._listeners:
            listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _groups_of(connection: socket.socket) -> set[int]:
    """Return the groups that the peer was in when it connected."""
    groups = {_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[2]}
    with suppress(OSError):
        data = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_MAX * 4)
        groups.update(struct.unpack(f"{len(data) // 4}I", data))
    return groups


class JournalRequests(JournalBytes):
    """The journal of an instance, read through the socket for questions.

    A request waits for the resolver, at most `timeout_s`.

    Args:
        path: of the public socket.
        timeout_s: how long one call of `read` may take.
    """

    def __init__(self, path: Path, timeout_s: float = 2.0) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._connection: socket.socket | None = None

    def read(self, count: int, offset: int) -> bytes:
        """Return `count` bytes of the file; fewer if it ends, or if the resolver does not send them."""
        data = b""
        deadline = time.monotonic() + self._timeout_s
        while len(data) < count and time.monotonic() < deadline:
            at = offset + len(data)
            try:
                part, reason = self._part(at, min(count - len(data), JOURNAL_PART_BYTES), deadline)
            except (OSError, FrameError, UntrustedError):
                self.close()
                break
            if reason == BUSY:
                time.sleep(_RETRY_MAX_S)
            elif not part:
                break
            data += part
        return data

    def _part(self, offset: int, count: int, deadline: float) -> tuple[bytes, str]:
        if self._connection is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                trust.check_socket(self._path)
                _connect(connection, self._path, deadline)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        self._connection.settimeout(max(0.001, deadline - time.monotonic()))
        self._connection.send(encode_journal_request(offset, count), socket.MSG_NOSIGNAL)
        return decode_journal_answer(self._connection.recv(_JOURNAL_ANSWER_MAX_BYTES), offset)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Listener:
    """A listening socket at `path`. It replaces a predecessor's file atomically."""

    def __init__(self, path: Path, mode: int, group: int, is_own: bool) -> None:
        self.is_own = is_own
        self._path = path
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise FileExistsError(errno.EEXIST, "the file is not a socket; move it away", os.fspath(path))
        # Created under another name and then renamed, so that a client never finds the path without a socket, with the
        # wrong mode, or with a socket that does not listen yet.
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


def ask(directory: Path, pid: int, timeout_ms: int = TIMEOUT_MS, *, fresh: bool = False) -> Answer:
    """Ask an instance once to find a process; see `Asker`."""
    with Asker(paths.requests_socket(directory)) as asker:
        return asker.ask(pid, timeout_ms, fresh=fresh)


class Asker:
    """The client's side of an instance's socket for questions; a context manager.

    The connection is kept between questions: to make one costs both sides as much as a question. The resolver closes
    connections that are idle if it has too many; then the next question makes a new one. Several threads may ask at the
    same time, and each then has a connection of its own. After a fork, the child makes a new one.

    Args:
        path: of the public socket.

    Raises:
        ConfigError: the path is too long for a Unix socket address.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[tuple[int, socket.socket]] = []  # at most one, with the process that made it
        paths.endpoint(path)

    def ask(self, pid: int, timeout_ms: int = TIMEOUT_MS, *, fresh: bool = False) -> Answer:
        """Ask the instance to find a process.

        Args:
            pid: tgid in the daemon's pid namespace.
            timeout_ms: how long to wait for the answer.
            fresh: the answer waits until everything that happened before the call is in the tables. The shards read
                their rings at once for it.

        Returns:
            The answer. If ``found`` is true, the process is in the tables now.

        Raises:
            NotRunningError: the instance is not running.
            AccessError: this user may not send requests.
            UntrustedError: another user could have created the socket.
            StaleError: no answer arrived in time, or the tables are not complete yet.
            FrameError: the resolver has another version.
            BusyError: the resolver has too many requests to answer this one in time.
        """
        answer = self.exchange(pid, timeout_ms, fresh=fresh)
        if answer.reason == FILLING:
            raise StaleError("the tables are not complete yet: ask again")
        if answer.reason == BUSY:
            raise BusyError(f"the resolver had too many requests for {timeout_ms} ms to search for {pid}: ask again")
        return answer

    def exchange(self, pid: int, timeout_ms: int, *, fresh: bool = False) -> Answer:
        """Send a request about `pid` to the resolver, and wait for the answer.

        The request is repeated until `timeout_ms` is over if the resolver does not accept or answer it, because it has
        too many requests or is being replaced.

        Args:
            pid: tgid in the daemon's pid namespace.
            timeout_ms: maximum time for all attempts.
            fresh: the answer must wait until everything that happened before the request is in the tables.

        Returns:
            The answer. An answer with the reason BUSY is returned only when the time is over.

        Raises:
            NotRunningError: the socket does not exist.
            AccessError: the socket's mode does not admit this user.
            UntrustedError: another user could have created the socket file.
            StaleError: no answer arrived in time; the message says why and after how long.
            FrameError: the answer has another version.
        """
        began = time.monotonic()
        deadline = began + timeout_ms / 1000
        pause = _RETRY_S
        busy: Answer | None = None
        request = encode_request(pid, fresh=fresh)
        while True:
            data, reason = self._attempt(request, deadline)
            answer = decode_answer(data) if data else None
            if answer is not None and answer.pid != pid:
                self.close()
                raise FrameError(f"the answer is about pid {answer.pid}, the request was about {pid}", reason="pid")
            if answer is not None and answer.reason != BUSY:
                return answer
            busy = answer or busy
            left = deadline - time.monotonic()
            if left <= 0:
                if busy is not None:
                    return busy
                waited_ms = (time.monotonic() - began) * 1000
                raise StaleError(f"{self._path}: no answer after {waited_ms:.0f} ms: {reason}; ask again")
            time.sleep(min(pause, left))
            pause = min(2 * pause, _RETRY_MAX_S)

    def _attempt(self, request: bytes, deadline: float) -> tuple[bytes, str]:
        """Send the request once.

        Returns:
            The answer's packet and "", or nothing and the reason why the request is worth repeating.
        """
        kept = self._take()
        if kept is not None:
            try:
                data = _send(kept, request, deadline)
            except TimeoutError:
                # A late answer must not be taken for that to the next request.
                kept.close()
                return b"", "the resolver did not answer"
            except OSError:
                data = b""
            if data:
                self._keep(kept)
                return data, ""
            kept.close()  # by the resolver before: it made room, or was replaced
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        data = b""
        try:
            trust.check_socket(self._path)
            _connect(connection, self._path, deadline)
            data = _send(connection, request, deadline)
        except TimeoutError:
            return b"", "the resolver accepted the connection but did not answer"
        except BlockingIOError:
            return b"", "too many other clients are waiting"
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EPERM}:
                raise AccessError(
                    f"{self._path}: you do not have permission to send requests: run as root, or change "
                    "access.requests_mode",
                    path=str(self._path),
                ) from None
            if error.errno == errno.ENOENT:
                raise NotRunningError(
                    f"{self._path} does not exist: the instance is not running, or is starting; "
                    "`procline list` shows which run, and `procline wait` waits"
                ) from None
            if error.errno == errno.ECONNREFUSED:  # a socket without a listener: its resolver is being replaced
                return b"", "the resolver is gone and not replaced yet"
            return b"", f"the resolver closed the connection ({error.strerror})"
        finally:
            if data:
                self._keep(connection)
            else:
                connection.close()
        return data, "" if data else "the resolver closed the connection: it ended, or has too many connections"

    def _take(self) -> socket.socket | None:
        """Return the connection that is kept, if another thread has not taken it."""
        try:
            process, connection = self._idle.pop()
        except IndexError:
            return None
        if process == os.getpid():
            return connection
        connection.close()  # of the parent, which continues to use it
        return None

    def _keep(self, connection: socket.socket) -> None:
        if self._idle:
            connection.close()
        else:
            self._idle.append((os.getpid(), connection))

    def close(self) -> None:
        """Close the connection that is kept. Another question makes a new one."""
        while self._idle:
            self._idle.pop()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _send(connection: socket.socket, request: bytes, deadline: float) -> bytes:
    """Send a request and return the answer's packet; empty if the resolver has closed the connection."""
    connection.settimeout(max(0.001, deadline - time.monotonic()))
    connection.send(request, socket.MSG_NOSIGNAL)
    return connection.recv(ANSWER_MAX_BYTES + 1)


def _connect(connection: socket.socket, path: Path, deadline: float) -> None:
    """Connect to the socket for root and the daemon's user if permitted, otherwise to the public one."""
    # SO_SNDTIMEO instead of settimeout(): if the listener's queue is full, a blocking socket waits in the queue, while
    # the non-blocking socket that settimeout() makes fails at once.
    left = max(0.001, deadline - time.monotonic())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(left), int(left % 1 * 1_000_000)))
    try:
        connection.connect(os.fspath(path.with_name(OWN_SOCKET)))
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ECONNREFUSED}:
            raise
        connection.connect(os.fspath(path))
