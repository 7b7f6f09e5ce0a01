"""Layouts of the shared segments: one dtype for each struct of ``layout.h``, with its table.

Every segment is a file on tmpfs in the instance's directory. It is mapped at its ceiling and grown by ``fallocate``;
readers touch only what the control segment says is allocated. All numbers are little-endian, links are
``row | generation << 32`` with 0 for none, arena references count units of 16 bytes with 0 for none.

CONTROL, 512 bytes at offset 0 of `control`, written only by the resolver (the writer):

    offset  size  field                   type  unit       meaning
    0       8     magic                   S8    -          b"PROCLINE"
    8       4     layout_version          u4    -          stored last (release); 0 = not ready
    12      4     header_bytes            u4    bytes      length of this header
    16      16    boot_id                 V16   -          kernel boot id
    32      4     writer_tgid             u4    -          the one writer, in the daemon's pid namespace ...
    36      4     epoch                   u4    -          table rebuilds so far
    40      8     writer_start_boot_ns    u8    ns (boot)  ... with its start time
    48      8     heartbeat_boot_ns       u8    ns (boot)  writer's last sign of life
    56      4     row_capacity            u4    rows       ceiling of the entry table
    60      4     rows_allocated          u4    rows       rows that may be touched (release)
    64      4     pid_capacity            u4    pids       pids of the root pid namespace in the index
    68      4     state                   u4    -          STATE_*
    72      8     names_capacity_bytes    u8    bytes      ceilings of the arenas
    80      8     args_capacity_bytes     u8    bytes
    88      8     envs_capacity_bytes     u8    bytes
    96      8     names_allocated_bytes   u8    bytes      what may be touched (release)
    104     8     args_allocated_bytes    u8    bytes
    112     8     envs_allocated_bytes    u8    bytes
    120     8     boot_unix_ns            i8    ns (unix)  Unix time of boot-clock zero, read once at start
    128     4     ring_count              u4    rings      entries of the ring section
    132     4     commit_index            u4    -          commit slot that is valid (release)
    136     4     ring_offset             u4    bytes      where RING_ACK[ring_count] begins
    140     4     commit_offset           u4    bytes      where the two commit slots begin
    144     4     commit_bytes            u4    bytes      length of one commit slot
    148     4     pid_ns                  u4    inode      the daemon's pid namespace
    152     8     capture_id              u8    -          names the rings; positions carry over only within one
    160     4     takeovers               u4    -          writers that took over this epoch so far
    164     4     chunk_rows              u4    rows       growth step of the entry table
    168     8     horizon_boot_ns         u8    ns (boot)  latest exit among evicted entries: as-of reads before
    176     4     user_hz                 u4    1/s        clock ticks of /proc
    180     4     checked                 u4    bool       rows carry a checksum (tests)
    184     8     ready_boot_ns           u8    ns (boot)  when this writer's table was complete
    192     4     key_capacity            u4    keys       entries of the index behind the pids, see KEYS
    196     316   reserved                V316  -

RING_ACK, 64 bytes each, one for each ring; single aligned words, stored after the commit that they follow from:

    offset  size  field                   type  unit       meaning
    0       8     applied_pos             u8    bytes      records before it are applied: the shard may release them
    8       8     wanted_pos              u8    bytes      where a shard must read again from, after ...
    16      8     rewind_seq              u8    -          ... this changed (stored after wanted_pos, release)
    24      8     watermark_boot_ns       u8    ns (boot)  everything of this ring before it is applied
    32      8     received_pos            u8    bytes      frames that reached the resolver
    40      8     stalled                 u8    bool       passed over by the merge at the moment
    48      16    ack_reserved            V16   -

COMMIT, 1280 bytes, then COMMIT_RING[ring_count]; two slots, of which `commit_index` names the valid one:

    offset  size  field                   type  unit       meaning
    0       8     number                  u8    -          commits so far
    8       8     watermark_boot_ns       u8    ns (boot)  events before it are in the tables
    16      8     time_boot_ns            u8    ns (boot)  when this slot was filled
    24      8     heads_live              u8    entries    processes that live
    32      8     heads_exited            u8    entries    processes that have exited and are retained
    40      8     rows_used               u8    rows       images retained, live and exited
    48      8     names_used_bytes        u8    bytes
    56      8     args_used_bytes         u8    bytes
    64      8     envs_used_bytes         u8    bytes
    72      56    commit_reserved         V56   -
    128     128   topic_seq               16u8  -          last sequence number of each topic of the stream, by TOPICS;
                                                           13: topics that have subscribers, a mask; 14: names this
                                                           space of numbers; 15: events of all topics
    256     1024  counters                128u8 -          COUNTERS, by position

COMMIT_RING, 16 bytes:

    offset  size  field                   type  unit       meaning
    0       8     applied_pos             u8    bytes      as in RING_ACK
    8       8     watermark_boot_ns       u8    ns (boot)  events of this ring before it have been applied

HOT, 128 bytes a row in `hot`: what a look-up reads. A row is one image of one process:

    offset  size  field                   type  unit       meaning
    0       4     row_seq                 u4    -          odd: being written, or free (a row that was never used is
                                                           even and has generation 0)
    4       4     generation              u4    -          changes when the row is freed
    8       4     tgid                    u4    -          index entry: the pid in the root pid namespace, or
                                                           (ROW_FOREIGN) pid_capacity + slot of its key
    12      4     ppid                    u4    -          real_parent's index entry, now
    16      8     start_boot_ns           u8    ns (boot)  start of the process; with tgid its identity
    24      8     exec_boot_ns            u8    ns (boot)  when this image was loaded (last, if it was again
                                                           and again); 0 unknown
    32      8     exit_boot_ns            u8    ns (boot)  process end, or the exec that replaced it; 0 lives
    40      8     ancestor                u8    link       previous image, or for the first image the parent's
    48      8     parent                  u8    link       image of the current parent
    56      8     creator                 u8    link       image that forked this process, fixed at fork
    64      8     cgroup_id               u8    -          cgroup v2 directory
    72      8     inode                   u8    -          of the executable
    80      4     flags                   u4    mask       ROW_*
    84      4     uid                     u4    -
    88      4     gid                     u4    -
    92      4     file_ref                u4    names ref  FILE record of the executable
    96      4     args_ref                u4    args ref   u4 full length, then the arguments, NUL after each
    100     4     known                   u4    mask       KNOWN_*: which fields hold a value
    104     16    comm                    S16   -          with its NUL
    120     1     source                  u1    -          SOURCE_*
    121     1     cgroup_source           u1    -          who told cgroup_id: CGROUP_SOURCE_*
    122     2     images                  u2    -          images of this process up to this one, from 1
    124     4     check                   u4    -          checksum of the row; only where `checked` is set

COLD, 192 bytes a row in `cold`, under the same row_seq:

    offset  size  field                   type  unit       meaning
    0       8     fork_boot_ns            u8    ns (boot)  time of the fork record; 0 unknown
    8       8     previous_owner          u8    link       last image of the pid's owner before this process
    16      8     cap_effective           u8    mask
    24      8     cap_permitted           u8    mask
    32      8     cap_attempted           u8    mask       OR of all capability checks
    40      8     cap_used                u8    mask
    48      8     cookie                  u8    -          names the image in the BPF maps
    56      8     exec_inode              u8    -          executable that the kernel knew at the event
    64      8     fork_flags              u8    mask       clone flags
    72      8     user_session            u8    -
    80      4     euid                    u4    -
    84      4     egid                    u4    -
    88      4     suid                    u4    -
    92      4     sgid                    u4    -
    96      4     fsuid                   u4    -
    100     4     fsgid                   u4    -
    104     4     auid                    u4    -          4294967295: unset
    108     4     audit_session           u4    -          4294967295: unset
    112     4     sid                     u4    -
    116     4     pgid                    u4    -
    120     4     tid                     u4    -          thread of the last event
    124     4     ns_pid                  u4    -          pid in the innermost pid namespace
    128     4     pid_ns                  u4    inode
    132     4     mnt_ns                  u4    inode
    136     4     net_ns                  u4    inode
    140     4     user_ns                 u4    inode
    144     4     envs_ref                u4    envs ref   u4 full length, then the strings, NUL after each
    148     4     name_ref                u4    names ref  what was invoked (for a script: the script)
    152     4     cgroup_ref              u4    names ref  CGROUP record
    156     4     container_ref           u4    names ref  container id
    160     4     extra_ref               u4    args ref   msgpack map of what few processes have
    164     4     exit_code               i4    -          wait status
    168     16    tty                     S16   -
    184     4     creator_tgid            u4    -          index entry; 0 unknown
    188     2     argc                    u2    -          saturated
    190     2     envc                    u2    -          saturated

FILE, 64 bytes in the names arena, then the path (below the global root of its mount tree); interned, so that all
processes of one executable share it:

    offset  size  field                   type  unit       meaning
    0       8     file_inode              u8    -
    8       8     mtime_ns                u8    ns (unix)
    16      8     ctime_ns                u8    ns (unix)
    24      4     device                  u4    -          kernel encoding
    28      4     mount_id                u4    -
    32      4     file_uid                u4    -
    36      4     file_gid                u4    -
    40      4     nlink                   u4    -
    44      2     mode                    u2    -
    46      2     file_flags              u2    mask       EXEC_* of pipeline.records.kinds
    48      4     fs_magic                u4    -
    52      4     root_offset             u4    bytes      where in the path the part below the task's root begins
    56      4     mount_end               u4    bytes      1 + how much of the path leads to where the file's mount is
                                                           (0: that is its root, "/"); 0 unknown
    60      1     mount_source            u1    -          how that was found: MOUNT_SOURCE_*
    61      1     mount_origin            u1    -          who told of it: MOUNT_ORIGIN_*
    62      1     mount_flags             u1    mask       MOUNT_VISIBLE, MOUNT_DETACHED, MOUNT_RESOLVED
    63      1     file_reserved           u1    -

CGROUP, 16 bytes in the names arena, then the path of a cgroup (version 2); interned:

    offset  size  field                   type  unit       meaning
    0       8     cgroup_made_boot_ns     u8    ns (boot)  when it was made; 0: before the capture, or not seen
    8       8     container_made_boot_ns  u8    ns (boot)  the same of the outermost cgroup of its container

ARENA record header, 16 bytes before each stored byte string:

    offset  size  field                   type  unit       meaning
    0       4     refcount                u4    -          holders, kept by the writer; 0 = free
    4       4     length                  u4    bytes      of what follows
    8       4     hash                    u4    -          of what follows
    12      4     next                    u4    ref        next in the writer's hash or free chain

KEYS, 64 bytes at offset 0 of `keys`; then a u8 for each slot: its key, pid | pid namespace << 32, 0 free; then the
buckets of the hash, u4 each, slot + 1, 0 empty; the least power of two that is twice key_capacity (keys.h):

    offset  size  field                   type  unit       meaning
    0       4     rebuild_seq             u4    -          odd: the buckets are being laid out anew
    4       4     keys_pad                u4    -
    8       56    keys_reserved           V56   -
"""

