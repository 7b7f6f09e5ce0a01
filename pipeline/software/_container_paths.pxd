"""Who could have named a container, by the path of its cgroup: for readers, commands and the stream.

The id of a container is a part of its cgroup's path. Only root names the cgroups of its runtimes. But a user names the
cgroups below its own service manager, a service those below its unit, and a container those below its own cgroup. All
of these could be named like a container of root's. So the id counts only if no part above it in the path could belong
to somebody else: every such part is a slice, or a plain directory as runtimes on cgroupfs make them.
"""

from libc.stdint cimport uint32_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    enum { PL_CONTAINER_ID_BYTES = 64 };
    enum { PL_TRUST_UNKNOWN, PL_TRUST_ROOT, PL_TRUST_USER };

    static inline int pl_is_hex(char c)
    {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    }

    static inline int pl_begins(const char *part, uint32_t n, const char *with)
    {
        size_t length = strlen(with);

        return n >= length && memcmp(part, with, length) == 0;
    }

    static inline int pl_ends(const char *part, uint32_t n, const char *with)
    {
        size_t length = strlen(with);

        return n >= length && memcmp(part + n - length, with, length) == 0;
    }

    static inline int pl_is(const char *part, uint32_t n, const char *text)
    {
        return n == strlen(text) && memcmp(part, text, n) == 0;
    }

    static int pl_is_hex_id(const char *id, uint32_t n)
    {
        uint32_t i;

        for (i = 0; i < n && pl_is_hex(id[i]); i++)
            ;
        return n == PL_CONTAINER_ID_BYTES && i == n;
    }

    /* An LXC container, or a machine, can have any name. */
    static int pl_has_any_name(const char *part, uint32_t n)
    {
        return pl_begins(part, n, "lxc") || pl_begins(part, n, "machine-") || pl_begins(part, n, "systemd-nspawn@");
    }

    /* Whether a part of a path holds this id as a runtime writes it: ID, PREFIX-ID, PREFIX_ID or PREFIX:ID, perhaps
       with .scope. */
    static int pl_holds_id(const char *part, uint32_t n, const char *id)
    {
        uint32_t before;

        if (pl_has_any_name(part, n))
            return 0;
        if (pl_ends(part, n, ".scope"))
            n -= 6;
        if (n < PL_CONTAINER_ID_BYTES)
            return 0;
        before = n - PL_CONTAINER_ID_BYTES;
        if (memcmp(part + before, id, PL_CONTAINER_ID_BYTES) != 0)
            return 0;
        return before == 0 || part[before - 1] == '-' || part[before - 1] == '_' || part[before - 1] == ':';
    }

    static inline int pl_digit(char c)
    {
        return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
    }

    /* Whether the name of a unit, without systemd's escapes (as in a\\x2db), is this text. */
    static int pl_unescapes_to(const char *name, uint32_t n, const char *text, uint32_t text_n)
    {
        uint32_t i = 0, at = 0;
        char c;

        for (; i < n && at < text_n; at++) {
            c = name[i++];
            if (c == '\\\\' && n - i >= 3 && name[i] == 'x' && pl_is_hex(name[i + 1]) && pl_is_hex(name[i + 2])) {
                c = (char)(pl_digit(name[i + 1]) << 4 | pl_digit(name[i + 2]));
                i += 3;
            }
            if (c != text[at])
                return 0;
        }
        return i == n && at == text_n;
    }

    /* Whether the containers below a directory are called as their cgroups. */
    static int pl_has_names(const char *part, uint32_t n)
    {
        return pl_is(part, n, "lxc") || pl_is(part, n, "lxc.payload") || pl_is(part, n, "garden") ||
               pl_is(part, n, "docker");
    }

    /* Whether a part of a path names the container of an id that is not of the usual form. */
    static int pl_names(const char *part, uint32_t n, const char *id, uint32_t id_n, int is_below_names)
    {
        if (is_below_names && n == id_n && memcmp(part, id, n) == 0)
            return 1;
        if (pl_begins(part, n, "lxc.payload."))
            return n - 12 == id_n && memcmp(part + 12, id, id_n) == 0;
        if (pl_begins(part, n, "systemd-nspawn@") && pl_ends(part, n, ".service") && n >= 23)
            return pl_unescapes_to(part + 15, n - 23, id, id_n);
        return pl_begins(part, n, "machine-") && pl_ends(part, n, ".scope") && n >= 14 &&
               pl_unescapes_to(part + 8, n - 14, id, id_n);
    }

    /* Whether only root's programs make cgroups below a part of a path that does not name the container. With
       `is_group`, 64 digits are no container, but what a runtime groups containers by. */
    static int pl_is_roots(const char *part, uint32_t n, int is_group)
    {
        uint32_t run = 0, i;

        if (pl_ends(part, n, ".slice") || pl_is(part, n, "k8s.io") || (is_group && pl_is_hex_id(part, n)))
            return 1;
        for (i = 0; i < n; i++) {
            if (part[i] == '.')
                return 0; /* a service or a scope, or the cgroup of an LXC container */
            run = pl_is_hex(part[i]) ? run + 1 : 0;
            if (run == PL_CONTAINER_ID_BYTES)
                return 0; /* another container */
        }
        /* pam_cgfs makes a cgroup `user` with one for each user. */
        return !pl_has_any_name(part, n) && !pl_begins(part, n, "garden") && !pl_begins(part, n, "payload") &&
               !pl_is(part, n, "user");
    }

    static int pl_is_users_manager(const char *part, uint32_t n)
    {
        uint32_t i;

        if (!pl_begins(part, n, "user@") || !pl_ends(part, n, ".service") || n <= 13)
            return 0;
        for (i = 5; i < n - 8; i++)
            if (part[i] < '0' || part[i] > '9')
                return 0;
        return 1;
    }

    static int pl_contains(const char *path, uint32_t n, const char *id)
    {
        uint32_t i;

        for (i = 0; i + PL_CONTAINER_ID_BYTES <= n; i++)
            if (memcmp(path + i, id, PL_CONTAINER_ID_BYTES) == 0)
                return 1;
        return 0;
    }

    /* Who could have named the container of this id, by the path of version 2 of a process in it. A path that does not
       name the container says only whether the process belongs to a user: the container is known by version 1. */
    static int pl_container_trust(const char *path, uint32_t n, const char *id, uint32_t id_n)
    {
        int is_hex = pl_is_hex_id(id, id_n), is_delegated = 0, is_below_names = 0, is_below_ecs = 0, is_named = 0;
        int is_users = 0, is_group = 0, has_names;
        uint32_t begin = 0, end;
        const char *part;

        if (id_n == 0)
            return PL_TRUST_UNKNOWN;
        if (pl_ends(path, n, " (deleted)"))
            n -= 10;
        for (; begin < n; begin = end + 1) {
            for (end = begin; end < n && path[end] != '/'; end++)
                ;
            if (end == begin)
                continue;
            part = path + begin;
            if (is_hex ? pl_holds_id(part, end - begin, id)
                       : pl_names(part, end - begin, id, id_n, is_below_names || is_below_ecs)) {
                /* A machine is registered by its user, perhaps. */
                if (!is_delegated && !pl_begins(part, end - begin, "machine-"))
                    return PL_TRUST_ROOT;
                is_named = 1;
            }
            has_names = !is_hex && pl_has_names(part, end - begin);
            is_delegated |= is_below_names && !has_names;
            is_delegated |= !has_names && !pl_is_roots(part, end - begin, is_group);
            is_below_names = has_names;
            is_below_ecs |= pl_is(part, end - begin, "ecs");
            is_group = pl_is(part, end - begin, "ecs") || pl_is(part, end - begin, "libpod_parent");
            is_users |= pl_is_users_manager(part, end - begin);
        }
        if (is_named || (is_hex && pl_contains(path, n, id)))
            return PL_TRUST_USER;
        return is_users ? PL_TRUST_USER : PL_TRUST_UNKNOWN;
    }

    /* A value of PL_TRUST_* in a word; NULL: unknown. */
    static const char *pl_trust_word(int trust)
    {
        return trust == PL_TRUST_ROOT ? "root" : trust == PL_TRUST_USER ? "user" : NULL;
    }

    /* Whether a container of this id, of 64 hexadecimal digits, is what root's runtimes made at a cgroup path. */
    static int pl_is_roots_container(const char *path, uint32_t n, const char *id, uint32_t id_n)
    {
        return pl_is_hex_id(id, id_n) && pl_container_trust(path, n, id, id_n) == PL_TRUST_ROOT;
    }
    """
    enum:
        PL_CONTAINER_ID_BYTES
    # `path` has n bytes, `id` has id_n: PL_TRUST_*.
    int pl_container_trust(const char *path, uint32_t n, const char *id, uint32_t id_n) noexcept nogil
    const char *pl_trust_word(int trust) noexcept nogil
    # False also for ids of another form.
    bint pl_is_roots_container(const char *path, uint32_t n, const char *id, uint32_t id_n) noexcept nogil
