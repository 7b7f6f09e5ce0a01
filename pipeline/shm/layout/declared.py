"""Shared segments of an instance: constants and layouts, declared once.

``script/generate`` writes ``segments.h``, ``segments.pxi`` and the tables in docs/memory-layout.md from this module.
`pipeline.shm.layout.layout` has the numpy dtypes; `pipeline.shm.layout.control_header` reads the control segment
without numpy. A flag is a power of two, in the order of its value. The comment after a constant is its meaning and is
copied into the header.

Every segment is a file on tmpfs in the instance's directory. It is mapped at its ceiling and grown by ``fallocate``.
Readers access only the part that is allocated according to the control segment, and a row of `costs` only if the row of
`hot` says that it has a value. All numbers are little-endian. A link
is ``row | generation << 32``, 0 for none. An arena reference counts units of ARENA_UNIT_BYTES, 0 for none.

`pipeline.ROW_REPLACED` is one of the flags, for the rows of `ProcessTable.images`:

    >>> numbers, rows = table.images()
    >>> len(rows[rows["flags"] & ROW_REPLACED == 0]) == len(list(table.walk())) < len(rows)  # processes, and images
    True
"""

from __future__ import annotations

from pipeline.records.declaring import Layout


class State:
    """A state of a process that HOT.flags contains.

    Args:
        name: of the field of TASK, of an entry and of an event.
        mask: adjoining bits of HOT.flags.
        known: the KNOWN_* flag.
        status_key: name of the number in ``/proc/PID/status``.
        values: text for each number; empty if the state is true or false.
    """

    __slots__ = ("known", "mask", "name", "shift", "status_key", "values")

    def __init__(self, name: str, mask: int, known: int, status_key: str, values: tuple[str, ...] = ()) -> None:
        self.name, self.mask, self.known, self.status_key, self.values = name, mask, known, status_key, values
        self.shift = (mask & -mask).bit_length() - 1  #: position of the lowest bit of the mask


MAGIC = b"PROCLINE"
LAYOUT_VERSION = 9  #: of all segments; readers reject any other

ARENA_UNIT_BYTES = 16  #: unit of arena references
ARENA_FREE_UNIT = 0xFFFFFFFF  #: ARENA.length of a free block that has no room behind its header
CHANGES_KEPT = 1 << 15  #: entries of the ring of changed rows in `control`; a power of two

# CONTROL.state
STATE_DOWN = 0  #: nothing is filled yet
STATE_FILLING = 1  #: snapshot or take-over under way: an absent process may still appear
STATE_READY = 2  #: complete: an absent process does not exist
STATE_STOPPED = 3  #: the daemon has ended
STATE_SUPERSEDED = 4  #: another control file has taken the place of this one

#: The programs that wait for events. How often shards read their rings depends on them.
AUDIENCE_NOBODY = 0  #: none
AUDIENCE_READERS = 1  #: programs with open tables
AUDIENCE_SUBSCRIBERS = 2  #: of the stream

STATE_NAMES = ("down", "filling", "ready", "stopped", "superseded")

# HOT.source: where the row came from
SOURCE_UNKNOWN = 0  #: not known
SOURCE_PLACEHOLDER = 1  #: the process could not be resolved; objects have this, rows do not
SOURCE_EVENT = 2  #: a record of the kernel
SOURCE_MAP = 3  #: the maps of the BPF programs
SOURCE_PROCFS = 4  #: /proc, read for a question about this process
SOURCE_SNAPSHOT = 5  #: /proc, read at the start or for a repair

SOURCE_NAMES = ("unknown", "placeholder", "event", "map", "procfs_fallback", "procfs_snapshot")

# HOT.cgroup_source: what reported the cgroup
CGROUP_SOURCE_UNKNOWN = 0  #: not known
CGROUP_SOURCE_EVENT = 1  #: a record of the kernel
CGROUP_SOURCE_PROCFS = 2  #: /proc of the live process
CGROUP_SOURCE_INHERITED = 3  #: nothing: it is the cgroup of the parent

