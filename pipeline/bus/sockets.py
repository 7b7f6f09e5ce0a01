"""Create, bind and close the ZeroMQ sockets of one process.

The messages are described in `frames.encode`, `context_events` and `stream.messages`; keys for TCP are in `auth`.

The file mode of an ipc socket is its access control, together with the mode of its directory. Before libzmq binds, it
removes any file at an ipc path, even the socket of a running process. `Bus.bind` therefore checks the path first. A
context must not be used in a forked child (zmq_ctx(3)); `Bus` raises an error there.
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

from pipeline import paths
from pipeline.bus.frames.encode import FRAME_MAX_BYTES
from pipeline.bus.pushing import check_peer
from pipeline.errors import ProclineError, WriterExistsError
from pipeline.records.limits import RECONNECT_MAX_MS, RECONNECT_MS

#: Frames that may wait on each side before PUSH blocks. The ring is the real queue; these cover a context switch only.
PUSH_HWM_FRAMES = 8
PULL_HWM_FRAMES = 8
#: Messages that may wait for one subscriber before its further messages are dropped.
STREAM_HWM_MESSAGES = 100_000


class SocketError(ProclineError):
    """A socket could not be bound; the message says why."""


class Bus:
    """The ZeroMQ context of this process and the sockets created from it.

    Close it after use, or use it as a context manager.
    """

    def __init__(self) -> None:
        self._tgid = os.getpid()
        self._context = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._bound: list[tuple[Path, tuple[int, int]]] = []
        # If a caller forgets close(), a context that is collected before its sockets would wait for them for ever.
        self._finalizer = weakref.finalize(self, _end, self._tgid, self._context, self._sockets)
        self._finalizer.atexit = False

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """The context, for an authenticator.

        Raises:
            RuntimeError: this process is a forked child of the process that created the bus.
        """
        if os.getpid() != self._tgid:
            raise RuntimeError("a ZeroMQ context does not survive fork: start processes with spawn")
        return self._context

    def socket(self, kind: int, *, send_hwm: int, receive_hwm: int) -> zmq.Socket[bytes]:
        """Return an unconnected socket that discards its unsent messages when it is closed (linger 0)."""
        made = self.context.socket(kind)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.SNDHWM, send_hwm)
        made.setsockopt(zmq.RCVHWM, receive_hwm)
        made.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        made.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        self._sockets.append(made)
        return made

    def push(self, path: Path, *, hwm_frames: int = PUSH_HWM_FRAMES) -> zmq.Socket[bytes]:
        """Return a PUSH socket connected to the ipc socket `path`, which need not exist yet; its directory must.

        The socket accepts messages only while a peer is connected (IMMEDIATE). Without a peer, sending blocks or raises
        `zmq.Again`.

        Raises:
            UntrustedError: another user could have created the socket file, or could create it later.
            OSError: the directory does not exist, or this user cannot access it.
        """
        check_peer(path)
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

    def sub(self, endpoint: str, *, hwm_messages: int = STREAM_HWM_MESSAGES) -> zmq.Socket[bytes]:
        """Return a SUB socket connected to `endpoint` (ipc:// or tcp://), subscribed to nothing."""
        made = self.socket(zmq.SUB, send_hwm=1, receive_hwm=hwm_messages)
        made.connect(endpoint)
        return made

    def bind(self, socket: zmq.Socket[bytes], path: Path, *, mode: int, group: int = -1) -> None:
        """Bind `socket` to the ipc socket `path`.

        A socket file that a killed process left behind is replaced. The function changes the umask for a moment. Call
        it before other threads create files.

        Args:
            socket: the socket to bind.
            path: of the socket file.
            mode: exact mode of the socket file.
            group: gid of the socket file; -1 leaves it unchanged.

        Raises:
            ConfigError: the path is too long for a Unix socket address.
            WriterExistsError: another process listens on the path.
            SocketError: the path is not a socket, or a system call failed.
        """
        address = paths.endpoint(path)
        _clear(path)
        # The file is created with mode 0600 and then gets the requested mode, so it never has a wider one.
        before = os.umask(0o177)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            raise _unbindable(path, error) from None
        finally:
            os.umask(before)
        try:
            if group != -1:
                os.chown(path, -1, group)
            path.chmod(mode)
            status = path.stat()
        except OSError as error:
            socket.unbind(address)
            raise SocketError(
                f"cannot set the mode or group of {path}: {error.strerror}; use a group that this user belongs to, or "
                "run as root"
            ) from None
        self._bound.append((path, (status.st_dev, status.st_ino)))

    def close(self, *, linger_ms: int = 0) -> None:
        """Close all sockets and remove the socket files that this bus bound.

        In a forked child of the process that created the bus this does nothing.

        Args:
            linger_ms: maximum time to wait until unsent messages are delivered.
        """
        if os.getpid() != self._tgid:
            return
        for made in self._sockets:
            if not made.closed:
                made.linger = linger_ms
        self._finalizer()
        # libzmq can fail to remove the file, and a successor may have bound the path in the meantime.
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
    # Deferred: only processes that bind need this module.
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            # EAGAIN: the backlog is full, so a process listens. EACCES, EPERM: unknown, so do not replace the file.
            return error.errno in {errno.EAGAIN, errno.EACCES, errno.EPERM}
    return True


def _clear(path: Path) -> None:
    """Remove a socket file on which no process listens."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise SocketError(f"cannot bind {path}: the directory {path.parent} does not exist; create it") from None
        return
    except OSError as error:
        raise _unbindable(path, error) from None
    if not stat.S_ISSOCK(status.st_mode):
        raise SocketError(f"cannot bind {path}: the file is not a socket; move it away")
    if is_listening(path):
        raise WriterExistsError(f"another process listens on {path}: stop it first")
    try:
        path.unlink()
    except OSError as error:
        raise SocketError(f"cannot remove the stale socket {path}: {error.strerror}; remove it by hand") from None


def _unbindable(path: Path, error: OSError | zmq.ZMQError) -> SocketError:
    return SocketError(
        f"cannot bind {path}: {error.strerror}; make sure that this user can create files in {path.parent}"
    )
