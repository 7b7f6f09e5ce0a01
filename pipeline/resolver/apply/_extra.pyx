"""Parts of the msgpack map in `extra` (entry_extra.py) that are inherited, and parts that come from records."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from pipeline.bus.frames._msgpack cimport (
    PL_MP_MAP, PL_MP_STR, pl_field, pl_int, pl_key, pl_map, pl_nil, pl_read_value, pl_skip, pl_uint, pl_value,
)
from pipeline.records._records cimport pl_sender_any
from pipeline.shm.writer._arena cimport PL_ARENA_MAX_LENGTH, Arena


cdef enum:
    #: Bytes of scratch memory in front of a map that is put together: the longest header.
    MAP_HEADER = 3
    EXTRA_PARTS = 6
    #: Room for `exit_signal_sender`.
    SENDER_BYTES = 256
    #: Room for `sampled_change`.
    CHANGE_BYTES = 96

cdef struct extra_part:
    uint32_t key  # EXTRA_*
    const char *begin  # of the key ...
    const char *end  # ... and behind its value

cdef struct extra_map:
    uint32_t keys  # all of them; 0: it is no valid map
    const char *first  # the first key
    uint32_t found  # keys of `_NAMES`
    extra_part[EXTRA_PARTS] parts

cdef const char **_NAMES = ["sampled_change", "ssh", "tracer_metadata", "container", "cgroup", "names"]
cdef uint32_t *_LENGTHS = [14, 3, 15, 9, 6, 5]
cdef uint32_t *_KEYS = [EXTRA_CHANGE, EXTRA_SSH, EXTRA_TRACER, EXTRA_CONTAINER, EXTRA_CGROUP, EXTRA_NAMES]


cdef inline uint32_t key_of(const pl_value *name) noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t>EXTRA_PARTS):
        if name.number == _LENGTHS[i] and memcmp(name.at, _NAMES[i], _LENGTHS[i]) == 0:
            return _KEYS[i]
    return 0


cdef void read_extra(const char *extra, uint32_t n, extra_map *whole) noexcept nogil:
    """Find the keys of `_NAMES` in an `extra`, with their values; they come first (entry_extra.py)."""
    cdef pl_value value
    cdef const char *end = extra + n
    cdef const char *at = pl_read_value(extra, end, &value)
    cdef const char *begin
    cdef uint32_t key
    whole.keys = whole.found = 0
    whole.first = at
    if at == NULL or value.kind != PL_MP_MAP:
        return
    whole.keys = <uint32_t>value.number
    while whole.found < min(whole.keys, <uint32_t>EXTRA_PARTS):
        begin = at
        at = pl_read_value(at, end, &value)
        key = key_of(&value) if at != NULL and value.kind == PL_MP_STR else 0
        at = pl_skip(at, end, 1, &value) if key else NULL
        if at == NULL:
            break
        whole.parts[whole.found].key, whole.parts[whole.found].begin, whole.parts[whole.found].end = key, begin, at
        whole.found += 1


cdef uint32_t find_extra(Arena args, uint32_t ref, uint32_t keys) noexcept nogil:
    """Which of the EXTRA_* `keys` an `extra` has."""
    cdef uint32_t n = 0, i, found = 0
    cdef const char *extra = args.bytes(ref, &n)
    cdef extra_map whole
    read_extra(extra, n, &whole)
    for i in range(whole.found):
        found |= whole.parts[i].key
    return found & keys


cdef inline char *copied(char *out, const char *begin, const char *end) noexcept nogil:
    memcpy(out, begin, end - begin)
    return out + (end - begin)


cdef inline char *copied_parts(char *out, const extra_map *whole, uint32_t keys, uint32_t *left) noexcept nogil:
    """Copy the parts with the EXTRA_* `keys`; subtract the number of the others from `left`."""
    cdef uint32_t i
    for i in range(whole.found):
        if whole.parts[i].key & keys:
            out = copied(out, whole.parts[i].begin, whole.parts[i].end)
        else:
            left[0] -= 1
    return out


cdef inline const char *rest_of(const extra_map *whole) noexcept nogil:
    """The keys behind those of `_NAMES`."""
    return whole.parts[whole.found - 1].end if whole.found else whole.first


cdef inline char *with_header(char *begin, uint32_t keys) noexcept nogil:
    """Write the header of a map in front of its keys; return where it begins."""
    begin -= 1 if keys <= 15 else MAP_HEADER
    pl_map(begin, keys)
    return begin


cdef uint32_t add_sender(Arena args, uint32_t ref, const pl_sender_any *sender, int64_t boot_unix_ns) noexcept nogil:
    """Return a reference to the map of `ref`, or a new one, with `exit_signal_sender` behind its other keys.

    Returns:
        0: there is no room.
    """
    cdef uint32_t n = 0
    cdef const char *extra = args.bytes(ref, &n)
    cdef extra_map whole
    cdef char *begin = args.scratch + MAP_HEADER
    cdef char *out = begin
    whole.keys = 0
    if ref:
        if n + SENDER_BYTES > PL_ARENA_MAX_LENGTH:
            return 0
        read_extra(extra, n, &whole)
        if whole.keys:
            out = copied(out, whole.first, extra + n)
    out = pl_map(pl_key(out, "exit_signal_sender"), 5)
    out = pl_key(out, "pid")
    out = pl_uint(out, sender.sender_tgid) if sender.sender_tgid else pl_nil(out)
    out = pl_int(pl_key(out, "start_time_ns"), <int64_t>sender.sender_start_boot_ns + boot_unix_ns)
    out = pl_uint(pl_key(out, "uid"), sender.sender_uid)
    out = pl_field(pl_key(out, "comm"), <const char *>sender.sender_comm, sizeof(sender.sender_comm))
    out = pl_uint(pl_key(out, "signal"), sender.sender_signal)
    begin = with_header(begin, whole.keys + 1)
    return args.intern(begin, <uint32_t>(out - begin))


cdef uint32_t add_change(
    Arena args, uint32_t ref, uint64_t after_boot_ns, uint64_t before_boot_ns, int64_t boot_unix_ns
) noexcept nogil:
    """Return a reference to the map of `ref`, or a new one, with these limits as its `sampled_change`.

    Args:
        after_boot_ns: 0: unknown.

    Returns:
        0: there is no room.
    """
    cdef uint32_t n = 0
    cdef const char *extra = args.bytes(ref, &n)
    cdef extra_map whole
    cdef uint32_t left
    cdef char *begin = args.scratch + MAP_HEADER
    cdef char *out = pl_map(pl_key(begin, "sampled_change"), 2)
    out = pl_key(out, "changed_after_ns")
    out = pl_int(out, <int64_t>after_boot_ns + boot_unix_ns) if after_boot_ns else pl_nil(out)
    out = pl_int(pl_key(out, "changed_before_ns"), <int64_t>before_boot_ns + boot_unix_ns)
    if n + CHANGE_BYTES > PL_ARENA_MAX_LENGTH:
        return 0
    read_extra(extra, n, &whole)
    left = whole.keys
    if whole.keys:
        out = copied_parts(out, &whole, ~<uint32_t>EXTRA_CHANGE, &left)
        out = copied(out, rest_of(&whole), extra + n)
    begin = with_header(begin, left + 1)
    return args.intern(begin, <uint32_t>(out - begin))


cdef const char *pick_extra(Arena args, uint32_t ref, uint32_t keys, bint has_rest, uint32_t *n) noexcept nogil:
    """Build the part of an `extra` with the EXTRA_* `keys` in the scratch memory of `args`.

    Args:
        has_rest: with the keys that are never inherited.
        n: set to its length; 0: nothing is left.

    Returns:
        The part, until the next string is interned; NULL: it is the whole map.
    """
    cdef uint32_t length = 0
    cdef const char *extra = args.bytes(ref, &length)
    cdef extra_map whole
    cdef uint32_t left
    cdef char *begin = args.scratch + MAP_HEADER
    cdef char *out = begin
    read_extra(extra, length, &whole)
    left = whole.keys
    n[0] = 0
    if whole.keys == 0:
        return NULL
    out = copied_parts(out, &whole, keys, &left)
    if has_rest:
        out = copied(out, rest_of(&whole), extra + length)
    else:
        left -= whole.keys - whole.found
    if left == whole.keys:
        return NULL
    if left == 0:
        return begin
    begin = with_header(begin, left)
    n[0] = <uint32_t>(out - begin)
    return begin