from __future__ import annotations

import numpy as np

from pipeline.shm.layout import head
from pipeline.shm.layout.head import LAYOUT_VERSION as LAYOUT_VERSION
from pipeline.shm.layout.head import MAGIC as MAGIC
from pipeline.shm.layout.head import STATE_DOWN as STATE_DOWN
from pipeline.shm.layout.head import STATE_FILLING as STATE_FILLING
from pipeline.shm.layout.head import STATE_READY as STATE_READY
from pipeline.shm.layout.head import STATE_STOPPED as STATE_STOPPED
from pipeline.shm.layout.head import STATE_SUPERSEDED as STATE_SUPERSEDED

ARENA_UNIT_BYTES = 16

STATE_NAMES = ("down", "filling", "ready", "stopped", "superseded")

SOURCE_UNKNOWN, SOURCE_PLACEHOLDER, SOURCE_EVENT, SOURCE_MAP, SOURCE_PROCFS, SOURCE_SNAPSHOT = range(6)
SOURCE_NAMES = ("unknown", "placeholder", "event", "map", "procfs_fallback", "procfs_snapshot")

#: Of the cgroup: nobody said, a record of the kernel's, a look at the live process.
CGROUP_SOURCE_UNKNOWN, CGROUP_SOURCE_EVENT, CGROUP_SOURCE_PROCFS, CGROUP_SOURCE_INHERITED = range(4)