CGROUP_SOURCE_NAMES = (None, "event", "procfs", "inherited")

#: How a process ended: it exited, a signal ended it, or a signal ended it and the kernel wrote a core dump.
EXIT_CAUSES = ("exited", "signaled", "coredumped")

# FILE.mount_source: how the mount of a file was found
MOUNT_SOURCE_UNKNOWN = 0  #: not found
MOUNT_SOURCE_ID = 1  #: by its mount id
MOUNT_SOURCE_DEVICE = 2  #: by its device; a number of the specification that nothing sets
MOUNT_SOURCE_SNAPSHOT = 3  #: by /proc of the process

MOUNT_SOURCE_NAMES = (None, "mount_id", "device", "snapshot")

# FILE.mount_origin: what reported the mount
MOUNT_ORIGIN_UNKNOWN = 0  #: not known
MOUNT_ORIGIN_PROCFS = 1  #: /proc of the process
MOUNT_ORIGIN_EVENT = 2  #: a record of the kernel
MOUNT_ORIGIN_UNSHARE = 3  #: a copy of the mounts of another namespace; a number of the specification that nothing sets

MOUNT_ORIGIN_NAMES = (None, "procfs", "event", "unshare")

# FILE.mount_flags
MOUNT_VISIBLE = 1 << 0  #: the file can be reached below the root directory of the process
MOUNT_DETACHED = 1 << 1  #: the mount is in no mount namespace
MOUNT_RESOLVED = 1 << 2  #: the other two flags are known

# HOT.flags
ROW_HEAD = 1 << 0  #: newest image of its process
ROW_REPLACED = 1 << 1  #: exit_boot_ns is the exec of the next image, not the end of the process
ROW_IS_EXEC = 1 << 2  #: an exec made this image
ROW_IS_EXEC_EXEC = 1 << 3  #: an exec made this image, and the one before
ROW_PARENT_MISSING = 1 << 4  #: the direct parent or the previous image was not the expected one
ROW_ADOPTED = 1 << 5  #: the current parent is not the creator
ROW_ADOPTION_PREDICTED = 1 << 6  #: the current parent was predicted at the former parent's exit; not confirmed yet
ROW_DELETED = 1 << 7  #: the exit was applied: the row is retained as history only
ROW_EXIT_UNSEEN = 1 << 8  #: the end was inferred (pid reuse or repair); its time is an upper bound
ROW_BEFORE_CAPTURE = 1 << 9  #: began before the capture: creator and earlier images are unknown
ROW_GAP = 1 << 10  #: events of this process were lost around here
ROW_ARGS_TRUNCATED = 1 << 11  #: the arguments are not complete
ROW_ENVS_TRUNCATED = 1 << 12  #: the environment is not complete
ROW_KTHREAD = 1 << 13  #: a kernel thread
ROW_SCRIPT = 1 << 14  #: the executable is the interpreter of a script
ROW_THROUGH_SYMLINK = 1 << 15  #: a symbolic link was followed on the way to the executable
ROW_NS_INIT = 1 << 16  #: init of its pid namespace
ROW_START_TICKS = 1 << 17  #: start_boot_ns comes from /proc and has a resolution of one tick
ROW_HEAD_ONLY = 1 << 18  #: made from a record without body: only the identity is known
ROW_ELIDED = 1 << 19  #: earlier images or ancestors were elided here (limit of the chain, or ceiling)
ROW_EXIT_KNOWN = 1 << 20  #: exit_code holds a value
ROW_FOREIGN = 1 << 21  #: known by (ns_pid, pid_ns): tgid, ppid and creator_tgid are slots, not pids
ROW_STAT_INODE = 1 << 22  #: the inode is from stat(); on some file systems the kernel's own number differs
ROW_NO_NEW_PRIVS = 1 << 23  #: an exec cannot add privileges (PR_SET_NO_NEW_PRIVS)
ROW_SECCOMP_STRICT = 1 << 24  #: seccomp mode 1
ROW_SECCOMP_FILTER = 1 << 25  #: seccomp mode 2
ROW_CHANGE_SAMPLED = 1 << 26  #: a comparison found the last change of credentials or session; it happened earlier

