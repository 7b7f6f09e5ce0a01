"""Which container a process is in, by its cgroup paths; and cgroup paths by cgroup id.

Covers the path forms of Docker, containerd, CRI-O, podman, runc and crun alone, Kata, systemd-nspawn, LXC, Kubernetes,
ECS and Garden, on cgroup v1, v2 and both at once, and `CgroupTree`, which finds the path that belongs to a cgroup id.
Leaves out asking a container runtime: a name, an image or labels are not to be had from the kernel.

A container is never invented: a process in no container, a runtime's own helper (conmon, an LXC monitor, the supervisor
of nspawn, what Kata keeps outside of a sandbox), a pod without a container and a virtual machine (other than Kata's,
which bears a container's id) give None, and so does a path that is not understood: 64 digits alone do not make a
container of a unit of systemd. (A helper of a runtime that is itself in a container is in that one.) The parent's
container is no substitute (specification 9.1 item 10).
"""

from __future__ import annotations

import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.procfs.mountinfo import mounts_of, unescape

CgroupMode = Literal["unified", "hybrid", "legacy", "none"]

_DELETED = b" (deleted)"
_V2_ROOTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")

#: The one runtime whose helper is told from its container by a single hierarchy.
NSPAWN = "systemd-nspawn"


class Container(NamedTuple):
    """A container as a cgroup path names it."""

    container_id: str
    #: docker, containerd, cri-o, podman, runc, crun, kata, systemd-nspawn, lxc, garden, ecs; "": the path does not tell
    runtime: str
    pod_uid: str = ""  #: of a Kubernetes pod, in its usual form


# Python's re is safe here: each is anchored at both ends of one path segment (255 bytes), without nested repetition.
_ID = re.compile(r"(?:(?P<prefix>[a-z][a-z0-9._-]*?)[-_:])?(?P<id>[0-9a-f]{64})(?:\.scope)?")
_FARGATE_ID = re.compile(r"[0-9a-f]{32}-[0-9]+")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){4}(?:[0-9a-f]{8})?")
_POD = re.compile(
    r"(?:[a-z-]+-)?pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?"
)
_NSPAWN = re.compile(r"systemd-nspawn@(?P<name>.+)\.service")
_MACHINE = re.compile(r"machine-(?P<name>.+)\.scope")
# `lxc.service` is a unit, `lxc.pivot` where a monitor waits: neither is a container.
_LXC = re.compile(r"(?:lxc\.payload\.|lxc(?:\.payload)?/)(?P<name>.+)")

# What stands before an id in its own segment, or is the segment before it.
_RUNTIMES = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "containerd": "containerd",
    "nerdctl": "containerd",
    "k8s.io": "containerd",
    "crio": "cri-o",
    "cri-o": "cri-o",
    "libpod": "podman",
    "libpod-payload": "podman",
    "libpod_parent": "podman",
    "podman": "podman",
    "runc": "runc",
    "crun": "crun",
    "kata": "kata",
    "ecs": "ecs",
}
# Helpers of a runtime that carry the id of the container that they look after.
_HELPERS = ("conmon", "monitor", "shim", "pod_")
# What of a sandbox must not count against its limits; the sandbox's own path may follow.
_KATA_OVERHEAD = "kata_overhead"
# What is below a service or a scope is named as that likes, so an id there is a container only where a runtime says so.
# Below a slice systemd has units alone, which end in what they are: an id there is of who makes cgroups without it, as
# Docker and nerdctl can be told to do (`--cgroup-parent=/batch.slice`).
_DELEGATED = (".service", ".scope")
_UNITS = (".slice", *_DELEGATED)


def container_of_path(path: str) -> Container | None:
    """The innermost container that a cgroup path lies in, or None.

    Args:
        path: of one hierarchy, as ``/proc/PID/cgroup`` has it or with a mount point before it.
    """
    return place_of_path(path).container


def container_of_paths(paths: Iterable[str]) -> Container | None:
    """The container that the paths of one process tell, those that count most first.

    nspawn's supervisor and its container differ in one hierarchy only. So a path that says "helper" counts before all
    that say "container", which then mean what it looks after.
    """
    places = [place_of_path(path) for path in paths]
    for place in places:
        if place.is_helper:
            return place.container
    return next((place.container for place in places if place.container is not None), None)


class Place(NamedTuple):
    """Where a cgroup path leads to."""

    container: Container | None  #: the innermost one that it lies in
    is_helper: bool  #: a runtime's own process is there, of a container that is not its own


def place_of_path(path: str) -> Place:
    """As `container_of_path`, and whether it is a helper's."""
    return _place_of_path(path.removesuffix(" (deleted)"))


