"""A daemon for the attacks of one module, so that a successful attack does not affect the tests of another; and a
directory for the files of one attack."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from tests.live.conftest import workload
from tests.live.harness import Daemon
from tests.nobody import NOBODY

__all__ = ["daemon", "workload"]


@pytest.fixture(scope="module")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon(name="attacked") as running:
        yield running


@pytest.fixture
def base() -> Iterator[str]:
    """A directory for the attacker's files, which does not outlive the test: the attacker is killed."""
    with tempfile.TemporaryDirectory(prefix="procline-test-") as path:
        os.chown(path, NOBODY, NOBODY)
        yield path
