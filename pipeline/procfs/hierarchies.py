"""Cgroup hierarchies of version 1: which there are, where they are mounted, and the ids of the cgroups in them.

Every process is in one cgroup of each hierarchy. A container may be visible in the paths of some of them only (a host
with both versions, where version 2 leads to the runtime's own service), so all of them together tell; their ids make
one number (`pipeline.records.kinds.cgroup_set`), which the BPF programs compute too. Leaves out what a path means
(containers.py).

An id is the inode of the cgroup's directory and counts for one hierarchy. Source: cgroups(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.procfs.containers import NSPAWN, CgroupTree, Container, container_of_paths
from pipeline.procfs.mountinfo import mounts_of, unescape
from pipeline.records import kinds as events

_DELETED = b" (deleted)"

#: Paths that are remembered of those that the kernel told.
TOLD_MAX = 16384


class Line(NamedTuple):
    """A line of ``/proc/PID/cgroup``."""

    hierarchy: int  #: 0: version 2
    controllers: str  #: with commas; ``name=...`` for one without controllers
    path: str


def lines_of(text: bytes) -> list[Line]:
    """Take ``/proc/PID/cgroup`` apart; what is not understood is left out."""
    lines = []
    for line in text.splitlines():
        number, _, rest = line.partition(b":")
        controllers, colon, path = rest.partition(b":")
        if colon and number.isdigit():
            lines.append(Line(int(number), os.fsdecode(controllers), os.fsdecode(path.removesuffix(_DELETED))))
    return lines


class Hierarchies:
    """The hierarchies of version 1 that this process can see. One user at a time.

    Args:
        proc: where procfs is.
        again_ns: what is not known is looked for again after so long, ns.
        clock: monotonic, ns.
    """

    def __init__(
        self, *, proc: str = "/proc", again_ns: int = 1_000_000_000, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._proc = proc
        self._again_ns = again_ns
        self._clock = clock
        self._trees: dict[int, CgroupTree] = {}
        self._told: OrderedDict[tuple[int, int], str] = OrderedDict()
        self._named: frozenset[int] = frozenset()
        self._next_look_ns: int | None = None

    def set_of(self, text: bytes) -> int:
        """What `cgroup_set` says of a process whose ``/proc/PID/cgroup`` is `text`; 0: one in it cannot be found."""
        members = []
        for line in lines_of(text):
            if line.hierarchy and line.path != "/":
                tree = self._tree(line.hierarchy)
                if tree is None or line.path.startswith("/.."):  # outside of this reader's namespace
                    return 0
                try:
                    number = Path(f"{tree.root}{line.path}").lstat().st_ino
                except OSError:
                    return 0
                tree.learn(number, line.path)
                members.append((line.hierarchy, number))
        return events.cgroup_set(members)

    def set_of_process(self, tgid: int) -> tuple[int, bytes]:
        """`set_of` of a live process, and the text; (0, b"") when it is gone."""
        try:
            text = Path(self._proc, str(tgid), "cgroup").read_bytes()
        except OSError:
            return 0, b""
        return self.set_of(text), text

    def learn(self, hierarchy: int, cgroup_id: int, path: str) -> None:
        """Take a path that the kernel told; the hierarchy may be mounted where this process does not see it."""
        self._told[hierarchy, cgroup_id] = path
        self._told.move_to_end((hierarchy, cgroup_id))
        if len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)

    def container_of(self, members: Iterable[tuple[int, int]]) -> tuple[Container | None, bool]:
        """The container that these (hierarchy, cgroup id) lie in, and whether the paths of all of them are known.

        Controllers are asked before hierarchies that only have a name, as processes inside of a container change those.
        """
        paths = []
        is_complete = True
        some = list(members)
        for hierarchy, _ in some:
            self._tree(hierarchy)  # a look tells which ones have names
        for hierarchy, cgroup_id in sorted(some, key=lambda member: (member[0] in self._named, member[0])):
            path = self._told.get((hierarchy, cgroup_id))
            if path is None and (tree := self._tree(hierarchy)) is not None:
                path = tree.path_of(cgroup_id)
            if path is None:
                is_complete = False
            else:
                paths.append(path)
        found = container_of_paths(paths)
        if found is not None and not is_complete and found.runtime == NSPAWN:
            return None, False  # the path that is missing may be the one that says who is the supervisor
        return found, is_complete

    def _tree(self, hierarchy: int) -> CgroupTree | None:
        tree = self._trees.get(hierarchy)
        now = self._clock()
        if tree is None and (self._next_look_ns is None or now >= self._next_look_ns):
            self._next_look_ns = now + self._again_ns
            self._look()
            tree = self._trees.get(hierarchy)
        return tree

    def _look(self) -> None:
        """Find where each hierarchy is mounted: its number by its controllers, those by the options of the mount."""
        try:
            own = lines_of(Path(self._proc, "self/cgroup").read_bytes())
            mounts = Path(self._proc, "self/mountinfo").read_bytes()
        except OSError:
            return
        places: dict[frozenset[str], str] = {}
        for mounted, tail in mounts_of(mounts):
            kind, _, rest = tail.partition(b" ")
            # Not a part of a hierarchy, as in a container: paths would begin elsewhere.
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
