"""The text of entity ids, as pipeline.host.boot.entity_id makes it. The function returns the new end."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* The 8 digits of a number in lower-case hex; the first is in the lowest byte. */
    static inline uint64_t pl_hex_digits(uint32_t v)
    {
        uint64_t digits = v; /* spread to one digit a byte, and add '0', or 'a' - 10 for those above 9 */

        digits = (digits | digits << 16) & 0x0000ffff0000ffffull;
        digits = (digits | digits << 8) & 0x00ff00ff00ff00ffull;
        digits = (digits | digits << 4) & 0x0f0f0f0f0f0f0f0full;
        digits += 0x3030303030303030ull + ((digits + 0x0606060606060606ull) >> 4 & 0x0101010101010101ull) * 0x27;
        return __builtin_bswap64(digits);
    }

    /* Lower-case hex without leading zeros. Writes 8 bytes also if fewer are digits. */
    static inline char *pl_hex32(char *p, uint32_t v)
    {
        int n = v ? (35 - __builtin_clz(v)) / 4 : 1;
        uint64_t digits = pl_hex_digits(v) >> 8 * (8 - n);

        memcpy(p, &digits, 8);
        return p + n;
    }

    static inline char *pl_hex64(char *p, uint64_t v)
    {
        uint64_t digits = pl_hex_digits((uint32_t)v);

        if (v >> 32 == 0)
            return pl_hex32(p, (uint32_t)v);
        p = pl_hex32(p, (uint32_t)(v >> 32));
        memcpy(p, &digits, 8);
        return p + 8;
    }

    /* Boot id in hex (32 digits), "-", pid, "-", start. With `pid_ns`, "namespace.pid" for a process that is known by
     * its number in a pid namespace; NULL: none. */
    static inline char *pl_entity(char *p, const char *boot_hex, const uint32_t *pid_ns, uint32_t pid,
                                  uint64_t start_boot_ns)
    {
        memcpy(p, boot_hex, 32);
        p += 32;
        *p++ = '-';
        if (pid_ns) {
            p = pl_hex32(p, *pid_ns);
            *p++ = '.';
        }
        p = pl_hex32(p, pid);
        *p++ = '-';
        return pl_hex64(p, start_boot_ns);
    }
    """
    char *pl_entity(
        char *p, const char *boot_hex, const uint32_t *pid_ns, uint32_t pid, uint64_t start_boot_ns
    ) noexcept nogil
