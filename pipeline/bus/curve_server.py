"""The server's side of CURVE: which clients of a TCP socket are admitted, how many, and for how long.

An authenticator (ZeroMQ RFC 27, "ZAP") admits only clients with a public key in a directory. This module avoids two
mistakes that are easy to make with ZeroMQ:

- Without an authenticator a CURVE server accepts every key. `CurveServer` therefore starts one, and its sockets reject
  all clients if the authenticator is gone (ZMQ_ZAP_ENFORCE_DOMAIN).
- An authenticator looks keys up by domain. The socket and the authenticator therefore use the same domain, never a
  wildcard.

An authenticator decides in the handshake only, and libzmq limits neither connections nor what a client sends. A second
thread therefore watches the connections: it ends those with a revoked key and those that break a limit. It learns of
them from ZeroMQ's monitor, and of their keys from their subscriptions. A client without a subscription receives
nothing.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from pipeline.bus import auth
from pipeline.errors import ConfigError
from pipeline.records.limits import HANDSHAKE_MS

#: ZAP domain of the public stream.
DOMAIN = "procline"

#: Connections that have subscribed.
CLIENTS_MAX = 64
#: Connections that have not subscribed yet. At the limit the oldest one is closed.
NEWCOMERS_MAX = 32
#: A connection must have subscribed within this time.
NEWCOMER_S = 15.0
#: What a client may send: handshake and subscriptions at once, and answers to heartbeats (about 10 B/s) later.
BYTES_AT_ONCE = 65_536
BYTES_PER_S = 64
#: How often the connections are checked. A client can send for this long before a limit ends its connection.
CHECK_S = 0.05

#: Events of ZeroMQ's monitor that may wait for the watch.
_EVENTS_MAX = 100_000
#: What must not end the watch: ZeroMQ's I/O thread would wait for it for ever.
_TOLERATED = (OSError, ValueError, LookupError, TypeError)

#: tcp_info.tcpi_bytes_received (linux/tcp.h), as u64.
_TCP_INFO_BYTES = 192
_BYTES_RECEIVED = struct.Struct("=128xQ")
_REFUSALS = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_WATCHED = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED | _REFUSALS


class _Keys:
    """The admitted keys. They are read again when the directory has changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._state: object = None
        self._known: frozenset[bytes] = frozenset()
        self.refused = 0
        self.last_refused = ""
        self.refresh()

    def refresh(self) -> frozenset[bytes]:
        """Return the keys that are in the directory now. A file without a usable key admits no client.

        The state of each file is compared, because a file that is written in place does not change its directory.
        """
        with self._lock:
            try:
                with os.scandir(self._directory) as entries:
                    names = sorted(entry.name for entry in entries if entry.name.endswith(auth.PUBLIC_SUFFIX))
            except OSError:
                names = []  # removed or not readable: without a list no client is admitted
            files = []
            for name in names:
                with suppress(OSError):  # removed meanwhile, or a link to nothing: only this file admits nobody
                    status = (self._directory / name).stat()
                    if stat.S_ISREG(status.st_mode):  # opening a FIFO would wait, with the lock held
                        files.append((name, status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns))
            if files != self._state:
                known = set()
                for name, *_ in files:
                    with suppress(ConfigError):
                        known.add(auth.load_public_key(self._directory / name))
                self._known, self._state = frozenset(known), files
            return self._known

    def callback(self, domain: str, key: bytes) -> bool:
        """Decide about a client in its handshake; called by the authenticator's thread."""
        if domain == DOMAIN and key in self.refresh():
            return True
        self.last_refused = key.decode("ascii", "replace")
        return False


@dataclass(slots=True)
class _Connection:
    #: A duplicate of ZeroMQ's descriptor: that number can be closed and used for another file at any time.
    socket: socket.socket
    since: float
    key: bytes | None = None


