"""Events with attributes, for programs that prefer ``event.pid`` to ``event["pid"]``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pipeline.shm.layout.near_names import suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping

_MANY = ("lineage",)
_ONE = ("new_parent",)
_OF_EXIT_CODE = ("exit_status", "exit_signal")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Fields:
    """Attributes that are the items of a dict."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    if not TYPE_CHECKING:  # type checkers know the names below

        def __getattr__(self, name: str) -> object:
            if name.startswith("_"):
                raise AttributeError(name)
            try:
                value = self._fields[name]
            except KeyError:
                return self._derived(name)
            if name in _MANY:
                return [Ancestor(each) for each in value or ()]
            return Ancestor(value) if name in _ONE and value is not None else value

        def _derived(self, name: str) -> datetime | timedelta | int | None:
            """Return a value that is computed from fields, as `Entry` has it."""
            fields = self._fields
            if f"{name}_ns" in fields:
                ns = fields[f"{name}_ns"]
                return None if ns is None else _EPOCH + timedelta(microseconds=ns // 1000)
            if name == "duration" and "exit_time_ns" in fields:
                begin, end = fields["start_time_ns"], fields["exit_time_ns"]
                return None if begin is None or end is None else timedelta(microseconds=max(0, end - begin) // 1000)
            if name in _OF_EXIT_CODE and "exit_code" in fields:
                is_signal = fields.get("exit_cause") in {"signaled", "coredumped"}
                return fields.get("exit_cause_code") if is_signal == (name == "exit_signal") else None
            kind = fields.get("event")
            of = f"an event {kind!r}" if kind is not None else "an ancestor"
            raise AttributeError(f"{of} has no field {name!r}{suggestion(name, self._names())}") from None

    def _names(self) -> list[str]:
        """Return the names that this event has: fields, and what is computed from them."""
        fields = self._fields
        times = [name.removesuffix("_ns") for name in fields if name.endswith("_ns")]
        computed = ["duration"] if "exit_time_ns" in fields else []
        return [*fields, *times, *computed, *(_OF_EXIT_CODE if "exit_code" in fields else ())]

    def as_dict(self) -> Mapping[str, object]:
        """Return the event as a subscriber yields it, without a copy."""
        return self._fields

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Fields) and type(self) is type(other) and self._fields == other._fields

    __hash__ = None  # type: ignore[assignment]  # like a dict

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._names()]


class Ancestor(_Fields):
    """One image in the `lineage` of an `EventObject`, or its `new_parent`."""

    __slots__ = ()

    pid: int
    start_time_ns: int | None
    start_time: datetime | None
    comm: str | None
    path: str | None
    entity_id: str | None

    def __repr__(self) -> str:
        return f"<Ancestor {self.pid} {self.comm!r}>"


