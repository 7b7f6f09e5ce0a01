"""The vocabulary that all layers share: event kinds, flags and record dtypes.

A record is `HEAD`, then (unless `FLAG_HEAD_ONLY`) `TASK`, then the body of its kind, then `var_bytes` bytes of
strings. The same bytes travel from the BPF programs (``records/records.h``) through the rings and the frames to the
resolver; nothing in between re-encodes them. All numbers are little-endian; 0 means unknown unless said otherwise.

HEAD, 64 bytes, every record:

    offset  size  field                 type  unit       meaning
    0       8     time_boot_ns          u8    ns (boot)  taken after the reservation and a full barrier
    8       8     ring_seq              u8    -          records that got room on this CPU so far, from 0
    16      4     tgid                  u4    -          the process the record is about (for fork: the child)
    20      4     tid                   u4    -          its thread that acted (for fork: the child's only thread)
    24      8     start_boot_ns         u8    ns (boot)  group_leader->start_boottime; with tgid an identity
    32      4     ppid                  u4    -          real_parent->tgid, now
    36      1     kind                  u1    -          KIND_*
    37      1     flags                 u1    -          FLAG_*
    38      2     cpu                   u2    -          CPU that wrote it
    40      8     parent_start_boot_ns  u8    ns (boot)  real_parent->group_leader->start_boottime
    48      4     record_bytes          u4    bytes      whole record, this header included
    52      4     var_bytes             u4    bytes      strings after the body
    56      8     ring_pos              u8    bytes      position of the record in its ring; written by the shard

TASK, 160 bytes: what the process is at the event (after it, for exec and credential changes). Where threads can differ
(name, credentials, login, cgroups), it has what the leader has, also if another thread acted or the leader has ended:

    offset  size  field                 type  unit       meaning
    0       4     uid                   u4    -          real_cred, ids in the initial user namespace
    4       4     gid                   u4    -
    8       4     euid                  u4    -
    12      4     egid                  u4    -
    16      4     suid                  u4    -
    20      4     sgid                  u4    -
    24      4     fsuid                 u4    -
    28      4     fsgid                 u4    -
    32      8     cap_effective         u8    mask       bit n is capability n
    40      8     cap_permitted         u8    mask
    48      4     auid                  u4    -          login uid; 4294967295 is unset
    52      4     audit_session         u4    -          task->sessionid; 4294967295 is unset
    56      4     sid                   u4    -          session leader's pid, root pid namespace
    60      4     pgid                  u4    -          process group leader's pid, root pid namespace
    64      4     ns_pid                u4    -          pid in the innermost pid namespace
    68      4     pid_ns                u4    inode      namespaces, as `readlink /proc/PID/ns/*` numbers them
    72      4     mnt_ns                u4    inode
    76      4     net_ns                u4    inode
    80      4     user_ns               u4    inode
    84      4     task_flags            u4    mask       task->flags (PF_KTHREAD 0x200000)
    88      8     cgroup_id             u8    -          cgroups->dfl_cgrp->kn->id
    96      16    comm                  S16   -          with its NUL
    112     16    tty                   S16   -          tty->name, e.g. b"pts3"; empty: none
    128     8     exe_inode             u8    -          mm->exe_file's inode; for exec: of the image before this one
    136     4     exe_dev               u4    -          its s_dev, kernel encoding (major << 20 | minor)
    140     4     told                  u4    mask       with FLAG_PARTIAL: which groups of fields hold a value (KNOWN_*
                                                         of shm/layout/tables.py); 0: those that are not zero
    144     8     cookie                u8    -          names the image; key of the BPF map proc_cache
    152     8     cgroups_v1            u8    -          names the cgroups of version 1 that it is in, all hierarchies
                                                         together (cgroup_set); CGROUPS_V1_ROOTS: none but roots

FORK, 32 bytes:

    offset  size  field                 type  unit       meaning
    0       8     creator_start_boot_ns u8    ns (boot)  the forking process (current), which CLONE_PARENT makes
    8       4     creator_tgid          u4    -          another one than real_parent
    12      4     creator_tid           u4    -
    16      8     clone_flags           u8    mask       CLONE_* as the kernel has them, without the exit signal
    24      8     fork_reserved         u8    -

EXEC, 128 bytes; strings in the order path, name, args, envs, without separators:

    offset  size  field                 type  unit       meaning
    0       8     inode                 u8    -          of the executable that runs (a script's interpreter)
    8       8     ctime_ns              u8    ns (unix)
    16      8     mtime_ns              u8    ns (unix)
    24      4     device                u4    -          s_dev, kernel encoding
    28      4     mount_id              u4    -          mnt_id of its mount
    32      4     file_uid              u4    -          owner
    36      4     file_gid              u4    -
    40      4     nlink                 u4    -
    44      2     mode                  u2    -          type and permission bits
    46      2     exec_flags            u2    mask       EXEC_*
    48      4     exec_tid              u4    -          tid of the thread that called exec, before it became leader
    52      4     fs_magic              u4    -          s_magic of its file system
    56      4     path_bytes            u4    bytes      path below the global root of its mount tree
    60      4     root_offset           u4    bytes      where in it the path below the task's own root begins
    64      4     name_bytes            u4    bytes      bprm->filename, what was invoked
    68      4     args_bytes            u4    bytes      kept of the argument area, NUL after each
    72      4     args_full_bytes       u4    bytes      the argument area's whole length
    76      4     envs_bytes            u4    bytes      the same for the environment
    80      4     envs_full_bytes       u4    bytes
    84      4     argc                  u4    -          bprm->argc
    88      4     envc                  u4    -          bprm->envc
    92      4     prev_tid              u4    -          the tid before this exec (differs for a thread's exec)
    96      8     prev_inode            u8    -          executable before this exec; 0 unknown
    104     8     interp_inode          u8    -          reserved for a loader that reports it; 0
    112     8     prev_cookie           u8    -          cookie of the image before
    120     4     mount_end             u4    bytes      1 + how much of the path leads to where the executable's
                                                         mount is (0: that is its root, "/"); 0 unknown
    124     4     ssh_bytes             u4    bytes      of the environment's bytes the last ones, which are none of it:
                                                         SSH_CLIENT and SSH_CONNECTION of what sshd executed, then an
                                                         empty string. Gone before anything is stored (conceal.py)

EXIT, 32 bytes:

    offset  size  field                 type  unit       meaning
    0       8     reaper_start_boot_ns  u8    ns (boot)  who will probably adopt the children; 0: nobody (the
    8       4     reaper_tgid           u4    -          namespace dies with its init)
    12      4     exit_code             i4    -          wait status, signal->group_exit_code
    16      4     exit_flags            u4    mask       EXIT_*
    20      4     leader_exit_code      i4    -          the leader's exit_code; 0 until it is stored
    24      8     exit_reserved         u8    -

The other kinds have no body: their TASK says what is true now. The strings of a CGROUP record are PLACE, MEMBER for
each cgroup of version 1 that the process is in (roots left out), and a path. They name what ids do not:

PLACE, 16 bytes: the cgroup that the process was moved to, or that was made (FLAG_CGROUP_MADE):

    offset  size  field                 type  unit       meaning
    0       8     place_id              u8    -          cgroup->kn->id: inode of its directory
    8       4     place_hierarchy       u4    -          cgroup->root->hierarchy_id; 0: version 2
    12      2     place_path_bytes      u2    bytes      its path below the root of the hierarchy; up to 1023
    14      2     place_members         u2    -          MEMBERs that follow

MEMBER, 16 bytes:

    offset  size  field                 type  unit       meaning
    0       8     member_id             u8    -          cgroup->kn->id; each hierarchy counts for itself
    8       4     member_hierarchy      u4    -          cgroup->root->hierarchy_id
    12      4     member_pad            u4    -

The strings of a CAPS record are CAPS: what its process has been asked for since it runs its image. The masks hold all
of it, not what is new alone: whoever missed a record knows it by the next.

CAPS, 16 bytes:

    offset  size  field                 type  unit       meaning
    0       8     caps_attempted        u8    mask       bit n: capability n was asked for
    8       8     caps_used             u8    mask       of these, those that it had

Source of the facts: struct task_struct, struct cred, struct linux_binprm, struct signal_struct of Linux 6.12 and 6.18.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

KIND_FORK = 1
KIND_EXEC = 2
KIND_EXIT = 3
KIND_CRED = 4
KIND_COMM = 5
KIND_CGROUP = 6
KIND_SID = 7
KIND_CAPS = 8

#: Names of the kinds, by number; also the order of loss counters (slot 0 is unused).
KIND_NAMES = ("none", "fork", "exec", "exit", "cred", "comm", "cgroup", "sid", "caps")
KIND_COUNT = 9

#: The record did not fit and was written without TASK, body and strings.
FLAG_HEAD_ONLY = 1
#: The process group's leader had already ended when this was recorded.
FLAG_LEADER_DEAD = 2
#: A source without eBPF made this record: TASK fields that are 0 are unknown.
FLAG_PARTIAL = 4
#: tgid, ppid, creator and reaper are not pids but the index entries that the resolver gave to their keys, (pid, pid
#: namespace) (`resolver.keyed_frames`).
FLAG_KEYED = 8
#: Behind the strings that the body names stands the container id, up to `var_bytes`.
FLAG_CONTAINER = 16
#: A CGROUP record that is about no process: its PLACE names a cgroup that was made. HEAD and TASK are the maker's.
FLAG_CGROUP_MADE = 32

#: TASK.cgroups_v1: in all hierarchies of version 1 (or there are none) the process is in the root. 0 is unknown.
CGROUPS_V1_ROOTS = 1

EXEC_SCRIPT = 1  #: bprm->interp differs from bprm->filename: a script or binfmt_misc
EXEC_DELETED = 2  #: the executable had no name any more
EXEC_MEMFD = 4  #: path is "/memfd:NAME"
EXEC_PATH_TRUNCATED = 8  #: the front of the path is missing
EXEC_ARGS_TRUNCATED = 16
EXEC_ENVS_TRUNCATED = 32
EXEC_ARGS_UNREADABLE = 64  #: a page of the argument area was absent
EXEC_ENVS_UNREADABLE = 128
EXEC_DETACHED = 256  #: the executable's mount is in no mount namespace
EXEC_ESCAPED = 512  #: the walk ended at a dentry that is neither root of a mount nor of the task
EXEC_NO_ROOT = 1024  #: the executable is not below the task's root directory
EXEC_UPPER_LAYER = 2048  #: overlay: in the upper layer
EXEC_SECURE = 4096  #: bprm->secureexec
EXEC_NAME_TRUNCATED = 8192
EXEC_THROUGH_SYMLINK = 16384  #: on the way to the executable a symbolic link was followed

EXIT_NS_DIES = 1  #: the process was the init of its pid namespace
EXIT_NO_REAPER = 2  #: no reaper could be found
EXIT_GROUP_DEAD_GUESSED = 4  #: the kernel has no group_dead argument: live == 0 decided

HEAD = np.dtype(
    [
        ("time_boot_ns", "<u8"), ("ring_seq", "<u8"), ("tgid", "<u4"), ("tid", "<u4"), ("start_boot_ns", "<u8"),
        ("ppid", "<u4"), ("kind", "u1"), ("flags", "u1"), ("cpu", "<u2"), ("parent_start_boot_ns", "<u8"),
        ("record_bytes", "<u4"), ("var_bytes", "<u4"), ("ring_pos", "<u8"),
    ]
)  # fmt: skip
TASK = np.dtype(
    [
        ("uid", "<u4"), ("gid", "<u4"), ("euid", "<u4"), ("egid", "<u4"), ("suid", "<u4"), ("sgid", "<u4"),
        ("fsuid", "<u4"), ("fsgid", "<u4"), ("cap_effective", "<u8"), ("cap_permitted", "<u8"), ("auid", "<u4"),
        ("audit_session", "<u4"), ("sid", "<u4"), ("pgid", "<u4"), ("ns_pid", "<u4"), ("pid_ns", "<u4"),
        ("mnt_ns", "<u4"), ("net_ns", "<u4"), ("user_ns", "<u4"), ("task_flags", "<u4"), ("cgroup_id", "<u8"),
        ("comm", "S16"), ("tty", "S16"), ("exe_inode", "<u8"), ("exe_dev", "<u4"), ("told", "<u4"),
        ("cookie", "<u8"), ("cgroups_v1", "<u8"),
    ]
)  # fmt: skip
FORK = np.dtype(
    [
        ("creator_start_boot_ns", "<u8"), ("creator_tgid", "<u4"), ("creator_tid", "<u4"), ("clone_flags", "<u8"),
        ("fork_reserved", "<u8"),
    ]
)  # fmt: skip
EXEC = np.dtype(
    [
        ("inode", "<u8"), ("ctime_ns", "<u8"), ("mtime_ns", "<u8"), ("device", "<u4"), ("mount_id", "<u4"),
        ("file_uid", "<u4"), ("file_gid", "<u4"), ("nlink", "<u4"), ("mode", "<u2"), ("exec_flags", "<u2"),
        ("exec_tid", "<u4"), ("fs_magic", "<u4"), ("path_bytes", "<u4"), ("root_offset", "<u4"),
        ("name_bytes", "<u4"), ("args_bytes", "<u4"), ("args_full_bytes", "<u4"), ("envs_bytes", "<u4"),
        ("envs_full_bytes", "<u4"), ("argc", "<u4"), ("envc", "<u4"), ("prev_tid", "<u4"), ("prev_inode", "<u8"),
        ("interp_inode", "<u8"), ("prev_cookie", "<u8"), ("mount_end", "<u4"), ("ssh_bytes", "<u4"),
    ]
)  # fmt: skip
EXIT = np.dtype(
    [
        ("reaper_start_boot_ns", "<u8"), ("reaper_tgid", "<u4"), ("exit_code", "<i4"), ("exit_flags", "<u4"),
        ("leader_exit_code", "<i4"), ("exit_reserved", "<u8"),
    ]
)  # fmt: skip
PLACE = np.dtype(
    [("place_id", "<u8"), ("place_hierarchy", "<u4"), ("place_path_bytes", "<u2"), ("place_members", "<u2")]
)  # fmt: skip
MEMBER = np.dtype([("member_id", "<u8"), ("member_hierarchy", "<u4"), ("member_pad", "<u4")])
CAPS = np.dtype([("caps_attempted", "<u8"), ("caps_used", "<u8")])

#: Body dtype by kind; kinds that are not here have none.
BODIES = {KIND_FORK: FORK, KIND_EXEC: EXEC, KIND_EXIT: EXIT}

#: Layouts that must match ``struct pl_NAME`` in records/records.h.
RECORD_LAYOUTS = {
    "head": HEAD,
    "task": TASK,
    "fork": FORK,
    "exec": EXEC,
    "exit": EXIT,
    "place": PLACE,
    "member": MEMBER,
    "caps": CAPS,
}

assert (HEAD.itemsize, TASK.itemsize, FORK.itemsize, EXEC.itemsize, EXIT.itemsize) == (64, 160, 32, 128, 32)


def cgroup_set(members: Iterable[tuple[int, int]]) -> int:
    """Return what TASK.cgroups_v1 says of a process in these cgroups of version 1, as ``bpf/programs/task.bpf.h``
    computes it.

    The order does not matter. The top bit is set, so that no id of a cgroup is taken for it.

    Args:
        members: hierarchy id and cgroup id of each that is not the root of its hierarchy.
    """
    every, count = 0, 0
    for hierarchy, cgroup_id in members:
        value = (hierarchy << 48 ^ cgroup_id) & _U64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _U64
        value = (value ^ value >> 27) * 0x94D049BB133111EB & _U64
        every ^= value ^ value >> 31
        count += 1
    return every | 1 << 63 if count else CGROUPS_V1_ROOTS


_U64 = (1 << 64) - 1
