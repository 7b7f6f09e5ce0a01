"""Values of the maps that BPF programs and user space share: limits, flags and layouts, declared once.

``script/generate`` writes ``programs/shared.h`` and the tables in docs/records.md from this module; `pipeline.bpf.maps`
has the numpy dtypes, `pipeline.bpf.words` the words that a process without numpy reads and stores. All numbers are
little-endian. 0 means unknown unless stated otherwise.
"""

from __future__ import annotations

from pipeline.records import declared as records
from pipeline.records.declaring import Layout

# Sizes of the maps
MAX_CPUS = 1024  #: elements of pl_rings and pl_shared: the highest CPU number that can be captured + 1
PID_SETS = 4096  #: sets of places in pid_cache, a power of two; see pids.bpf.h
PID_WAYS = 8  #: places of a set
PROC_CACHE_ENTRIES = 16384  #: images in proc_cache. Both caches are allocated in full at load, about 5 MB each

# Limits
PATH_MAX = 4096  #: bytes of a path, and of a name
IMAGE_PATH_BYTES = 128  #: bytes of a path that IMAGE_ENTRY holds

# Other numbers
PLACE_BUSY = 0x80000000  #: high half of a word of pid_owners: the place is being written
SAMPLE_PART = 4096  #: tasks that one read of the iterator of cred_sampled.bpf.c visits
TICK_NS = 10000000  #: unit of times in /proc: USER_HZ is 100 wherever there is BPF

# CALL.call_kind
CALL_PTRACE = 1  #: a process is traced from now on
CALL_SETRLIMIT = 2  #: a resource limit was changed
CALL_MEMFD_SEAL = 3  #: the memfd of a tracing library was sealed
CALLS_MAX = 1024  #: calls that `pl_calls` holds
CALLS_PER_S = 100  #: calls of one kind and user that are recorded in a second; root has ten times as many

# SETTINGS.flags
CAPTURE_ON = 1 << 0  #: the programs record

