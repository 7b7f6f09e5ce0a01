"""Encode applied events for the public stream: one msgpack map for each event, written directly from the rows.

The applier calls this for each event, so a message contains the entry and its lineage as they are at that event. The
encoding runs without the GIL and without Python objects; `Encoder.take` returns the messages afterwards. The wire
format (messages, groups, headers) is described in `pipeline.bus.stream.messages`.

An event has the fields FIELDS. Their names and meanings are those of an entry (`pipeline.shm.reader._entry`); the table
with their types is in docs/wire-schema.md. The differences from an entry are:

- `event`, `seq`, `order` and `time_ns` come first. `lineage`, `lineage_truncated`, `lineage_complete` and the fields
  that only some kinds have come last.
- `lineage` contains the ancestors, nearest first, as maps of pid, start_time_ns, comm, path and entity_id.
- `file` and `interpreter` are filled in only for exec, unless configured otherwise; for other kinds, the entry in the
  table contains them.
- `user`, `group` and similar names, including those in `file`, are derived from the ids. A name that is not known yet
  is nil and is requested (`names`).
- `envs` is nil unless configured, because the segment's mode may be more restrictive than the socket's.
- Arguments are copied as they are stored. What is hidden is decided once, when they are interned, not for each event.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

from pipeline.bus.frames._msgpack cimport (
    pl_array, pl_bool, pl_field, pl_find, pl_int, pl_key, pl_map, pl_name, pl_nil, pl_str_header, pl_text, pl_uint,
)
from pipeline.software._container_paths cimport pl_container_trust, pl_trust_word
from pipeline.records._limits cimport CHAIN_MAX, COMM_BYTES, ID_UNSET, TTY_BYTES, WAIT_CORE, WAIT_SIGNAL
from pipeline.host._cpid cimport pl_cpid
from pipeline.resolver.stream._container_cache cimport ContainerCache
from pipeline.resolver.stream._file_cache cimport FileCache
from pipeline.resolver.stream._entity cimport pl_entity
from pipeline.resolver.stream._name_cache cimport PL_GROUP, PL_USER, NameCache, name_table
from pipeline.resolver.stream._row_filters cimport RowFilters
from pipeline.records._records cimport (
    PL_EXEC_MEMFD, PL_EXEC_UPPER_LAYER, PL_KIND_COUNT, PL_KIND_EXEC, PL_KIND_EXIT, PL_KIND_FORK, PL_KIND_SID,
)
from pipeline.shm.names._path_parts cimport pl_base_at, pl_extension_at
from pipeline.shm.names._filesystems cimport pl_filesystem
from pipeline.shm.layout._hash cimport pl_hash64
from pipeline.shm.layout._layout cimport *
from pipeline.shm.names._mounts cimport pl_mount_origin, pl_mount_path, pl_mount_source
from pipeline.shm.writer._arena cimport Arena
from pipeline.shm.writer._writer cimport TableWriter

import os

import numpy as np

from pipeline.host.boot import TICK_NS
from pipeline.bus.stream.messages import Message, pack_events
from pipeline.records.declared import KIND_NAMES
from pipeline.shm.layout.declared import SLOT_MASK, SLOT_STREAM
from pipeline.shm.layout.entry_fields import EVENT_FIELDS as _EVENT_FIELDS

cdef extern from *:
    """
    /* A spin lock; it is held for a few instructions at most. */
    static inline void pl_lock(unsigned char *lock) { while (__atomic_test_and_set(lock, __ATOMIC_ACQUIRE)); }
    static inline void pl_unlock(unsigned char *lock) { __atomic_clear(lock, __ATOMIC_RELEASE); }
    """
    void pl_lock(unsigned char *lock) noexcept nogil
    void pl_unlock(unsigned char *lock) noexcept nogil


cdef enum:
    # Room for every field except strings of variable length.
    FIXED_BYTES = 12288
    ANCESTOR_BYTES = 512
    FIRST_BYTES = 16384
    SPARES = 64
    SPARE_MAX_BYTES = 1 << 18
    # In place of a kind, for events that the topic makes.
    KIND_OF_REPARENT = 255
    # After this many further events, the predecessor's remaining records were committed and are not applied again.
    KNOWN_EVENTS = 1 << 16
    # If two events that are at most this many apart pass a filter, the events between them are encoded too, and so are
    # the ones behind them. A message has consecutive numbers, and costs as much as encoding this many events.
    NEAR_EVENTS = 8

#: Keys of an event, in this order; an exit event also has those of `EXIT_FIELDS`, a reparent event `new_parent`, a cred
#: or sid event `changed_after_ns`.
FIELDS = _EVENT_FIELDS

#: The audit ids of a process without a login session.
cdef uint32_t _UNSET = ID_UNSET


cdef inline uint64_t identity_hash(uint32_t kind, const char *entity, size_t n, uint64_t time_boot_ns) noexcept nogil:
    return pl_hash64(entity, n, time_boot_ns ^ <uint64_t>kind << 56)


cdef pl_costs no_costs  # zeros


cdef inline uint32_t own_number(const pl_hot *hot, const pl_cold *cold) noexcept nogil:
    """The pid of the process: in its own pid namespace if the process is known by that number."""
    return cold.ns_pid if hot.flags & PL_ROW_FOREIGN else hot.tgid


cdef inline uint32_t number_of(TableWriter tables, uint32_t flags, uint32_t tgid) noexcept nogil:
    """The pid for an index entry in a row with these flags; 0: unknown.

    If the process is known by its number in its own pid namespace, that number is returned.
    """
    if not flags & PL_ROW_FOREIGN:
        return tgid
    if tgid < tables.root_pids or tgid >= tables.pid_capacity:
        return 0
    return <uint32_t>tables.keys.names[tgid - tables.root_pids]


cdef class Body:
    """The encoder's buffer of a message body, without a copy. Read-only; the last view returns the memory for reuse."""

    cdef Encoder encoder
    cdef char *data
    cdef Py_ssize_t size
    cdef uint64_t capacity

    def __dealloc__(self):
        if self.encoder is None:
            free(self.data)
        else:
            self.encoder._give_back(self.data, self.capacity)

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 1, flags)

    def __bytes__(self):
        return self.data[: self.size]


cdef inline char *put_time(char *p, uint64_t boot_ns, int64_t boot_unix_ns) noexcept nogil:
    if boot_ns == 0:
        return pl_nil(p)
    return pl_int(p, <int64_t>boot_ns + boot_unix_ns)


cdef inline char *put_known(char *p, uint64_t value, bint known) noexcept nogil:
    return pl_uint(p, value) if known else pl_nil(p)


cdef inline char *put_nonzero(char *p, uint64_t value) noexcept nogil:
    return pl_uint(p, value) if value else pl_nil(p)


cdef inline bint is_busybox(const pl_file *file, uint32_t n) noexcept nogil:
    """Whether the path that the process sees is busybox's, as in pipeline.shm.names.symlinks."""
    cdef const char *path = <const char *>file + sizeof(pl_file)
    if file == NULL or n < sizeof(pl_file) + file.root_offset:
        return False
    path += file.root_offset
    n -= <uint32_t>sizeof(pl_file) + file.root_offset
    return (n == 12 and memcmp(path, b"/bin/busybox", 12) == 0) or (
        n == 16 and memcmp(path, b"/usr/bin/busybox", 16) == 0
    )


