"""Read and write msgpack in place, without Python objects and without the GIL. All compiled code uses this module.

The msgpack library makes objects of everything and copies each `bin` out of the message. bench/handwritten.py compares
the two.

Writing: each function returns the new end. The caller makes room first: a number needs at most 9 bytes, a key 1 + its
length (at most 31), a string 5 + its length.

Reading: `pl_read_value` reads one value, `pl_skip` skips complete values, `pl_find` finds one in a map. Every length is
checked against the remaining bytes before it is used.

Source: the MessagePack specification (formats by first byte).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #define PL_INLINE static inline __attribute__((always_inline))

    PL_INLINE char *pl_put_be16(char *p, uint32_t v)
    {
        uint16_t b = __builtin_bswap16((uint16_t)v);
        memcpy(p, &b, 2);
        return p + 2;
    }
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

    /* As memcpy. Most strings are names of a few bytes, for which the call would take longer than the copy. Two reads,
     * which overlap unless there is nothing between them, replace a loop over the bytes. */
    PL_INLINE void pl_copy(char *to, const char *from, size_t n)
    {
        if (n > 16) {
            memcpy(to, from, n);
        } else if (n >= 8) {
            uint64_t first, last;
            memcpy(&first, from, 8);
            memcpy(&last, from + n - 8, 8);
            memcpy(to, &first, 8);
            memcpy(to + n - 8, &last, 8);
        } else if (n >= 4) {
            uint32_t first, last;
            memcpy(&first, from, 4);
            memcpy(&last, from + n - 4, 4);
            memcpy(to, &first, 4);
            memcpy(to + n - 4, &last, 4);
        } else if (n > 0) {
            char first = from[0], middle = from[n / 2], last = from[n - 1];
            to[0] = first;
            to[n / 2] = middle;
            to[n - 1] = last;
        }
    }

    PL_INLINE int pl_is_ascii(const char *s, size_t n)
    {
        uint64_t bits = 0, eight;
        uint32_t first, last;

        if (n >= 8) {
            memcpy(&bits, s + n - 8, 8);
            for (size_t at = 0; at + 8 < n; at += 8) {
                memcpy(&eight, s + at, 8);
                bits |= eight;
            }
        } else if (n >= 4) {
            memcpy(&first, s, 4);
            memcpy(&last, s + n - 4, 4);
            bits = first | last;
        } else if (n > 0) {
            bits = (unsigned char)(s[0] | s[n / 2] | s[n - 1]);
        }
        return !(bits & 0x8080808080808080ull);
    }

    /* Whether bytes are UTF-8, as in RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
    static __attribute__((noinline)) int pl_is_well_formed(const char *s, size_t n)
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

    static inline int pl_is_utf8(const char *s, size_t n) { return pl_is_ascii(s, n) || pl_is_well_formed(s, n); }

    /* The header of a str of `n` bytes, which must be UTF-8. */
    static inline char *pl_str_header(char *p, uint32_t n)
    {
        if (n < 32) { *p = (char)(0xa0 | n); return p + 1; }
        if (n <= 0xff) { p[0] = (char)0xd9; p[1] = (char)n; return p + 2; }
        if (n <= 0xffff) { *p = (char)0xda; return pl_put_be16(p + 1, n); }
        *p = (char)0xdb;
        return pl_put_be32(p + 1, n);
    }

    /* The header of a bin of `n` bytes. */
    static inline char *pl_bin_header(char *p, uint32_t n)
    {
        if (n <= 0xff) { p[0] = (char)0xc4; p[1] = (char)n; return p + 2; }
        if (n <= 0xffff) { *p = (char)0xc5; return pl_put_be16(p + 1, n); }
        *p = (char)0xc6;
        return pl_put_be32(p + 1, n);
    }

    static inline char *pl_bin(char *p, const void *data, uint32_t n)
    {
        p = pl_bin_header(p, n);
        memcpy(p, data, n);
        return p + n;
    }

    /* A str, or a bin if the bytes are not UTF-8. */
    static inline char *pl_text(char *p, const char *s, uint32_t n)
    {
        p = pl_is_utf8(s, n) ? pl_str_header(p, n) : pl_bin_header(p, n);
        pl_copy(p, s, n);
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
        pl_copy(p + 1, s, n);
        return p + 1 + n;
    }

    /* ---- reading ---- */

    typedef struct pl_value {
        uint32_t kind;
        uint64_t number; /* see the declarations below */
        const char *at;
    } pl_value;

    enum {
        PL_MP_CUT, PL_MP_INVALID, PL_MP_NIL, PL_MP_BOOL, PL_MP_UINT, PL_MP_INT, PL_MP_FLOAT, PL_MP_DOUBLE, PL_MP_STR,
        PL_MP_BIN, PL_MP_EXT, PL_MP_ARRAY, PL_MP_MAP,
    };

    /* Kind of the values with a first byte from 0xc0 on, and the bytes of the number that follows. */
    static const unsigned char pl_mp_kinds[32] = {
        PL_MP_NIL, PL_MP_INVALID, PL_MP_BOOL, PL_MP_BOOL, PL_MP_BIN, PL_MP_BIN, PL_MP_BIN, PL_MP_EXT, PL_MP_EXT,
        PL_MP_EXT, PL_MP_FLOAT, PL_MP_DOUBLE, PL_MP_UINT, PL_MP_UINT, PL_MP_UINT, PL_MP_UINT, PL_MP_INT, PL_MP_INT,
        PL_MP_INT, PL_MP_INT, PL_MP_EXT, PL_MP_EXT, PL_MP_EXT, PL_MP_EXT, PL_MP_EXT, PL_MP_STR, PL_MP_STR, PL_MP_STR,
        PL_MP_ARRAY, PL_MP_ARRAY, PL_MP_MAP, PL_MP_MAP,
    };
    static const unsigned char pl_mp_widths[32] = {
        0, 0, 0, 0, 1, 2, 4, 1, 2, 4, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 0, 0, 0, 0, 0, 1, 2, 4, 2, 4, 2, 4,
    };

    static inline const char *pl_read_value(const char *p, const char *end, pl_value *found)
    {
        unsigned b, width = 0;
        uint16_t two;
        uint32_t four;
        uint64_t eight;

        found->kind = PL_MP_CUT;
        if (p >= end)
            return NULL;
        b = (unsigned char)*p++;
        if (b <= 0x7f || b >= 0xe0) {
            found->kind = b <= 0x7f ? PL_MP_UINT : PL_MP_INT;
            found->number = (uint64_t)(int64_t)(signed char)b;
            return p;
        }
        if (b <= 0x9f) {
            found->kind = b <= 0x8f ? PL_MP_MAP : PL_MP_ARRAY;
            found->number = b & 0x0f;
            return p;
        }
        if (b <= 0xbf) {
            found->number = b & 0x1f;
            b = 0xd9;
        } else {
            width = pl_mp_widths[b - 0xc0];
            if ((size_t)(end - p) < width)
                return NULL;
            if (width == 0)
                found->number = b >= 0xd4 ? 1u << (b - 0xd4) : b == 0xc3;
            else if (width == 1)
                found->number = (unsigned char)*p;
            else if (width == 2)
                memcpy(&two, p, 2), found->number = __builtin_bswap16(two);
            else if (width == 4)
                memcpy(&four, p, 4), found->number = __builtin_bswap32(four);
            else
                memcpy(&eight, p, 8), found->number = __builtin_bswap64(eight);
            p += width;
        }
        switch (pl_mp_kinds[b - 0xc0]) {
        case PL_MP_INVALID:
            found->kind = PL_MP_INVALID;
            return NULL;
        case PL_MP_INT:
            width = 64 - 8 * width;
            found->number = (uint64_t)((int64_t)(found->number << width) >> width);
            break;
        case PL_MP_EXT: /* its type is before the data */
            if (p == end)
                return NULL;
            p++;
            /* fall through */
        case PL_MP_STR:
        case PL_MP_BIN:
            if ((uint64_t)(end - p) < found->number)
                return NULL;
            found->at = p;
            p += found->number;
            break;
        }
        found->kind = pl_mp_kinds[b - 0xc0];
        return p;
    }

    /* An item needs at least one byte, so a count larger than the rest fails at once, without a long loop. */
    static const char *pl_skip(const char *p, const char *end, uint64_t values, pl_value *last)
    {
        while (values--) {
            p = pl_read_value(p, end, last);
            if (!p)
                return NULL;
            if (last->kind == PL_MP_ARRAY)
                values += last->number;
            else if (last->kind == PL_MP_MAP)
                values += 2 * last->number;
            if (values > (uint64_t)(end - p)) {
                last->kind = PL_MP_CUT;
                return NULL;
            }
        }
        return p;
    }

    static const char *pl_find(const char *p, const char *end, const char *name, const char **value_end)
    {
        uint64_t left, n = strlen(name);
        pl_value found, skipped;

        p = pl_read_value(p, end, &found);
        if (!p || found.kind != PL_MP_MAP)
            return NULL;
        for (left = found.number; left; left--) {
            p = pl_read_value(p, end, &found);
            if (!p || found.kind != PL_MP_STR)
                return NULL;
            *value_end = pl_skip(p, end, 1, &skipped);
            if (!*value_end)
                return NULL;
            if (found.number == n && !memcmp(found.at, name, n))
                return p;
            p = *value_end;
        }
        return NULL;
    }
    """
    char *pl_key(char *p, const char *text) noexcept nogil
    char *pl_nil(char *p) noexcept nogil
    char *pl_bool(char *p, bint v) noexcept nogil
    char *pl_uint(char *p, uint64_t v) noexcept nogil
    char *pl_int(char *p, int64_t v) noexcept nogil
    char *pl_map(char *p, uint32_t pairs) noexcept nogil
    char *pl_array(char *p, uint32_t items) noexcept nogil
    char *pl_str_header(char *p, uint32_t n) noexcept nogil
    char *pl_bin_header(char *p, uint32_t n) noexcept nogil
    char *pl_bin(char *p, const void *data, uint32_t n) noexcept nogil
    char *pl_text(char *p, const char *s, uint32_t n) noexcept nogil
    char *pl_field(char *p, const char *s, uint32_t n) noexcept nogil
    char *pl_name(char *p, const char *s) noexcept nogil

    enum:
        PL_MP_CUT  # the bytes end before the value does
        PL_MP_INVALID  # no type has this first byte
        PL_MP_NIL
        PL_MP_BOOL
        PL_MP_UINT
        PL_MP_INT
        PL_MP_FLOAT
        PL_MP_DOUBLE
        PL_MP_STR
        PL_MP_BIN
        PL_MP_EXT
        PL_MP_ARRAY
        PL_MP_MAP

    ctypedef struct pl_value:
        uint32_t kind
        # The value of a bool or an integer (of PL_MP_INT as int64_t), the bits of a float, the bytes of a str, a bin
        # or an ext, the items of an array, the pairs of a map.
        uint64_t number
        const char *at  # the data of a str, a bin or an ext

    # Read the value at `p`, but not the items of an array or a map. Returns its end; NULL: `kind` says why.
    const char *pl_read_value(const char *p, const char *end, pl_value *found) noexcept nogil
    # Skip complete values, with all that is nested in them. NULL: the kind of `last` says why.
    const char *pl_skip(const char *p, const char *end, uint64_t values, pl_value *last) noexcept nogil
    # The value of a key in the map at `p`, and its end; NULL: there is no such key, or no valid map.
    const char *pl_find(const char *p, const char *end, const char *name, const char **value_end) noexcept nogil
