"""The static type of an event. It has no effect at run time: an event is a plain dict.

docs/wire-schema.md gives the meaning of each field. An unknown value is None.
"""

from __future__ import annotations

from typing import TypedDict


class Ancestor(TypedDict):
    """One image in the lineage of an event."""

    pid: int
    start_time_ns: int | None
    comm: str | None
    path: str | None
    entity_id: str | None


class Event(TypedDict, total=False):
    """One event of the stream, or a special event of a subscriber.

    Every event has `event`, `seq` and `time_ns`. Events of `proc` topics have all fields up to `lineage_truncated`. The
    remaining fields belong to some events only, as their comments say. An event of ``sys.stats`` has the fields of
    ``procline stat --json`` in addition to `event`, `seq`, `order` and `time_ns`; they are not listed here.
    """

    event: str
    seq: int | None  # None: a special event
    order: int | None
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
    container_created_at_ns: int | None
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
    # end of the generated part

    new_parent: Ancestor  # reparent
    context: dict[str, object]  # context events
    lost: dict[str, int]  # sys.loss
    new: dict[str, int]  # sys.loss

    row: int  # snapshot, and the following fields
    generation: int
    is_head: bool
    ssh_session: dict[str, object] | None
    left: int

    topic: str | None  # missed, and the following fields
    first: int | None
    last: int | None
    count: int | None
    reason: str

    unwatched_from_ns: int  # unwatched, and the following field
    unwatched_to_ns: int