#: How the mount of a file was found: by the mount itself, by its device, when the process was looked at.
MOUNT_SOURCE_UNKNOWN, MOUNT_SOURCE_ID, MOUNT_SOURCE_DEVICE, MOUNT_SOURCE_SNAPSHOT = range(4)
#: What told of it: a look at the process, an event of the kernel's.
MOUNT_ORIGIN_UNKNOWN, MOUNT_ORIGIN_PROCFS, MOUNT_ORIGIN_EVENT, MOUNT_ORIGIN_UNSHARE = range(4)
MOUNT_VISIBLE = 1  #: the file can be reached below the root directory of the process
MOUNT_DETACHED = 2  #: the mount is in no mount namespace
MOUNT_RESOLVED = 4  #: these two are known

ROW_HEAD = 1  #: newest image of its process
ROW_REPLACED = 2  #: exit_boot_ns is the exec of the next image, not the end of the process
ROW_IS_EXEC = 4
ROW_IS_EXEC_EXEC = 8
ROW_PARENT_MISSING = 16  #: the direct parent or previous image was not the expected one
ROW_ADOPTED = 32  #: the current parent is not the creator
ROW_ADOPTION_PREDICTED = 64  #: ... as predicted at the parent's exit, not yet confirmed
ROW_DELETED = 128  #: the process left the cache (exit applied); retained as history only
ROW_EXIT_UNSEEN = 256  #: the end was inferred (pid reuse or repair), its time is an upper bound
ROW_BEFORE_CAPTURE = 512  #: began before the capture: creator and earlier images unknown
ROW_GAP = 1024  #: events of this process were lost around here
ROW_ARGS_TRUNCATED = 2048
ROW_ENVS_TRUNCATED = 4096
ROW_KTHREAD = 8192
ROW_SCRIPT = 16384
ROW_THROUGH_SYMLINK = 32768
ROW_NS_INIT = 65536  #: init of its pid namespace
ROW_START_TICKS = 131072  #: start_boot_ns comes from /proc and has a resolution of one tick
ROW_HEAD_ONLY = 262144  #: made from a record without body: only identity is known
ROW_ELIDED = 524288  #: earlier images or ancestors were elided at this point (cap of the chain or ceiling)
ROW_EXIT_KNOWN = 1048576  #: exit_code holds a value
ROW_FOREIGN = 2097152  #: known by (ns_pid, pid_ns): tgid, ppid and creator_tgid are slots, not pids
ROW_STAT_INODE = 4194304  #: the inode is from stat(); on some file systems the kernel's own number is another

