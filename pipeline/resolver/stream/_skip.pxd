"""Skip one msgpack value, or find one in a map. This process packed the data; a malformed value is not skipped."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp


cdef inline uint64_t pl_big(const char *p, uint32_t n) noexcept nogil:
    """Read a number of `n` bytes, most significant byte first."""
    cdef uint64_t number = 0
    cdef uint32_t i
    for i in range(n):
        number = number << 8 | <uint8_t>p[i]
    return number


cdef inline const char *pl_skip(const char *p, const char *end) noexcept nogil:
    """Return the end of the value at `p`; NULL: not before `end`, or a type that `entry_extra` does not pack."""
    cdef uint64_t values = 1, n
    cdef uint8_t b
    while values:
        if p >= end:
            return NULL
        b = <uint8_t>p[0]
        p += 1
        values -= 1
        if b <= 0x7F or b >= 0xE0 or b == 0xC0 or b == 0xC2 or b == 0xC3:
            continue
        if b <= 0x8F:
            values += 2 * (b & 0x0F)
        elif b <= 0x9F:
            values += b & 0x0F
        elif b <= 0xBF:
            p += b & 0x1F
        elif 0xC4 <= b <= 0xC6 or 0xD9 <= b <= 0xDB:  # bin and str with a length of 1, 2 or 4 bytes
            n = 1 << (b - 0xC4 if b <= 0xC6 else b - 0xD9)
            if <uint64_t>(end - p) < n:
                return NULL
            p += n + pl_big(p, <uint32_t>n)
        elif b == 0xCA or b == 0xCB:
            p += 4 if b == 0xCA else 8
        elif 0xCC <= b <= 0xD3:  # integers of 1, 2, 4 or 8 bytes, unsigned and signed
            p += 1 << ((b - 0xCC) & 3)
        elif 0xDC <= b <= 0xDF:  # array and map with a length of 2 or 4 bytes
            n = 2 if b == 0xDC or b == 0xDE else 4
            if <uint64_t>(end - p) < n:
                return NULL
            values += pl_big(p, <uint32_t>n) * (1 if b <= 0xDD else 2)
            p += n
        else:
            return NULL
        if p > end or values > <uint64_t>(end - p) + 1:
            return NULL
    return p


cdef inline const char *pl_find(
    const char *p, const char *end, const char *name, uint32_t name_n, const char **value_end
) noexcept nogil:
    """Return the value of a key (shorter than 32 bytes) in the map at `p`, and its end; NULL: no such key."""
    cdef uint64_t left
    cdef const char *key
    if p >= end:
        return NULL
    if <uint8_t>p[0] >> 4 == 0x8:
        left = <uint8_t>p[0] & 0x0F
        p += 1
    elif <uint8_t>p[0] == 0xDE and end - p > 2:
        left = pl_big(p + 1, 2)
        p += 3
    else:
        return NULL
    while left:
        left -= 1
        key = p
        p = pl_skip(key, end)
        if p == NULL:
            return NULL
        value_end[0] = pl_skip(p, end)
        if value_end[0] == NULL:
            return NULL
        if <uint8_t>key[0] == (0xA0 | name_n) and memcmp(key + 1, name, name_n) == 0:
            return p
        p = value_end[0]
    return NULL
