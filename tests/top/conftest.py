"""A made-up host for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.top.host import Host


@pytest.fixture
def host() -> Iterator[Host]:
    """init, a shell, and a sleep that the shell has started."""
    directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    made = Host(directory)
    made.start(1, "/sbin/init")
    made.start(40, "bash", parent=1, ago=500)
    made.start(41, "sleep 100", parent=40, ago=400, uid=1000)
    yield made
    shutil.rmtree(directory, ignore_errors=True)
