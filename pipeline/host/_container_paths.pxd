"""Which cgroup paths can be trusted to name a container, for readers, commands and the stream.

The id of a container is a part of its cgroup's path. Only root names the cgroups of its runtimes, but a user names those
below its own service manager, a service those below its unit, and a container those below its own cgroup. All of these
could be named like a container of root's. So the id counts only if nothing above it in the path could have been given
to somebody else: every part above is a slice, or a plain directory as runtimes on cgroupfs make them.
"""

from libc.stdint cimport uint32_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    enum { PL_CONTAINER_ID_BYTES = 64 };

    static inline int pl_is_hex(char c)
    {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    }

    static inline int pl_begins(const char *part, uint32_t n, const char *with)
    {
        size_t length = strlen(with);

        return n >= length && memcmp(part, with, length) == 0;
    }

    /* Whether a part of a path holds this id as a runtime writes it: ID, PREFIX-ID or PREFIX:ID, perhaps with .scope. */
    static int pl_holds_id(const char *part, uint32_t n, const char *id)
    {
        uint32_t before;

        if (n > 6 && memcmp(part + n - 6, ".scope", 6) == 0)
            n -= 6;
        if (n < PL_CONTAINER_ID_BYTES)
            return 0;
        before = n - PL_CONTAINER_ID_BYTES;
        if (memcmp(part + before, id, PL_CONTAINER_ID_BYTES) != 0)
            return 0;
        return before == 0 || part[before - 1] == '-' || part[before - 1] == ':';
    }

    /* Whether only root's programs make cgroups below a part of a path that does not hold the id. */
    static int pl_is_roots(const char *part, uint32_t n)
    {
        uint32_t run = 0, i;

        if (n > 6 && memcmp(part + n - 6, ".slice", 6) == 0)
            return 1;
        for (i = 0; i < n; i++) {
            if (part[i] == '.')
                return 0; /* a service or a scope, or the cgroup of an LXC container */
            run = pl_is_hex(part[i]) ? run + 1 : 0;
            if (run == PL_CONTAINER_ID_BYTES)
                return 0; /* another container */
        }
        return !pl_begins(part, n, "lxc") && !pl_begins(part, n, "garden") && !pl_begins(part, n, "payload");
    }

    /* Whether a container of this id, of 64 hexadecimal digits, is what root's runtimes made at a cgroup path. */
    static int pl_is_roots_container(const char *path, uint32_t n, const char *id, uint32_t id_n)
    {
        uint32_t begin = 0, end;

        if (id_n != PL_CONTAINER_ID_BYTES)
            return 0;
        for (end = 0; end < id_n; end++)
            if (!pl_is_hex(id[end]))
                return 0;
        while (begin < n) {
            for (end = begin; end < n && path[end] != '/'; end++)
                ;
            if (end != begin) {
                /* An LXC container, or a machine, can have any name. */
                if (pl_begins(path + begin, end - begin, "lxc") || pl_begins(path + begin, end - begin, "machine-") ||
                    pl_begins(path + begin, end - begin, "systemd-nspawn@"))
                    if (!(end - begin > 6 && memcmp(path + end - 6, ".slice", 6) == 0))
                        return 0;
                if (pl_holds_id(path + begin, end - begin, id))
                    return 1;
                if (!pl_is_roots(path + begin, end - begin))
                    return 0;
            }
            begin = end + 1;
        }
        return 0;
    }
    """
    enum:
        PL_CONTAINER_ID_BYTES
    # `path` has n bytes, `id` has id_n. False also for ids of another form.
    bint pl_is_roots_container(const char *path, uint32_t n, const char *id, uint32_t id_n) noexcept nogil
