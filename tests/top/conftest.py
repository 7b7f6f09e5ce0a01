"""A made-up host for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.top.host import Host


@pytest.fixture
def shm_dir() -> Iterator[Path]:
    """A directory on tmpfs for tables."""
    directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def host(shm_dir: Path) -> Host:
    """init, a shell, and a sleep that the shell has started."""
    made = Host(shm_dir)
    made.start(1, "/sbin/init")
    made.start(40, "bash", parent=1, ago=500)
    made.start(41, "sleep 100", parent=40, ago=400, uid=1000)
    return made
