"""One daemon for all ordinary tests of a test process; tests that disturb a daemon start their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actor import Actor
from tests.live.harness import Daemon, build_workload
from tests.live.watch import Watch
from tests.waiting import eventually


@pytest.fixture(scope="session")
def workload() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="procline-workload-") as directory:
        yield build_workload(Path(directory))


@pytest.fixture(scope="session")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon(CONFIG) as running:
        yield running


#: Arguments are stored raw, because the tests compare them with /proc.
CONFIG = """
[args]
show = "raw"
[envs]
show_values = ["WORKLOAD_MS"]
[capture]
envs_bytes = 4096
"""


@pytest.fixture
def actor(watch: Watch) -> Iterator[Actor]:
    """A process that is in the tables of the module's own `watch`."""
    with Actor() as running:
        eventually(lambda: watch.table.resolve(running.pid) is not None)
        yield running