#: Uncertain facts that the `marks` of an entry and an event name, in this order. Each is a ROW_* flag, in lower case.
MARKS = (
    "adopted", "adoption_predicted", "exit_unseen", "before_capture", "gap", "ns_init", "start_ticks", "head_only",
    "elided", "foreign", "change_sampled",
)  # fmt: skip
assert len(MARKS) < 16  # the encoder writes the length of the list in one byte

# HOT.known, and TASK.known of records without eBPF: groups of fields that hold a value
KNOWN_START = 1 << 0  #: start_boot_ns
KNOWN_CREDS = 1 << 1  #: uid, gid and the other ids of the credentials, up to fsgid
KNOWN_CAPS = 1 << 2  #: cap_effective and cap_permitted
KNOWN_FILE = 1 << 3  #: the executable: inode and file_ref
KNOWN_ARGS = 1 << 4  #: args_ref, argc
KNOWN_ENVS = 1 << 5  #: envs_ref, envc
KNOWN_TTY = 1 << 6  #: tty; empty: there is no terminal
KNOWN_CGROUP = 1 << 7  #: cgroup_id
KNOWN_NS = 1 << 8  #: the namespaces, and ns_pid
KNOWN_SID = 1 << 9  #: sid and pgid
KNOWN_CREATOR = 1 << 10  #: creator and creator_tgid
KNOWN_EXEC_TIME = 1 << 11  #: exec_boot_ns
KNOWN_COMM = 1 << 12  #: comm
KNOWN_AUID = 1 << 13  #: auid and audit_session
KNOWN_FORK_TIME = 1 << 14  #: fork_boot_ns
KNOWN_NO_NEW_PRIVS = 1 << 15  #: ROW_NO_NEW_PRIVS
KNOWN_SECCOMP = 1 << 16  #: ROW_SECCOMP_STRICT and ROW_SECCOMP_FILTER
KNOWN_COST = 1 << 17  #: the row of `costs`, except the fields of KNOWN_IO
KNOWN_IO = 1 << 18  #: read_bytes and write_bytes in `costs`

#: States of a process that are small numbers, in the order of TASK. HOT.flags has the number in the bits of a mask; a
#: KNOWN_* says whether it is known. TASK has a field of the same name: the number + 1, 0 unknown.
STATES: tuple[State, ...] = (
    State("no_new_privs", ROW_NO_NEW_PRIVS, KNOWN_NO_NEW_PRIVS, "NoNewPrivs"),
    State(
        "seccomp_mode", ROW_SECCOMP_STRICT | ROW_SECCOMP_FILTER, KNOWN_SECCOMP, "Seccomp",
        ("disabled", "strict", "filter"),
    ),
)  # fmt: skip

# Slots of COMMIT.topic_seq behind those of the topics
SLOT_MASK = 13  #: topics that had a subscriber, a mask
SLOT_STREAM = 14  #: identifies this space of numbers
SLOT_ORDER = 15  #: events of all topics so far
SEQ_COUNT = 16  #: numbers of COMMIT.topic_seq

#: Major and minor version of the public stream. Raise the minor one when a release adds a field.
STREAM_VERSION = (1, 9)
#: Topics of the public stream, in the order of COMMIT.topic_seq.
TOPICS = (
    "proc.fork", "proc.exec", "proc.exit", "proc.cred", "proc.context", "proc.reparent", "sys.loss", "sys.stats",
)  # fmt: skip
assert len(TOPICS) <= SLOT_MASK

