"""Namespaces with passwd files of maximum size: the resolver's memory does not grow with them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.procfs.users import FILE_BYTES
from pipeline.resolver.stream._name_cache import VIEWS_PER_USER
from tests.attacks.harness import as_nobody, unharmed, worker_pids
from tests.live.harness import Daemon
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

NAMESPACES = 200
SECONDS = 3
#: Memory for the rows of 400 processes, and what the allocator keeps.
ALLOWANCE = 12 << 20

#: Creates user and mount namespaces, each with large files at /etc/passwd and /etc/group, and keeps a process in each.
FLOOD = """
import shutil, subprocess, sys, tempfile, time
count, size = int(sys.argv[1]), int(sys.argv[2])
directory = tempfile.mkdtemp()
for name in ("passwd", "group"):
    lines = "".join(f"user{number}:x:{number}:0::/:/bin/sh\\n" for number in range(50_000))
    with open(f"{directory}/{name}", "w") as file:
        file.write(lines[:size])
script = 'mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && exec sleep 600'
for number in range(count):
    subprocess.Popen(["unshare", "-Urm", "sh", "-c", script, directory])
    print(number, flush=True)
time.sleep(1)
shutil.rmtree(directory)
print("done", flush=True)
time.sleep(600)
"""


def test_the_resolvers_memory_stays_within_its_bound(daemon: Daemon) -> None:
    resolver = worker_pids(daemon)["resolver"]
    before = memory(resolver)
    most = 0
    with unharmed(daemon), as_nobody(FLOOD, NAMESPACES, FILE_BYTES) as attacker:
        assert attacker.stdout is not None
        for line in attacker.stdout:
            most = max(most, memory(resolver))
            if line == "done\n":
                break
        made = subprocess.run(["pgrep", "-cu", "nobody", "-x", "sleep"], capture_output=True, text=True).stdout
        assert int(made) > NAMESPACES // 2, "most of the namespaces are there"
        ended = time.monotonic() + SECONDS
        while time.monotonic() < ended:
            most = max(most, memory(resolver))
            time.sleep(0.1)
        own = json.loads(daemon.cli("resolve", str(os.getpid()), "--json").stdout)
        assert own["user"] == "root", "the host's names are not affected"
    grown = most - before
    assert grown < ALLOWANCE, f"it grew by {grown >> 20} MiB"
    files = sum(file.stat().st_blocks * 512 for file in (daemon.directory / "users").iterdir())
    assert files < VIEWS_PER_USER * 4096 + (1 << 20), f"{files >> 20} MiB of files"
    eventually(lambda: memory(resolver) - before < ALLOWANCE)


def memory(pid: int) -> int:
    """Return private memory, shared memory and PSS of a process, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no Pss")
