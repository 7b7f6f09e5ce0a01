"""A systemd in namespaces of its own, for the tests of units."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest


def require_systemd(missing: Callable[[str], NoReturn]) -> None:
    """Skip the test, or fail it with PROCLINE_REQUIRE_LIVE=1, if this host cannot run a systemd for it."""
    if not Path("/usr/lib/systemd/systemd").exists() or shutil.which("setpriv") is None:
        missing("systemd or setpriv is not installed")
    if str(Path(sys.base_prefix).resolve()).startswith(("/root", "/home")):
        pytest.skip("the service cannot use an interpreter in a home directory (ProtectHome=)")


def remove_cgroup(name: str) -> None:
    """Remove a cgroup that a script here has made, with those below it.

    The mount of the namespace is gone with it; the host's own mount shows the same hierarchy.
    """
    for place in Path("/sys/fs/cgroup").glob(f"**/{name}"):
        for directory in sorted((path for path in place.rglob("*") if path.is_dir()), reverse=True):
            directory.rmdir()
        place.rmdir()
