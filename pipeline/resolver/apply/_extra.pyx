"""Parts of the msgpack map in `extra` (entry_extra.py) that forks and later images inherit."""

from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy

from pipeline.bus.frames._msgpack cimport PL_MP_MAP, PL_MP_STR, pl_map, pl_skip, pl_take, pl_value
from pipeline.shm.writer._arena cimport Arena


cdef enum:
    #: Bytes of scratch memory in front of a map that is put together: the longest header.
    MAP_HEADER = 3
    EXTRA_PARTS = 4

cdef struct extra_part:
    uint32_t key  # EXTRA_*
    const char *begin  # of the key ...
    const char *end  # ... and behind its value

cdef struct extra_map:
    uint32_t keys  # all of them; 0: it is no valid map
    const char *first  # the first key
    uint32_t found  # keys that are inherited
    extra_part[EXTRA_PARTS] parts

cdef const char **_NAMES = ["ssh", "tracer_metadata", "container", "cgroup"]
cdef uint32_t *_LENGTHS = [3, 15, 9, 6]
cdef uint32_t *_KEYS = [EXTRA_SSH, EXTRA_TRACER, EXTRA_CONTAINER, EXTRA_CGROUP]


cdef inline uint32_t key_of(const pl_value *name) noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t>EXTRA_PARTS):
        if name.number == _LENGTHS[i] and memcmp(name.at, _NAMES[i], _LENGTHS[i]) == 0:
            return _KEYS[i]
    return 0


cdef void read_extra(const char *extra, uint32_t n, extra_map *whole) noexcept nogil:
    """Find the keys of an `extra` that are inherited, with their values; they come first (entry_extra.py)."""
    cdef pl_value value
    cdef const char *end = extra + n
    cdef const char *at = pl_take(extra, end, &value)
    cdef const char *begin
    cdef uint32_t key
    whole.keys = whole.found = 0
    whole.first = at
    if at == NULL or value.kind != PL_MP_MAP:
        return
    whole.keys = <uint32_t>value.number
    while whole.found < min(whole.keys, <uint32_t>EXTRA_PARTS):
        begin = at
        at = pl_take(at, end, &value)
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


cdef const char *pick_extra(Arena args, uint32_t ref, uint32_t keys, bint has_rest, uint32_t *n) noexcept nogil:
    """Build the part of an `extra` with the EXTRA_* `keys` in the scratch memory of `args`.

    Args:
        has_rest: with the keys that are never inherited.
        n: set to its length; 0: nothing is left.

    Returns:
        The part, until the next string is interned; NULL: it is the whole map.
    """
    cdef uint32_t length = 0, i
    cdef const char *extra = args.bytes(ref, &length)
    cdef extra_map whole
    cdef uint32_t left
    cdef const char *rest
    cdef char *begin = args.scratch + MAP_HEADER
    cdef char *out = begin
    read_extra(extra, length, &whole)
    rest = whole.parts[whole.found - 1].end if whole.found else whole.first
    left = whole.keys
    n[0] = 0
    if whole.keys == 0:
        return NULL
    for i in range(whole.found):
        if whole.parts[i].key & keys:
            out = copied(out, whole.parts[i].begin, whole.parts[i].end)
        else:
            left -= 1
    if has_rest:
        out = copied(out, rest, extra + length)
    else:
        left -= whole.keys - whole.found
    if left == whole.keys:
        return NULL
    if left == 0:
        return begin
    begin -= 1 if left <= 15 else MAP_HEADER
    pl_map(begin, left)
    n[0] = <uint32_t>(out - begin)
    return begin
