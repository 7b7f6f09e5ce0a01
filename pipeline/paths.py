"""Paths of the files and sockets of an instance. Nothing is created, opened or removed here.

The runtime directory of an instance is ``$PROCLINE_RUNTIME_DIR/NAME`` if the variable is set, otherwise
``/run/procline/NAME`` if ``/run`` is on tmpfs, otherwise ``/dev/shm/procline/NAME``. It contains:

    control index hot cold names args envs keys   segments, written by the resolver
    supervisor.lock writer.lock              flocks: one supervisor, one writer
    processes tiers retention sampling       JSON for `stat`, `doctor` and others, written by the supervisor
    sessions                                 JSON, ssh sessions, written by the resolver
    users/                                   JSON, names of users and groups, written by the resolver
    containers/                              JSON, names and labels of containers, written by the resolver
    packages/ hashes/                        JSON, packages and hashes of executables, written by the resolver
    frames/frames.ipc                        resolver binds PULL, shards connect PUSH
    stream/stream.ipc                        resolver listens (bus/_relay.pyx), subscribers connect
    stream/journal                           the last messages of the stream, written by the resolver
    stream/inner.ipc                         resolver binds XPUB, its relay connects for each subscriber
    requests/requests.ipc                    resolver listens; readers connect to ask for a missing process
    requests/own.ipc                         the same for root and the daemon's user
    tracers/tracers.ipc                      with `--source tracer`: resolver binds PULL, tracers connect PUSH

Readers import this module. It uses the standard library only, and pathlib only where a `Path` is returned: that would
make a third of the memory of a small reader.
"""

from __future__ import annotations

import os

from pipeline.errors import ConfigError, UnsupportedError
from pipeline.proc_text import mounts_of

TYPE_CHECKING = False  # as `typing.TYPE_CHECKING`, without that module
if TYPE_CHECKING:
    from pathlib import Path

RUNTIME_DIR_VARIABLE = "PROCLINE_RUNTIME_DIR"
DEFAULT_INSTANCE = "default"
#: The variable that names the instance if the caller does not.
INSTANCE_VARIABLE = "PROCLINE_INSTANCE"

#: Parent of the instance directories, and the alternative that is used if /run is not on tmpfs.
RUN = "/run/procline"
FALLBACK = "/dev/shm/procline"

#: Where the file system of cgroup version 2 is mounted; in a hybrid hierarchy it is the first one.
CGROUP_ROOTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")

#: `sun_path` has 108 bytes including the NUL (unix(7)); ZeroMQ rejects longer paths.
SOCKET_PATH_MAX_BYTES = 107

CONTROL = "control"
INDEX = "index"
HOT = "hot"
COLD = "cold"
NAMES = "names"
ARGS = "args"
ENVS = "envs"
KEYS = "keys"
COSTS = "costs"
SEGMENTS = (CONTROL, INDEX, HOT, COLD, NAMES, ARGS, ENVS, KEYS, COSTS)

SUPERVISOR_LOCK = "supervisor.lock"
WRITER_LOCK = "writer.lock"
TIERS = "tiers"

FRAMES_DIR = "frames"
STREAM_DIR = "stream"
REQUESTS_DIR = "requests"
TRACERS_DIR = "tracers"
FRAMES_SOCKET = "frames.ipc"
STREAM_SOCKET = "stream.ipc"
STREAM_INNER_SOCKET = "inner.ipc"
REQUESTS_SOCKET = "requests.ipc"
TRACERS_SOCKET = "tracers.ipc"

_NAME_MAX = 64
_NAME_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})


def check_name(name: str) -> str:
    """Return `name` if it is a valid name for an instance.

    Raises:
        ConfigError: it is empty, longer than 64 characters, ``.`` or ``..``, or contains other characters than letters,
            digits, dot, dash and underscore.
    """
    if not 0 < len(name) <= _NAME_MAX or not _NAME_LETTERS.issuperset(name) or name in {".", ".."}:
        raise ConfigError(
            f"{name!r} is not a valid instance name: use 1 to 64 letters, digits, '.', '-' or '_'",
            key="name",
            value=name,
        )
    return name


def chosen_instance(name: str | None = None) -> str:
    """Return a name, or if there is none, that in the environment, or the default."""
    return name if name is not None else os.environ.get(INSTANCE_VARIABLE) or DEFAULT_INSTANCE


