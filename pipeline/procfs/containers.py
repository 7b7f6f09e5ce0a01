"""Containers of processes from their cgroup paths, and cgroup paths from cgroup ids.

Covers the path formats of Docker, containerd, CRI-O, podman, runc and crun alone, Kata, systemd-nspawn, LXC,
Kubernetes, ECS and Garden, on cgroup v1, v2 and both at once. `CgroupTree` finds the path of a cgroup id.
Container runtimes are not queried, so names, images and labels, which the kernel does not have, are not available.

A container is never guessed. The result is None for a process outside of containers; for a runtime's own helper
(conmon, an LXC monitor, the supervisor of nspawn, what Kata keeps outside of a sandbox); for a pod without a container;
for a virtual machine (except Kata's, which has a container's id); and for a path of an unknown format. 64 hexadecimal
digits alone do not turn a systemd unit into a container. (A helper of a runtime that itself runs in a container is in
that container.) The parent's container is not used instead (specification 9.1 item 10). Ids keep their capital letters.
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

from pipeline.paths import CGROUP_ROOTS
from pipeline.proc_text import DELETED, mounts_of, unescape

CgroupMode = Literal["unified", "hybrid", "legacy", "none"]

#: Only this runtime has a helper that differs from its container in a single hierarchy.
NSPAWN = "systemd-nspawn"


class Container(NamedTuple):
    """A container as a cgroup path identifies it."""

    container_id: str
    #: docker, containerd, cri-o, podman, runc, crun, kata, systemd-nspawn, lxc, garden, ecs; "": unknown
    runtime: str
    pod_uid: str = ""  #: uid of its Kubernetes pod, with dashes; "": not in a pod


# Python's re is safe here: each expression matches one whole path segment (255 bytes) and has no nested repetition.
_ID = re.compile(r"(?:(?P<prefix>[a-z][a-z0-9._-]*?)[-_:])?(?P<id>[0-9a-fA-F]{64})(?:\.scope)?")
_FARGATE_ID = re.compile(r"[0-9a-fA-F]{32}-[0-9]+")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){4}(?:[0-9a-fA-F]{8})?")
_POD = re.compile(
    r"(?:[a-z-]+-)?pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?"
)
_NSPAWN = re.compile(r"systemd-nspawn@(?P<name>.+)\.service")
_MACHINE = re.compile(r"machine-(?P<name>.+)\.scope")
# `lxc.service` is a systemd unit and `lxc.pivot` is where a monitor waits: neither is a container.
_LXC = re.compile(r"(?:lxc\.payload\.|lxc(?:\.payload)?/)(?P<name>.+)")

# Prefixes of an id in its own segment, or the whole segment before it.
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
# Parts of the names of helpers that have the id of their container.
_HELPERS = ("conmon", "monitor", "shim", "pod_")
# Processes of a sandbox that do not count against its limits; the path of the sandbox may follow.
_KATA_OVERHEAD = "kata_overhead"
# A service or a scope can name its own cgroups freely, so an id below one is a container only if a runtime's name is
# there too. Below a slice, systemd creates only units, and their names end with their type. An id without such an
# ending was created there by something else: Docker and nerdctl do so with `--cgroup-parent=/batch.slice`.
_DELEGATED = (".service", ".scope")
_UNITS = (".slice", *_DELEGATED)


def container_of_path(path: str) -> Container | None:
    """Return the innermost container in a cgroup path, or None.

    Args:
        path: path in one hierarchy, as in ``/proc/PID/cgroup``, or with a mount point before it.
    """
    return parse_cgroup_path(path).container


def container_of_paths(paths: Iterable[str]) -> Container | None:
    """Return the container that the cgroup paths of one process show, or None.

    The supervisor of nspawn and its container differ in one hierarchy only. So a path of a helper overrides all paths
    of containers, which are then those of the container that the helper serves.

    Args:
        paths: paths of all hierarchies, the most reliable first.
    """
    parsed = [parse_cgroup_path(path) for path in paths]
    for each in parsed:
        if each.is_helper:
            return each.container
    return next((each.container for each in parsed if each.container is not None), None)


class CgroupPath(NamedTuple):
    """Facts about the processes in a cgroup that its path shows."""

    container: Container | None  #: the innermost container in the path
    is_helper: bool  #: the path belongs to a runtime's helper, which serves a container but is not in it


def parse_cgroup_path(path: str) -> CgroupPath:
    """Return the container of a path as `container_of_path` does, and whether the path is that of a helper."""
    return _parse_whole_path(path.removesuffix(DELETED.decode()))


@lru_cache(maxsize=4096)
def _parse_whole_path(path: str) -> CgroupPath:
    segments = [segment for segment in path.split("/") if segment not in ("", ".", "..")]
    is_helper = _KATA_OVERHEAD in segments
    if is_helper:
        del segments[segments.index(_KATA_OVERHEAD) :]
    for index in range(len(segments) - 1, -1, -1):
        found = _container_of_segment(segments, index)
        if found == "helper":
            is_helper = True
        elif found is not None:
            return CgroupPath(found._replace(pod_uid=_pod_of(segments[: index + 1])), is_helper)
    return CgroupPath(None, is_helper)


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
    # kubepods-burstable-podUID.slice:cri-containerd:ID is the systemd form of a path, used by a runtime on plain
    # cgroupfs.
    own = _ID.fullmatch(segment.partition(":")[2] if segment.count(":") == 2 else segment)
    if own:
        prefix = own["prefix"] or ""
        if any(helper in prefix for helper in _HELPERS):
            return "helper"
        runtime = _RUNTIMES.get(prefix) or _RUNTIMES.get(before, "")
        # An id is a container if the path names a runtime or a pod; without either, only at the end of a path.
        strangers = _UNITS if segment.endswith(".scope") else _DELEGATED
        if runtime or _POD.fullmatch(before) or (is_last and not prefix and not before.endswith(strangers)):
            if not prefix and before in ("ecs", "libpod_parent"):
                return None  # a task or a pod, not a container (podman's are libpod-ID); conmon is below a pod too
            return Container(own["id"], "docker" if runtime == "ecs" else runtime or _by_ecs(segments))
        return None
    if _FARGATE_ID.fullmatch(segment) and "ecs" in segments[:index]:
        return Container(segment, "ecs")
    if _UUID.fullmatch(segment) and before == "garden":
        return Container(segment, "garden")
    # Garden and ECS agents may keep their own ids for containers that they run in Docker.
    if before == "docker" and (_FARGATE_ID.fullmatch(segment) or _UUID.fullmatch(segment)):
        return Container(segment, "docker")
    if machine := _NSPAWN.fullmatch(segment):
        if not is_last and segments[index + 1] == "supervisor":
            return "helper"
        return Container(_unescape(machine["name"]), NSPAWN)
    # A scope of systemd-machined may be a virtual machine. Only nspawn creates a `payload` below it.
    if (machine := _MACHINE.fullmatch(segment)) and not is_last and segments[index + 1] == "payload":
        return Container(_unescape(machine["name"]), NSPAWN)
    if segment.startswith("lxc.monitor"):
        return "helper"
    if lxc := _LXC.fullmatch(f"{before}/{segment}" if before in ("lxc", "lxc.payload") else segment):
        return Container(lxc["name"], "lxc")
    return None


def _by_ecs(segments: Iterable[str]) -> str:
    """Return the runtime of a container in an ECS task on a host: it is Docker's, at /ecs/TASK/ID."""
    return "docker" if "ecs" in segments else ""