@lru_cache(maxsize=4096)
def _place_of_path(path: str) -> Place:
    segments = [segment for segment in path.split("/") if segment not in ("", ".", "..")]
    is_helper = _KATA_OVERHEAD in segments
    if is_helper:
        del segments[segments.index(_KATA_OVERHEAD) :]
    for index in range(len(segments) - 1, -1, -1):
        found = _container_of_segment(segments, index)
        if found == "helper":
            is_helper = True
        elif found is not None:
            return Place(found._replace(pod_uid=_pod_of(segments[: index + 1])), is_helper)
    return Place(None, is_helper)


def _pod_of(segments: Iterable[str]) -> str:
    pod_uid = ""
    for segment in segments:
        if pod := _POD.fullmatch(segment.partition(":")[0]):
            pod_uid = pod["uid"].replace("_", "-")
    return pod_uid


def _container_of_segment(segments: list[str], index: int) -> Container | Literal["helper"] | None:
    segment = segments[index]
    before = segments[index - 1] if index else ""
    is_last = index == len(segments) - 1
    # kubepods-burstable-podUID.slice:cri-containerd:ID is what a runtime makes of systemd's form on plain cgroupfs.
    own = _ID.fullmatch(segment.partition(":")[2] if segment.count(":") == 2 else segment)
    if own:
        prefix = own["prefix"] or ""
        if any(helper in prefix for helper in _HELPERS):
            return "helper"
        runtime = _RUNTIMES.get(prefix) or _RUNTIMES.get(before, "")
        # An id counts where a runtime or a pod says that it is one; a bare one also at the end of a path.
        strangers = _UNITS if segment.endswith(".scope") else _DELEGATED
        if runtime or _POD.fullmatch(before) or (is_last and not prefix and not before.endswith(strangers)):
            if not prefix and before in ("ecs", "libpod_parent"):
                return None  # a task, a pod: not a container (podman's are libpod-ID), and conmon is below a pod too
            return Container(own["id"], "docker" if runtime == "ecs" else runtime or _by_ecs(segments))
        return None
    if _FARGATE_ID.fullmatch(segment) and "ecs" in segments[:index]:
        return Container(segment, "ecs")
    if _UUID.fullmatch(segment) and before == "garden":
        return Container(segment, "garden")
    if machine := _NSPAWN.fullmatch(segment):
        if not is_last and segments[index + 1] == "supervisor":
            return "helper"
        return Container(_unescape(machine["name"]), NSPAWN)
    # A scope of systemd-machined may be a virtual machine's: only nspawn puts a payload below it.
    if (machine := _MACHINE.fullmatch(segment)) and not is_last and segments[index + 1] == "payload":
        return Container(_unescape(machine["name"]), NSPAWN)
    if segment.startswith("lxc.monitor"):
        return "helper"
    if lxc := _LXC.fullmatch(f"{before}/{segment}" if before in ("lxc", "lxc.payload") else segment):
        return Container(lxc["name"], "lxc")
    return None


def _by_ecs(segments: Iterable[str]) -> str:
    """Containers of an ECS task on a host are Docker's: /ecs/TASK/ID."""
    return "docker" if "ecs" in segments else ""