def file_system(path: str | os.PathLike[str]) -> str:
    """Return the type of the file system on which `path` is, or would be created; "" if mountinfo does not have it."""
    path = os.fspath(path)
    while True:
        try:
            device = os.stat(path).st_dev  # noqa: PTH116 - see the module's docstring
            break
        except OSError:
            above = os.path.dirname(path.rstrip("/")) or ("/" if path.startswith("/") else ".")  # noqa: PTH120
            if path == above:
                return ""
            path = above
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    with open("/proc/self/mountinfo", "rb") as mounts:  # noqa: PTH123
        for mounted, tail in mounts_of(mounts.read()):
            if mounted[2] == wanted:
                return tail.split(b" ", 1)[0].decode("ascii", "replace")
    return ""


def is_in_memory(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is, or would be created, on a file system that keeps its files in memory."""
    return file_system(path) in _MEMORY_FILE_SYSTEMS


def _root() -> str:
    """Return the parent of the instance directories."""
    chosen = os.environ.get(RUNTIME_DIR_VARIABLE)
    if chosen:
        return chosen if chosen.startswith("/") else os.path.join(_working_directory(chosen), chosen)  # noqa: PTH118
    # Check /run/procline, not /run: in a container, only this directory may be mounted from the host. Check /dev/shm,
    # not /dev/shm/procline: any user could create a link to a disk under that name.
    if not is_in_memory(RUN) and is_in_memory(os.path.dirname(FALLBACK)):  # noqa: PTH120
        return FALLBACK
    return RUN


def _working_directory(chosen: str) -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise ConfigError(
            f"{RUNTIME_DIR_VARIABLE}={chosen} is relative, but the working directory cannot be determined "
            f"({error.strerror}; it may have been removed): set the variable to an absolute path",
            key=RUNTIME_DIR_VARIABLE,
            value=chosen,
        ) from None


def runtime_root() -> Path:
    """Return the parent of the instance directories."""
    from pathlib import Path

    return Path(_root())


def instance_directory(name: str) -> str:
    """Return the runtime directory of an instance as text, which need not exist.

    Raises:
        ConfigError: `name` is not a valid name, or the directory is relative to one that was removed.
    """
    return os.path.join(_root(), check_name(name))  # noqa: PTH118


def instance_dir(name: str = DEFAULT_INSTANCE) -> Path:
    """Return the same as `instance_directory`, as a Path."""
    from pathlib import Path

    return Path(instance_directory(name))


def check_in_memory(directory: Path) -> None:
    """Reject a directory on a file system that writes files to a disk.

    Raises:
        UnsupportedError: the directory is not on tmpfs.
    """
    if not is_in_memory(directory):
        raise UnsupportedError(
            f"{directory} is not on tmpfs but on {file_system(directory) or 'an unknown file system'}",
            feature="shared tables",
            needs="tmpfs",
            hint=f"set {RUNTIME_DIR_VARIABLE} to a directory on tmpfs, for example /dev/shm/procline",
        )


def frames_socket(directory: Path) -> Path:
    """Return the path of the socket for frames from the shards."""
    return directory / FRAMES_DIR / FRAMES_SOCKET


def stream_socket(directory: Path) -> Path:
    """Return the path of the socket for subscribers."""
    return directory / STREAM_DIR / STREAM_SOCKET


def stream_inner_socket(directory: Path) -> Path:
    """Return the path of the private socket behind the one for subscribers."""
    return directory / STREAM_DIR / STREAM_INNER_SOCKET


def requests_socket(directory: Path) -> Path:
    """Return the path of the socket for requests from readers."""
    return directory / REQUESTS_DIR / REQUESTS_SOCKET


def tracers_socket(directory: Path) -> Path:
    """Return the path of the socket for frames from tracers."""
    return directory / TRACERS_DIR / TRACERS_SOCKET


def endpoint(socket: Path) -> str:
    """Return the ZeroMQ address of a socket.

    Raises:
        ConfigError: the path is too long for a Unix socket address.
    """
    length = len(os.fsencode(socket))
    if length > SOCKET_PATH_MAX_BYTES:
        raise ConfigError(
            f"{socket} is {length} bytes long, but the path of a Unix socket can have at most {SOCKET_PATH_MAX_BYTES}: "
            f"use a shorter instance name, or set {RUNTIME_DIR_VARIABLE} to a shorter path",
            key=RUNTIME_DIR_VARIABLE,
            value=str(socket),
        )
    return f"ipc://{socket}"
