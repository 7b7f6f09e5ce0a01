"""ZeroMQ sockets of one process: made, bound and closed here. What they carry is in `encode` and `frames`, keys for TCP
are in `auth`.

An ipc socket's file mode is its access control, and the directories that hold them have modes of their own. libzmq
removes whatever lies at an ipc path before it binds, a living peer's socket included; so a path is looked at first.
A context must not be used in a forked child (zmq_ctx(3)), so `Bus` refuses to.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq

from pipeline import paths, trust
from pipeline.bus.frames.encode import FRAME_MAX_BYTES
from pipeline.errors import ProclineError, WriterExistsError

#: Frames that may wait on each side before PUSH blocks. The ring is the queue; this only covers the gap of a switch.
PUSH_HWM_FRAMES = 8
PULL_HWM_FRAMES = 8
#: Messages that may wait for one subscriber before it loses its own.
STREAM_HWM_MESSAGES = 100_000

#: A peer that restarts is found again within this time.
_RECONNECT_MS = 10
_RECONNECT_MAX_MS = 200


class SocketError(ProclineError):
    """A socket could not be made as asked; the message says what stands in the way."""


class Bus:
    """The ZeroMQ context of this process and the sockets made with it. Close it, or use it as a context manager."""

    def __init__(self, *, io_threads: int = 1) -> None:
        self._tgid = os.getpid()
        self._context = zmq.Context(io_threads)
        self._sockets: list[zmq.Socket[bytes]] = []
        self._bound: list[tuple[Path, tuple[int, int]]] = []
        # For who forgets to close: a context that is collected before its sockets would wait for them for ever.
        self._finalizer = weakref.finalize(self, _end, self._tgid, self._context, self._sockets)
        self._finalizer.atexit = False

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """The context, for an authenticator.

        Raises:
            RuntimeError: this is a forked child of the process that made the bus.
        """
        if os.getpid() != self._tgid:
            raise RuntimeError("a ZeroMQ context does not survive fork: start processes with spawn")
        return self._context

    def socket(self, kind: int, *, send_hwm: int, receive_hwm: int) -> zmq.Socket[bytes]:
        """Return an unconnected socket that forgets at once what it holds when it is closed (linger 0)."""
        made = self.context.socket(kind)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.SNDHWM, send_hwm)
        made.setsockopt(zmq.RCVHWM, receive_hwm)
        made.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        made.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        self._sockets.append(made)
        return made

    def push(self, path: Path, *, hwm_frames: int = PUSH_HWM_FRAMES) -> zmq.Socket[bytes]:
        """Return a PUSH socket connected to the ipc socket `path`, which need not exist yet.

        It takes frames only while a peer is there (IMMEDIATE): without one, sending blocks or raises `zmq.Again`.

        Raises:
            UntrustedError: another user could have made the socket.
        """
        trust.check_socket(path)
        made = self.socket(zmq.PUSH, send_hwm=hwm_frames, receive_hwm=1)
        made.setsockopt(zmq.IMMEDIATE, 1)
        made.connect(paths.endpoint(path))
        return made

    def pull(
        self, path: Path, *, mode: int = 0o600, group: int = -1, hwm_frames: int = PULL_HWM_FRAMES
    ) -> zmq.Socket[bytes]:
        """Return a PULL socket bound to the ipc socket `path`. Errors as `bind`."""
        made = self.socket(zmq.PULL, send_hwm=1, receive_hwm=hwm_frames)
        made.setsockopt(zmq.MAXMSGSIZE, FRAME_MAX_BYTES)
        self.bind(made, path, mode=mode, group=group)
        return made

    def xpub(
        self, path: Path, *, mode: int = 0o666, group: int = -1, hwm_messages: int = STREAM_HWM_MESSAGES
    ) -> zmq.Socket[bytes]:
        """Return an XPUB socket bound to the ipc socket `path`. Errors as `bind`."""
        made = self.socket(zmq.XPUB, send_hwm=hwm_messages, receive_hwm=1000)
        self.bind(made, path, mode=mode, group=group)
        return made

    def sub(self, endpoint: str, *, hwm_messages: int = STREAM_HWM_MESSAGES) -> zmq.Socket[bytes]:
        """Return a SUB socket connected to `endpoint` (ipc:// or tcp://), subscribed to nothing."""
        made = self.socket(zmq.SUB, send_hwm=1, receive_hwm=hwm_messages)
        made.connect(endpoint)
        return made

    def bind(self, socket: zmq.Socket[bytes], path: Path, *, mode: int, group: int = -1) -> None:
        """Bind `socket` to the ipc socket `path` with exactly this mode and, unless -1, group.

        A socket file that a killed process left is replaced. Changes the umask for a moment, so call it before
        there are threads that create files.

        Raises:
            ConfigError: the path is longer than a Unix socket address can be.
            WriterExistsError: somebody listens there.
            SocketError: something else than a socket lies there, or the system refuses.
        """
        address = paths.endpoint(path)
        _clear(path)
        # Born closed to everybody else and then opened, so that there is no moment with a wider mode than asked for.
        before = os.umask(0o177)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            raise SocketError(f"cannot bind {path}: {error.strerror}") from None
        finally:
            os.umask(before)
        try:
            if group != -1:
                os.chown(path, -1, group)
            path.chmod(mode)
            status = path.stat()
        except OSError as error:
            socket.unbind(address)
            raise SocketError(f"cannot set mode or group of {path}: {error.strerror}") from None
        self._bound.append((path, (status.st_dev, status.st_ino)))

    def close(self, *, linger_ms: int = 0) -> None:
        """Close all sockets, wait at most `linger_ms` for what they hold, and remove the socket files bound here.

        In a forked child of the process that made the bus this does nothing.
        """
        if os.getpid() != self._tgid:
            return
        for made in self._sockets:
            if not made.closed:
                made.linger = linger_ms
        self._finalizer()
        # libzmq leaves the file when it cannot remove it, and a successor may have bound the path meanwhile.
        for path, identity in self._bound:
            try:
                status = path.lstat()
                if (status.st_dev, status.st_ino) == identity:
                    path.unlink()
            except OSError:
                continue
        self._bound.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _end(tgid: int, context: zmq.Context[zmq.Socket[bytes]], sockets: list[zmq.Socket[bytes]]) -> None:
    if os.getpid() != tgid:
        return
    for made in sockets:
        made.close()
    sockets.clear()
    context.term()


def is_listening(path: Path) -> bool:
    """Whether a process listens on the Unix socket `path`."""
    # Deferred: only who binds needs it.
    import socket as unix

    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM | unix.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            # EAGAIN: its backlog is full, so it lives. EACCES: we may not ask, so we must not replace it either.
            return error.errno in {errno.EAGAIN, errno.EACCES, errno.EPERM}
    return True


def _clear(path: Path) -> None:
    """Remove a socket file that nobody listens on."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise SocketError(f"cannot bind {path}: there is no directory {path.parent}") from None
        return
    except OSError as error:
        raise SocketError(f"cannot bind {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise SocketError(f"cannot bind {path}: something that is no socket lies there; move it away")
    if is_listening(path):
        raise WriterExistsError(f"another process listens on {path}: stop it first")
    try:
        path.unlink()
    except OSError as error:
        raise SocketError(f"cannot remove the stale socket {path}: {error.strerror}") from None
