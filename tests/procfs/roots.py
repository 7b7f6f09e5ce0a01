"""A process with another root directory, and in namespaces of its own."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.procfs.strangers import stranger

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a process another root directory")

#: A process in its own user and mount namespaces, in which it is root.
UNSHARED = ["unshare", "-Urm", "sh", "-c", "echo $$; read wait"]


def process_in(root: Path, *before: str) -> AbstractContextManager[int]:
    """Run a process with the root directory `root`; `before` are words before its command."""
    code = "import os,sys;os.chroot(sys.argv[1]);os.chdir('/');print(os.getpid(),flush=True);sys.stdin.read()"
    return stranger([*before, sys.executable, "-c", code, root])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory with users and groups of its own."""
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_text("app:x:1000:1000::/:/bin/sh\nroot:x:0:0::/:/bin/sh\n")
    (tmp_path / "root/etc/group").write_text("appgroup:x:1000:\n")
    return tmp_path / "root"
