"""The static types of entries in their JSON form, as `Entry.to_dict` returns them. They have no effect at run time.

They contain only the fields that the commands and this package read. docs/wire-schema.md lists all fields.
"""

from __future__ import annotations

from typing import Any, TypedDict


class Command(TypedDict, total=False):
    """What is known of the command line of a process, in an entry or an event."""

    argv: list[str] | None
    path: str | None
    comm: str | None


class EntryFields(Command, total=False):
    """One entry."""

    pid: int
    ppid: int | None
    pid_ns: int | None
    ns_pid: int | None
    entity_id: str | None
    parent_entity_id: str | None
    creator_pid: int | None
    creator_entity_id: str | None
    script_path: str | None
    uid: int | None
    euid: int | None
    fsuid: int | None
    user: str | None
    euser: str | None
    fsuser: str | None
    group: str | None
    egroup: str | None
    cap_effective: int | None
    tty: str | None
    cwd: str | None
    ssh_session: dict[str, Any] | None
    cgroup: str | None
    container_id: str | None
    container_trust: str | None
    container_details: dict[str, Any] | None
    file_package: dict[str, Any] | None
    file_sha256: str | None
    is_kworker: bool
    exit_code: int | None
    start_time_ns: int | None
    exec_time_ns: int | None
    exit_time_ns: int | None
    exit_cause: str | None
    exit_cause_code: int | None
    is_exited: bool
    is_parent_missing: bool
    marks: list[str]
    images: int
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
    args_truncated: bool
    file: dict[str, Any] | None
    inode: int | None
    mnt_ns: int | None
    cgroup_source: str | None
    container_created_at_ns: int | None
    source: str | None
    is_exec: bool
    is_adopted: bool
    is_head: bool
    extra: dict[str, Any] | None
    suid: int | None
    gid: int | None
    egid: int | None
    auid: int | None
