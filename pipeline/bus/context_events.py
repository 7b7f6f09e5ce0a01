"""Codec and sender of context events: facts about a process that agents on the host know and the kernel's rings do not.

Context events use the socket of the frames (root only, mode 0600 in a directory of mode 0700), but another message
format. They are rare, so each event is a map instead of a row of columns. `pipeline.resolver.agents.context_loop`
dispatches them. A message is one msgpack map:

    key      type    meaning
    context  uint    CONTEXT_VERSION; the first key, which distinguishes the message from a frame
    boot     bin 16  kernel boot id
    src      str     name of the sender
    events   array   1 to EVENTS_MAX maps

Each event is a map:

    key              type  meaning
    kind             str   one of KINDS
    pid              uint  process that caused the event, in the daemon's pid namespace
    tid              uint  thread; optional, default `pid`
    time_ns          uint  boot clock; optional, 0: the time of reception
    start_ns         uint  start of the process, boot clock; optional, 0: any process that has the pid
    ppid             uint  current parent according to the kernel; optional, 0: not given
    inode            uint  inode of the process's executable; optional, 0: any
    target_start_ns  uint  start of the kind's target, boot clock; optional, 0: the process that had its pid then

It also has the fields of its kind (`KINDS`). They are optional except for those in REQUIRED:

    capabilities       attempted, used: uint, masks of the capabilities that were checked and that were granted
    imds               access_key_id, expiration: str; code, type, last_updated: str; as the metadata service wrote
                       them, so `expiration` is an RFC 3339 time
    tracer_memfd_seal  fd: uint, the process's descriptor of the memfd that it sealed
    ptrace             target: uint; request: uint
    signal             target: int, 0 or negative if the target is not a single process; signal: uint
    setrlimit          target: int; resource, soft, hard: uint
    cgroup_tracing     cgroup_id: uint; path: str
    user_session       id, type: uint; ssh_session_id, ssh_client_port: uint; ssh_username, ssh_client_ip,
                       ssh_auth_method, ssh_public_key: str; k8s_session_id: uint; k8s_username, k8s_uid: str;
                       k8s_groups: array of at most TEXTS_MAX str; k8s_extra: map of at most TEXTS_MAX str to such
                       arrays

A reader ignores unknown keys. It rejects the whole message if the version or a kind is unknown or a type is wrong, as
with frames. No field carries a secret.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias, cast

import msgpack

from pipeline.errors import FrameError
from pipeline.records.limits import PID_MAX as PID_MAX

if TYPE_CHECKING:
    from typing_extensions import Buffer

CONTEXT_VERSION = 1
MESSAGE_MAX_BYTES = 256 << 10
EVENTS_MAX = 256
#: Characters in one text of an event.
TEXT_MAX = 4096
#: Texts in one list, and keys in one map of lists.
TEXTS_MAX = 64

_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1
_I64 = (-(1 << 63), (1 << 63) - 1)
_I32 = (-(1 << 31), (1 << 31) - 1)
#: Every message of context events, of any version, has these bytes at offset 1; a frame has other bytes there.
CONTEXT_MAGIC = b"\xa7context"

CAPABILITIES = "capabilities"
IMDS = "imds"
TRACER_MEMFD_SEAL = "tracer_memfd_seal"
PTRACE = "ptrace"
SIGNAL = "signal"
SETRLIMIT = "setrlimit"
CGROUP_TRACING = "cgroup_tracing"
USER_SESSION = "user_session"

#: Type of a field: the (lowest, highest) number, `str`, `list` (of str), or `dict` (of str to lists of str).
FieldType: TypeAlias = tuple[int, int] | type[str] | type[list[str]] | type[dict[str, list[str]]]
FieldValue: TypeAlias = int | str | list[str] | dict[str, list[str]]

#: The mandatory fields of each kind.
REQUIRED: dict[str, tuple[str, ...]] = {
    CAPABILITIES: ("attempted", "used"), IMDS: ("access_key_id", "expiration"), TRACER_MEMFD_SEAL: ("fd",),
    PTRACE: ("target",), SIGNAL: ("target",), SETRLIMIT: ("target",), CGROUP_TRACING: ("cgroup_id",), USER_SESSION: (),
}  # fmt: skip
#: All fields of each kind.
KINDS: dict[str, dict[str, FieldType]] = {
    CAPABILITIES: {"attempted": (0, _U64), "used": (0, _U64)},
    IMDS: {"access_key_id": str, "code": str, "type": str, "last_updated": str, "expiration": str},
    TRACER_MEMFD_SEAL: {"fd": (0, _I32[1])},
    PTRACE: {"target": (0, PID_MAX), "request": (0, _U32)},
    SIGNAL: {"target": _I32, "signal": (0, 64)},
    SETRLIMIT: {"target": _I32, "resource": (0, _U32), "soft": (0, _U64), "hard": (0, _U64)},
    CGROUP_TRACING: {"cgroup_id": (1, _U64), "path": str},
    USER_SESSION: {
        "id": (0, _U64), "type": (0, _U32), "ssh_session_id": (0, _U64), "ssh_client_port": (0, 0xFFFF),
        "ssh_username": str, "ssh_client_ip": str, "ssh_auth_method": str, "ssh_public_key": str,
        "k8s_session_id": (0, _U64), "k8s_username": str, "k8s_uid": str, "k8s_groups": list, "k8s_extra": dict,
    },
}  # fmt: skip
_COMMON: dict[str, FieldType] = {
    "pid": (1, PID_MAX), "tid": (0, PID_MAX), "time_ns": (0, _U64), "start_ns": (0, _U64), "ppid": (0, PID_MAX),
    "inode": (0, _U64), "target_start_ns": (0, _U64),
}  # fmt: skip


class ContextEvent(NamedTuple):
    """One event; `body` has the fields of its kind. An unknown number is 0."""

    kind: str
    pid: int
    tid: int = 0
    time_boot_ns: int = 0
    start_boot_ns: int = 0
    ppid: int = 0
    inode: int = 0
    body: Mapping[str, FieldValue] = MappingProxyType({})
    target_start_boot_ns: int = 0

    def number(self, name: str) -> int:
        """Return a field of the body that is a number.

        Raises:
            KeyError: the event does not have the field.
            TypeError: the field is not a number.
        """
        value = self.body[name]
        if not isinstance(value, int):
            raise TypeError(f"{name!r} of a context event of kind {self.kind!r} is not a number")
        return value


class ContextMessage(NamedTuple):
    """The contents of one message."""

    boot_id: bytes
    source: str
    events: tuple[ContextEvent, ...]


def parse_time_ns(text: str) -> int:
    """Return the Unix time in ns of an RFC 3339 text.

    A time that does not fit into a signed 64-bit number of ns (the year 9999 often means "never") is clamped.

    Raises:
        ValueError: the text is not an RFC 3339 time with a time zone.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text:.40} has no time zone")
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    time_ns = (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
    return min(max(time_ns, _I64[0]), _I64[1])


def encode_context(events: Iterable[ContextEvent], *, boot_id: bytes, source: str) -> bytes:
    """Return the message with these events.

    Raises:
        FrameError: a reader would reject the message; `reason` says why.
    """
    maps = []
    for event in events:
        fields = {
            "kind": event.kind, "pid": event.pid, "tid": event.tid, "time_ns": event.time_boot_ns,
            "start_ns": event.start_boot_ns, "ppid": event.ppid, "inode": event.inode,
            "target_start_ns": event.target_start_boot_ns,
        }  # fmt: skip
        maps.append({name: value for name, value in fields.items() if value} | dict(event.body))
    # "context" must be the first key: it distinguishes the message from a frame.
    packed: bytes = msgpack.packb(
        {"context": CONTEXT_VERSION, "boot": boot_id, "src": source, "events": maps}, unicode_errors="surrogateescape"
    )
    decode_context(packed)
    return packed


def decode_context(message: Buffer) -> ContextMessage:
    """Read a message.

    Raises:
        FrameError: the message has another version or differs from the tables above. No part of it may be used.
    """
    data = memoryview(message)
    if data.nbytes > MESSAGE_MAX_BYTES:
        raise _refusal(f"it has {data.nbytes} bytes, more than the limit of {MESSAGE_MAX_BYTES}")
    try:
        top = msgpack.unpackb(
            data, strict_map_key=True, max_array_len=EVENTS_MAX, max_map_len=64, max_ext_len=0, max_bin_len=16,
            max_str_len=4 * TEXT_MAX, unicode_errors="surrogateescape",
        )  # fmt: skip
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise _refusal(f"it is not msgpack, or one of its parts is too large: {error}") from None
    if not isinstance(top, dict):
        raise _refusal("it is not a map")
    source = top.get("src")
    peer = source if isinstance(source, str) and len(source) <= TEXT_MAX else ""
    try:
        return _message(top, peer)
    except FrameError as error:
        raise _refusal(error.reason, peer) from None


def _message(top: dict[str, object], source: str) -> ContextMessage:
    version = top.get("context")
    if version != CONTEXT_VERSION or isinstance(version, bool):
        raise _refusal(f"it has version {version!r:.40}; this reader supports version {CONTEXT_VERSION}")
    boot_id, events = top.get("boot"), top.get("events")
    if not isinstance(boot_id, bytes) or len(boot_id) != 16:
        raise _refusal("'boot' is not a boot id of 16 bytes")
    if not source:
        raise _refusal("'src' is missing or has the wrong type")
    if not isinstance(events, list) or not events:
        raise _refusal("'events' is missing, empty or has the wrong type")
    return ContextMessage(boot_id, source, tuple(_event(one) for one in events))


def _event(fields: object) -> ContextEvent:
    if not isinstance(fields, dict):
        raise _refusal("an event is not a map")
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise _refusal(f"kind {kind!r:.40} is unknown: use one of {', '.join(KINDS)}")
    common = {name: cast("int | None", _value(kind, fields, name, allowed)) for name, allowed in _COMMON.items()}
    pid = common["pid"]
    if pid is None:
        raise _refusal(f"{kind}: 'pid' is missing")
    body = {}
    for name, allowed in KINDS[kind].items():
        value = _value(kind, fields, name, allowed)
        if value is not None:
            body[name] = value
        elif name in REQUIRED[kind]:
            raise _refusal(f"{kind}: {name!r} is missing")
    if kind == IMDS:
        try:
            parse_time_ns(str(body["expiration"]))
        except ValueError:
            raise _refusal(f"{kind}: 'expiration' is not an RFC 3339 time") from None
    return ContextEvent(
        kind, pid, common["tid"] or 0, common["time_ns"] or 0, common["start_ns"] or 0, common["ppid"] or 0,
        common["inode"] or 0, body, common["target_start_ns"] or 0,
    )  # fmt: skip


def _value(kind: str, fields: dict[str, object], name: str, allowed: FieldType) -> FieldValue | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(allowed, tuple):
        is_good = type(value) is int and allowed[0] <= value <= allowed[1]
    elif allowed is list:
        is_good = _are_texts(value)
    elif allowed is dict:
        is_good = isinstance(value, dict) and _are_texts(list(value)) and all(map(_are_texts, value.values()))
    else:
        is_good = _is_text(value)
    if is_good:
        return cast("FieldValue", value)
    raise _refusal(f"{kind}: {name!r} has the wrong type or is out of range")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_MAX


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and len(value) <= TEXTS_MAX and all(map(_is_text, value))


def _refusal(reason: str, peer: str = "") -> FrameError:
    sender = f" from {peer}" if peer else ""
    return FrameError(f"message of context events{sender} rejected: {reason}", peer=peer, reason=reason)


class ContextSender:
    """Sends context events to an instance on this host. Requires root, because only root can open the socket.

        with ContextSender("my-agent") as sender:
            sender.send("tracer_memfd_seal", pid, fd=7)

    Args:
        source: name of the sender, for logs.
        name: name of the instance.
        directory: the instance's runtime directory, if it is not the usual directory for `name`.
        timeout_s: how long `send` waits for the daemon to accept a message.

    Raises:
        NotRunningError: the instance is not running.

    Example:
        >>> with ContextSender("my-agent") as sender:
        ...     sender.send("tracer_memfd_seal", 901, fd=7)
    """

    def __init__(
        self, source: str, name: str = "default", *, directory: Path | None = None, timeout_s: float = 5.0
    ) -> None:
        # Deferred: programs that import only the codec do not need sockets.
        import zmq

        from pipeline import paths
        from pipeline.bus.sockets import Bus
        from pipeline.errors import NotRunningError
        from pipeline.host import boot

        path = paths.frames_socket(directory if directory is not None else paths.instance_dir(name))
        if not path.exists():
            raise NotRunningError(
                f"the socket {path} does not exist: start an instance with: procline run", instance=name
            )
        self._source = source
        self._boot_id = boot.boot_id()
        self._bus = Bus()
        self._socket = self._bus.push(path)
        self._socket.setsockopt(zmq.SNDTIMEO, int(timeout_s * 1000))
        self._linger_ms = int(timeout_s * 1000)

    def send(self, kind: str, pid: int, *, start_boot_ns: int = 0, ppid: int = 0, **body: FieldValue) -> None:
        """Send one event with the current time.

        Args:
            kind: one of `KINDS`.
            pid: the process that caused the event, in the daemon's pid namespace.
            start_boot_ns: start time of the process, so that a later process with the same pid does not match; 0: any
                process that has the pid.
            ppid: the parent according to the kernel; 0: not given.
            **body: the fields of `kind`, see the module's docstring.

        Raises:
            FrameError: `kind` is unknown, or a field is missing or wrong.
            TimeoutError: the daemon did not accept the message within `timeout_s`.
        """
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.send_events([ContextEvent(kind, pid, time_boot_ns=now, start_boot_ns=start_boot_ns, ppid=ppid, body=body)])

    def send_events(self, events: Iterable[ContextEvent]) -> None:
        """Send at most EVENTS_MAX events in one message. Raises the errors of `send`."""
        import zmq

        message = encode_context(events, boot_id=self._boot_id, source=self._source)
        try:
            self._socket.send(message)
        except zmq.Again:
            raise TimeoutError(
                f"the daemon did not accept the message within {self._linger_ms / 1000:g} s: check that it is running "
                "(`procline stat`)"
            ) from None

    def close(self) -> None:
        """Close the socket; messages that were sent are still delivered."""
        self._bus.close(linger_ms=self._linger_ms)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
