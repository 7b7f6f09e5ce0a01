"""Who could have named a container, by the path of its cgroup; _container_paths.pxd has the rule."""


def container_trust(str cgroup, str container_id):
    """Return who could have named a container: "root": only root; "user": somebody else too; None: unknown, or none.

    Args:
        cgroup: path of version 2 of a process in the container; None: unknown. If it does not name the container, it
            says only whether the process belongs to a user.
        container_id: None: no container.

    Example:
        >>> container_trust(f"/system.slice/docker-{'5e' * 32}.scope", "5e" * 32)
        'root'
        >>> container_trust(f"/system.slice/app.service/docker/{'5e' * 32}", "5e" * 32)
        'user'
    """
    if cgroup is None or container_id is None:
        return None
    cdef bytes path = cgroup.encode("utf-8", "surrogateescape")
    cdef bytes number = container_id.encode("utf-8", "surrogateescape")
    cdef const char *word = pl_trust_word(pl_container_trust(path, <uint32_t>len(path), number, <uint32_t>len(number)))
    return None if word == NULL else (<bytes>word).decode()
