"""A directory on tmpfs for tables."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def shm_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="procline-test-", dir="/dev/shm") as directory:
        yield Path(directory)
