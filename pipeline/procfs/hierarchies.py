"""Cgroup hierarchies of version 1: where each is mounted, and the ids of the cgroups in them.

Every process is in one cgroup of each hierarchy. A container may appear in the paths of some of these cgroups only, so
all of them are needed to find it. For example, version 2 may lead to the runtime's own service on a host with both
versions. The ids of the cgroups are combined to one number (`pipeline.records.cgroup_sets`), which the BPF programs
compute too.
What a path means is determined in containers.py.

An id is the inode of the cgroup's directory and is valid in one hierarchy. Source: cgroups(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.proc_text import DELETED, mounts_of, unescape
from pipeline.procfs.containers import NSPAWN, CgroupTree, Container, container_of_paths
from pipeline.records.cgroup_sets import cgroup_set

#: Maximum number of cached paths that the kernel reported.
REPORTED_MAX = 16384


class Line(NamedTuple):
    """A line of ``/proc/PID/cgroup``."""

    hierarchy: int  #: number of the hierarchy; 0: version 2
    controllers: str  #: separated by commas; ``name=...`` for a hierarchy without controllers
    path: str


def lines_of(text: bytes) -> list[Line]:
    """Parse ``/proc/PID/cgroup``; lines of an unknown format are skipped."""
    lines = []
    for line in text.split(b"\n"):  # not splitlines(): a name can contain a carriage return
        number, _, rest = line.partition(b":")
        controllers, colon, path = rest.partition(b":")
        if colon and number.isdigit():
            lines.append(Line(int(number), os.fsdecode(controllers), os.fsdecode(path.removesuffix(DELETED))))
    return lines


class Hierarchies:
    """The hierarchies of version 1 that this process can see. Not thread-safe.

    Args:
        proc: mount point of procfs.
        again_ns: shortest time between two searches for a missing hierarchy, ns.
        clock: monotonic, ns.
    """

    def __init__(
        self, *, proc: str = "/proc", again_ns: int = 1_000_000_000, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._proc = proc
        self._again_ns = again_ns
        self._clock = clock
        self._trees: dict[int, CgroupTree] = {}
        self._reported: OrderedDict[tuple[int, int], str] = OrderedDict()
        self._named: frozenset[int] = frozenset()
        self._next_read_ns: int | None = None

    def set_of(self, text: bytes) -> int:
        """Return the `cgroup_set` of a process; 0: one of its cgroups cannot be found.

        Args:
            text: the content of ``/proc/PID/cgroup``.
        """
        members = []
        for line in lines_of(text):
            if line.hierarchy and line.path != "/":
                tree = self._tree(line.hierarchy)
                if tree is None or line.path.startswith("/.."):  # outside this reader's cgroup namespace
                    return 0
                try:
                    number = Path(f"{tree.root}{line.path}").lstat().st_ino
                except OSError:
                    return 0
                tree.learn(number, line.path)
                members.append((line.hierarchy, number))
        return cgroup_set(members)

    def set_of_process(self, tgid: int) -> tuple[int, bytes]:
        """Return `set_of` of a live process and the text it was computed from; (0, b"") if the process has ended."""
        try:
            text = Path(self._proc, str(tgid), "cgroup").read_bytes()
        except OSError:
            return 0, b""
        return self.set_of(text), text

    def learn(self, hierarchy: int, cgroup_id: int, path: str) -> None:
        """Record a path that the kernel reported; the hierarchy may be mounted where this process cannot see it."""
        self._reported[hierarchy, cgroup_id] = path
        self._reported.move_to_end((hierarchy, cgroup_id))
        if len(self._reported) > REPORTED_MAX:
            self._reported.popitem(last=False)

    def container_of(self, members: Iterable[tuple[int, int]]) -> tuple[Container | None, bool]:
        """Return the container of a process in these cgroups, and whether the paths of all of them are known.

        Hierarchies with controllers are checked before those that only have a name, because processes inside a
        container can change the latter.

        Args:
            members: pairs of hierarchy and cgroup id.
        """
        paths = []
        is_complete = True
        some = list(members)
        for hierarchy, _ in some:
            self._tree(hierarchy)  # also finds out which hierarchies only have a name
        for hierarchy, cgroup_id in sorted(some, key=lambda member: (member[0] in self._named, member[0])):
            path = self._reported.get((hierarchy, cgroup_id))
            if path is None and (tree := self._tree(hierarchy)) is not None:
                path = tree.path_of(cgroup_id)
            if path is None:
                is_complete = False
            else:
                paths.append(path)
        found = container_of_paths(paths)
        if found is not None and not is_complete and found.runtime == NSPAWN:
            return None, False  # the missing path may be the one that identifies nspawn's supervisor
        return found, is_complete

    def _tree(self, hierarchy: int) -> CgroupTree | None:
        tree = self._trees.get(hierarchy)
        now = self._clock()
        if tree is None and (self._next_read_ns is None or now >= self._next_read_ns):
            self._next_read_ns = now + self._again_ns
            self._find_mounts()
            tree = self._trees.get(hierarchy)
        return tree

    def _find_mounts(self) -> None:
        """Find where each hierarchy is mounted, by comparing its controllers with the options of the mounts."""
        try:
            own = lines_of(Path(self._proc, "self/cgroup").read_bytes())
            mounts = Path(self._proc, "self/mountinfo").read_bytes()
        except OSError:
            return
        places: dict[frozenset[str], str] = {}
        for mounted, tail in mounts_of(mounts):
            kind, _, rest = tail.partition(b" ")
            # Only mounts of a whole hierarchy: in a container a part of one may be mounted, where paths start
            # elsewhere.
            if kind == b"cgroup" and mounted[3] == b"/":
                options = frozenset(os.fsdecode(rest.rpartition(b" ")[2]).split(","))
                places.setdefault(options, os.fsdecode(unescape(mounted[4])))
        trees = {}
        for line in own:
            if line.hierarchy == 0:
                continue
            wanted = frozenset(line.controllers.split(","))
            place = next((place for options, place in places.items() if wanted <= options), None)
            if place is not None:
                known = self._trees.get(line.hierarchy)
                trees[line.hierarchy] = known if known and known.root == place else CgroupTree(place, "legacy")
        self._trees = trees
        self._named = frozenset(line.hierarchy for line in own if line.controllers.startswith("name="))