KNOWN_START = 1
KNOWN_CREDS = 2
KNOWN_CAPS = 4
KNOWN_FILE = 8
KNOWN_ARGS = 16
KNOWN_ENVS = 32
KNOWN_TTY = 64
KNOWN_CGROUP = 128
KNOWN_NS = 256
KNOWN_SID = 512
KNOWN_CREATOR = 1024
KNOWN_EXEC_TIME = 2048
KNOWN_COMM = 4096
KNOWN_AUID = 8192
KNOWN_FORK_TIME = 16384

#: Topics of the public stream, in the order of COMMIT.topic_seq.
TOPICS = (
    "proc.fork", "proc.exec", "proc.exit", "proc.cred", "proc.context", "proc.reparent", "sys.loss", "sys.stats",
)  # fmt: skip

#: Counters in COMMIT.counters, by position: add at the end only.
COUNTERS = (
    # 0..7: events applied, by kind of pipeline.records.kinds.KIND_NAMES; those of `caps` are at the end
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
    # Of a kind that came later.
    "events_caps", "lost_caps", "sessions_unread", "sessions_refused", "sessions_evicted",
    "requests_dropped", "growth_refused", "names_evicted", "names_refused",
)  # fmt: skip
COUNTER_CAPACITY = 128
assert len(COUNTERS) <= COUNTER_CAPACITY


