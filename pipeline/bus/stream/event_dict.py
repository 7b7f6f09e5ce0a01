"""The static types of events, one for each topic. They have no effect at run time: an event is a plain dict.

An event is a dict and not an object with attributes, because the decoder makes a new event as a copy of the last one,
in which it replaces what differs. An object would cost a call for each event, and programs that store or send events
would have to make the dict again. The keys are the same in every language, in JSON and in the tables.

``event["event"]`` says which type an event has, and type checkers understand the comparison::

    if event["event"] == "exit":
        print(event["exit_code"], event["cpu_user_ns"])  # an ExitEvent

docs/wire-schema.md has the meaning of each field. An unknown value is None. A publisher of an older version lacks the
fields that were added since; use ``event.get`` for them if you read from other hosts.

Example:
    >>> def show(event: ProcessEvent) -> None:
    ...     print(event["event"], event["pid"], event["argv"])
    >>> def warn(gap: GapEvent) -> None:
    ...     print("events are missing:", gap["event"])
    >>> def count(events: list[Event]) -> dict[str, int]:
    ...     return Counter(event["event"] for event in events)
    >>> from collections import Counter
    >>> with Subscriber(topics=["exec"], on_gap=warn) as subscriber:
    ...     events = subscriber.read(timeout=5)
    >>> show(events[0])
    exec 3000 ['backup']
    >>> count(events)["exec"] >= 1
    True
"""

from __future__ import annotations

from inspect import cleandoc
from textwrap import fill
from typing import Literal, TypedDict, final


class Ancestor(TypedDict):
    """One image in the lineage of an event.

    Example:
        >>> with Subscriber(topics=["exec"], on_gap=print) as subscriber:
        ...     parent = subscriber.read(timeout=5)[0]["lineage"][0]
        >>> parent["comm"], parent["pid"]
        ('sh', 3000)
    """

    pid: int
    start_time_ns: int | None
    comm: str | None
    path: str | None
    entity_id: str | None


class _Process(TypedDict):
    """The keys of every event about a process."""

    time_ns: int
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


class _Cost(TypedDict):
    """The resources that a process has used until its end."""

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


class _Numbered(TypedDict):
    """The numbers of the publisher: `seq` counts the events of a topic, `order` those of all topics."""

    seq: int
    order: int


@final
class ForkEvent(_Numbered, _Process):
    """``proc.fork``: a new process. It has its parent's image until it calls exec.

    ``lineage[0]`` is the image that forked it.

    Example:
        >>> with Subscriber(topics=["fork"], on_gap=print, timeout=5) as subscriber:
        ...     for event in subscriber:
        ...         print(event["pid"], event["ppid"], event["comm"])
        ...         break
        3002 3000 backup
    """

    event: Literal["fork"]


@final
class ExecEvent(_Numbered, _Process):
    """``proc.exec``: a new image in a process.

    Example:
        >>> for event in Subscriber(topics=["exec"]):
        ...     if event["event"] == "exec":  # from here on, type checkers know that it is an ExecEvent
        ...         print(event["pid"], event["path"])
        ...     break
        3000 /usr/local/bin/backup
    """

    event: Literal["exec"]


@final
class ExitEvent(_Numbered, _Process, _Cost):
    """``proc.exit``: the end of a process, and what it has used.

    Example:
        >>> with Subscriber(topics=["exit"], on_gap=print, timeout=5) as subscriber:
        ...     for event in subscriber:
        ...         print(event["pid"], event["exit_cause"], event["exit_cause_code"], event["cpu_user_ns"])
        ...         break
        3002 exited 1 2000000
    """

    event: Literal["exit"]


@final
class CredEvent(_Numbered, _Process):
    """``proc.cred``: changed ids or capabilities.

    Example:
        >>> with Subscriber(topics=["cred"], on_gap=print, timeout=5) as subscriber:
        ...     for event in subscriber:
        ...         print(event["pid"], event["uid"], event["euid"])
        ...         break
        3000 0 0
    """

    event: Literal["cred"]
    changed_after_ns: int | None  # a comparison found the change, which happened after this; None: see wire-schema.md


class _Sent(TypedDict, total=False):
    changed_after_ns: int | None  # of sid only
    context: dict[str, object]


@final
class ContextEvent(_Numbered, _Process, _Sent):
    """``proc.context``: a changed name, cgroup or session, a capability that was asked for, or a fact of an agent.

    Only facts of an agent have `context`. If its ``error`` is ``no_process_context``, all fields of the process but
    `pid` are None, also `lineage`.

    Example:
        >>> with Subscriber(topics=["context"], on_gap=print, timeout=5) as subscriber:
        ...     for event in subscriber:
        ...         print(event["pid"], event["event"], event["sid"])
        ...         break
        3000 sid 1
    """

    event: Literal[
        "comm", "cgroup", "sid", "caps",
        "capabilities", "imds", "tracer_memfd_seal", "ptrace", "signal", "setrlimit", "user_session",
    ]  # fmt: skip


@final
class ReparentEvent(_Numbered, _Process):
    """``proc.reparent``: another parent.

    Example:
        >>> with Subscriber(topics=["reparent"], on_gap=print, timeout=5) as subscriber:
        ...     for event in subscriber:
        ...         print(event["pid"], event["new_parent"]["pid"])
        ...         break
        3003 1
    """

    event: Literal["reparent"]
    new_parent: Ancestor


