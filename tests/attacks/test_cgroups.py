"""A user's process in a cgroup that is named like a container has that id, and nothing else follows from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn

import pytest

from pipeline import ProcessTable
from tests.attacks.harness import NOBODY, as_nobody
from tests.attacks.test_names import FORGE
from tests.live.harness import Daemon, eventually
from tests.live.test_contexts import CONTAINER, cgroup

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: Root delegates the cgroup to the user, which a service manager does on request.
WAIT = """
import time
while "docker-" not in open("/proc/self/cgroup").read():
    time.sleep(0.01)
"""


def test_the_name_of_a_cgroup_does_not_choose_names_of_users(
    daemon: Daemon, missing: Callable[[str], NoReturn]
) -> None:
    def check(table: ProcessTable, pid: int) -> None:
        entry = table.resolve(pid)
        assert entry is not None and (entry.comm, entry.uid) == ("sleep", NOBODY)
        assert entry.container_id == CONTAINER
        assert [entry.user, entry.euser, entry.fsuser] == ["nobody"] * 3

    with cgroup(missing) as group, daemon.attach() as table, as_nobody(WAIT + FORGE, NOBODY) as attacker:
        (group / "cgroup.procs").write_text(str(attacker.pid))
        assert attacker.stdout is not None
        pids = [int(line) for line in iter(attacker.stdout.readline, "done\n")]
        assert len(pids) == 5
        for pid in pids:
            eventually(partial(check, table, pid))
