"""Numbers that several stages have to agree on.

``script/generate`` writes _limits.pxd, for Cython, from this module, and those that BPF programs need into shared.h.
Limits that only one module needs stand in that module.
"""

#: The clock of the BPF programs is the kernel's fast one: a timestamp may lag behind the precise clock by this much.
#: Measured lag of ring positions behind the clock: 73 us without a barrier, none with one.
MERGE_SLACK_NS = 100_000

#: A source without BPF programs takes a report that is older than the youngest by more than this for late. A task reads
#: the time of its event before it sends the event, and may be preempted in between. In a storm on two CPUs, events of
#: the kernel's connector arrived at most 6 us after younger ones.
REPORT_SLACK_NS = 1_000_000

#: The part of `capture.freshness_ms` during which events gather at most. The rest is for the message and the resolver's
#: turn. The shards wait for this time, unless the resolver stores a shorter time.
GATHER_PART = 0.8

#: Images of one process that stay linked (`tables.chain_max` cannot be larger), ancestors that a reader follows, and
#: ancestors in an event.
CHAIN_MAX = 512
#: Images of a chain that are checked at each event for whether the lineage is whole. Without a limit, one deep tree of
#: processes would slow down every event of it; on usual hosts chains have 5 to 30 images.
LINEAGE_CHECKED = 256
#: A walk in the writer that takes more steps than this has met a loop: work for one event is bounded (law 8). Twice
#: CHAIN_MAX, because a chain may be longer than its limit for a moment, while images are being elided.
CHAIN_LIMIT = 2 * CHAIN_MAX
#: The same for walks over the images of a process and of all that it descends from, which no limit keeps short.
LINEAGE_LIMIT = 8 * CHAIN_MAX

#: A client of the stream must have completed its handshake within this time, on the socket and over TCP.
HANDSHAKE_MS = 5000
#: A socket reconnects to a restarted peer after this time, and later within the longer one. Both are short, because a
#: subscriber misses what is published meanwhile.
RECONNECT_MS = 10
RECONNECT_MAX_MS = 200

# Numbers of the kernel
#: Largest `kernel.pid_max` that a kernel of 64 bits allows (include/linux/threads.h, PID_MAX_LIMIT).
PID_MAX = 1 << 22
#: Pid of the parent of all kernel threads, in the root pid namespace.
KTHREADD = 2
#: Flags of a task that ends, and of a kernel thread, in task->flags (include/linux/sched.h).
PF_EXITING = 1 << 2
PF_KTHREAD = 1 << 21
#: Lengths of the name of a task (include/linux/sched.h, TASK_COMM_LEN) and of its terminal, in records and rows; the
#: last byte is a NUL. Then the lengths of what is before it.
COMM_BYTES = 16
TTY_BYTES = 16
COMM_MAX = COMM_BYTES - 1
TTY_MAX = TTY_BYTES - 1
#: Login uid and audit session of a process that has none, or of a kernel without audit.
ID_UNSET = 0xFFFFFFFF
#: Bits of a wait status: the signal that ended the process, or 0; and whether the kernel wrote a core dump (wait(2)).
WAIT_SIGNAL = 0x7F
WAIT_CORE = 1 << 7
#: Header of a record in a BPF ring buffer (include/uapi/linux/bpf.h, BPF_RINGBUF_*): the record is being written.
RING_BUSY_BIT = 0x80000000
#: ... the record was discarded: its room is skipped.
RING_DISCARD_BIT = 0x40000000
#: Length of this header.
RING_HEADER_BYTES = 8
#: A record with its header occupies a multiple of this (kernel/bpf/ringbuf.c).
RING_ALIGNMENT = 8
#: Type of the file system of /run and /dev/shm (include/uapi/linux/magic.h).
TMPFS_MAGIC = 0x01021994