#: Counters in COMMIT.counters, by position. Add new ones at the end only.
COUNTERS = (
    # 0..7: events applied, by kind of pipeline.records.declared.KIND_NAMES; those of `caps` are at the end
    "events_none", "events_fork", "events_exec", "events_exit", "events_cred", "events_comm", "events_cgroup",
    "events_sid",
    # 8..15: records that the kernel could not write, by kind
    "lost_none", "lost_fork", "lost_exec", "lost_exit", "lost_cred", "lost_comm", "lost_cgroup", "lost_sid",
    # 16..
    "frames", "frames_refused", "frames_duplicate", "frames_gap", "late", "replayed", "head_only", "malformed",
    "repairs", "repair_added", "repair_closed", "repair_changed", "evictions", "elided", "table_full", "arena_full",
    "reparents", "reparents_confirmed", "reparents_corrected", "exits_unseen", "parent_missing", "exec_without_fork",
    "exit_unknown", "exec_bomb", "published", "publish_unsent", "snapshot_added", "stalls", "threads_forked",
    "kthreads_forked", "rewinds", "takeover_rows_repaired", "procfs_reads", "procfs_failed", "hits_cache",
    "hits_kernel_maps", "hits_procfs", "miss", "added_event", "added_kernel_maps", "added_procfs", "flushed",
    "limiter_drop", "broken_lineage", "requests", "requests_refused", "keys_refused", "keys_recycled",
    "path_error", "args_truncated", "args_size", "envs_truncated", "envs_size",
    "reparent_success_set_process_context", "reparent_success_do_exit", "reparent_success_dequeue_exited",
    "reparent_success_event_serialization", "reparent_success_kernel_ppid", "reparent_failed_set_process_context",
    "reparent_failed_do_exit", "reparent_failed_dequeue_exited", "reparent_failed_event_serialization",
    "reparent_failed_kernel_ppid", "reparent_procfs_ok", "reparent_procfs_fail", "inode_error_fork_parent_missing",
    "inode_error_exec_parent_missing", "inode_error_procfs_mismatch", "context_events", "context_dropped",
    "maps_filled", "maps_refused", "maps_full",
    # Added later.
    "events_caps", "lost_caps", "sessions_unread", "sessions_refused", "sessions_evicted",
    "requests_dropped", "growth_refused", "names_evicted", "names_refused", "exec_unknown",
    "stream_refused", "stream_rejected", "curve_refused", "curve_revoked", "scripts_unread",
    "journal_events", "journal_bytes", "journal_failed", "journal_reads", "journal_refused",
    "files_unread", "files_refused", "files_evicted", "files_hashed_bytes", "calls_unrecorded",
    "runs_skipped",
)  # fmt: skip
COUNTER_CAPACITY = 128  #: slots of COMMIT.counters
assert len(COUNTERS) <= COUNTER_CAPACITY