class EventObject(_Fields):
    """An event whose fields are attributes: `event.pid` for ``event["pid"]``, `event.lineage[0].comm`.

    It is made from an event that a `Subscriber` has yielded, and keeps that dict. A field is looked up when it is read.
    Type checkers know all names. An event lacks the fields of other kinds: reading one is an `AttributeError`. For more
    exact types, such as an `argv` that only some events have, compare the dicts (`ExecEvent` and others).

    Times are also there without ``_ns``, as in `Entry`. `time`, `start_time`, `fork_time`, `exec_time`, `exit_time` and
    `created_at` are datetimes in UTC. `duration` is a timedelta from the start to the end of the process (None in an
    event without an end). They are rounded down to microseconds. `exit_status` is the number that the process passed to
    exit(3); `exit_signal` is the number of the signal that ended it. The other one of the two is None, and both are
    None if the process has not ended. None of these names is a key of the dict.

    Args:
        fields: the event.

    Example:
        >>> with Subscriber(topics=["exec"], on_gap=print, timeout=5) as subscriber:
        ...     for event in map(EventObject, subscriber):
        ...         print(event.event, event.pid, event.argv, [ancestor.comm for ancestor in event.lineage])
        ...         break
        exec 3000 ['backup'] ['sh', 'systemd', 'init']
        >>> event.exit_reason
        Traceback (most recent call last):
        AttributeError: an event 'exec' has no field 'exit_reason': did you mean 'exit_cause'?
        >>> event.as_dict()["pid"]
        3000
        >>> event.time > event.start_time, event.duration
        (True, None)
    """

    __slots__ = ()

    event: str
    seq: int | None
    order: int | None
    time_ns: int
    # Computed from the fields with the same name and _ns.
    time: datetime
    start_time: datetime | None
    fork_time: datetime | None
    exec_time: datetime | None
    exit_time: datetime | None
    created_at: datetime | None
    duration: timedelta | None
    # Computed from exit_code, as in Entry.
    exit_status: int | None
    exit_signal: int | None
    # generated: event-types
    pid: int
    tid: int | None
    ppid: int | None
    start_time_ns: int | None
    fork_time_ns: int | None
    exec_time_ns: int | None
    exit_time_ns: int | None
    created_at_ns: int | None
    exit_code: int | None
    exit_cause: str | None
    exit_cause_code: int | None
    comm: str | None
    path: str | None
    script_path: str | None
    name: str | None
    cwd: str | None
    symlink_paths: list[str] | None
    symlink_basename: str | None
    argv: list[str] | None
    argc: int | None
    args_truncated: bool | None
    envs: list[str] | None
    envc: int | None
    envs_truncated: bool | None
    uid: int | None
    gid: int | None
    euid: int | None
    egid: int | None
    suid: int | None
    sgid: int | None
    fsuid: int | None
    fsgid: int | None
    user: str | None
    group: str | None
    euser: str | None
    egroup: str | None
    fsuser: str | None
    fsgroup: str | None
    auid: int | None
    audit_session: int | None
    cap_effective: int | None
    cap_permitted: int | None
    caps_attempted: int | None
    caps_used: int | None
    no_new_privs: bool | None
    seccomp_mode: str | None
    tty: str | None
    sid: int | None
    pgid: int | None
    inode: int | None
    file: dict[str, object] | None
    interpreter: dict[str, object] | None
    file_package: dict[str, object] | None
    file_sha256: str | None
    exec_inode: int | None
    ns_pid: int | None
    pid_ns: int | None
    mnt_ns: int | None
    net_ns: int | None
    user_ns: int | None
    cgroup: str | None
    cgroup_id: int | None
    cgroup_version: int | None
    cgroup_source: str | None
    cgroup_created_at_ns: int | None
    container_id: str | None
    container_trust: str | None
    container_created_at_ns: int | None
    container_details: dict[str, object] | None
    entity_id: str | None
    cpid: str | None
    parent_entity_id: str | None
    creator_pid: int | None
    creator_entity_id: str | None
    fork_flags: int | None
    cookie: int | None
    user_session: int | None
    source: str | None
    images: int | None
    is_thread: bool | None
    is_exec: bool | None
    is_exec_exec: bool | None
    is_parent_missing: bool | None
    is_adopted: bool | None
    is_kworker: bool | None
    is_through_symlink: bool | None
    is_exited: bool | None
    marks: list[str] | None
    flags: int | None
    extra: dict[str, object] | None
    lineage: list[Ancestor]
    lineage_truncated: bool | None
    lineage_complete: bool | None
    # end of the generated part
    # Fields of an exit, and of a snapshot.
    # generated: event-cost-types
    cpu_user_ns: int | None
    cpu_system_ns: int | None
    children_cpu_ns: int | None
    max_rss_bytes: int | None
    minor_faults: int | None
    major_faults: int | None
    voluntary_switches: int | None
    involuntary_switches: int | None
    read_bytes: int | None
    write_bytes: int | None
    # end of the generated part
    # Fields of cred and sid, of reparent, of agents' events, and of a snapshot.
    changed_after_ns: int | None
    new_parent: Ancestor | None
    context: dict[str, object]
    row: int
    generation: int
    is_head: bool
    ssh_session: dict[str, object] | None
    left: int
    # Fields of loss and stats.
    lost: dict[str, int]
    new: dict[str, int]
    counters: dict[str, int]
    entries: dict[str, int]
    watermark_lag_ns: int
    # Fields of missed and unwatched.
    topic: str | None
    first: int | None
    last: int | None
    count: int | None
    reason: str
    from_ns: int | None
    to_ns: int
    unwatched_from_ns: int
    unwatched_to_ns: int

    def __repr__(self) -> str:
        pid = self._fields.get("pid")
        return f"<EventObject {self.event}{'' if pid is None else f' of {pid}'}>"