class CurveServer:
    """Restricts a socket to clients with known keys.

    It runs two threads, the authenticator on the given context and the watch on connections. Create it before the
    socket is bound, and close it after the socket is closed.

    Attributes:
        crowded: connections that were closed because there were too many.
        rejected: connections that were closed because the client sent too much.
        refused: attempts to connect that failed in the handshake.
        revoked: connections that were ended because their key was revoked.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], *, key: Path, clients: Path) -> None:
        """Load the server's secret key file `key` and the public keys (``*.key``) in the directory `clients`.

        Raises:
            ConfigError: a key cannot be used, or `clients` is no directory.
        """
        self.crowded = self.rejected = self.refused = self.revoked = 0
        self._public, self._secret = auth.load_key_pair(key)
        auth.load_clients(clients)  # at the start, a file that cannot be used is an error
        self._keys = _Keys(clients)
        self._connections: dict[int, _Connection] = {}
        self._noted: dict[int, bytes] = {}
        self._watch: threading.Thread | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._port = 0
        self._authenticator = ThreadAuthenticator(context)
        # configure_curve is not safe here. It reads the directory with a glob pattern, so "*" and "[" in the path are
        # special. It accepts every key if the path is "*". It only logs a key that it cannot read.
        self._authenticator.configure_curve_callback(DOMAIN, self._keys)
        self._authenticator.start()

    @property
    def public_key(self) -> bytes:
        """The server's public key, which every client needs, as 40 characters of Z85."""
        return self._public

    @property
    def last_refused(self) -> str:
        """The key of the last client that was rejected because of its key; empty: there was none."""
        return self._keys.last_refused

    @property
    def clients(self) -> int:
        """Number of open connections."""
        return len(self._connections)

    def secure(self, socket: zmq.Socket[bytes]) -> None:
        """Configure `socket` to require CURVE and a known client key. Call this before the socket is bound."""
        socket.curve_server = True
        socket.curve_publickey = self._public
        socket.curve_secretkey = self._secret
        socket.zap_domain = DOMAIN.encode()
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        # Before the bind, so that the watch knows of every connection. ZeroMQ's I/O thread, which also
        # receives the frames, waits when the queue of these events is full, so the queue is long.
        address = f"inproc://stream-clients-{secrets.token_hex(8)}"
        socket.monitor(address, _WATCHED)
        self._monitor = socket.context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, _EVENTS_MAX)
        self._monitor.connect(address)

    def release(self, socket: zmq.Socket[bytes]) -> None:
        """Forget a socket that was secured and could not be bound."""
        socket.disable_monitor()
        if self._monitor is not None:
            self._monitor.close(linger=0)
            self._monitor = None

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        """Watch the connections of `socket`, which is bound to a ``tcp://`` address.

        The watch ends when the monitor of `socket` is disabled, which only the thread that uses the socket may do.
        """
        self._port = int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._watch = threading.Thread(target=self._run, args=(self._monitor,), name="stream clients", daemon=True)
        self._watch.start()

    def note(self, frame: zmq.Frame) -> bool:
        """Learn from a subscription which key its connection has.

        Returns:
            Whether a client over TCP has sent it.
        """
        with suppress(zmq.ZMQError):  # neither a client on this host nor the end of a connection has a key
            self._noted[int(frame.get(zmq.SRCFD))] = str(frame.get("User-Id")).encode()
            return True
        return False

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self, monitor: zmq.Socket[bytes]) -> None:
        checked = time.monotonic()
        try:
            while True:
                # Without a connection the thread only waits for one.
                if monitor.poll(int(CHECK_S * 1000) if self._connections else None):
                    event = recv_monitor_message(monitor)
                    if event["event"] == zmq.EVENT_MONITOR_STOPPED:
                        return
                    if event["endpoint"].startswith(b"tcp:"):
                        with suppress(*_TOLERATED):
                            self._handle(event)
                now = time.monotonic()
                if now - checked >= CHECK_S:
                    checked = now
                    with suppress(*_TOLERATED):
                        self._check(now)
        except zmq.ZMQError:
            return  # the context was terminated
        finally:
            for connection in self._connections.values():
                connection.socket.close()
            self._connections.clear()
            monitor.close(linger=0)

    def _handle(self, event: Any) -> None:
        kind, number = event["event"], event["value"]
        if kind & _REFUSALS:
            self.refused += 1
        elif kind == zmq.EVENT_ACCEPTED:
            with suppress(OSError):  # closed meanwhile
                copy = os.dup(number)
                try:
                    made = socket.socket(fileno=copy)
                except OSError:  # the number is a file of another kind now
                    os.close(copy)
                    return
                try:
                    if made.getsockname()[1] != self._port:
                        raise OSError("the descriptor is another file now")
                except (OSError, IndexError, TypeError):
                    made.close()
                    return
                self._connections[number] = _Connection(made, time.monotonic())
                self._limit_newcomers()
        elif kind == zmq.EVENT_DISCONNECTED:
            self._forget(number)

    def _forget(self, number: int) -> None:
        connection = self._connections.pop(number, None)
        self._noted.pop(number, None)
        if connection is not None:
            connection.socket.close()

    def _limit_newcomers(self) -> None:
        newcomers = [each for number, each in self._connections.items() if number not in self._noted]
        if len(newcomers) > NEWCOMERS_MAX:
            self.crowded += 1
            self._end(min(newcomers, key=lambda connection: connection.since))

    def _check(self, now: float) -> None:
        known = self._keys.refresh()
        admitted = sum(connection.key is not None for connection in self._connections.values())
        for number, connection in list(self._connections.items()):
            noted = self._noted.get(number)
            if noted is not None and connection.key is None:
                admitted += 1
                if admitted > CLIENTS_MAX:
                    self.crowded += 1
                    self._end(connection)
                    continue
            # After a descriptor was used again, this can be the key of its last connection until the new one
            # subscribes.
            connection.key = noted
            if noted is not None and noted not in known:
                self.revoked += 1
                self._end(connection)
            elif noted is None and now - connection.since > NEWCOMER_S:
                self.crowded += 1
                self._end(connection)
            # Not a TokenBucket: the kernel counts what was received since the beginning, so the limit is a total too.
            elif self._received(connection) > BYTES_AT_ONCE + BYTES_PER_S * (now - connection.since):
                self.rejected += 1
                self._end(connection)

    def _received(self, connection: _Connection) -> int:
        try:
            info = connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return 0
        return int(_BYTES_RECEIVED.unpack_from(info)[0]) if len(info) >= _BYTES_RECEIVED.size else 0

    def _end(self, connection: _Connection) -> None:
        """Cut a connection. ZeroMQ sees that the client has gone."""
        with suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)
        for number, other in list(self._connections.items()):
            if other is connection:
                self._forget(number)

    # -- end -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the threads. Sockets that are still open admit no new clients after this."""
        if self._authenticator.is_alive():
            self._authenticator.stop()
        if self._watch is not None:
            self._watch.join(1.0)
        elif self._monitor is not None:
            self._monitor.close(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