CONTROL_LAYOUT = Layout(
    "CONTROL", "pl_control", 512,
    """
    At offset 0 of `control`. Written only by the resolver (the writer).
    """,
    """
    magic                  S8    -          b"PROCLINE"
    layout_version         u4    -          stored last (release); 0: not ready
    header_bytes           u4    bytes      length of this header
    boot_id                V16   -          kernel boot id
    writer_tgid            u4    -          the only writer, in the daemon's pid namespace
    epoch                  u4    -          table rebuilds so far
    writer_start_boot_ns   u8    ns (boot)  the writer's start time
    heartbeat_boot_ns      u8    ns (boot)  the writer's last sign of life
    row_capacity           u4    rows       ceiling of the entry table
    rows_allocated         u4    rows       rows that may be touched (release)
    pid_capacity           u4    pids       pids of the root pid namespace in the index
    state                  u4    -          STATE_*
    names_capacity_bytes   u8    bytes      ceiling of an arena
    args_capacity_bytes    u8    bytes      ceiling of an arena
    envs_capacity_bytes    u8    bytes      ceiling of an arena
    names_allocated_bytes  u8    bytes      what may be touched (release)
    args_allocated_bytes   u8    bytes      what may be touched (release)
    envs_allocated_bytes   u8    bytes      what may be touched (release)
    boot_unix_ns           i8    ns (unix)  Unix time of boot-clock zero, read once at start
    ring_count             u4    rings      entries of the ring section
    commit_index           u4    -          commit slot that is valid (release)
    ring_offset            u4    bytes      where RING_ACK[ring_count] begins
    commit_offset          u4    bytes      where the two commit slots begin
    commit_bytes           u4    bytes      length of one commit slot
    pid_ns                 u4    inode      the daemon's pid namespace
    capture_id             u8    -          identifies the rings; positions are valid only within one capture
    takeovers              u4    -          writers that took over in this epoch so far
    chunk_rows             u4    rows       growth step of the entry table
    horizon_boot_ns        u8    ns (boot)  latest exit among evicted entries: reads as of an earlier time are rejected
    user_hz                u4    1/s        clock ticks of /proc
    checked                u4    bool       rows carry a checksum (tests)
    ready_boot_ns          u8    ns (boot)  when the table was complete for the first time in this capture; 0: not yet
    key_capacity           u4    keys       entries of the index behind the pids, see KEYS
    audience               u4    -          AUDIENCE_*: the programs that wait for events; the shards read it
    gather_us              u4    us         for how long events may gather with readers; 0: not measured
    changes_offset         u4    bytes      where the ring of changed rows begins: u4[CHANGES_KEPT]
    contexts_waiting       u4    events     context events that the writer has received and not dispatched yet
    reserved               V236  -          not used
    changes                u8    -          changes of rows noted so far (release); a cache line of its own
    changes_reserved       V56   -          not used
    """,
)  # fmt: skip
RING_ACK_LAYOUT = Layout(
    "RING_ACK", "pl_ring_ack", 64,
    """
    One for each ring, in `control`. Single aligned words, stored after the commit that they follow from.
    """,
    """
    applied_pos        u8   bytes      records before it are applied: the shard may release them
    wanted_pos         u8   bytes      where a shard must read again from, after `rewind_seq` changed
    rewind_seq         u8   -          stored after `wanted_pos` (release)
    watermark_boot_ns  u8   ns (boot)  all events of this ring before it are applied
    received_pos       u8   bytes      end of the frames that reached the resolver
    stalled            u8   bool       the merge does not wait for this ring at the moment
    ack_reserved       V16  -          not used
    """,
)  # fmt: skip
COMMIT_LAYOUT = Layout(
    "COMMIT", "pl_commit", 1280,
    """
    Two slots in `control`, each followed by COMMIT_RING[ring_count]. `commit_index` says which is valid.
    """,
    f"""
    number             u8     -          commits so far
    watermark_boot_ns  u8     ns (boot)  events before it are in the tables
    time_boot_ns       u8     ns (boot)  when this slot was filled
    heads_live         u8     entries    live processes
    heads_exited       u8     entries    exited processes that are retained
    rows_used          u8     rows       images retained, live and exited
    names_used_bytes   u8     bytes      bytes of an arena that are in use
    args_used_bytes    u8     bytes      likewise
    envs_used_bytes    u8     bytes      likewise
    commit_reserved    V56    -          not used
    topic_seq          {SEQ_COUNT}u8   -        last sequence number of each topic of the stream, by TOPICS; then
                                         SLOT_MASK, SLOT_STREAM and SLOT_ORDER
    counters           128u8  -          COUNTERS, by position
    """,
)  # fmt: skip
COMMIT_RING_LAYOUT = Layout(
    "COMMIT_RING", "pl_commit_ring", 16,
    """
    State of one ring at a commit.
    """,
    """
    applied_pos        u8  bytes      as in RING_ACK
    watermark_boot_ns  u8  ns (boot)  events of this ring before it have been applied
    """,
)  # fmt: skip
HOT_LAYOUT = Layout(
    "HOT", "pl_hot", 128,
    """
    One row in `hot`: what a look-up reads. A row is one image of one process.
    """,
    """
    row_seq        u4   -          odd: being written, or free (a row that was never used is even and has generation 0)
    generation     u4   -          changes when the row is freed
    tgid           u4   -          index entry: the pid in the root pid namespace, or (ROW_FOREIGN) pid_capacity + the
                                   slot of its key
    ppid           u4   -          index entry of the current parent (real_parent)
    start_boot_ns  u8   ns (boot)  start of the process; with tgid its identity
    exec_boot_ns   u8   ns (boot)  when this image was loaded (the last time, if it was loaded several times); 0:
                                   unknown
    exit_boot_ns   u8   ns (boot)  end of the process, or the exec that replaced the image; 0: runs
    ancestor       u8   link       previous image, or for the first image the parent's
    parent         u8   link       newest image of the current parent
    creator        u8   link       image that forked this process, fixed at fork
    cgroup_id      u8   -          cgroup v2 directory
    inode          u8   -          of the executable
    flags          u4   mask       ROW_*
    uid            u4   -          real user
    gid            u4   -          real group
    file_ref       u4   names ref  FILE record of the executable
    args_ref       u4   args ref   u4 full length, then the arguments, NUL after each
    known          u4   mask       KNOWN_*: the groups of fields that hold a value
    comm           S16  -          with its NUL
    source         u1   -          SOURCE_*
    cgroup_source  u1   -          what reported cgroup_id: CGROUP_SOURCE_*
    images         u2   -          images of this process up to this one, from 1
    check          u4   -          checksum of the row; only where CONTROL.checked is set
    """,
)  # fmt: skip
COLD_LAYOUT = Layout(
    "COLD", "pl_cold", 192,
    """
    The rest of the row, in `cold`, under the same `row_seq`.
    """,
    """
    fork_boot_ns    u8   ns (boot)  time of the fork record; 0 unknown
    previous_owner  u8   link       last image of the process that had this pid before
    cap_effective   u8   mask       bit n is capability n
    cap_permitted   u8   mask       likewise
    cap_attempted   u8   mask       OR of all capability checks
    cap_used        u8   mask       those of the checked ones that it had
    cookie          u8   -          identifies the image in the BPF maps
    exec_inode      u8   -          executable that the kernel reported with the event
    fork_flags      u8   mask       clone flags
    user_session    u8   -          number of the ssh session
    euid            u4   -          effective user
    egid            u4   -          effective group
    suid            u4   -          saved user
    sgid            u4   -          saved group
    fsuid           u4   -          user for access to files
    fsgid           u4   -          group for access to files
    auid            u4   -          login uid; 4294967295: unset
    audit_session   u4   -          4294967295: unset
    sid             u4   -          pid of the session leader
    pgid            u4   -          pid of the process group leader
    tid             u4   -          thread of the last event
    ns_pid          u4   -          pid in the innermost pid namespace
    pid_ns          u4   inode      namespaces, as `readlink /proc/PID/ns/*` numbers them
    mnt_ns          u4   inode      likewise
    net_ns          u4   inode      likewise
    user_ns         u4   inode      likewise
    envs_ref        u4   envs ref   u4 full length, then the strings, NUL after each
    name_ref        u4   names ref  what was invoked (for a script: the script); DIRECTORIES may follow, as in EXEC
    cgroup_ref      u4   names ref  CGROUP record
    container_ref   u4   names ref  container id
    extra_ref       u4   args ref   msgpack map of what few processes have
    exit_code       i4   -          wait status
    tty             S16  -          controlling terminal, such as b"pts3"; empty: none
    creator_tgid    u4   -          index entry; 0 unknown
    argc            u2   -          65535: that many, or more
    envc            u2   -          65535: that many, or more
    """,
)  # fmt: skip
COSTS_LAYOUT = Layout(
    "COSTS", "pl_costs", 64,
    """
    What a process has used, in `costs`, under the same `row_seq`. A row has it only with KNOWN_COST, which the newest
    image of an ended process has. The fields are those of the record COST.
    """,
    """
    cpu_user_ns           u8  ns     CPU time in user mode, all threads included
    cpu_system_ns         u8  ns     CPU time in the kernel
    children_cpu_ns       u8  ns     CPU time of descendants that were waited for
    max_rss_bytes         u8  bytes  largest resident memory
    read_bytes            u8  bytes  read from storage
    write_bytes           u8  bytes  written, or to be written, to storage
    minor_faults          u4  -      page faults without a read; of this and the rest 4294967295 is that many, or more
    major_faults          u4  -      page faults that read from storage
    voluntary_switches    u4  -      a thread waited and left its CPU
    involuntary_switches  u4  -      a thread lost its CPU to another
    """,
)  # fmt: skip
FILE_LAYOUT = Layout(
    "FILE", "pl_file", 64,
    """
    An executable: a record in the names arena, followed by the path (below the global root of its mount tree).
    Interned, so all processes of one executable share it.
    """,
    """
    file_inode     u8  -          number of the inode
    mtime_ns       u8  ns (unix)  last change of the content
    ctime_ns       u8  ns (unix)  last change of the inode
    device         u4  -          kernel encoding
    mount_id       u4  -          mnt_id of its mount
    file_uid       u4  -          owner
    file_gid       u4  -          group
    nlink          u4  -          hard links
    mode           u2  -          type and permission bits
    file_flags     u2  mask       EXEC_* of pipeline/records/declared.py
    fs_magic       u4  -          s_magic of its file system
    root_offset    u4  bytes      where the part below the task's root begins, within the path
    mount_end      u4  bytes      1 + the length of the front part of the path that leads to the mount of the file (1:
                                  the mount is the root, "/"); 0: unknown
    mount_source   u1  -          how the mount was found: MOUNT_SOURCE_*
    mount_origin   u1  -          what reported the mount: MOUNT_ORIGIN_*
    mount_flags    u1  mask       MOUNT_VISIBLE, MOUNT_DETACHED, MOUNT_RESOLVED
    file_reserved  u1  -          not used
    """,
)  # fmt: skip
CGROUP_LAYOUT = Layout(
    "CGROUP", "pl_cgroup", 16,
    """
    A cgroup of version 2: a record in the names arena, followed by the path. Interned.
    """,
    """
    cgroup_made_boot_ns     u8  ns (boot)  when it was created; 0: before the capture, or not seen
    container_made_boot_ns  u8  ns (boot)  the same of the outermost cgroup of its container
    """,
)  # fmt: skip
ARENA_LAYOUT = Layout(
    "ARENA", "pl_arena", 16,
    """
    Before each string that an arena stores.
    """,
    """
    refcount  u4  -      holders, counted by the writer; 0: free
    length    u4  bytes  of the string that follows
    hash      u4  -      of the string that follows
    next      u4  ref    next in the writer's hash or free chain
    """,
)  # fmt: skip
KEYS_LAYOUT = Layout(
    "KEYS", "pl_keys", 64,
    """
    At offset 0 of `keys`. A u8 for each slot follows: its key, pid | pid namespace << 32, 0 free; then the
    buckets of the hash, u4 each: slot + 1, 0 empty. Their number is the least power of two that is at least twice
    key_capacity (keys.h).
    """,
    """
    rebuild_seq    u4   -  odd: the buckets are being laid out anew
    keys_pad       u4   -  not used
    keys_reserved  V56  -  not used
    """,
)  # fmt: skip

#: Layouts by the name of their C struct, without ``pl_``.
LAYOUTS = {
    layout.c_name[3:]: layout
    for layout in (
        CONTROL_LAYOUT,
        RING_ACK_LAYOUT,
        COMMIT_LAYOUT,
        COMMIT_RING_LAYOUT,
        HOT_LAYOUT,
        COLD_LAYOUT,
        COSTS_LAYOUT,
        FILE_LAYOUT,
        CGROUP_LAYOUT,
        ARENA_LAYOUT,
        KEYS_LAYOUT,
    )
}
