"""The cgroup hierarchies of the host, and one of version 1 for a test: with version 2, this makes a hybrid host."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from tests.waiting import until


def cgroup_v2_root() -> Path | None:
    """Return the root of the host's version 2 hierarchy; None: it is not mounted."""
    roots = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
    return next((root for root in roots if (root / "cgroup.procs").exists()), None)


def remove_cgroup(group: Path) -> None:
    """Remove a cgroup, which is busy for a moment after its last process has ended."""

    def is_removed() -> bool:
        with suppress(OSError):
            group.rmdir()
        return not group.exists()

    until(is_removed, f"{group} is removed")


def remove_cgroups(top: Path, refuge: Path) -> None:
    """Move every process in a cgroup and below it to another cgroup, and remove them."""
    for group in sorted((Path(path) for path, _, _ in os.walk(top)), reverse=True):
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (refuge / "cgroup.procs").write_text(pid)
        remove_cgroup(group)


def named_hierarchy(missing: Callable[[str], NoReturn]) -> Iterator[Path]:
    """Mount a hierarchy with a name and no controllers; yield its directory, which has the same name.

    At the end every process is moved to the root and all cgroups are removed, so that the kernel removes the hierarchy.
    """
    directory = Path(tempfile.mkdtemp(prefix="procline-v1-"))
    command = ["mount", "-t", "cgroup", "-o", f"none,name={directory.name}", "none", directory]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        directory.rmdir()
        missing(f"no cgroup hierarchy of version 1 can be mounted: {result.stderr.strip()}")
    try:
        yield directory
    finally:
        for group in [path for path in directory.iterdir() if path.is_dir()]:
            remove_cgroups(group, directory)
        # The kernel removes cgroups some time after their directories, and an unmount ends the hierarchy only without
        # cgroups: 100 ms later it is gone. To mount it again before that would make a new one.
        time.sleep(0.2)
        subprocess.run(["umount", directory], check=True)
        # A namespace that was made meanwhile can hold the mount for longer. Then the hierarchy ends with the namespace.
        deadline = time.monotonic() + 5
        while not is_gone(directory.name) and time.monotonic() < deadline:
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                subprocess.run(["umount", directory], check=True)
        directory.rmdir()


def is_gone(name: str) -> bool:
    """Return whether the kernel has removed a hierarchy of this name, or does so within half a second."""
    deadline = time.monotonic() + 0.5
    while f"name={name}:" in Path("/proc/self/cgroup").read_text():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


v1_hierarchy = contextmanager(named_hierarchy)
