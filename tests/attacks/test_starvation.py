"""An unprivileged user keeps every CPU busy and forks meanwhile: no worker is killed because it is slow.

Law 8: a watchdog never kills a process that makes progress.
"""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.attacks.harness import as_nobody, finished, unharmed
from tests.linux import SKIPPED_KINDS, lost_kinds
from tests.live.harness import Daemon

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.tolerant, pytest.mark.usefixtures("live_kernel")]

#: Runs eight busy processes per CPU for the given number of seconds, forks processes that exit at once meanwhile, and
#: prints the number of these forks.
ATTACK = """
import os, sys, time
end = time.monotonic() + float(sys.argv[1])
forks, busy = 0, 8 * os.cpu_count()
for _ in range(busy):
    if os.fork() == 0:
        while time.monotonic() < end:
            pass
        os._exit(0)
while time.monotonic() < end:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    forks += 1
for _ in range(busy):
    os.wait()
print(forks)
"""
SECONDS = 8


def test_no_worker_is_replaced_while_a_user_keeps_all_cpus_busy(daemon: Daemon) -> None:
    before = daemon.stat()
    with unharmed(daemon), as_nobody(ATTACK, SECONDS) as attacker:
        forks = int(finished(attacker))
    assert forks > 50, "the attack made hardly any forks"
    time.sleep(2)  # the last events, and the counts that are stored once a second
    after = daemon.stat()
    assert after["takeovers"] == before["takeovers"]
    lost = Counter(after["lost"]) - Counter(before["lost"])
    assert lost_kinds(lost) <= SKIPPED_KINDS, lost
    assert all(after["events"][kind] - before["events"][kind] >= forks - lost[kind] for kind in ("fork", "exit"))
    assert "no sign of life" not in daemon.log.read_text()