CPU_STATE_LAYOUT = Layout(
    "CPU_STATE", "pl_cpu", 256,
    """
    Map `pl_shared` (mapped), one element for each possible CPU; written by the programs on that CPU, except for
    the fields that name another writer. The last element belongs to no CPU: its lost_samples and runs_skipped are
    what misses.py counts.
    """,
    # The two counters by kind and `reserved` have 21 words, so the struct keeps its size when a kind is added.
    f"""
    sleeping         u4   -  set to 1 by the shard of this ring before it blocks, to 0 by the program that wakes it
    ring             u4   -  number of the ring that takes this CPU's records; written by the loader
    ring_seq         u8   -  records of this CPU that got room
    lost_samples     {records.KIND_COUNT}u8  -  records that got no room, by kind
    head_only        {records.KIND_COUNT}u8  -  records that got room for their header alone, by kind
    threads_forked   u8   -  threads, which are not recorded
    threads_exited   u8   -  exits that left other threads alive, which are not recorded
    kthreads_forked  u8   -  kernel threads, which are not recorded
    kthreads_exited  u8   -
    exec_reread      u8   -  argument areas with an absent page, which were read again in pieces
    wakeups          u8   -  wake-ups of this ring's shard
    no_ring          u8   -  records lost because this CPU has no ring; in lost_samples too
    pids_full        u8   -  processes for which `pid_cache` had no place
    runs_skipped     u8   -  runs of programs without a kind that the kernel skipped; in the last element only
    reserved         {21 - 2 * records.KIND_COUNT}u8  -
    """,
)  # fmt: skip
SETTINGS_LAYOUT = Layout(
    "SETTINGS", "pl_settings", 64,
    """
    Map `pl_settings` (mapped), one element, written by the loader. Programs read it at every event.
    """,
    """
    args_bytes         u4   bytes  kept of the arguments at most; up to STRING_MAX
    envs_bytes         u4   bytes  kept of the environment at most; up to STRING_MAX
    wakeup_fill_bytes  u4   bytes  a ring that fills above this wakes its shard; 0: never
    flags              u4   mask   CAPTURE_ON
    root_mnt           u8   -      mount of the daemon's root directory, where paths begin: a kernel address that the
                                   task iterator stores
    root_dentry        u8   -      its directory, also a kernel address; 0: paths begin at the global root
    page_bytes         u4   bytes  of a page of memory, in which the kernel counts resident memory
    pad                u4   -
    began_boot_ns      u8   ns (boot)  when the programs began to record
    recent_boot_ns     u8   ns (boot)  a time shortly ago; read and written by the program of `sampled` only
    reserved           u8   -
    """,
)  # fmt: skip
PID_ENTRY_LAYOUT = Layout(
    "PID_ENTRY", "pl_pid", 152,
    """
    Map `pid_cache`, an array of places. The words of `pid_owners` (mapped, u8, PID_WAYS of them a set) say which
    place belongs to which tgid; the protocol is in pids.bpf.h.
    """,
    """
    cookie         u8   -          identifies the image, key of `proc_cache`; the same for forked children that have not
                                   called exec
    start_boot_ns  u8   ns (boot)  identifies the owner of the pid; rounded down to a tick where only /proc reported it
                                   (fork_boot_ns is 0 then)
    fork_boot_ns   u8   ns (boot)  when the fork was seen; 0: older than the capture
    exit_boot_ns   u8   ns (boot)  0: alive
    same_boot_ns   u8   ns (boot)  last comparison that found the process as this entry says (`sampled`); 0: none
    cap_effective  u8   mask       credentials as in TASK, as of the last event of the process
    cap_permitted  u8   mask
    cgroup_id      u8   -
    cgroups_v1     u8   -          as in TASK
    uid            u4   -
    gid            u4   -
    euid           u4   -
    egid           u4   -
    suid           u4   -
    sgid           u4   -
    fsuid          u4   -
    fsgid          u4   -
    auid           u4   -          4294967295 is unset
    audit_session  u4   -          4294967295 is unset
    ppid           u4   -
    user_ns        u4   inode
    sid            u4   -          as in TASK, as of the last event
    pgid           u4   -
    mnt_ns         u4   inode
    net_ns         u4   inode
    tty            S16  -
    """,
)  # fmt: skip
IMAGE_ENTRY_LAYOUT = Layout(
    "IMAGE_ENTRY", "pl_image", 240,
    """
    Map `proc_cache`, key u8 cookie.
    """,
    """
    exec_boot_ns  u8    ns (boot)  0: the exec is older than the capture
    cgroup_id     u8    -          at the exec
    inode         u8    -          this and the following as in EXEC
    ctime_ns      u8    ns (unix)
    mtime_ns      u8    ns (unix)
    device        u4    -
    mount_id      u4    -
    file_uid      u4    -
    file_gid      u4    -
    nlink         u4    -
    mode          u2    -
    exec_flags    u2    mask       those that describe the file
    fs_magic      u4    -
    tgid          u4    -          the process that called exec
    path_bytes    u2    bytes      whole length of the path
    root_offset   u2    bytes
    mount_end     u4    bytes      as in EXEC
    comm          S16   -
    tty           S16   -
    path          V128  -          the first bytes of the path; bytes after path_bytes have no meaning
    """,
)  # fmt: skip

CALL_LAYOUT = Layout(
    "CALL", "pl_call", 64,
    """
    An element of the queue `pl_calls`, which the resolver empties (`capture.calls`). Each is a call that succeeded.
    """,
    """
    call_time_boot_ns          u8  ns (boot)  when it was made
    call_start_boot_ns         u8  ns (boot)  start of the calling process
    call_soft                  u8  -          of a resource limit: the new soft limit
    call_hard                  u8  -          the new hard limit
    call_tgid                  u4  -          the calling process
    call_tid                   u4  -          its thread
    call_kind                  u4  -          CALL_*
    call_target                u4  -          the process that is traced, or whose limit it is; 0: the caller's own, or
                                              outside of the recorded pid namespace
    call_number                u4  -          the request of ptrace(2); the resource; the descriptor of the memfd
    call_reserved              u4  -          -
    call_target_start_boot_ns  u8  ns (boot)  start of the target; 0: there is none
    """,
)  # fmt: skip

#: Layouts by the name of their C struct, without ``pl_``.
LAYOUTS = {
    layout.c_name[3:]: layout
    for layout in (CPU_STATE_LAYOUT, SETTINGS_LAYOUT, PID_ENTRY_LAYOUT, IMAGE_ENTRY_LAYOUT, CALL_LAYOUT)
}