cdef char *put_symlink(
    char *p, const pl_file *file, uint32_t file_n, const char *args, uint32_t args_n, bint is_link
) noexcept nogil:
    """Write two fields: symlink_paths and symlink_basename, derived as in pipeline.shm.names.symlinks."""
    cdef char text[272]
    cdef uint32_t begin = 4, end = 4
    if (is_link or is_busybox(file, file_n)) and args_n > 4:
        while end < args_n and args[end] != 0:
            end += 1
            if args[end - 1] == b"/":
                begin = end
    if begin == end or end - begin > 255:
        return pl_nil(pl_key(pl_nil(pl_key(p, "symlink_paths")), "symlink_basename"))
    memcpy(text, b"/usr/bin/", 9)
    memcpy(text + 9, args + begin, end - begin)
    p = pl_array(pl_key(p, "symlink_paths"), 2)
    p = pl_text(p, text + 4, 5 + end - begin)
    p = pl_text(p, text, 9 + end - begin)
    return pl_text(pl_key(p, "symlink_basename"), args + begin, end - begin)


cdef inline char *put_again(char *p, const char *data, uint32_t n) noexcept nogil:
    memcpy(p, data, n)
    return p + n


cdef inline char *put_list(char *p, const char *blob, uint32_t n) noexcept nogil:
    """Write strings that each end with a NUL as an array; the last may lack the NUL if it was truncated."""
    cdef uint32_t count = 0, at = 0
    cdef const char *nul
    while at < n:
        nul = <const char *>memchr(blob + at, 0, n - at)
        count += 1
        at = n if nul == NULL else <uint32_t>(nul - blob) + 1
    p = pl_array(p, count)
    at = 0
    while at < n:
        nul = <const char *>memchr(blob + at, 0, n - at)
        if nul == NULL:
            return pl_text(p, blob + at, n - at)
        p = pl_text(p, blob + at, <uint32_t>(nul - blob) - at)
        at = <uint32_t>(nul - blob) + 1
    return p


cdef inline char *put_mark(char *p, bint is_set, const char *name, uint32_t *count) noexcept nogil:
    if not is_set:
        return p
    count[0] += 1
    return pl_name(p, name)


cdef inline char *put_constant(char *p, const char *name) noexcept nogil:
    return pl_nil(p) if name == NULL else pl_name(p, name)


cdef char *put_path(char *p, const char *path, uint32_t n, bint is_memfd) noexcept nogil:
    """Write three fields: path, basename and extension. They need up to four times the path's length."""
    cdef uint32_t at
    cdef char *name
    if n == 0:
        p = pl_nil(pl_key(pl_nil(pl_key(p, "path")), "basename"))
        return pl_nil(pl_key(p, "extension"))
    p = pl_key(p, "path")
    if not is_memfd:
        p = pl_text(p, path, n)
        at = pl_base_at(path, n)
        path += at
        n -= at
    else:
        p = pl_key(p, "")
        if path[0] == b"/":
            path += 1
            n -= 1
        if n < 6 or memcmp(path, b"memfd:", 6) != 0:
            name = p + 128 + 2 * <uint64_t>n  # after the part of the buffer that is written below
            memcpy(name, b"memfd:", 6)
            memcpy(name + 6, path, n)
            path = name
            n += 6
    p = pl_text(pl_key(p, "basename"), path, n)
    at = pl_extension_at(path, n)
    return pl_text(pl_key(p, "extension"), path + at, n - at)


cdef inline char *put_owner(
    char *p, const pl_file *file, NameCache cache, const name_table *names, uint32_t kind, uint32_t number
) noexcept nogil:
    """Write the name of a file's user or group; `names` is NULL if the names for the process are not known."""
    # no inode: the file could not be read, and an id of 0 is not root
    return pl_nil(p) if names == NULL or file.file_inode == 0 else cache.put(p, names, kind, number)


include "file_fields.pxi"


cdef inline char *put_is_fileless(char *p, const pl_file *file, bint is_memfd) noexcept nogil:
    p = pl_key(p, "is_fileless")
    return pl_bool(p, is_memfd) if is_memfd or file.mount_id != 0 else pl_nil(p)


cdef inline char *put_mount_path(char *p, const pl_file *file, const char *path, uint32_t n) noexcept nogil:
    cdef uint32_t mount_n = 0
    cdef const char *mount = pl_mount_path(file, path, n, &mount_n)
    p = pl_key(p, "mount_path")
    return pl_text(p, mount, mount_n) if mount != NULL else pl_nil(p)


cdef char *put_file(
    char *p, const pl_file *file, uint32_t n, NameCache cache, const name_table *names
) noexcept nogil:
    """Write a file of `n` bytes, including its path.

    `names` are the names for the process. NULL means that they are not known; `cache` is then not used.
    """
    cdef bint is_memfd = (file.file_flags & PL_EXEC_MEMFD) != 0
    cdef const char *path = <const char *>file + sizeof(pl_file)
    n -= <uint32_t>sizeof(pl_file)
    # The groups of file_fields.py, in its order. Groups that are only copied are in file_fields.pxi.
    p = put_path(pl_map(p, FILE_FIELDS), path, n, is_memfd)
    p = put_file_facts(p, file, cache, names)
    p = put_is_fileless(p, file, is_memfd)
    p = put_mount_path(p, file, path, n)
    return put_file_mount(p, file, cache, names)


cdef char *put_exit(char *p, int32_t status, bint known) noexcept nogil:
    """Write three fields: exit_code (a wait status), exit_cause and exit_cause_code."""
    cdef uint32_t signal = status & WAIT_SIGNAL
    if not known:
        p = pl_nil(pl_key(pl_nil(pl_key(p, "exit_code")), "exit_cause"))
        return pl_nil(pl_key(p, "exit_cause_code"))
    p = pl_int(pl_key(p, "exit_code"), status)
    p = put_exit_cause(pl_key(p, "exit_cause"), status)
    return pl_uint(pl_key(p, "exit_cause_code"), signal if signal != 0 else (status >> 8) & 0xFF)


cdef struct span:
    const char *at  # NULL: absent or unknown
    uint32_t n


cdef inline char *put_text(char *p, span text, uint32_t skip) noexcept nogil:
    """Write a string without its first `skip` bytes; nil if the string is absent."""
    return pl_text(p, text.at + skip, text.n - skip) if text.at != NULL else pl_nil(p)


cdef inline span next_string(span *rest) noexcept nogil:
    """Cut off the first of several strings that are separated by NULs; an empty one is absent."""
    cdef span found = rest[0]
    cdef const char *nul = <const char *>memchr(rest.at, 0, rest.n) if rest.n != 0 else NULL
    if nul != NULL:
        found.n = <uint32_t>(nul - found.at)
    if found.n == 0:
        found.at = NULL
    if nul != NULL:
        rest.n -= <uint32_t>(nul - rest.at) + 1
        rest.at = nul + 1
    else:
        rest.n = 0
    return found