def _unescape(name: str) -> str:
    r"""Undo systemd's escapes of unit names: ``\x2d`` is ``-``."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), name)


def container_of_cgroups(text: bytes) -> Container | None:
    """The container by all lines of ``/proc/PID/cgroup``.

    The v2 line is asked first. On hosts with both, it may lead to the runtime's own service while the v1 lines lead to
    the container, so the others are asked too; the name=systemd hierarchy last, as processes inside of a container
    change it.
    """
    paths: list[tuple[int, str]] = []
    for line in text.splitlines():
        hierarchy, _, rest = line.partition(b":")
        controllers, colon, raw = rest.partition(b":")
        if colon:
            order = 0 if hierarchy == b"0" else 2 if controllers.startswith(b"name=") else 1
            paths.append((order, os.fsdecode(raw)))
    paths.sort(key=lambda item: item[0])
    return container_of_paths(path for _, path in paths)


def find_cgroup_mounts(mountinfo: str = "/proc/self/mountinfo") -> tuple[str | None, CgroupMode]:
    """Where the cgroup v2 hierarchy is mounted, and which hierarchies there are.

    Returns:
        Mount point (None: not mounted), and "unified" (v2 alone), "hybrid" (both), "legacy" (v1 alone) or "none".
    """
    v2: str | None = None
    has_v1 = False
    try:
        text = Path(mountinfo).read_bytes()
    except OSError:
        return None, "none"
    for mounted, tail in mounts_of(text):
        kind = tail.split(b" ", 1)[0]
        if kind == b"cgroup2":
            # The first mount is the host's own; containers that share this mount namespace may have others.
            v2 = v2 or os.fsdecode(unescape(mounted[4]))
        elif kind == b"cgroup":
            has_v1 = True
    if v2 is None:
        return None, "legacy" if has_v1 else "none"
    return v2, "hybrid" if has_v1 else "unified"


def cgroup_v2_root() -> str | None:
    """Return the usual mount point of the cgroup v2 hierarchy, as `ProcReader` takes it; None: it is not mounted there.

    On a host with both versions it is below the version 1 mounts.
    """
    return next((root for root in _V2_ROOTS if Path(root, "cgroup.procs").exists()), None)


class CgroupTree:
    """Cgroup ids to paths and containers. One user at a time.

    A cgroup id is the inode number of the cgroup's directory. The kernel does not give one out twice (kernfs counts a
    generation in its upper half), and a v2 cgroup can not be renamed: a path that was once found stays right for its id
    also after the cgroup is gone. So what is found is kept, within bounds, and only "not found" is forgotten.

    Args:
        root: the v2 mount; None: found by `find_cgroup_mounts`.
        mode: which hierarchies there are; None: found too.
        proc: where procfs is mounted.
        capacity: paths kept; the least recently used leaves.
        walk_interval_ns: the tree is walked at most so often (5,000 cgroups take some 20 ms).
        clock: monotonic, in ns.
    """

    def __init__(
        self,
        root: str | None = None,
        mode: CgroupMode | None = None,
        *,
        proc: str = "/proc",
        capacity: int = 16384,
        walk_interval_ns: int = 1_000_000_000,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        found_root, found_mode = find_cgroup_mounts() if root is None or mode is None else (None, "none")
        self.root = root if root is not None else found_root
        self.mode: CgroupMode = mode if mode is not None else found_mode
        self.walks_total = 0
        self._proc = proc
        self._capacity = capacity
        self._walk_interval_ns = walk_interval_ns
        self._clock = clock
        self._paths: OrderedDict[int, str] = OrderedDict()
        self._next_walk_ns: int | None = None

    def __len__(self) -> int:
        return len(self._paths)

    def learn(self, cgroup_id: int, path: str) -> None:
        """Take a path that somebody else found, for example in ``/proc/PID/cgroup`` together with its inode."""
        if not cgroup_id:
            return
        self._paths[cgroup_id] = path
        self._paths.move_to_end(cgroup_id)
        if len(self._paths) > self._capacity:
            self._paths.popitem(last=False)

    def path_of(self, cgroup_id: int, tgid: int = 0) -> str | None:
        """Path of a cgroup below the v2 root, with a leading slash; None: unknown.

        Args:
            cgroup_id: inode of its directory.
            tgid: a process that was in it; asking it is cheaper than a walk. It may have moved since, so its cgroup's
                inode is compared.
        """
        if not cgroup_id or self.root is None:
            return None
        path = self._paths.get(cgroup_id)
        if path is not None:
            self._paths.move_to_end(cgroup_id)
            return path
        if tgid and self._ask_process(cgroup_id, tgid):
            return self._paths[cgroup_id]
        now = self._clock()
        if self._next_walk_ns is not None and now < self._next_walk_ns:
            return None
        self._walk(cgroup_id)
        self._next_walk_ns = self._clock() + self._walk_interval_ns
        return self._paths.get(cgroup_id)

    def container_of(self, cgroup_id: int, tgid: int) -> Container | None:
        """The container of a process.

        With v2 alone the cgroup id tells. Otherwise containers may live in v1 hierarchies that no id names, so the
        process itself is asked; gone is unknown.
        """
        if self.mode == "unified" and (path := self.path_of(cgroup_id, tgid)) is not None:
            return container_of_path(path)
        try:
            text = Path(self._proc, str(tgid), "cgroup").read_bytes()
        except OSError:
            return None
        return container_of_cgroups(text)

    def _ask_process(self, cgroup_id: int, tgid: int) -> bool:
        try:
            text = Path(self._proc, str(tgid), "cgroup").read_bytes()
        except OSError:
            return False
        _, found, rest = (b"\n" + text).partition(b"\n0::")
        path = rest.partition(b"\n")[0].removesuffix(_DELETED)
        if not found or path.startswith(b"/.."):
            return False
        try:
            inode = Path(f"{self.root}{os.fsdecode(path)}").stat().st_ino
        except OSError:
            return False
        self.learn(inode, os.fsdecode(path))
        return inode == cgroup_id

    def _walk(self, wanted: int) -> None:
        """Learn the whole tree, the wanted one last so that it is not the first to be pushed out."""
        self.walks_total += 1
        assert self.root is not None
        try:
            self.learn(Path(self.root).stat().st_ino, "/")
        except OSError:
            return
        found: str | None = None
        waiting = [""]
        while waiting:
            below = waiting.pop()
            try:
                with os.scandir(f"{self.root}{below}") as entries:
                    for entry in entries:
                        # The kernel gives type and inode with the name: no stat per cgroup.
                        if not entry.is_dir(follow_symlinks=False):
                            continue
                        path = f"{below}/{entry.name}"
                        waiting.append(path)
                        inode = entry.inode()
                        if inode == wanted:
                            found = path
                        self.learn(inode, path)
            except OSError:
                continue  # removed meanwhile
        if found is not None:
            self.learn(wanted, found)
