"""Which cgroup paths can be trusted to name a container; _container_paths.pxd has the rule."""


def is_roots_container(str cgroup not None, str container_id not None) -> bool:
    """Return whether root's runtimes made the container of this id at a cgroup path.

    Example:
        >>> is_roots_container(f"/system.slice/docker-{'5e' * 32}.scope", "5e" * 32)
        True
        >>> is_roots_container(f"/system.slice/app.service/docker/{'5e' * 32}", "5e" * 32)
        False
    """
    cdef bytes path = cgroup.encode("utf-8", "surrogateescape")
    cdef bytes number = container_id.encode("utf-8", "surrogateescape")
    return pl_is_roots_container(path, <uint32_t>len(path), number, <uint32_t>len(number))
