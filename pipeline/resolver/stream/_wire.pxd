"""Write msgpack directly to memory, and the two text forms that events need. Each function returns the new end.

The caller makes room first: a number needs at most 9 bytes, a key 1 + its length (at most 31), a string 5 + its length.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #define PL_INLINE static inline __attribute__((always_inline))

    PL_INLINE char *pl_put_be16(char *p, uint32_t v) { uint16_t b = __builtin_bswap16((uint16_t)v); memcpy(p, &b, 2); return p + 2; }
    PL_INLINE char *pl_put_be32(char *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); return p + 4; }
    PL_INLINE char *pl_put_be64(char *p, uint64_t v) { v = __builtin_bswap64(v); memcpy(p, &v, 8); return p + 8; }
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "the layouts are little-endian"
    #endif

    /* `text` is a literal, so its length and the copy are known at compile time. */
    PL_INLINE char *pl_key(char *p, const char *text)
    {
        size_t n = __builtin_strlen(text);
        *p = (char)(0xa0 | n);
        memcpy(p + 1, text, n);
        return p + 1 + n;
    }

    PL_INLINE char *pl_nil(char *p) { *p = (char)0xc0; return p + 1; }
    PL_INLINE char *pl_bool(char *p, int v) { *p = v ? (char)0xc3 : (char)0xc2; return p + 1; }

    static inline char *pl_uint(char *p, uint64_t v)
    {
        if (v < 128) { *p = (char)v; return p + 1; }
        if (v <= 0xff) { p[0] = (char)0xcc; p[1] = (char)v; return p + 2; }
        if (v <= 0xffff) { *p = (char)0xcd; return pl_put_be16(p + 1, (uint32_t)v); }
        if (v <= 0xffffffff) { *p = (char)0xce; return pl_put_be32(p + 1, (uint32_t)v); }
        *p = (char)0xcf;
        return pl_put_be64(p + 1, v);
    }

    static inline char *pl_int(char *p, int64_t v)
    {
        if (v >= 0)
            return pl_uint(p, (uint64_t)v);
        if (v >= -32) { *p = (char)v; return p + 1; }
        *p = (char)0xd3;
        return pl_put_be64(p + 1, (uint64_t)v);
    }

    PL_INLINE char *pl_map(char *p, uint32_t pairs)
    {
        if (pairs < 16) { *p = (char)(0x80 | pairs); return p + 1; }
        *p = (char)0xde;
        return pl_put_be16(p + 1, pairs);
    }

    static inline char *pl_array(char *p, uint32_t items)
    {
        if (items < 16) { *p = (char)(0x90 | items); return p + 1; }
        if (items <= 0xffff) { *p = (char)0xdc; return pl_put_be16(p + 1, items); }
        *p = (char)0xdd;
        return pl_put_be32(p + 1, items);
    }

    /* Well-formed UTF-8 as in RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
    static int pl_is_utf8(const char *s, size_t n)
    {
        const unsigned char *p = (const unsigned char *)s, *end = p + n;

        while (p < end) {
            uint64_t eight;
            unsigned char c;

            while (end - p >= 8 && (memcpy(&eight, p, 8), !(eight & 0x8080808080808080ull)))
                p += 8;
            if (p == end)
                break;
            c = *p;
            if (c < 0x80) {
                p++;
            } else if (c >= 0xc2 && c <= 0xdf) {
                if (end - p < 2 || (p[1] & 0xc0) != 0x80)
                    return 0;
                p += 2;
            } else if ((c & 0xf0) == 0xe0) {
                if (end - p < 3 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80 || (c == 0xe0 && p[1] < 0xa0) ||
                    (c == 0xed && p[1] > 0x9f))
                    return 0;
                p += 3;
            } else if (c >= 0xf0 && c <= 0xf4) {
                if (end - p < 4 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80 || (p[3] & 0xc0) != 0x80 ||
                    (c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] > 0x8f))
                    return 0;
                p += 4;
            } else {
                return 0;
            }
        }
        return 1;
    }

    /* A str, or a bin if the bytes are not UTF-8. */
    static inline char *pl_text(char *p, const char *s, uint32_t n)
    {
        if (pl_is_utf8(s, n)) {
            if (n < 32) *p++ = (char)(0xa0 | n);
            else if (n <= 0xff) { *p++ = (char)0xd9; *p++ = (char)n; }
            else if (n <= 0xffff) { *p = (char)0xda; p = pl_put_be16(p + 1, n); }
            else { *p = (char)0xdb; p = pl_put_be32(p + 1, n); }
        } else {
            if (n <= 0xff) { *p++ = (char)0xc4; *p++ = (char)n; }
            else if (n <= 0xffff) { *p = (char)0xc5; p = pl_put_be16(p + 1, n); }
            else { *p = (char)0xc6; p = pl_put_be32(p + 1, n); }
        }
        memcpy(p, s, n);
        return p + n;
    }

    /* A field of `n` bytes that ends at its first NUL, or is full. */
    static inline char *pl_field(char *p, const char *s, uint32_t n)
    {
        return pl_text(p, s, (uint32_t)strnlen(s, n));
    }

    /* One of Procline's own names: shorter than 32 bytes, and ASCII. */
    static inline char *pl_name(char *p, const char *s)
    {
        size_t n = strlen(s);
        *p = (char)(0xa0 | n);
        memcpy(p + 1, s, n);
        return p + 1 + n;
    }

    /* Lower-case hex without leading zeros. */
    static inline char *pl_hex(char *p, uint64_t v)
    {
        int shift = v ? (63 - __builtin_clzll(v)) & ~3 : 0;

        for (; shift >= 0; shift -= 4)
            *p++ = "0123456789abcdef"[v >> shift & 15];
        return p;
    }

    /* A spin lock; it is held for a few instructions at most. */
    static inline void pl_lock(unsigned char *lock) { while (__atomic_test_and_set(lock, __ATOMIC_ACQUIRE)); }
    static inline void pl_unlock(unsigned char *lock) { __atomic_clear(lock, __ATOMIC_RELEASE); }

    /* Boot id in hex (32 digits), "-", tgid, "-", start. Always a str8, because it is at least 36 bytes long. */
    static inline char *pl_entity(char *p, const char *boot_hex, uint32_t tgid, uint64_t start_boot_ns)
    {
        char *length = p + 1, *text = p + 2;

        *p = (char)0xd9;
        memcpy(text, boot_hex, 32);
        p = text + 32;
        *p++ = '-';
        p = pl_hex(p, tgid);
        *p++ = '-';
        p = pl_hex(p, start_boot_ns);
        *length = (char)(p - text);
        return p;
    }

    /* The same with "namespace.pid" for the tgid, for a process that is known by its number in a pid namespace. */
    static inline char *pl_entity_in(char *p, const char *boot_hex, uint32_t pid_ns, uint32_t ns_pid,
                                     uint64_t start_boot_ns)
    {
        char *length = p + 1, *text = p + 2;

        *p = (char)0xd9;
        memcpy(text, boot_hex, 32);
        p = text + 32;
        *p++ = '-';
        p = pl_hex(p, pid_ns);
        *p++ = '.';
        p = pl_hex(p, ns_pid);
        *p++ = '-';
        p = pl_hex(p, start_boot_ns);
        *length = (char)(p - text);
        return p;
    }
    """
    void pl_lock(unsigned char *lock) noexcept nogil
    void pl_unlock(unsigned char *lock) noexcept nogil
    char *pl_key(char *p, const char *text) noexcept nogil
    char *pl_nil(char *p) noexcept nogil
    char *pl_bool(char *p, bint v) noexcept nogil
    char *pl_uint(char *p, uint64_t v) noexcept nogil
    char *pl_int(char *p, int64_t v) noexcept nogil
    char *pl_map(char *p, uint32_t pairs) noexcept nogil
    char *pl_array(char *p, uint32_t items) noexcept nogil
    char *pl_text(char *p, const char *s, uint32_t n) noexcept nogil
    char *pl_field(char *p, const char *s, uint32_t n) noexcept nogil
    char *pl_name(char *p, const char *s) noexcept nogil
    char *pl_entity(char *p, const char *boot_hex, uint32_t tgid, uint64_t start_boot_ns) noexcept nogil
    char *pl_entity_in(
        char *p, const char *boot_hex, uint32_t pid_ns, uint32_t ns_pid, uint64_t start_boot_ns
    ) noexcept nogil
