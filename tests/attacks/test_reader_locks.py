"""Locks that any user can take on the control file neither block nor mislead `procline stat` and readers."""

from __future__ import annotations

import json
import os
import re

import pytest

from tests.attacks.harness import as_nobody, unharmed
from tests.live.harness import Daemon

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: Takes shared locks that belong to the open file: COUNT single bytes; then one of the whole file if LONG is 1.
LOCK = """
import fcntl, os, struct, sys, time
path, count, long = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def lock(fd, start, length):
    fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, start, length, 0))
files = []
for number in range(count):
    # At most 500 locks per open file: setting a lock takes time in proportion to the locks of the same file.
    if number % 500 == 0:
        files.append(os.open(path, os.O_RDONLY))
    lock(files[-1], 1 + 2 * number, 1)
if long:
    files.append(os.open(path, os.O_RDONLY))
    lock(files[-1], 0, 0)
print("locked", flush=True)
time.sleep(600)
"""


def cpu_s() -> float:
    """Return the CPU time of this process and its children. The kernel counts its search for locks as theirs."""
    return sum(os.times()[:4])


@pytest.mark.parametrize(("count", "long"), [(10_000, 0), (0, 1), (3000, 1)])
def test_stat_answers_whatever_locks_others_hold(daemon: Daemon, count: int, long: int) -> None:
    control = daemon.directory / "control"
    begun = cpu_s()
    assert json.loads(daemon.cli("stat", "--json").stdout)["readers_complete"]
    without_locks_s = cpu_s() - begun
    with daemon.attach() as table, unharmed(daemon), as_nobody(LOCK, str(control), count, long) as attacker:
        assert attacker.stdout is not None and attacker.stdout.readline() == "locked\n"
        begun = cpu_s()
        readers, is_complete = table.count_readers()
        assert cpu_s() - begun < 0.5
        assert not is_complete and readers < 5000
        begun = cpu_s()
        done = daemon.cli("stat")
        assert done.returncode == 0 and cpu_s() - begun < 2 + without_locks_s, done.stderr
        assert re.search(r"^ *readers +at least [0-9,]+$", done.stdout, re.MULTILINE), done.stdout
        assert not daemon.stat()["readers_complete"]
        # A new reader is not blocked either, nor is a look-up.
        assert daemon.cli("resolve", "1").returncode == 0
    stats = daemon.stat()
    assert stats["readers_complete"] and stats["readers"] >= 1