include "event_fields.pxi"


cdef struct row_strings:
    span args
    span envs
    span file  # a FILE record, followed by the path
    span name
    directory_spans directories
    uint32_t name_bytes  # of the name and the directories, as they are stored
    span cgroup  # a CGROUP record, followed by the path
    span container
    span details  # of the container, a msgpack map
    span package  # of the executable, a msgpack map
    span hash  # of the executable, a msgpack string
    span extra


cdef inline span span_of(Arena arena, uint32_t ref, uint32_t least) noexcept nogil:
    """Return a string of an arena; an empty span if `ref` is 0 or the string has fewer bytes than `least`."""
    cdef span found
    found.n = 0
    found.at = arena.bytes(ref, &found.n) if ref != 0 else NULL
    if found.n < least:
        found.at = NULL
        found.n = 0
    return found


cdef inline span details_of(ContainerCache containers, span container, span cgroup) noexcept nogil:
    """Return the details of a container; empty: none are known, or a user could have named the cgroup."""
    cdef span found
    found.at = NULL
    found.n = 0
    if container.at != NULL and cgroup.at != NULL:
        found.at = containers.of(
            container.at, container.n, cgroup.at + sizeof(pl_cgroup), cgroup.n - <uint32_t>sizeof(pl_cgroup), &found.n
        )
    return found


cdef inline span known_of(
    FileCache files, const pl_hot *hot, const pl_cold *cold, uint32_t row, span file
) noexcept nogil:
    """Return what is known about the executable of a row; empty: nothing."""
    cdef span found
    found.n = 0
    found.at = files.of(hot, cold, row, file.at, &found.n)
    return found


cdef inline row_strings strings_of(
    TableWriter tables, const pl_hot *hot, const pl_cold *cold, bint with_envs
) noexcept nogil:
    """Return the strings of a row that an event contains, without what the caches know about them."""
    cdef row_strings found
    found.args = span_of(tables.args, hot.args_ref if hot.known & PL_KNOWN_ARGS else 0, 0)
    found.envs = span_of(tables.envs, cold.envs_ref if with_envs and hot.known & PL_KNOWN_ENVS else 0, 0)
    found.file = span_of(tables.names, hot.file_ref if hot.known & PL_KNOWN_FILE else 0, sizeof(pl_file))
    found.name = span_of(tables.names, cold.name_ref, 0)
    found.name_bytes = found.name.n
    split_name(&found.name, &found.directories)
    found.cgroup = span_of(tables.names, cold.cgroup_ref, sizeof(pl_cgroup))
    found.container = span_of(tables.names, cold.container_ref, 0)
    found.details.at = found.package.at = found.hash.at = NULL
    found.details.n = found.package.n = found.hash.n = 0
    found.extra = span_of(tables.args, cold.extra_ref, 0)
    return found


cdef inline uint64_t room_for(const row_strings *strings, bint shows_file) noexcept nogil:
    """Return the maximum number of bytes of an event without its lineage.

    An argument of n bytes needs n + 1 bytes in the arena and at most n + 5 here, and that many only from n = 256 on.
    The name may be written twice. The path of `file` is written up to five times (by put_path, and for its mount).
    All of `file` is written once more if it is the interpreter.
    """
    return (
        FIXED_BYTES + 2 * (<uint64_t>strings.args.n + strings.envs.n + strings.name_bytes + strings.extra.n)
        + <uint64_t>strings.file.n * (11 if shows_file else 1) + strings.cgroup.n + strings.container.n
        + strings.details.n + strings.package.n + strings.hash.n
    )


cdef inline char *put_end(
    char *p, const pl_hot *hot, const pl_cold *cold, uint32_t flags, int64_t boot_unix_ns
) noexcept nogil:
    """Write four fields: created_at_ns, exit_code, exit_cause and exit_cause_code."""
    cdef uint64_t made_boot_ns = cold.fork_boot_ns if cold.fork_boot_ns != 0 else hot.start_boot_ns
    p = put_time(pl_key(p, "created_at_ns"), max(hot.exec_boot_ns, made_boot_ns), boot_unix_ns)
    return put_exit(p, cold.exit_code, (flags & PL_ROW_EXIT_KNOWN) != 0)


cdef inline char *put_image(
    char *p, const pl_hot *hot, uint32_t known, uint32_t flags, span file, span name
) noexcept nogil:
    """Write four fields: comm, path, script_path and name."""
    p = pl_key(p, "comm")
    p = pl_field(p, hot.comm, COMM_BYTES) if known & PL_KNOWN_COMM else pl_nil(p)
    p = put_text(pl_key(p, "path"), file, sizeof(pl_file))
    p = pl_key(p, "script_path")
    p = put_text(p, name, 0) if flags & PL_ROW_SCRIPT else pl_nil(p)
    return put_text(pl_key(p, "name"), name, 0)


cdef inline char *put_arguments(
    char *p, const pl_cold *cold, uint32_t known, uint32_t flags, span file, span args, span envs
) noexcept nogil:
    """Write the names of a symbolic link, the arguments and the environment."""
    p = put_symlink(p, <const pl_file *>file.at, file.n, args.at, args.n, (flags & PL_ROW_THROUGH_SYMLINK) != 0)
    # Stored arguments begin with their full length before truncation, and so does a stored environment.
    p = pl_key(p, "argv")
    p = put_list(p, args.at + 4, args.n - 4) if args.n >= 4 else pl_nil(p)
    p = put_known(pl_key(p, "argc"), cold.argc, (known & PL_KNOWN_ARGS) != 0)
    p = pl_bool(pl_key(p, "args_truncated"), flags & PL_ROW_ARGS_TRUNCATED)
    p = pl_key(p, "envs")
    p = put_list(p, envs.at + 4, envs.n - 4) if envs.n >= 4 else pl_nil(p)
    p = put_known(pl_key(p, "envc"), cold.envc, (known & PL_KNOWN_ENVS) != 0)
    return pl_bool(pl_key(p, "envs_truncated"), flags & PL_ROW_ENVS_TRUNCATED)


