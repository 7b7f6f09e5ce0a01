"""Read names for the thread of `names`: from the host's files and name service, and from the root of a container."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.host.digest import blake2b
from pipeline.procfs.users import KEPT_BYTES, Kind, RootNames, read_names, root_identity
from pipeline.resolver.stream._name_cache import GROUP, HOST_NAMES, USER, Names
from pipeline.resolver.upkeep.foreign import ForeignPids, Key
from pipeline.shm.names.usernames import HOSTS

_KINDS: dict[int, Kind] = {USER: "user", GROUP: "group"}


class ViewNames(NamedTuple):
    """The names of a container: for the stream, and as a file for readers."""

    names: Names  #: HOST_NAMES if the host's names apply
    file: bytes
    digest: bytes  #: of `file`
    owner: int  #: user that made the namespaces; see RootNames
    is_cut: bool  #: some names were dropped, as there are too many


class NameReader:
    """Reads names; its methods block. They never raise: a name that cannot be read counts as missing.

    Args:
        proc: where procfs is mounted.
        name_of: asks the host's name service; raises KeyError for an id without a name.
    """

    def __init__(self, proc: str, name_of: Callable[[Kind, int], str]) -> None:
        self._proc = proc
        self._name_of = name_of
        self._seen: list[tuple[int, int, int] | None] = []
        self._root: tuple[int, int] | None = None
        self._is_own = True
        self._foreign = ForeignPids(proc)

    def host(self) -> tuple[Any, ...] | None:
        """Return the host's names from its own files; None: they have not changed."""
        # The root of pid 1, because this process may have another one. Without permission, its own root.
        root = f"{self._proc}/1/root"
        with contextlib.suppress(OSError):
            self._root = own = root_identity("/")
            self._root = root_identity(root)
            self._is_own = self._root == own
        if not os.access(f"{root}/etc", os.R_OK):
            root = ""
        seen = [_version(f"{root}/etc/{name}") for name in ("passwd", "group")]
        if seen == self._seen:
            return None
        self._seen = seen
        names = read_names(1 if root else os.getpid(), self._proc, is_host=True)
        users, groups = names.outside() if names is not None else ({}, {})
        return "host", users, groups

    def view(self, tgid: int, is_container: bool, mnt_ns: int = 0, user_ns: int = 0) -> ViewNames | None:
        """Return the names in the root of a process; None: it is gone, or not in its container yet.

        Args:
            tgid: the process.
            is_container: its cgroup has the name of a container's.
            mnt_ns: mount namespace that it must still have; 0: any.
            user_ns: user namespace that it must still have; 0: any.
        """
        with contextlib.suppress(Exception):  # an untrusted file must not end the thread
            names = read_names(tgid, self._proc, KEPT_BYTES, namespaces=(mnt_ns, user_ns))
            if names is not None and (names.is_hosts or not (is_container and names.root == self._root)):
                return packed(names)
        return None

    def foreign_view(self, key: Key, mnt_ns: int, is_container: bool) -> ViewNames | None:
        """The same for a process that a tracer named; None also if it has another mount namespace or is not visible."""
        with contextlib.suppress(OSError):
            pid = self._foreign.find(key)
            if not pid and self._foreign.refresh():
                pid = self._foreign.find(key)
            if pid:
                return self.view(pid, is_container, mnt_ns)
        return None

    def ids(self, wanted: list[tuple[int, int]]) -> dict[tuple[int, int], str]:
        """Return names from the host's name service, "" for an id without a name.

        In another root than the host's there may be another name service, so all names are "" there.
        """
        found = {}
        for kind, number in wanted:
            name = ""
            with contextlib.suppress(Exception):  # whatever a name service's library raises
                name = self._name_of(_KINDS[kind], number) if self._is_own else ""
            found[kind, number] = name
        return found


def packed(names: RootNames) -> ViewNames:
    """Return the names of a root in the form for the cache and the file."""
    if names.is_hosts:
        kept, content = HOST_NAMES, HOSTS
    else:
        users, groups = names.outside()
        kept, content = Names(users, groups), {"user": users, "group": groups}
    file = json.dumps(content).encode("ascii")
    return ViewNames(kept, file, blake2b(file, digest_size=16).digest(), names.owner, names.is_cut)


def _version(path: str) -> tuple[int, int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
