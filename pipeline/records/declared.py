"""Event records: kinds, flags and layouts, declared once.

``script/generate`` writes the C header, the Cython declarations and the tables in docs/records.md from this module;
`pipeline.records.dtypes` has the numpy dtypes. A flag is a power of two, in the order of its value; the comment behind
a constant is its meaning and goes into the header.

A record is HEADER, then (unless FLAG_HEAD_ONLY) TASK, then the body of its kind, then `var_bytes` bytes of strings. The
same bytes travel from the BPF programs through the rings and the frames to the resolver; nothing in between encodes
them again. All numbers are little-endian. 0 means unknown unless stated otherwise.

Source of the facts: struct task_struct, struct cred, struct linux_binprm, struct signal_struct of Linux 6.12 and 6.18.
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.records.declaring import Layout


class Directory(NamedTuple):
    """A directory of a process at its exec; an EXEC record and a row contain its path.

    Attributes:
        name: of the field of an entry and of an event.
        kernel: the ``struct path`` of the kernel, as a member of ``struct task_struct``.
        link: the link in ``/proc/PID``.
    """

    name: str
    kernel: str
    link: str


# Kinds of records: HEADER.kind. They are also the positions of the loss counters; position 0 is unused.
KIND_FORK = 1  #: a process was made
KIND_EXEC = 2  #: a process began to execute a program
KIND_EXIT = 3  #: a process ended
KIND_CRED = 4  #: the users, groups, capabilities or the login uid of a process changed
KIND_COMM = 5  #: the name of a process changed
KIND_CGROUP = 6  #: a process was moved to a cgroup, or (FLAG_CGROUP_MADE) created one
KIND_SID = 7  #: the session, process group, terminal or namespaces of a process changed
KIND_CAPS = 8  #: the kernel checked a capability of a process for the first time
KIND_COUNT = 9  #: no kind, but how many numbers there are, 0 included

#: Names of the kinds, by number.
KIND_NAMES = ("none", "fork", "exec", "exit", "cred", "comm", "cgroup", "sid", "caps")

# Limits of strings
STRING_MAX = 32768  #: bytes kept of the arguments, and of the environment

# HEADER.flags
FLAG_HEAD_ONLY = 1 << 0  #: the record did not fit and was written without TASK, body and strings
FLAG_LEADER_DEAD = 1 << 1  #: the leader of the thread group had already ended
FLAG_PARTIAL = 1 << 2  #: the source has no eBPF: TASK fields that are 0 are unknown
FLAG_KEYED = 1 << 3  #: pids are index entries that the resolver assigned to (pid, pid namespace), see keyed_frames.py
FLAG_CONTAINER = 1 << 4  #: the container id follows the strings that the body names, up to `var_bytes`
FLAG_CGROUP_MADE = 1 << 5  #: CGROUP record: NAMED_CGROUP is a cgroup that was created; HEADER, TASK: its creator
FLAG_SAMPLED = 1 << 6  #: CRED and SID records: a comparison found the change; it happened earlier

# TASK.cgroups_v1
CGROUPS_V1_ROOTS = 1  #: the process is in the root of every hierarchy of version 1, or there is no hierarchy

# EXEC.exec_flags
EXEC_SCRIPT = 1 << 0  #: bprm->interp differs from bprm->filename: a script or binfmt_misc
EXEC_DELETED = 1 << 1  #: the name that was executed was deleted; the file can have another one (`nlink`)
EXEC_MEMFD = 1 << 2  #: the executable is a memfd, and the path is "/memfd:NAME"
EXEC_PATH_TRUNCATED = 1 << 3  #: the front of the path is missing
EXEC_ARGS_TRUNCATED = 1 << 4  #: more arguments than settings allow
EXEC_ENVS_TRUNCATED = 1 << 5  #: more environment than settings allow
EXEC_ARGS_UNREADABLE = 1 << 6  #: a page of the argument area was absent
EXEC_ENVS_UNREADABLE = 1 << 7  #: a page of the environment area was absent
EXEC_DETACHED = 1 << 8  #: the mount of the executable is in no mount namespace
EXEC_ESCAPED = 1 << 9  #: the walk ended at a dentry that is the root of neither a mount nor the task
EXEC_NO_ROOT = 1 << 10  #: the executable is not below the root directory of the task
EXEC_UPPER_LAYER = 1 << 11  #: the executable is in the upper layer of an overlay file system
EXEC_SECURE = 1 << 12  #: bprm->secureexec: the exec changed privileges
EXEC_NAME_TRUNCATED = 1 << 13  #: the end of the name is missing
EXEC_THROUGH_SYMLINK = 1 << 14  #: a symbolic link was followed on the way to the executable

# EXIT.exit_flags
EXIT_NS_DIES = 1 << 0  #: the process was the init of its pid namespace
EXIT_NO_REAPER = 1 << 1  #: no reaper was found
EXIT_GROUP_DEAD_GUESSED = 1 << 2  #: the kernel has no group_dead argument: `live == 0` decided
EXIT_COST = 1 << 3  #: COST follows
EXIT_IO = 1 << 4  #: ... and the kernel counts the bytes that a process reads and writes
EXIT_SENDER = 1 << 5  #: SENDER follows COST

#: Directories. Their paths follow the invoked name (EXEC.name_bytes, COLD.name_ref), each after a NUL. An unknown path
#: is empty; NULs at the end are omitted. Append new ones, so that older recordings can still be read.
DIRECTORIES: tuple[Directory, ...] = (Directory("cwd", "fs->pwd", "cwd"),)

HEADER_LAYOUT = Layout(
    "HEADER", "pl_header", 64,
    """
    First part of every record.
    """,
    """
    time_boot_ns          u8  ns (boot)  taken after the reservation and a full barrier
    ring_seq              u8  -          records that got room on this CPU so far, from 0
    tgid                  u4  -          the process the record is about (for fork: the child)
    tid                   u4  -          its thread that acted (for fork: the child's only thread)
    start_boot_ns         u8  ns (boot)  group_leader->start_boottime; with tgid an identity
    ppid                  u4  -          real_parent->tgid, now; 0: none, or outside of the recorded pid namespace
    kind                  u1  -          KIND_*
    flags                 u1  -          FLAG_*
    cpu                   u2  -          CPU that wrote it
    parent_start_boot_ns  u8  ns (boot)  real_parent->group_leader->start_boottime
    record_bytes          u4  bytes      whole record, this header included
    var_bytes             u4  bytes      strings after the body
    ring_pos              u8  bytes      position of the record in its ring; written by the shard
    """,
)  # fmt: skip
TASK_LAYOUT = Layout(
    "TASK", "pl_task", 160,
    """
    State of the process at the event (after it, for exec and credential changes). Name, credentials, login and
    cgroups can differ between threads; these are those of the leader, even if another thread acted or the leader
    has ended.
    """,
    """
    uid            u4   -      real_cred, ids in the initial user namespace
    gid            u4   -      real group
    euid           u4   -      effective user
    egid           u4   -      effective group
    suid           u4   -      saved user
    sgid           u4   -      saved group
    fsuid          u4   -      user for access to files
    fsgid          u4   -      group for access to files
    cap_effective  u8   mask   bit n is capability n
    cap_permitted  u8   mask   likewise
    auid           u4   -      login uid; 4294967295 is unset
    audit_session  u4   -      task->sessionid; 4294967295 is unset
    sid            u4   -      session leader's pid; 0: outside of the recorded pid namespace
    pgid           u4   -      process group leader's pid, likewise
    ns_pid         u4   -      pid in the innermost pid namespace
    pid_ns         u4   inode  namespaces, as `readlink /proc/PID/ns/*` numbers them
    mnt_ns         u4   inode  likewise
    net_ns         u4   inode  likewise
    user_ns        u4   inode  likewise
    task_flags     u4   mask   task->flags (PF_KTHREAD 0x200000)
    cgroup_id      u8   -      cgroups->dfl_cgrp->kn->id
    comm           S16  -      with its NUL
    tty            S16  -      tty->name, e.g. b"pts3"; empty: none
    exe_inode      u8   -      mm->exe_file's inode; for exec: of the image before this one
    exe_dev        u4   -      its s_dev, kernel encoding (major << 20 | minor)
    known          u2   mask   with FLAG_PARTIAL: the groups of fields that hold a value, a mask of KNOWN_*
                               (pipeline/shm/layout/declared.py); 0: the fields that are not zero
    no_new_privs   u1   -      task->atomic_flags, PFA_NO_NEW_PRIVS: 1 no, 2 yes
    seccomp_mode   u1   -      task->seccomp.mode + 1: 1 disabled, 2 strict, 3 filter
    cookie         u8   -      identifies the image; key of the BPF map proc_cache
    cgroups_v1     u8   -      one number for all cgroups of version 1 that the process is in (`cgroup_set`);
                               CGROUPS_V1_ROOTS: only roots
    """,
)  # fmt: skip
FORK_LAYOUT = Layout(
    "FORK", "pl_fork", 32,
    """
    Body of a fork record.
    """,
    """
    creator_start_boot_ns  u8  ns (boot)  of the forking process (current)
    creator_tgid           u4  -          the forking process; with CLONE_PARENT it is not the parent. 0: unknown, or
                                      outside of the recorded pid namespace
    creator_tid            u4  -          its thread
    clone_flags            u8  mask       CLONE_* as the kernel has them, without the exit signal
    fork_reserved          u8  -          not used
    """,
)  # fmt: skip
EXEC_LAYOUT = Layout(
    "EXEC", "pl_exec", 128,
    """
    Body of an exec record. The strings follow in the order path, name, args, envs, without separators.
    """,
    """
    inode            u8  -          of the executable that runs; for a script, the interpreter's
    ctime_ns         u8  ns (unix)  last change of the inode
    mtime_ns         u8  ns (unix)  last change of the content
    device           u4  -          s_dev, kernel encoding
    mount_id         u4  -          mnt_id of its mount
    file_uid         u4  -          owner
    file_gid         u4  -          group
    nlink            u4  -          hard links
    mode             u2  -          type and permission bits
    exec_flags       u2  mask       EXEC_*
    exec_tid         u4  -          tid of the thread that called exec, before it became leader; 0: it was another
                                thread, and its number in the recorded pid namespace is unknown
    fs_magic         u4  -          s_magic of its file system
    path_bytes       u4  bytes      path below the global root of its mount tree
    root_offset      u4  bytes      where the path below the task's own root begins, within the path
    name_bytes       u4  bytes      bprm->filename: what was invoked; DIRECTORIES may follow, each after a NUL
    args_bytes       u4  bytes      kept of the argument area, NUL after each
    args_full_bytes  u4  bytes      the argument area's whole length
    envs_bytes       u4  bytes      kept of the environment, NUL after each, and `ssh_bytes`
    envs_full_bytes  u4  bytes      the environment area's whole length
    argc             u4  -          bprm->argc
    envc             u4  -          bprm->envc
    prev_tid         u4  -          tid before this exec; differs where a thread other than the leader called exec;
                                0 as exec_tid
    prev_inode       u8  -          of the executable before this exec
    interp_inode     u8  -          reserved; always 0
    prev_cookie      u8  -          cookie of the image before
    mount_end        u4  bytes      1 + the length of the front part of the path that leads to the mount of the
                                    executable (1: the mount is the root, "/")
    ssh_bytes        u4  bytes      the last bytes of `envs_bytes`, which are not part of the environment: SSH_CLIENT
                                    and SSH_CONNECTION of a program that sshd executed, then an empty string. Removed
                                    before anything is stored (conceal.py)
    """,
)  # fmt: skip
EXIT_LAYOUT = Layout(
    "EXIT", "pl_exit", 32,
    """
    Body of an exit record. The other kinds have no body: their TASK has the new state.
    """,
    """
    reaper_start_boot_ns  u8  ns (boot)  of the process that will probably adopt the children
    reaper_tgid           u4  -          that process; 0: none, as the namespace ends with its init
    exit_code             i4  -          wait status, as wait() returns it
    exit_flags            u4  mask       EXIT_*
    leader_exit_code      i4  -          the leader's exit_code; 0 until it is stored
    exit_reserved         u8  -          not used
    """,
)  # fmt: skip
COST_LAYOUT = Layout(
    "COST", "pl_cost", 64,
    """
    The strings of an EXIT record with EXIT_COST: what the process used, all threads included, from its fork to this
    record. See [The cost of a process](cost.md).
    """,
    """
    cpu_user_ns           u8  ns     signal->utime and the threads' utime, scaled as cputime_adjust() does it
    cpu_system_ns         u8  ns     likewise; the sum of both is the run time that the scheduler measured
    children_cpu_ns       u8  ns     signal->cutime + cstime: of descendants that were waited for
    max_rss_bytes         u8  bytes  signal->maxrss: largest resident memory
    read_bytes            u8  bytes  signal->inblock and ioac: read from storage
    write_bytes           u8  bytes  likewise: written, or to be written, to storage
    minor_faults          u4  -      signal->min_flt; this and the following: 4294967295 is that many, or more
    major_faults          u4  -      signal->maj_flt
    voluntary_switches    u4  -      signal->nvcsw
    involuntary_switches  u4  -      signal->nivcsw
    """,
)  # fmt: skip
SENDER_LAYOUT = Layout(
    "SENDER", "pl_sender", 40,
    """
    Follows COST in the strings of an EXIT record with EXIT_SENDER: the process that sent the signal that ended this one
    (`capture.signal_senders`). Only the signals of kill(), tgkill(), sigqueue() and the like have a sender.
    """,
    """
    sender_start_boot_ns  u8   ns (boot)  of the sending process
    sender_tgid           u4   -          that process; 0: it is outside of the recorded pid namespace
    sender_uid            u4   -          the real user of the sending thread
    sender_signal         u4   -          the signal
    sender_pad            u4   -          not used
    sender_comm           V16  -          the name of the sending thread, which it chooses itself
    """,
)  # fmt: skip
NAMED_CGROUP_LAYOUT = Layout(
    "NAMED_CGROUP", "pl_named_cgroup", 16,
    """
    Begins the strings of a CGROUP record: the cgroup that the record names. The process was moved to it, or created it
    (FLAG_CGROUP_MADE). MEMBERs follow, then the path.
    """,
    """
    named_id          u8  -      cgroup->kn->id: inode of its directory
    named_hierarchy   u4  -      cgroup->root->hierarchy_id; 0: version 2
    named_path_bytes  u2  bytes  its path below the root of the hierarchy; at most 1023
    named_members     u2  -      number of MEMBERs that follow
    """,
)  # fmt: skip
MEMBER_LAYOUT = Layout(
    "MEMBER", "pl_member", 16,
    """
    One for each cgroup of version 1 that the process is in, except roots; in the strings of a CGROUP record.
    """,
    """
    member_id         u8  -  cgroup->kn->id; each hierarchy has its own numbers
    member_hierarchy  u4  -  cgroup->root->hierarchy_id
    member_pad        u4  -  not used
    """,
)  # fmt: skip
SAMPLED_LAYOUT = Layout(
    "SAMPLED", "pl_sampled", 8,
    """
    The strings of a CRED or SID record with FLAG_SAMPLED. The change happened after this time and before the record's.
    """,
    """
    changed_after_boot_ns  u8  ns (boot)  the last comparison that found the process as recorded; before the first one
                                      the start of the process, or of the capture if that is later
    """,
)  # fmt: skip
CAPS_LAYOUT = Layout(
    "CAPS", "pl_caps", 16,
    """
    The strings of a CAPS record: capability checks since the process runs its image. The masks are complete each
    time, so the next record also has what a lost one had.
    """,
    """
    caps_attempted  u8  mask  bit n: capability n was checked for the process
    caps_used       u8  mask  those of them that it had
    """,
)  # fmt: skip

#: Layouts by the name of their C struct, without ``pl_``.
LAYOUTS = {
    layout.c_name[3:]: layout
    for layout in (
        HEADER_LAYOUT,
        TASK_LAYOUT,
        FORK_LAYOUT,
        EXEC_LAYOUT,
        EXIT_LAYOUT,
        COST_LAYOUT,
        SENDER_LAYOUT,
        NAMED_CGROUP_LAYOUT,
        MEMBER_LAYOUT,
        SAMPLED_LAYOUT,
        CAPS_LAYOUT,
    )
}
