"""One daemon for all ordinary tests of a test process; tests that disturb a daemon start their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.actor import Actor, Actors
from tests.live.harness import Daemon, build_workload
from tests.live.ssh_server import PROGRAM, UID, USER, Server, change_users
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
def actor(actors: Actors, watch: Watch) -> Iterator[Actor]:
    """A process that is in the tables of the module's own `watch`."""
    with actors() as running:
        eventually(lambda: watch.table.resolve(running.pid) is not None)
        yield running


@pytest.fixture(scope="module")
def server(missing: Callable[[str], NoReturn]) -> Iterator[Server]:
    if os.geteuid() != 0 or not PROGRAM.exists() or shutil.which("ssh") is None:
        missing("a real sshd needs root, openssh-server and openssh-client")
    # The account has no valid password but is not locked, because sshd rejects keys of locked accounts.
    change_users(
        "useradd", "--uid", str(UID), "--no-create-home", "--home-dir", "/", "--shell", "/bin/bash", "-p", "*", USER
    )
    directory = Path(tempfile.mkdtemp(prefix="procline-sshd-", dir="/dev/shm"))
    directory.chmod(0o755)  # sshd reads the key as this user
    running = Server(directory)
    yield running
    running.close()
    change_users("userdel", "--force", USER)
    shutil.rmtree(directory)