cdef inline char *put_cgroup(
    char *p, const pl_hot *hot, uint32_t known, span cgroup, span container, span details, int64_t boot_unix_ns
) noexcept nogil:
    """Write nine fields: cgroup, its id, version, source and time, container_id, its trust, time and details."""
    cdef const pl_cgroup *record = <const pl_cgroup *>cgroup.at
    cdef bint has_id = (known & PL_KNOWN_CGROUP) != 0 and hot.cgroup_id != 0
    cdef const char *trust = NULL
    p = put_text(pl_key(p, "cgroup"), cgroup, sizeof(pl_cgroup))
    p = put_known(pl_key(p, "cgroup_id"), hot.cgroup_id, has_id)
    p = put_known(pl_key(p, "cgroup_version"), 2, has_id)
    p = pl_key(p, "cgroup_source")
    if has_id and hot.cgroup_source == PL_CGROUP_SOURCE_EVENT:
        p = pl_key(p, "event")
    elif has_id and hot.cgroup_source == PL_CGROUP_SOURCE_PROCFS:
        p = pl_key(p, "procfs")
    elif known & PL_KNOWN_CGROUP and hot.cgroup_source == PL_CGROUP_SOURCE_INHERITED:
        p = pl_key(p, "inherited")
    else:
        p = pl_nil(p)
    p = pl_key(p, "cgroup_created_at_ns")
    p = put_time(p, record.cgroup_made_boot_ns, boot_unix_ns) if record != NULL else pl_nil(p)
    p = put_text(pl_key(p, "container_id"), container, 0)
    p = pl_key(p, "container_trust")
    if record != NULL and container.at != NULL:
        trust = pl_trust_word(pl_container_trust(
            cgroup.at + sizeof(pl_cgroup), cgroup.n - <uint32_t>sizeof(pl_cgroup), container.at, container.n
        ))
    p = put_constant(p, trust)
    p = pl_key(p, "container_created_at_ns")
    if record == NULL or container.at == NULL:
        p = pl_nil(p)
    else:
        p = put_time(p, record.container_made_boot_ns, boot_unix_ns)
    p = pl_key(p, "container_details")
    return put_again(p, details.at, details.n) if details.at != NULL else pl_nil(p)


cdef inline char *put_executable(
    char *p, const pl_hot *hot, NameCache cache, const name_table *names, const row_strings *strings, bint shows_file
) noexcept nogil:
    """Write five fields: inode, file, interpreter, file_package and file_sha256."""
    cdef span file = strings.file, extra = strings.extra
    cdef const char *given = NULL
    cdef const char *given_end = NULL
    cdef char *facts
    p = put_known(pl_key(p, "inode"), hot.inode, (hot.known & PL_KNOWN_FILE) != 0)
    facts = pl_key(p, "file")
    if shows_file and file.at != NULL:
        p = put_file(facts, <const pl_file *>file.at, file.n, cache, names)
    else:
        p = pl_nil(facts)
    # The file of a script is its interpreter. An interpreter that was reported through the resolver's methods is in
    # `extra`.
    if extra.n != 0 and shows_file:
        given = pl_find(extra.at, extra.at + extra.n, "interpreter", &given_end)
    if given != NULL:
        p = put_again(pl_key(p, "interpreter"), given, <uint32_t>(given_end - given))
    elif shows_file and file.at != NULL and hot.flags & PL_ROW_SCRIPT and hot.inode:
        p = put_again(pl_key(p, "interpreter"), facts, <uint32_t>(p - facts))
    else:
        p = pl_nil(pl_key(p, "interpreter"))
    p = pl_key(p, "file_package")
    p = put_again(p, strings.package.at, strings.package.n) if strings.package.at != NULL else pl_nil(p)
    p = pl_key(p, "file_sha256")
    return put_again(p, strings.hash.at, strings.hash.n) if strings.hash.at != NULL else pl_nil(p)


# -- parts of Encoder.event --------------------------------------------------------------------------------------------

cdef inline void put_known_strings(Encoder self, TableWriter tables, uint32_t row, row_strings *strings) noexcept nogil:
    """Add what is known about the container, the package and the hash, and is not in the row itself."""
    cdef const pl_hot *hot = &tables.hot[row]
    cdef const pl_cold *cold = &tables.cold[row]
    if self.containers is not None:
        strings.details = details_of(self.containers, strings.container, strings.cgroup)
    if self.packages is not None:
        strings.package = known_of(self.packages, hot, cold, row, strings.file)
    if self.hashes is not None:
        strings.hash = known_of(self.hashes, hot, cold, row, strings.file)


cdef inline bint is_change(uint32_t topic, uint32_t kind) noexcept nogil:
    """Whether an event is of a kind that a comparison can find, so that it has `changed_after_ns`."""
    return topic == PL_TOPIC_CRED or (topic == PL_TOPIC_CONTEXT and kind == PL_KIND_SID)


cdef inline uint32_t own_fields(uint32_t topic, uint32_t kind) noexcept nogil:
    """How many fields an event has beyond FIELDS."""
    if topic == PL_TOPIC_EXIT:
        return EXIT_FIELDS
    return topic == PL_TOPIC_REPARENT or is_change(topic, kind)


cdef inline char *put_event(
    Encoder self, char *p, open_part *part, TableWriter tables, uint32_t topic, uint32_t kind, uint32_t row,
    uint64_t time_boot_ns, uint64_t detail, const row_strings *strings
) noexcept nogil:
    """Write an event, with the last numbers of its topic and of the order; NULL: there is no room."""
    cdef const pl_hot *hot = &tables.hot[row]
    cdef const pl_cold *cold = &tables.cold[row]
    cdef uint32_t known = hot.known, flags = hot.flags
    cdef int64_t boot_unix_ns = tables.control.boot_unix_ns
    cdef bint shows_file = topic == PL_TOPIC_EXEC or self.file_form != 0
    cdef const name_table *names = self._names_of(tables, row) if self.names is not None else NULL

    # The groups of entry_fields.py, in its order. Groups that are only copied are in event_fields.pxi.
    p = pl_map(p, EVENT_FIELDS + own_fields(topic, kind))
    p = pl_key(p, "event")
    p = pl_key(p, "reparent") if topic == PL_TOPIC_REPARENT else pl_name(p, kind_names[kind])
    p = pl_uint(pl_key(p, "seq"), self.topic_seq[topic])
    p = pl_uint(pl_key(p, "order"), self.topic_seq[PL_SLOT_ORDER])
    p = put_time(pl_key(p, "time_ns"), time_boot_ns, boot_unix_ns)
    p = pl_uint(pl_key(p, "pid"), own_number(hot, cold))
    p = pl_uint(pl_key(p, "tid"), cold.tid if cold.tid != 0 else own_number(hot, cold))
    p = pl_uint(pl_key(p, "ppid"), number_of(tables, flags, hot.ppid))
    p = put_times(p, hot, cold, known, flags, boot_unix_ns)
    p = put_end(p, hot, cold, flags, boot_unix_ns)
    p = put_image(p, hot, known, flags, strings.file, strings.name)
    p = put_directories(p, hot, cold, known, flags, boot_unix_ns, &strings.directories)
    p = put_arguments(p, cold, known, flags, strings.file, strings.args, strings.envs)
    p = put_ids(p, hot, cold, known, flags, boot_unix_ns)
    p = self._put_names(p, names if known & PL_KNOWN_CREDS else NULL, hot, cold)
    p = put_privileges(p, hot, cold, known, flags, boot_unix_ns)
    p = pl_key(p, "tty")
    p = pl_field(p, cold.tty, TTY_BYTES) if known & PL_KNOWN_TTY else pl_nil(p)
    p = put_session(p, hot, cold, known, flags, boot_unix_ns)
    p = put_executable(p, hot, self.names, names, strings, shows_file)
    p = put_namespaces(p, hot, cold, known, flags, boot_unix_ns)
    p = put_cgroup(p, hot, known, strings.cgroup, strings.container, strings.details, boot_unix_ns)
    p = self._put_identity(p, tables, row)
    p = put_origin(p, hot, cold, known, flags, boot_unix_ns)
    p = pl_key(p, "source")
    p = pl_name(p, source_names[hot.source if hot.source <= PL_SOURCE_SNAPSHOT else PL_SOURCE_UNKNOWN])
    p = put_statements(p, hot, cold, known, flags, boot_unix_ns)
    p = pl_bool(pl_key(p, "is_exited"), hot.exit_boot_ns != 0 and (flags & PL_ROW_REPLACED) == 0)
    p = pl_key(p, "marks")
    p = put_marks(p, flags) if has_marks(flags) else pl_array(p, 0)
    p = pl_uint(pl_key(p, "flags"), flags)
    # `extra` is stored as a msgpack map, in which text that is not UTF-8 is already bin.
    p = pl_key(p, "extra")
    p = put_again(p, strings.extra.at, strings.extra.n) if strings.extra.n != 0 else pl_nil(p)
    p = self._lineage(tables, part, p, row)
    if p != NULL and topic == PL_TOPIC_EXIT:
        # Without costs, their memory may not exist either.
        p = put_cost(p, &tables.costs[row] if known & PL_KNOWN_COST else &no_costs, known, flags, boot_unix_ns)
    if p != NULL and is_change(topic, kind):
        p = put_time(pl_key(p, "changed_after_ns"), detail, boot_unix_ns)
    if p != NULL and topic == PL_TOPIC_REPARENT:
        p = pl_key(p, "new_parent")
        p = self._ancestor(tables, part, p, <uint32_t>detail) if detail else pl_nil(p)
    return p