def counter_of(name: str, tag: str = "") -> str:
    """What a counter is called here that a metric has by name and value of its tag; see pipeline.resolver.api.stats."""
    return f"{name}_{tag}" if tag else name


CONTROL = np.dtype(
    [
        ("magic", "S8"), ("layout_version", "<u4"), ("header_bytes", "<u4"), ("boot_id", "V16"),
        ("writer_tgid", "<u4"), ("epoch", "<u4"), ("writer_start_boot_ns", "<u8"), ("heartbeat_boot_ns", "<u8"),
        ("row_capacity", "<u4"), ("rows_allocated", "<u4"), ("pid_capacity", "<u4"), ("state", "<u4"),
        ("names_capacity_bytes", "<u8"), ("args_capacity_bytes", "<u8"), ("envs_capacity_bytes", "<u8"),
        ("names_allocated_bytes", "<u8"), ("args_allocated_bytes", "<u8"), ("envs_allocated_bytes", "<u8"),
        ("boot_unix_ns", "<i8"), ("ring_count", "<u4"), ("commit_index", "<u4"), ("ring_offset", "<u4"),
        ("commit_offset", "<u4"), ("commit_bytes", "<u4"), ("pid_ns", "<u4"), ("capture_id", "<u8"),
        ("takeovers", "<u4"), ("chunk_rows", "<u4"), ("horizon_boot_ns", "<u8"), ("user_hz", "<u4"),
        ("checked", "<u4"), ("ready_boot_ns", "<u8"), ("key_capacity", "<u4"), ("reserved", "V316"),
    ]
)  # fmt: skip
RING_ACK = np.dtype(
    [
        ("applied_pos", "<u8"), ("wanted_pos", "<u8"), ("rewind_seq", "<u8"), ("watermark_boot_ns", "<u8"),
        ("received_pos", "<u8"), ("stalled", "<u8"), ("ack_reserved", "V16"),
    ]
)  # fmt: skip
assert (CONTROL.itemsize, RING_ACK.itemsize) == (head.CONTROL_BYTES, head.RING_ACK_BYTES)
COMMIT = np.dtype(
    [
        ("number", "<u8"), ("watermark_boot_ns", "<u8"), ("time_boot_ns", "<u8"), ("heads_live", "<u8"),
        ("heads_exited", "<u8"), ("rows_used", "<u8"), ("names_used_bytes", "<u8"), ("args_used_bytes", "<u8"),
        ("envs_used_bytes", "<u8"), ("commit_reserved", "V56"), ("topic_seq", "<u8", (16,)),
        ("counters", "<u8", (COUNTER_CAPACITY,)),
    ]
)  # fmt: skip
COMMIT_RING = np.dtype([("applied_pos", "<u8"), ("watermark_boot_ns", "<u8")])
HOT = np.dtype(
    [
        ("row_seq", "<u4"), ("generation", "<u4"), ("tgid", "<u4"), ("ppid", "<u4"), ("start_boot_ns", "<u8"),
        ("exec_boot_ns", "<u8"), ("exit_boot_ns", "<u8"), ("ancestor", "<u8"), ("parent", "<u8"),
        ("creator", "<u8"), ("cgroup_id", "<u8"), ("inode", "<u8"), ("flags", "<u4"), ("uid", "<u4"),
        ("gid", "<u4"), ("file_ref", "<u4"), ("args_ref", "<u4"), ("known", "<u4"), ("comm", "S16"),
        ("source", "u1"), ("cgroup_source", "u1"), ("images", "<u2"), ("check", "<u4"),
    ]
)  # fmt: skip
COLD = np.dtype(
    [
        ("fork_boot_ns", "<u8"), ("previous_owner", "<u8"), ("cap_effective", "<u8"), ("cap_permitted", "<u8"),
        ("cap_attempted", "<u8"), ("cap_used", "<u8"), ("cookie", "<u8"), ("exec_inode", "<u8"),
        ("fork_flags", "<u8"), ("user_session", "<u8"), ("euid", "<u4"), ("egid", "<u4"), ("suid", "<u4"),
        ("sgid", "<u4"), ("fsuid", "<u4"), ("fsgid", "<u4"), ("auid", "<u4"), ("audit_session", "<u4"),
        ("sid", "<u4"), ("pgid", "<u4"), ("tid", "<u4"), ("ns_pid", "<u4"), ("pid_ns", "<u4"), ("mnt_ns", "<u4"),
        ("net_ns", "<u4"), ("user_ns", "<u4"), ("envs_ref", "<u4"), ("name_ref", "<u4"), ("cgroup_ref", "<u4"),
        ("container_ref", "<u4"), ("extra_ref", "<u4"), ("exit_code", "<i4"), ("tty", "S16"),
        ("creator_tgid", "<u4"), ("argc", "<u2"), ("envc", "<u2"),
    ]
)  # fmt: skip
FILE = np.dtype(
    [
        ("file_inode", "<u8"), ("mtime_ns", "<u8"), ("ctime_ns", "<u8"), ("device", "<u4"), ("mount_id", "<u4"),
        ("file_uid", "<u4"), ("file_gid", "<u4"), ("nlink", "<u4"), ("mode", "<u2"), ("file_flags", "<u2"),
        ("fs_magic", "<u4"), ("root_offset", "<u4"), ("mount_end", "<u4"), ("mount_source", "u1"),
        ("mount_origin", "u1"), ("mount_flags", "u1"), ("file_reserved", "u1"),
    ]
)  # fmt: skip
CGROUP = np.dtype([("cgroup_made_boot_ns", "<u8"), ("container_made_boot_ns", "<u8")])
ARENA = np.dtype([("refcount", "<u4"), ("length", "<u4"), ("hash", "<u4"), ("next", "<u4")])
KEYS = np.dtype([("rebuild_seq", "<u4"), ("keys_pad", "<u4"), ("keys_reserved", "V56")])

#: Layouts that must match ``struct pl_NAME`` in layout.h.
SEGMENT_LAYOUTS = {
    "control": CONTROL, "ring_ack": RING_ACK, "commit": COMMIT, "commit_ring": COMMIT_RING, "hot": HOT,
    "cold": COLD, "file": FILE, "cgroup": CGROUP, "arena": ARENA, "keys": KEYS,
}  # fmt: skip

assert (COLD.itemsize, HOT.itemsize + COLD.itemsize) == (head.COLD_BYTES, head.ROW_BYTES)

CONTROL_HEADER_BYTES = 4096  #: the ring section begins here, page-aligned


def control_bytes(ring_count: int) -> tuple[int, int, int, int]:
    """Return (ring_offset, commit_offset, commit_bytes, file_bytes) of a control file for `ring_count` rings."""
    ring_offset = CONTROL_HEADER_BYTES
    commit_offset = ring_offset + -(-ring_count * RING_ACK.itemsize // 4096) * 4096
    commit_bytes = -(-(COMMIT.itemsize + ring_count * COMMIT_RING.itemsize) // 64) * 64
    return ring_offset, commit_offset, commit_bytes, -(-(commit_offset + 2 * commit_bytes) // 4096) * 4096