def _unescape(name: str) -> str:
    r"""Undo systemd's escapes in unit names: ``\x2d`` is ``-``. An escape is a byte, so several can be a character."""
    return os.fsdecode(re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes((int(match[1], 16),)), os.fsencode(name)))


def container_of_cgroups(text: bytes) -> Container | None:
    """Return the container that the lines of ``/proc/PID/cgroup`` show, or None.

    The v2 line is checked first. On hosts with both versions it may lead to the runtime's own service while the v1
    lines lead to the container, so they are checked too. The name=systemd hierarchy is last, because processes inside a
    container can change it.
    """
    paths: list[tuple[int, str]] = []
    for line in text.split(b"\n"):  # not splitlines(): a name can contain a carriage return
        hierarchy, _, rest = line.partition(b":")
        controllers, colon, raw = rest.partition(b":")
        if colon:
            order = 0 if hierarchy == b"0" else 2 if controllers.startswith(b"name=") else 1
            paths.append((order, os.fsdecode(raw)))
    paths.sort(key=lambda item: item[0])
    return container_of_paths(path for _, path in paths)


def find_cgroup_mounts(mountinfo: str = "/proc/self/mountinfo") -> tuple[str | None, CgroupMode]:
    """Return where the cgroup v2 hierarchy is mounted, and which versions are mounted.

    Args:
        mountinfo: path of the mountinfo to read.

    Returns:
        Mount point (None: not mounted), and "unified" (v2 only), "hybrid" (both), "legacy" (v1 only) or "none".
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
            # The first mount is the host's own; containers that share this mount namespace may add others.
            v2 = v2 or os.fsdecode(unescape(mounted[4]))
        elif kind == b"cgroup":
            has_v1 = True
    if v2 is None:
        return None, "legacy" if has_v1 else "none"
    return v2, "hybrid" if has_v1 else "unified"


def cgroup_v2_root() -> str | None:
    """Return the mount point of cgroup v2 if it is one of the usual two, in the form that `ProcReader` takes; or None.

    On a host with both versions it is below the version 1 mounts.
    """
    return next((root for root in CGROUP_ROOTS if Path(root, "cgroup.procs").exists()), None)


class CgroupTree:
    """Finds paths and containers of cgroup ids. Not thread-safe.

    A cgroup id is the inode number of the cgroup's directory. The kernel does not reuse it (kernfs keeps a generation
    in its upper half), and a v2 cgroup cannot be renamed. So a path remains correct for its id even after the cgroup is
    removed. Therefore paths are cached up to a limit, and only "not found" expires.

    Args:
        root: mount point of v2; None: the result of `find_cgroup_mounts`.
        mode: which versions are mounted; None: the result of `find_cgroup_mounts`.
        proc: mount point of procfs.
        capacity: maximum number of cached paths; the least recently used one is evicted.
        walk_interval_ns: shortest time between two walks of the tree (5,000 cgroups take about 20 ms).
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
        self._proc = proc
        self._capacity = capacity
        self._walk_interval_ns = walk_interval_ns
        self._clock = clock
        self._paths: OrderedDict[int, str] = OrderedDict()
        self._next_walk_ns: int | None = None

    def __len__(self) -> int:
        return len(self._paths)

    def learn(self, cgroup_id: int, path: str) -> None:
        """Record a path that was found elsewhere, for example in ``/proc/PID/cgroup`` together with its inode."""
        if not cgroup_id:
            return
        self._paths[cgroup_id] = path
        self._paths.move_to_end(cgroup_id)
        if len(self._paths) > self._capacity:
            self._paths.popitem(last=False)

    def path_of(self, cgroup_id: int, tgid: int = 0) -> str | None:
        """Return the path of a cgroup below the v2 root, with a leading slash; None: unknown.

        Args:
            cgroup_id: inode of its directory.
            tgid: a process that was in it; 0: unknown. Reading the path from the process is cheaper than a walk. The
                process may have moved since, so the inode of its cgroup is compared.
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
        """Return the container of a process, or None.

        With v2 only, the cgroup id identifies it. Otherwise containers may be in v1 hierarchies without an id, so
        ``/proc/PID/cgroup`` is read; if the process has ended, the container is unknown.

        Args:
            cgroup_id: the v2 cgroup of the process.
            tgid: the process.
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
        path = rest.partition(b"\n")[0].removesuffix(DELETED)
        if not found or path.startswith(b"/.."):
            return False
        try:
            inode = Path(f"{self.root}{os.fsdecode(path)}").stat().st_ino
        except OSError:
            return False
        self.learn(inode, os.fsdecode(path))
        return inode == cgroup_id

    def _walk(self, wanted: int) -> None:
        """Record the whole tree; `wanted` is recorded last, so that it is not evicted first."""
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
                        # The kernel returns type and inode with the name, so no stat() per cgroup is needed.
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
