"""Names of users and groups, which the resolver writes to files and readers look up.

Rows do not store names, because a name depends on an id and on the set of names that applies. The resolver keeps one
file for the host and one for each container that it has seen, below ``users`` in the instance's directory. Each file is
replaced as a whole:

    host.json        {"mnt_ns": 1, "user_ns": 2, "user": {"0": "root"}, "group": {"0": "root"}}
    HASH.json        {"user": …, "group": …}; HASH is made of container id, mount namespace and user namespace
                     {"host": true} if the host's names apply there (a user other than root created the namespaces)

Ids are those of the kernel's credentials, that is, of the initial user namespace. An id has no name if there is no
file, or if the file does not contain the id. A reader never shows names of its own host, because it may run in a
container. Readers import this module.
"""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from typing import Any

from pipeline import trust
from pipeline.host.digest import blake2b
from pipeline.shm.names.details import BELIEVED_NS, FILES_MAX

DIRECTORY = "users"
HOST_FILE = "host.json"

#: A reader remembers the files of at most this many instances.
INSTANCES_MAX = 64

_Content = dict[str, Any]

#: Content of a file if the host's names apply.
HOSTS: _Content = {"host": True}

_instances: dict[str, UserNames] = {}


def names_of(directory: str) -> UserNames:
    """Return the names of an instance, the same object each time."""
    names = _instances.get(directory)
    if names is None:
        if len(_instances) >= INSTANCES_MAX:
            _instances.clear()
        names = _instances[directory] = UserNames(directory)
    return names


def file_name(container: str | None, mnt_ns: int, user_ns: int) -> str:
    """Return the name of the file of a container, or of namespaces that differ from the host's."""
    key = f"{container or ''}\0{mnt_ns}\0{user_ns}".encode("utf-8", "surrogateescape")
    return f"{blake2b(key, digest_size=16).hexdigest()}.json"


class UserNames:
    """Names of an instance's users and groups, for readers; caches what it has read.

    Args:
        directory: the instance's runtime directory.
    """

    def __init__(self, directory: str) -> None:
        self._directory = os.path.join(directory, DIRECTORY)  # noqa: PTH118 - pathlib is not imported by readers
        self._files: OrderedDict[str, tuple[_Content | None, tuple[int, int], int]] = OrderedDict()

    def name(
        self, kind: str, number: int, container: str | None, mnt_ns: int, user_ns: int, has_host_ids: bool = False
    ) -> str | None:
        """Return the name of an id of a process; None if it has none or is unknown.

        Args:
            kind: "user" or "group".
            number: the id.
            container: id of the process's container.
            mnt_ns: inode of its mount namespace.
            user_ns: inode of its user namespace.
            has_host_ids: whether its user namespace is unknown but has the ids of the host.
        """
        host = self._read(HOST_FILE)
        if host is None:
            return None
        has_host_ids = has_host_ids or host["user_ns"] in {0, user_ns}
        is_hosts = container is None and host["mnt_ns"] in {0, mnt_ns} and has_host_ids
        names = host if is_hosts else self._read(file_name(container, mnt_ns, user_ns))
        if names is None:
            return None
        if names == HOSTS:
            names = host
        found: str | None = names[kind].get(str(number))
        return found

    def host_name(self, kind: str, number: int) -> str | None:
        """Return the host's name of an id; None if it has none or is unknown. Arguments as in `name`."""
        host = self._read(HOST_FILE)
        found: str | None = host[kind].get(str(number)) if host is not None else None
        return found

    def _read(self, name: str) -> _Content | None:
        now = time.monotonic_ns()
        known = self._files.get(name)
        if known is not None and now - known[2] < BELIEVED_NS:
            return known[0]
        content: _Content | None = None
        version = (0, 0)
        try:
            path = os.path.join(self._directory, name)  # noqa: PTH118
            with open(trust.open_file(path), encoding="ascii") as file:  # noqa: PTH123
                status = os.fstat(file.fileno())
                version = (status.st_ino, status.st_mtime_ns)
                content = known[0] if known is not None and known[1] == version else json.load(file)
        except (OSError, ValueError):
            version = (0, 0)
        self._files[name] = (content, version, now)
        self._files.move_to_end(name)
        if len(self._files) > FILES_MAX:
            self._files.popitem(last=False)
        return content
