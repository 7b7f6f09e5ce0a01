"""The text of entity ids, as pipeline.host.boot.entity_id makes it. The function returns the new end."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* Lower-case hex without leading zeros. */
    static inline char *pl_hex(char *p, uint64_t v)
    {
        int shift = v ? (63 - __builtin_clzll(v)) & ~3 : 0;

        for (; shift >= 0; shift -= 4)
            *p++ = "0123456789abcdef"[v >> shift & 15];
        return p;
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
            p = pl_hex(p, *pid_ns);
            *p++ = '.';
        }
        p = pl_hex(p, pid);
        *p++ = '-';
        return pl_hex(p, start_boot_ns);
    }
    """
    char *pl_entity(
        char *p, const char *boot_hex, const uint32_t *pid_ns, uint32_t pid, uint64_t start_boot_ns
    ) noexcept nogil
