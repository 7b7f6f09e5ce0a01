"""Limits of cgroups, of version 1 or 2, for some processes and some time."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_numbers = itertools.count()


def is_possible(controller: str) -> bool:
    """Whether this host allows cgroups with limits of a controller: "cpu", "memory", "pids" or "freezer"."""
    try:
        return os.access(_parent(controller), os.W_OK)
    except FileNotFoundError:
        return False


def _parent(controller: str) -> Path:
    """Return the directory in which a cgroup with this controller can be made.

    Raises:
        FileNotFoundError: there is none.
    """
    if (_ROOT / controller / "cgroup.procs").exists():
        return _ROOT / controller
    enabled = _ROOT / "cgroup.subtree_control"
    # Every cgroup of version 2 but the root can be frozen; it has no controller.
    if enabled.exists() and (controller == "freezer" or controller in enabled.read_text().split()):
        return _ROOT
    raise FileNotFoundError(f"no cgroup with the controller {controller}")


def _home(pid: int, controller: str) -> str:
    """Return the path of a process's cgroup in the hierarchy of a controller."""
    paths = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        paths.update(dict.fromkeys(names.split(","), path))
    return paths.get(controller, paths.get("", "/")).lstrip("/")


@contextmanager
def group(controller: str) -> Iterator[Path]:
    """Make a cgroup; at the end the processes in it return to the cgroups of this process, and it is removed."""
    parent = _parent(controller)
    directory = parent / f"procline-faults-{os.getpid()}-{next(_numbers)}"
    directory.mkdir()
    try:
        yield directory
    finally:
        home = parent / _home(os.getpid(), controller) / "cgroup.procs"
        deadline = time.monotonic() + 60
        while True:
            for pid in (directory / "cgroup.procs").read_text().split():
                with suppress(OSError):
                    home.write_text(pid)
            try:
                directory.rmdir()
                break
            except OSError:  # a process that has just ended may still be there
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def set_limit(directory: Path, names: Sequence[tuple[str, str]]) -> None:
    """Write a value to the first of these files that the cgroup has: version 1 and 2 call them differently."""
    for name, value in names:
        if (directory / name).exists():
            (directory / name).write_text(value)
            return
    raise FileNotFoundError(f"{directory} has none of {[name for name, _ in names]}")


CPU_TWENTIETH = (("cpu.max", "5000 100000"), ("cpu.cfs_quota_us", "5000"))
FROZEN = (("cgroup.freeze", "1"), ("freezer.state", "FROZEN"))
THAWED = (("cgroup.freeze", "0"), ("freezer.state", "THAWED"))


def pids_max(count: int) -> Sequence[tuple[str, str]]:
    """Return the limit of the number of tasks."""
    return (("pids.max", str(count)),)


def memory_max(size: int) -> Sequence[tuple[str, str]]:
    """Return the limit of the memory that is charged from now on."""
    return (("memory.max", str(size)), ("memory.limit_in_bytes", str(size)))


@contextmanager
def limited(controller: str, pids: Sequence[int], limit: Sequence[tuple[str, str]]) -> Iterator[Path]:
    """Put processes into a cgroup with a limit, and back at the end."""
    with ExitStack() as stack:
        directory = stack.enter_context(group(controller))
        homes = {}
        for pid in pids:
            with suppress(OSError):
                homes[pid] = _home(pid, controller)
                (directory / "cgroup.procs").write_text(str(pid))
        set_limit(directory, limit)
        try:
            yield directory
        finally:
            for pid, home in homes.items():
                with suppress(OSError):
                    (directory.parent / home / "cgroup.procs").write_text(str(pid))