@final
class LossEvent(_Numbered):
    """``sys.loss``: records that the kernel could not write.

    Example:
        >>> with Subscriber(topics=["sys.loss"], on_gap=print, timeout=5) as subscriber:
        ...     for event in subscriber:
        ...         print(event["new"])
        ...         break
        {'fork': 1}
    """

    event: Literal["loss"]
    time_ns: int
    lost: dict[str, int]  # by kind, since the start of the instance
    new: dict[str, int]  # by kind, since the last such event


@final
class StatsEvent(_Numbered):
    """``sys.stats``: statistics, with the names of ``procline stat --json``.

    Example:
        >>> with Subscriber(topics=["sys.stats"], on_gap=print, timeout=5) as subscriber:
        ...     for event in subscriber:
        ...         print(event["event"], event["entries"]["live"])
        ...         break
        stats 6
    """

    event: Literal["stats"]
    time_ns: int
    counters: dict[str, int]
    entries: dict[str, int]  # live, exited, images
    watermark_lag_ns: int


@final
class SnapshotEvent(_Process, _Cost):
    """A live process, from the tables. Only subscribers with `snapshot` get it.

    Example:
        >>> with Subscriber(topics=["exec"], snapshot=True) as subscriber:
        ...     events = subscriber.read(timeout=5)
        >>> [(event["pid"], event["left"]) for event in events if event["event"] == "snapshot"]
        [(1, 5), (901, 4), (2000, 3), (2001, 2), (3000, 1), (8674, 0)]
    """

    event: Literal["snapshot"]
    seq: None
    order: None
    row: int
    generation: int
    is_head: bool
    ssh_session: dict[str, object] | None
    left: int  # snapshot events that are still to come


class _Gap(TypedDict):
    seq: None
    time_ns: int


@final
class MissedEvent(_Gap):
    """A gap: events were published, but not received. The subscriber makes this event.

    Example:
        >>> def complain(gap: GapEvent) -> None:
        ...     if gap["event"] == "missed":
        ...         print(f"{gap['count']} events of {gap['topic']} are missing ({gap['reason']})")
        >>> with Subscriber(topics=["exec"], on_gap=complain) as subscriber:  # it is called if this program is too slow
        ...     events = subscriber.read(timeout=5)
        >>> complain({"event": "missed", "topic": "proc.exec", "first": 7, "last": 9, "count": 3, "reason": "gap"})
        3 events of proc.exec are missing (gap)
    """

    event: Literal["missed"]
    topic: str | None  # None: every topic, because a new stream began
    first: int | None  # numbers of the lost events; None: unknown
    last: int | None
    count: int | None
    reason: str  # "gap" or "restart"
    from_ns: int | None  # the lost events were published between these times, ns (unix); None: unknown
    to_ns: int | None


@final
class UnwatchedEvent(_Gap):
    """A gap: no daemon watched the host for a time, so nothing was recorded. The subscriber makes this event.

    Example:
        >>> def complain(gap: GapEvent) -> None:
        ...     if gap["event"] == "unwatched":
        ...         print(f"nothing was recorded for {(gap['unwatched_to_ns'] - gap['unwatched_from_ns']) / 1e9} s")
        >>> with Subscriber(topics=["exec"], on_gap=complain) as subscriber:  # it is called if the daemon was restarted
        ...     events = subscriber.read(timeout=5)
        >>> complain({"event": "unwatched", "unwatched_from_ns": 10**9, "unwatched_to_ns": 3 * 10**9})
        nothing was recorded for 2.0 s
    """

    event: Literal["unwatched"]
    unwatched_from_ns: int
    unwatched_to_ns: int


#: An event about a process: it has `pid`, `argv`, `lineage` and all other fields of a process.
ProcessEvent = ForkEvent | ExecEvent | ExitEvent | CredEvent | ContextEvent | ReparentEvent | SnapshotEvent
#: Says that events are missing.
GapEvent = MissedEvent | UnwatchedEvent
#: Written out, because mypy does not look into named unions when it narrows by ``"pid" in event``.
Event = (
    ForkEvent | ExecEvent | ExitEvent | CredEvent | ContextEvent | ReparentEvent | SnapshotEvent
    | LossEvent | StatsEvent
    | MissedEvent | UnwatchedEvent
)  # fmt: skip

#: Names of topics all events of which are about processes.
ProcessTopic = Literal[
    "proc", "proc.", "fork", "exec", "exit", "cred", "context", "reparent",
    "proc.fork", "proc.exec", "proc.exit", "proc.cred", "proc.context", "proc.reparent",
]  # fmt: skip


def _list_keys() -> None:
    """Name the keys of each type in its docstring, before the example: `help` does not show them."""
    for each in (
        ForkEvent, ExecEvent, ExitEvent, CredEvent, ContextEvent, ReparentEvent, SnapshotEvent, LossEvent, StatsEvent,
        MissedEvent, UnwatchedEvent,
    ):  # fmt: skip
        text, mark, example = cleandoc(each.__doc__ or "").partition("\n\nExample:")
        keys = fill(f"Keys: {', '.join(each.__annotations__)}.", 100, break_long_words=False)
        each.__doc__ = f"{text}\n\n{keys}{mark}{example}"


_list_keys()
