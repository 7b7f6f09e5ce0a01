"""On a host without cgroups of version 2, containers are known by the paths of version 1."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.errors import UnsupportedError
from pipeline.procfs.containers import find_cgroup_mounts
from pipeline.sources.proc_connector.netlink import close_socket, open_socket
from tests.actor import Actor
from tests.cgroup_paths import cgroups_of_the_fixture
from tests.hierarchy import v1_hierarchy
from tests.live.harness import Daemon, each_change
from tests.waiting import eventually

pytestmark = [pytest.mark.live]

CONTAINER = "fedcba9876543210" * 4
#: Processes that move through the cgroups at a time.
MOVERS = 8


@pytest.fixture
def v1(missing: Callable[[str], NoReturn]) -> Iterator[Path]:
    with v1_hierarchy(missing) as directory:
        yield directory


@pytest.mark.parametrize("source", ["ebpf", "proc-connector"])
def test_containers_without_cgroups_of_version_2(
    request: pytest.FixtureRequest, missing: Callable[[str], NoReturn], v1: Path, source: str
) -> None:
    """The daemon runs without a mount of version 2. The hierarchy of the test is mounted before."""
    if source == "ebpf":
        request.getfixturevalue("live_kernel")
    else:
        try:
            close_socket(open_socket(1 << 16))
        except UnsupportedError as error:
            missing(str(error))
    group = v1 / "docker" / CONTAINER
    group.mkdir(parents=True)
    daemon = Daemon(each_change(), "--source", source, name="v1")
    mount, _ = find_cgroup_mounts()
    if mount is not None:
        daemon.wrapper = ("unshare", "--mount", "sh", "-c", f'umount {mount} && exec "$@"', "sh")
    with ExitStack() as stack:
        actor = stack.enter_context(Actor())
        (group / "cgroup.procs").write_text(str(actor.pid))
        table = stack.enter_context(stack.enter_context(daemon).attach())
        # Found by the snapshot.
        eventually(lambda: table.resolve(actor.pid).container_id == CONTAINER)
        assert table.resolve(os.getpid()).container_id is None
        # Found by a move, and inherited by a child.
        inside = subprocess.Popen(["sh", "-c", f"echo $$ > {group}/cgroup.procs; sleep 600 & exec sleep 601"])
        stack.callback(inside.wait)
        stack.callback(inside.kill)
        eventually(lambda: table.resolve(inside.pid, wait_ms=1000).comm == "sleep")
        child = eventually(lambda: [entry.pid for entry in table.children(inside.pid)] or False)[0]
        stack.callback(os.kill, child, 9)
        for pid in (inside.pid, child):
            eventually(lambda pid=pid: table.resolve(pid).container_id == CONTAINER)
        shown = json.loads(daemon.cli("resolve", str(inside.pid), "--json").stdout)
        assert shown["container_id"] == CONTAINER
        assert source == "ebpf" or (shown["cgroup_id"], shown["cgroup"]) == (None, None)

        def check(pid: int, uid: int, container: str | None) -> None:
            entry = table.resolve(pid)
            assert (entry.uid, entry.container_id) == (uid, container)

        # Moves through all names that runtimes give to cgroups, and out again. A container is known half a second
        # later, so several processes move at a time.
        groups = stack.enter_context(cgroups_of_the_fixture(v1 / "fixture"))
        movers = [actor, *(stack.enter_context(Actor()) for _ in range(MOVERS - 1))]
        moves = list(groups.items())
        rounds = [moves[first : first + MOVERS] for first in range(0, len(moves), MOVERS)]
        for uid, some in enumerate([*rounds, [(v1, None)] * MOVERS], 1001):
            for mover, (to, _) in zip(movers, some, strict=False):
                (to / "cgroup.procs").write_text(str(mover.pid))
                path = str(to).removeprefix(str(v1)) or "/"
                assert f"name={v1.name}:{path}\n" in Path(f"/proc/{mover.pid}/cgroup").read_text()
                # The proc connector finds it with the next change that the kernel reports.
                mover.do(f"os.setresuid({uid}, 0, 0)")
            for mover, (_, container) in zip(movers, some, strict=False):
                eventually(partial(check, mover.pid, uid, container))
