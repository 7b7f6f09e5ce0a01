"""Parts of the msgpack map in `extra` (entry_extra.py) that forks and later images inherit."""

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcmp, memcpy

from pipeline.resolver.stream._skip cimport pl_skip
from pipeline.shm.writer._arena cimport Arena


cdef enum:
    #: Bytes of scratch memory in front of a map that is put together: the longest header.
    MAP_HEADER = 3
    EXTRA_PARTS = 4

cdef struct extra_part:
    uint32_t key  # EXTRA_*
    const char *begin  # of the key ...
    const char *end  # ... and behind its value


cdef inline uint32_t map_header(const char *extra) noexcept nogil:
    return 3 if <uint8_t>extra[0] == 0xDE else 1


cdef inline uint32_t map_values(const char *extra) noexcept nogil:
    if <uint8_t>extra[0] == 0xDE:
        return <uint32_t><uint8_t>extra[1] << 8 | <uint8_t>extra[2]
    return <uint8_t>extra[0] & 0x0F


cdef uint32_t extra_parts(const char *extra, uint32_t n, extra_part *parts) noexcept nogil:
    """Find the keys of an `extra` that are inherited, with their values; they come first (entry_extra.py)."""
    cdef const char *end = extra + n
    cdef const char *at
    cdef uint32_t count = 0, key, length
    if n < 6:
        return 0
    at = extra + map_header(extra)
    while count < EXTRA_PARTS:
        if end - at > 4 and memcmp(at, b"\xa3ssh", 4) == 0:
            key, length = EXTRA_SSH, 4
        elif end - at > 16 and memcmp(at, b"\xaftracer_metadata", 16) == 0:
            key, length = EXTRA_TRACER, 16
        elif end - at > 10 and memcmp(at, b"\xa9container", 10) == 0:
            key, length = EXTRA_CONTAINER, 10
        elif end - at > 7 and memcmp(at, b"\xa6cgroup", 7) == 0:
            key, length = EXTRA_CGROUP, 7
        else:
            break
        parts[count].key = key
        parts[count].begin = at
        at = pl_skip(at + length, end)
        if at == NULL:
            break
        parts[count].end = at
        count += 1
    return count


cdef uint32_t find_extra(Arena args, uint32_t ref, uint32_t keys) noexcept nogil:
    """Which of the EXTRA_* `keys` an `extra` has."""
    cdef extra_part parts[EXTRA_PARTS]
    cdef uint32_t n = 0, i, found = 0
    cdef const char *extra = args.bytes(ref, &n)
    cdef uint32_t count = extra_parts(extra, n, parts)
    for i in range(count):
        found |= parts[i].key
    return found & keys


cdef const char *pick_extra(Arena args, uint32_t ref, uint32_t keys, bint has_rest, uint32_t *n) noexcept nogil:
    """Build the part of an `extra` with the EXTRA_* `keys` in the scratch memory of `args`.

    Args:
        has_rest: with the keys that are never inherited.
        n: set to its length; 0: nothing is left.

    Returns:
        The part, until the next string is interned; NULL: it is the whole map.
    """
    cdef extra_part parts[EXTRA_PARTS]
    cdef uint32_t length = 0, i
    cdef const char *extra = args.bytes(ref, &length)
    cdef uint32_t count = extra_parts(extra, length, parts), total = map_values(extra), left = total
    cdef const char *rest = parts[count - 1].end if count else extra + map_header(extra)
    cdef char *begin = args.scratch + MAP_HEADER
    cdef char *out = begin
    for i in range(count):
        if parts[i].key & keys:
            memcpy(out, parts[i].begin, parts[i].end - parts[i].begin)
            out += parts[i].end - parts[i].begin
        else:
            left -= 1
    if has_rest:
        memcpy(out, rest, extra + length - rest)
        out += extra + length - rest
    else:
        left -= total - count
    n[0] = 0
    if left == total:
        return NULL
    if left == 0:
        return begin
    if left <= 15:
        begin -= 1
        begin[0] = <char>(0x80 | left)
    else:
        begin -= 3
        begin[0] = <char>0xDE
        begin[1] = <char>(left >> 8)
        begin[2] = <char>(left & 0xFF)
    n[0] = <uint32_t>(out - begin)
    return begin