@cython.final
cdef class Encoder:
    """Numbers the events of the stream and encodes those with a subscriber. Only the resolver's thread uses it.

    Args:
        boot: the kernel's boot id, 16 bytes.
        lineage_depth: maximum number of ancestors in an event.
        envs: ``"none"``, or ``"stored"``: the content of the envs segment. Its mode may be more restrictive than the
            socket's.
        file: which events have `file` and `interpreter`: ``"exec"``, or ``"all"``.
        message_bytes: a group is closed when a message has reached this size.
        limit_bytes: maximum size of the encoded messages that have not been fetched with `take`. Further events are
            numbered and dropped, so subscribers see a gap.

    Attributes:
        topics_mask: topics with a subscriber of all events; set by the publisher.
        kept_mask: topics that the journal keeps; set by the publisher. All events of the topics of either mask are
            encoded.
        filters: of subscribers that want only some events of other topics; set by the publisher.
        names: finds the user and group names for a process; None: no names.
        containers: has the details of containers; None: events have none.
        packages, hashes: the same of executables.
        former_mask: topics that had a subscriber at the predecessor's last commit (see `restore`).
        dropped: events that had a subscriber but found no room.
        known_left: events given to `adopt` that were not met yet.
    """

    def __cinit__(self):
        memset(self.parts, 0, sizeof(self.parts))
        memset(self.topic_seq, 0, sizeof(self.topic_seq))
        memset(self.cpids, 0, sizeof(self.cpids))
        memset(self.passed_seq, 0, sizeof(self.passed_seq))
        memset(self.keep_until_seq, 0, sizeof(self.keep_until_seq))
        self.filters = RowFilters()

    def __init__(
        self,
        boot: bytes,
        *,
        lineage_depth: int = 8,
        envs: str = "none",
        file: str = "exec",
        message_bytes: int = 72 << 10,
        limit_bytes: int = 64 << 20,
    ):
        if len(boot) != 16:
            raise ValueError(f"a boot id has 16 bytes, not {len(boot)}")
        if envs not in ("none", "stored"):
            raise ValueError(f"envs is none or stored, not {envs!r}")
        if file not in ("exec", "all"):
            raise ValueError(f"file is exec or all, not {file!r}")
        if not 0 <= lineage_depth <= CHAIN_MAX:
            raise ValueError(f"lineage_depth is 0 to {CHAIN_MAX}, not {lineage_depth}")
        cdef bytes boot_raw = bytes(boot)
        cdef bytes boot_hex = boot_raw.hex().encode()
        memcpy(self.boot_hex, <char *>boot_hex, 32)
        memcpy(self.boot_raw, <char *>boot_raw, 16)
        self.tick_ns = TICK_NS
        self.lineage_depth = lineage_depth
        self.envs_form = envs == "stored"
        self.file_form = file == "all"
        self.message_bytes = message_bytes
        self.limit_bytes = limit_bytes
        self.topic_seq[PL_SLOT_STREAM] = int.from_bytes(os.urandom(8), "little") >> 1 | 1

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(<uint32_t>PL_TOPIC_COUNT):
            free(self.parts[i].data)
        for i in range(self.closed_count):
            free(self.closed[i].data)
        free(self.closed)
        free(self.known)
        free(self.known_met)
        for i in range(self.spare_count):
            free(self.spare[i])

    # -- numbers -------------------------------------------------------------------------------------------------------

    @property
    def envs(self) -> str:
        """The value given at construction: ``"none"`` or ``"stored"``."""
        return "stored" if self.envs_form else "none"

    @property
    def file(self) -> str:
        """The value given at construction: ``"exec"`` or ``"all"``."""
        return "all" if self.file_form else "exec"

    @property
    def subscribed_mask(self) -> int:
        """Topics with a subscriber, also if all of them have filters."""
        return self.topics_mask | self.filters.topics_mask

    @property
    def stream(self) -> int:
        """Id of the space of sequence numbers; a take-over keeps it."""
        return self.topic_seq[PL_SLOT_STREAM]

    @property
    def order(self) -> int:
        """Number of events of all topics so far."""
        return self.topic_seq[PL_SLOT_ORDER]

    def sequences(self):
        """The numbers that a commit stores: uint64[SEQ_COUNT].

        They are the last number of each topic, followed by the slots beyond the topics (SLOT_*).
        """
        out = np.empty(PL_SEQ_COUNT, np.uint64)
        cdef uint64_t[::1] view = out
        memcpy(&view[0], self.numbers(), PL_SEQ_COUNT * sizeof(uint64_t))
        return out

    cdef const uint64_t *numbers(self) noexcept nogil:
        """Return the same as `sequences`, without a copy; valid until the next call of any method."""
        cdef uint32_t i
        self.topic_seq[PL_SLOT_MASK] = self.topics_mask | self.filters.topics_mask
        if self.floor_mask == 0:
            return self.topic_seq
        memcpy(self.stored_seq, self.topic_seq, sizeof(self.topic_seq))
        for i in range(<uint32_t>PL_TOPIC_COUNT):
            if self.floor_mask >> i & 1:
                self.stored_seq[i] = self.floor_seq[i]
        return self.stored_seq

    cdef bint has_messages(self) noexcept nogil:
        """Whether `take` would return any messages."""
        cdef uint32_t i
        if self.closed_count:
            return True
        for i in range(<uint32_t>PL_TOPIC_COUNT):
            if self.parts[i].count:
                return True
        return False

    def restore(self, sequences) -> None:
        """Continue from the predecessor's committed numbers (uint64[SEQ_COUNT]).

        If all are zero, nothing was committed, and a new stream begins.
        """
        cdef int i
        if len(sequences) != PL_SEQ_COUNT:
            raise ValueError(f"there are {PL_SEQ_COUNT} sequence slots, not {len(sequences)}")
        if int(sequences[SLOT_STREAM]) == 0:
            return
        for i in range(PL_SEQ_COUNT):
            self.topic_seq[i] = int(sequences[i])
        self.former_mask = int(sequences[SLOT_MASK])

    def adopt(self, numbers, order: int, identities) -> None:
        """Continue behind events that the predecessor published and did not commit; call this once, after `restore`.

        When its records are applied again, these events are neither numbered nor encoded again. Until `end_adoption`,
        commits store the numbers before these events: the tables do not contain them yet, and a successor must find
        them in the journal as well.

        Args:
            numbers: by topic, the last number published.
            order: order of the last event published.
            identities: (event, entity id, time in boot ns) of each of these events.
        """
        cdef uint32_t i
        cdef bytes entity
        cdef uint64_t[::1] view
        kinds = {name: number for number, name in enumerate(KIND_NAMES)} | {"reparent": <int>KIND_OF_REPARENT}
        hashes = []
        for name, text, time_boot_ns in identities:
            if name in kinds:
                entity = text.encode("utf-8", "surrogateescape")
                hashes.append(identity_hash(kinds[name], entity, len(entity), time_boot_ns))
        found = np.array(sorted(hashes), np.uint64)
        self.known = <uint64_t *>calloc(len(hashes) + 1, sizeof(uint64_t))
        self.known_met = <unsigned char *>calloc(len(hashes) + 1, 1)
        if self.known == NULL or self.known_met == NULL:
            raise MemoryError
        view = found
        for i in range(<uint32_t>len(hashes)):
            self.known[i] = view[i]
        memcpy(self.floor_seq, self.topic_seq, sizeof(self.topic_seq))
        for i in range(<uint32_t>PL_TOPIC_COUNT):
            if int(numbers[i]) > self.topic_seq[i]:
                self.floor_mask |= 1 << i
            self.topic_seq[i] = max(self.topic_seq[i], int(numbers[i]))
        self.topic_seq[PL_SLOT_ORDER] = max(self.topic_seq[PL_SLOT_ORDER], order)
        self.known_until_order = self.topic_seq[PL_SLOT_ORDER] + KNOWN_EVENTS
        self.known_count = self.known_left = <uint32_t>len(hashes)

    def end_adoption(self) -> None:
        """Store the numbers as they are: the predecessor's records have been applied again."""
        self.floor_mask = 0

    def settled(self) -> list[int]:
        """Return the last settled sequence number of each topic: `take` returns only messages with higher numbers."""
        cdef uint32_t i, topic
        last = [self.topic_seq[topic] for topic in range(<uint32_t>PL_TOPIC_COUNT)]
        for i in range(<uint32_t>PL_TOPIC_COUNT):
            if self.parts[i].count:
                last[i] = self.parts[i].first - 1
        for i in range(self.closed_count):
            topic = self.closed[i].topic
            last[topic] = min(last[topic], self.closed[i].first - 1)
        return last

    # -- messages ------------------------------------------------------------------------------------------------------

    def take(self) -> list[Message]:
        """Return the messages encoded since the last call, in sending order."""
        cdef uint32_t i
        cdef closed_part *part
        cdef Body body
        self._close_group()
        messages = []
        for i in range(self.closed_count):
            part = &self.closed[i]
            body = Body.__new__(Body)
            body.encoder, body.data, body.size, body.capacity = self, part.data, part.used, part.capacity
            part.data = NULL
            messages.append(Message(part.topic, part.first, part.count, body, part.rest, part.filters))
        self.closed_count = 0
        self.held_bytes = 0
        return messages

    def add(
        self, TableWriter tables, topic: int, kind: int, row: int, time_boot_ns: int, detail: int = 0
    ) -> None:
        """Number and encode one event as the applier does; for the resolver's less frequent paths and for tests."""
        if not 0 <= topic < PL_TOPIC_COUNT or not 0 <= kind < PL_KIND_COUNT or row <= 0:
            raise ValueError(f"no event: topic {topic}, kind {kind}, row {row}")
        self.event(tables, topic, kind, row, time_boot_ns, detail)

    def put(self, topic: int, fields) -> bool:
        """Number an event that is not about a process, and encode it if it has a subscriber; returns whether it has."""
        if not 0 <= topic < PL_TOPIC_COUNT:
            raise ValueError(f"no topic {topic}")
        self.topic_seq[PL_SLOT_ORDER] += 1
        self.topic_seq[topic] += 1
        if not (self.subscribed_mask | self.kept_mask) >> topic & 1:
            return False
        cdef bytes data = pack_events(
            [{"event": None, "seq": self.topic_seq[topic], "order": self.topic_seq[PL_SLOT_ORDER], **fields}]
        )
        cdef open_part *part = self._part(topic, self.topic_seq[topic])
        cdef char *p = self._room(part, NULL, len(data)) if part != NULL else NULL
        if p == NULL:
            self.dropped += 1
            return False
        memcpy(p, <char *>data, len(data))
        part.used += len(data)
        part.count += 1
        part.filters = <uint32_t>-1  # such events are rare: subscribers compare them
        return True

    cdef void event(
        self, TableWriter tables, uint32_t topic, uint32_t kind, uint32_t row, uint64_t time_boot_ns, uint64_t detail
    ) noexcept nogil:
        if self.known_left != 0 and self._is_known(tables, topic, kind, row, time_boot_ns):
            return
        self.topic_seq[PL_SLOT_ORDER] += 1
        self.topic_seq[topic] += 1
        # A method of its own: its many registers would be saved for each event that has no subscriber, which would take
        # a fifth of the time.
        if (self.topics_mask | self.kept_mask | self.filters.topics_mask) >> topic & 1:
            self._encode(tables, topic, kind, row, time_boot_ns, detail)
        elif kind != PL_KIND_FORK and kind != PL_KIND_EXIT:
            self._note(tables, kind, row)

    # -- inside --------------------------------------------------------------------------------------------------------

    cdef void _encode(
        self, TableWriter tables, uint32_t topic, uint32_t kind, uint32_t row, uint64_t time_boot_ns, uint64_t detail
    ) noexcept nogil:
        """Append an event of a topic that has a subscriber, unless all of its filters exclude it."""
        cdef uint32_t passed = 0
        cdef bint is_wanted = (self.topics_mask | self.kept_mask) >> topic & 1
        if self.filters.topics_mask >> topic & 1:
            passed = self.filters.matching(tables, self.names, topic, row)
            is_wanted |= self._is_near(topic, passed != 0)
        if not is_wanted:
            if kind != PL_KIND_FORK and kind != PL_KIND_EXIT:
                self._note(tables, kind, row)
            return
        cdef open_part *part = self._part(topic, self.topic_seq[topic])
        if part == NULL:
            self.dropped += 1
            return

        cdef row_strings strings = strings_of(tables, &tables.hot[row], &tables.cold[row], self.envs_form != 0)
        put_known_strings(self, tables, row, &strings)
        cdef char *p = self._room(part, NULL, room_for(&strings, topic == PL_TOPIC_EXEC or self.file_form != 0))
        if p != NULL:
            p = put_event(self, p, part, tables, topic, kind, row, time_boot_ns, detail, &strings)
        if p == NULL:
            self.dropped += 1
            return
        part.used = p - part.data
        part.count += 1
        part.filters |= passed
        if part.used >= self.message_bytes:
            self._close_group()

    cdef bint _is_known(
        self, TableWriter tables, uint32_t topic, uint32_t kind, uint32_t row, uint64_t time_boot_ns
    ) noexcept nogil:
        """Whether the predecessor has published this event; each of its events is met once."""
        cdef char text[256]
        cdef char *end
        cdef uint64_t wanted
        cdef uint32_t low = 0, high = self.known_count, middle
        if self.topic_seq[PL_SLOT_ORDER] >= self.known_until_order:
            self.known_left = 0
            return False
        end = self._entity(text, tables, row)
        wanted = identity_hash(
            KIND_OF_REPARENT if topic == PL_TOPIC_REPARENT else kind, text + 2,
            <size_t>(end - text - 2) if end - text > 2 else 0, time_boot_ns,
        )
        while low < high:
            middle = (low + high) // 2
            if self.known[middle] < wanted:
                low = middle + 1
            else:
                high = middle
        while low < self.known_count and self.known[low] == wanted:
            if not self.known_met[low]:
                self.known_met[low] = 1
                self.known_left -= 1
                return True
            low += 1
        return False

    cdef char *_put_identity(self, char *p, TableWriter tables, uint32_t row) noexcept nogil:
        """Write five fields: entity_id, cpid, parent_entity_id, creator_pid and creator_entity_id."""
        cdef const pl_hot *hot = &tables.hot[row]
        cdef const pl_cold *cold = &tables.cold[row]
        p = self._entity(pl_key(p, "entity_id"), tables, row)
        p = pl_key(p, "cpid")
        p = self._cpid(p, hot, cold) if hot.known & PL_KNOWN_NS and hot.start_boot_ns != 0 else pl_nil(p)
        p = self._identity(pl_key(p, "parent_entity_id"), tables, hot.parent)
        p = put_nonzero(pl_key(p, "creator_pid"), number_of(tables, hot.flags, cold.creator_tgid))
        return self._identity(pl_key(p, "creator_entity_id"), tables, hot.creator)

    cdef char *_lineage(self, TableWriter tables, open_part *part, char *p, uint32_t own) noexcept nogil:
        """Write three fields: lineage, lineage_truncated and lineage_complete."""
        cdef const pl_hot *hot = &tables.hot[own]
        cdef uint32_t row, depth = 0, count = 0
        cdef int verdict
        cdef uint64_t link = hot.ancestor
        # The number of ancestors precedes them, so count first. The rows were in cache when the applier linked them.
        while link != 0 and count < self.lineage_depth:
            row = tables.follow(link)
            if row == 0:
                break
            count += 1
            link = tables.hot[row].ancestor
        cdef bint truncated = link != 0
        p = pl_array(pl_key(p, "lineage"), count)
        link = hot.ancestor
        while depth < count:
            row = tables.follow(link)
            p = self._ancestor(tables, part, p, row)
            if p == NULL:
                return NULL
            link = tables.hot[row].ancestor
            depth += 1
        p = self._room(part, p, FIXED_BYTES)
        if p == NULL:
            return NULL
        p = pl_bool(pl_key(p, "lineage_truncated"), truncated)
        verdict = -1 if hot.flags & PL_ROW_KTHREAD else tables.lineage(own)
        p = pl_key(p, "lineage_complete")
        return pl_nil(p) if verdict < 0 else pl_bool(p, verdict)

    cdef char *_ancestor(self, TableWriter tables, open_part *part, char *p, uint32_t row) noexcept nogil:
        cdef const pl_hot *hot = &tables.hot[row]
        cdef uint32_t file_n = 0
        cdef const char *file = NULL
        if hot.file_ref:
            file = tables.names.bytes(hot.file_ref, &file_n)
        p = self._room(part, p, ANCESTOR_BYTES + file_n)
        if p == NULL:
            return NULL
        p = pl_map(p, 5)
        p = pl_uint(pl_key(p, "pid"), own_number(hot, &tables.cold[row]))
        p = put_time(pl_key(p, "start_time_ns"), hot.start_boot_ns, tables.control.boot_unix_ns)
        p = pl_key(p, "comm")
        if hot.known & PL_KNOWN_COMM:
            p = pl_field(p, hot.comm, COMM_BYTES)
        else:
            p = pl_nil(p)
        p = pl_key(p, "path")
        if (hot.known & PL_KNOWN_FILE) != 0 and file_n >= sizeof(pl_file):
            p = pl_text(p, file + sizeof(pl_file), file_n - <uint32_t>sizeof(pl_file))
        else:
            p = pl_nil(p)
        return self._entity(pl_key(p, "entity_id"), tables, row)

    cdef char *_entity(self, char *p, TableWriter tables, uint32_t row) noexcept nogil:
        cdef const pl_hot *hot = &tables.hot[row]
        cdef const pl_cold *cold = &tables.cold[row]
        cdef char *end
        if hot.start_boot_ns == 0:
            return pl_nil(p)
        # The text is at least 36 bytes long, so its header has two.
        end = pl_entity(
            p + 2, self.boot_hex, &cold.pid_ns if hot.flags & PL_ROW_FOREIGN else NULL, own_number(hot, cold),
            hot.start_boot_ns,
        )
        pl_str_header(p, <uint32_t>(end - p - 2))
        return end

    cdef void _note(self, TableWriter tables, uint32_t kind, uint32_t row) noexcept nogil:
        """Request what the caches lack about a row.

        Readers of the tables also need it. It is requested now, because the container or the file may be gone when a
        reader asks.
        """
        cdef const pl_hot *hot = &tables.hot[row]
        cdef const pl_cold *cold = &tables.cold[row]
        cdef span file
        if self.names is not None:
            self._names_of(tables, row)
        if self.containers is not None and cold.container_ref != 0:
            details_of(
                self.containers, span_of(tables.names, cold.container_ref, 0),
                span_of(tables.names, cold.cgroup_ref, sizeof(pl_cgroup)),
            )
        if kind == PL_KIND_EXEC and (self.packages is not None or self.hashes is not None):
            file = span_of(tables.names, hot.file_ref if hot.known & PL_KNOWN_FILE else 0, sizeof(pl_file))
            if self.packages is not None:
                known_of(self.packages, hot, cold, row, file)
            if self.hashes is not None:
                known_of(self.hashes, hot, cold, row, file)

    cdef bint wants(self) noexcept nogil:
        """Whether a cache lacks something that an event needed."""
        return (
            (self.names is not None and self.names.wants())
            or (self.containers is not None and self.containers.wants())
            or (self.packages is not None and self.packages.wants())
            or (self.hashes is not None and self.hashes.wants())
        )

    cdef const name_table *_names_of(self, TableWriter tables, uint32_t row) noexcept nogil:
        """Return the names that apply to a row; NULL: not known."""
        cdef const char *container = NULL
        cdef uint32_t n = 0
        if tables.cold[row].container_ref != 0:
            container = tables.names.bytes(tables.cold[row].container_ref, &n)
        return self.names.of(&tables.hot[row], &tables.cold[row], container, n)

    cdef char *_put_names(
        self, char *p, const name_table *names, const pl_hot *hot, const pl_cold *cold
    ) noexcept nogil:
        """Write six fields: user, group, euser, egroup, fsuser and fsgroup."""
        if names == NULL:
            p = pl_nil(pl_key(pl_nil(pl_key(pl_nil(pl_key(p, "user")), "group")), "euser"))
            return pl_nil(pl_key(pl_nil(pl_key(pl_nil(pl_key(p, "egroup")), "fsuser")), "fsgroup"))
        # Most processes have one user and one group: each name is found once and then copied.
        cdef char *user = pl_key(p, "user")
        cdef char *group
        p = self.names.put(user, names, PL_USER, hot.uid)
        cdef uint32_t user_n = <uint32_t>(p - user), group_n
        group = pl_key(p, "group")
        p = self.names.put(group, names, PL_GROUP, hot.gid)
        group_n = <uint32_t>(p - group)
        p = pl_key(p, "euser")
        p = put_again(p, user, user_n) if cold.euid == hot.uid else self.names.put(p, names, PL_USER, cold.euid)
        p = pl_key(p, "egroup")
        p = put_again(p, group, group_n) if cold.egid == hot.gid else self.names.put(p, names, PL_GROUP, cold.egid)
        p = pl_key(p, "fsuser")
        p = put_again(p, user, user_n) if cold.fsuid == hot.uid else self.names.put(p, names, PL_USER, cold.fsuid)
        p = pl_key(p, "fsgroup")
        return put_again(p, group, group_n) if cold.fsgid == hot.gid else self.names.put(p, names, PL_GROUP, cold.fsgid)

    cdef char *_cpid(self, char *p, const pl_hot *hot, const pl_cold *cold) noexcept nogil:
        cdef made_cpid *made = &self.cpids[(hot.tgid ^ hot.tgid >> 10) & (CPIDS - 1)]
        if (
            made.start_boot_ns != hot.start_boot_ns or made.tgid != hot.tgid or made.pid_ns != cold.pid_ns
            or made.ns_pid != cold.ns_pid
        ):
            made.start_boot_ns = hot.start_boot_ns
            made.tgid = hot.tgid
            made.pid_ns = cold.pid_ns
            made.ns_pid = cold.ns_pid
            pl_cpid(made.text, self.boot_raw, cold.pid_ns, hot.start_boot_ns // self.tick_ns, cold.ns_pid)
        return put_again(pl_str_header(p, sizeof(made.text)), made.text, sizeof(made.text))

    cdef char *_identity(self, char *p, TableWriter tables, uint64_t link) noexcept nogil:
        """Write the entity id of the process that `link` refers to."""
        cdef uint32_t row = tables.follow(link) if link else 0
        return self._entity(p, tables, row) if row else pl_nil(p)

    cdef open_part *_part(self, uint32_t topic, uint64_t seq) noexcept nogil:
        """Return the open message for event `seq` of the topic; NULL: there is no room for it."""
        cdef open_part *part = &self.parts[topic]
        if self.held_bytes + part.used >= self.limit_bytes:
            return NULL
        if part.count and seq != part.first + part.count:
            self._close_group()  # an event in between was dropped or had no subscriber
        if part.count == 0:
            part.used = 0
            part.first = seq
            part.filters = 0
        return part

    cdef bint _is_near(self, uint32_t topic, bint is_passed) noexcept nogil:
        """Whether an event passes a filter, or is to be encoded because it is near others that do."""
        cdef uint64_t seq = self.topic_seq[topic]
        if is_passed:
            if self.passed_seq[topic] != 0 and seq - self.passed_seq[topic] <= NEAR_EVENTS:
                self.keep_until_seq[topic] = seq + NEAR_EVENTS
            self.passed_seq[topic] = seq
        return is_passed or seq <= self.keep_until_seq[topic]

    cdef char *_room(self, open_part *part, char *end, uint64_t need) noexcept nogil:
        """Make room for `need` bytes after `end` (NULL: at the end of the part).

        Returns the new place of `end`, or NULL if memory ran out.
        """
        cdef uint64_t at = part.used if end == NULL else <uint64_t>(end - part.data)
        cdef uint64_t capacity
        cdef char *moved
        if part.data == NULL:
            pl_lock(&self.spare_lock)
            if self.spare_count != 0:
                self.spare_count -= 1
                part.data = self.spare[self.spare_count]
                part.capacity = self.spare_capacity[self.spare_count]
            pl_unlock(&self.spare_lock)
        if at + need > part.capacity:
            capacity = part.capacity * 2 if part.capacity else FIRST_BYTES
            while capacity < at + need:
                capacity *= 2
            moved = <char *>realloc(part.data, capacity)
            if moved == NULL:
                return NULL
            part.data = moved
            part.capacity = capacity
        return part.data + at

    cdef void _give_back(self, char *data, uint64_t capacity) noexcept nogil:
        """Keep a message's memory for another message. Another thread may release a body while this one encodes."""
        pl_lock(&self.spare_lock)
        if self.spare_count < SPARES and data != NULL and capacity <= SPARE_MAX_BYTES:
            self.spare[self.spare_count] = data
            self.spare_capacity[self.spare_count] = capacity
            self.spare_count += 1
            data = NULL
        pl_unlock(&self.spare_lock)
        free(data)

    cdef void _close_group(self) noexcept nogil:
        """Make messages of the parts, one for each topic; each message lists the topics that follow in the group."""
        cdef uint32_t i, rest = 0, room
        cdef closed_part *moved
        cdef open_part *part
        for i in range(<uint32_t>PL_TOPIC_COUNT):
            if self.parts[i].count:
                rest |= 1 << i
        if rest == 0:
            return
        if self.closed_count + PL_TOPIC_COUNT > self.closed_capacity:
            room = self.closed_capacity * 2 + PL_TOPIC_COUNT
            moved = <closed_part *>realloc(self.closed, room * sizeof(closed_part))
            if moved == NULL:
                for i in range(<uint32_t>PL_TOPIC_COUNT):
                    self.dropped += self.parts[i].count
                    self.parts[i].count = 0
                return
            self.closed = moved
            self.closed_capacity = room
        for i in range(<uint32_t>PL_TOPIC_COUNT):
            part = &self.parts[i]
            if part.count == 0:
                continue
            rest &= ~(1 << i)
            moved = &self.closed[self.closed_count]
            moved.data = part.data
            moved.used = part.used
            moved.capacity = part.capacity
            moved.first = part.first
            moved.topic = i
            moved.count = part.count
            moved.rest = rest
            moved.filters = part.filters
            self.closed_count += 1
            self.held_bytes += part.used
            part.data = NULL
            part.used = part.capacity = 0
            part.count = 0
