"""The static types of an entry as a dict, and of its attributes by their names. They have no effect at run time.

`script/generate` writes the items from the stub of `Entry`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from datetime import datetime, timedelta


class EntryDict(TypedDict):
    """The fields of an entry: what `Entry.as_dict` returns without names."""

    # generated: entry-dict
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
    comm: str | None
    path: str | None
    script_path: str | None
    name: str | None
    cwd: str | None
    symlink_paths: list[str] | None
    symlink_basename: str | None
    argv: list[str] | None
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


class EntryAttributes(EntryDict):
    """Attributes of an entry: what `Entry.as_dict` returns for names.

    The type has all attributes. The dict has only those that were named, and reading another one is a KeyError.
    `parent` and `creator` are entries or None, see `Entry.parent`.
    """

    # generated: entry-attributes
    parent: object
    creator: object
    is_running: bool
    start_time: datetime | None
    fork_time: datetime | None
    exec_time: datetime | None
    exit_time: datetime | None
    created_at: datetime | None
    cgroup_created_at: datetime | None
    container_created_at: datetime | None
    age_ns: int | None
    age: timedelta | None
    duration_ns: int | None
    duration: timedelta | None
    exit_status: int | None
    exit_signal: int | None
    path_in_root: str | None
    is_elided: bool
    is_exe_deleted: bool
    is_memfd: bool
    args_full_bytes: int | None
    image_number: int
    start_boot_ns: int
    known: int
    is_before_capture: bool
    is_adoption_predicted: bool
    is_foreign: bool
    is_ns_init: bool
    is_start_coarse: bool
    is_replaced: bool
    is_exit_unseen: bool
    # end of the generated part


# generated: entry-names
#: Attributes of the type `int`.
Ints = Literal[
    "pid", "ppid", "tid", "row", "caps_attempted", "caps_used", "image_number", "flags", "generation",
    "start_boot_ns", "known", "images",
]  # fmt: skip
#: Attributes of the type `int | None`.
OptionalInts = Literal[
    "start_time_ns", "created_at_ns", "exit_code", "age_ns", "duration_ns", "exit_status", "exit_signal",
    "exit_cause_code", "cgroup_version", "cgroup_created_at_ns", "container_created_at_ns", "creator_pid",
    "args_full_bytes", "fork_time_ns", "exec_time_ns", "exit_time_ns", "argc", "envc", "uid", "gid", "euid", "egid",
    "suid", "sgid", "fsuid", "fsgid", "auid", "audit_session", "cap_effective", "cap_permitted", "sid", "pgid",
    "inode", "exec_inode", "ns_pid", "pid_ns", "mnt_ns", "net_ns", "user_ns", "cgroup_id", "fork_flags", "cookie",
    "user_session", "cpu_user_ns", "cpu_system_ns", "children_cpu_ns", "max_rss_bytes", "minor_faults",
    "major_faults", "voluntary_switches", "involuntary_switches", "read_bytes", "write_bytes",
]  # fmt: skip
#: Attributes of the type `str`.
Texts = Literal[
    "source",
]  # fmt: skip
#: Attributes of the type `str | None`.
OptionalTexts = Literal[
    "user", "group", "euser", "egroup", "fsuser", "fsgroup", "cgroup_source", "entity_id", "cpid",
    "parent_entity_id", "creator_entity_id", "exit_cause", "comm", "path", "path_in_root", "name",
    "symlink_basename", "script_path", "tty", "cgroup", "container_id", "container_trust", "file_sha256", "cwd",
    "seccomp_mode",
]  # fmt: skip
#: Attributes of the type `bool`.
Flags = Literal[
    "is_running", "is_exited", "is_elided", "is_exe_deleted", "is_memfd", "args_truncated", "envs_truncated",
    "is_thread", "is_exec", "is_exec_exec", "is_parent_missing", "is_adopted", "is_kworker", "is_through_symlink",
    "is_head", "is_before_capture", "is_adoption_predicted", "is_foreign", "is_ns_init", "is_start_coarse",
    "is_replaced", "is_exit_unseen",
]  # fmt: skip
#: Attributes of the type `bool | None`.
OptionalFlags = Literal[
    "no_new_privs",
]  # fmt: skip
#: Attributes of the type `list[str]`.
Lists = Literal[
    "marks",
]  # fmt: skip
#: Attributes of the type `list[str] | None`.
OptionalLists = Literal[
    "symlink_paths", "argv", "envs",
]  # fmt: skip
#: Attributes of the type `dict[str, object] | None`.
Maps = Literal[
    "file", "interpreter", "container_details", "ssh_session", "extra", "file_package",
]  # fmt: skip
#: Attributes of the type `datetime | None`.
Times = Literal[
    "start_time", "fork_time", "exec_time", "exit_time", "created_at", "cgroup_created_at", "container_created_at",
]  # fmt: skip
#: Attributes of the type `timedelta | None`.
Periods = Literal[
    "age", "duration",
]  # fmt: skip
# end of the generated part
