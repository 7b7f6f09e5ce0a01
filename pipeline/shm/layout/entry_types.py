"""The static types of entries in their JSON form, as `Entry.to_dict` returns them. They have no effect at run time.

`script/generate` writes the fields from the stub of `Entry`. docs/wire-schema.md says what they mean.
"""

from __future__ import annotations

from typing import TypedDict


class Command(TypedDict, total=False):
    """The fields about the command line of a process, in an entry or an event."""

    argv: list[str] | None
    path: str | None
    comm: str | None


class EntryFields(Command, total=False):
    """One entry, or those of its fields that were asked for."""

    # generated: entry-fields
    pid: int
    tid: int
    ppid: int
    start_time_ns: int | None
    fork_time_ns: int | None
    exec_time_ns: int | None
    exit_time_ns: int | None
    created_at_ns: int | None
    exit_code: int | None
    exit_cause: str | None
    exit_cause_code: int | None
    script_path: str | None
    name: str | None
    cwd: str | None
    symlink_paths: list[str] | None
    symlink_basename: str | None
    argc: int | None
    args_truncated: bool
    envs: list[str] | None
    envc: int | None
    envs_truncated: bool
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
    caps_attempted: int
    caps_used: int
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
    ssh_session: dict[str, object] | None
    source: str
    images: int
    is_thread: bool
    is_exec: bool
    is_exec_exec: bool
    is_parent_missing: bool
    is_adopted: bool
    is_kworker: bool
    is_through_symlink: bool
    is_head: bool
    is_exited: bool
    marks: list[str]
    flags: int
    row: int
    generation: int
    extra: dict[str, object] | None
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
