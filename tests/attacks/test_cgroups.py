"""Cgroups with names that a user chose: that of a container of root, which is marked, and names that are not text."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline import ProcessTable
from tests.attacks.harness import as_nobody, unharmed, worker_pids
from tests.attacks.programs import FORGE
from tests.hierarchy import cgroup_v2_root, remove_cgroups
from tests.live.harness import Daemon, Recorder
from tests.live.test_contexts import CONTAINER, cgroup
from tests.nobody import NOBODY
from tests.waiting import eventually

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


@contextmanager
def delegated(missing: Callable[[str], NoReturn]) -> Iterator[Path]:
    """Make the cgroup of a user's service manager as systemd does: root makes it, and the user owns it."""
    root = cgroup_v2_root()
    if root is None or os.geteuid() != 0:
        missing("needs root and cgroups of version 2")
    top = root / f"user-{os.getpid()}.slice"
    manager = top / f"user@{NOBODY}.service"
    first = manager / "init.scope"
    try:
        first.mkdir(parents=True)
        for directory in (manager, first):
            os.chown(directory, NOBODY, NOBODY)
            for file in ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
                os.chown(directory / file, NOBODY, NOBODY)
        yield manager
    finally:
        remove_cgroups(top, root)


#: Makes the cgroups that its input names, each with a process of its own.
MAKE = """
import os, subprocess, sys
manager = os.fsencode(sys.argv[1])
for name in sys.argv[2:]:
    path = manager + b"/" + bytes.fromhex(name)
    os.makedirs(path)
    script = 'echo $$ > "$0/cgroup.procs" && exec sleep 300'
    subprocess.Popen(["sh", "-c", script, path], stdout=subprocess.DEVNULL)
print("done", flush=True)
sys.stdin.read()
"""


def names_of(*names: bytes) -> list[str]:
    return [name.hex() for name in names]


@contextmanager
def made_by_nobody(manager: Path, *names: bytes) -> Iterator[None]:
    """Let the user, who is in the delegated cgroup, make cgroups below it and put processes into them."""
    go = "import sys\nsys.stdin.readline()\n"
    with as_nobody(go + MAKE, str(manager), *names_of(*names), stdin=True) as attacker:
        assert attacker.stdin is not None and attacker.stdout is not None
        (manager / "init.scope" / "cgroup.procs").write_text(str(attacker.pid))
        attacker.stdin.write("go\n")
        attacker.stdin.flush()
        assert attacker.stdout.readline() == "done\n"
        yield


def in_cgroup(table: ProcessTable, path: str) -> list[int]:
    return [entry.pid for entry in table.walk() if entry.cgroup == path and entry.comm == "sleep"]


def test_a_container_that_a_user_has_named_is_marked(daemon: Daemon, missing: Callable[[str], NoReturn]) -> None:
    """The same id is in a cgroup of root and in one of a user. Entries, events and commands distinguish them."""
    name = f"docker-{CONTAINER}.scope"
    with (
        cgroup(missing) as roots,
        delegated(missing) as manager,
        daemon.attach() as table,
        Recorder(daemon, "proc.fork", "proc.exec", "proc.context").started() as recorder,
        as_nobody("import subprocess, sys; sys.stdin.read(1); subprocess.run(['sleep', '300'])", stdin=True) as inside,
        made_by_nobody(manager, name.encode()),
    ):
        assert inside.stdin is not None
        (roots / "cgroup.procs").write_text(str(inside.pid))
        inside.stdin.write("x")
        inside.stdin.close()
        forged = f"/{manager.parent.name}/{manager.name}/{name}"
        theirs = eventually(lambda: in_cgroup(table, forged))[0]
        ours = eventually(lambda: [entry.pid for entry in table.children(inside.pid) if entry.comm == "sleep"])[0]
        wanted = {ours: "root", theirs: "user"}
        for pid, trust in wanted.items():
            entry = table.resolve(pid)
            assert (entry.container_id, entry.container_trust, entry.uid) == (CONTAINER, trust, NOBODY)
            assert entry.as_dict(["container_trust"]) == {"container_trust": trust}
        batch = table.batch(["pid", "container_trust"], running=True).dicts()
        assert {each["pid"]: each["container_trust"] for each in batch if each["pid"] in wanted} == wanted
        assert table.resolve(os.getpid()).container_trust is None
        recorder.wait_for(lambda events: {e["pid"] for e in events if e["event"] == "exec"} >= wanted.keys())
        told = {e["pid"]: e["container_trust"] for e in recorder.stop() if e["pid"] in wanted and e["container_id"]}
        assert told == wanted

        mark = "(named by a user?)"
        for pid, trust in wanted.items():
            assert json.loads(daemon.cli("resolve", str(pid), "--json").stdout)["container_trust"] == trust
            for command in (["resolve"], ["tree"], ["why"]):
                shown = daemon.cli(*command, str(pid)).stdout
                assert CONTAINER[:12] in shown and (mark in shown) == (trust == "user"), shown
        rows = daemon.cli("ps", "-o", "pid,container", "--container", CONTAINER[:12]).stdout.splitlines()
        for pid, trust in wanted.items():
            (row,) = [row for row in rows if row.split()[0] == str(pid)]
            assert (mark in row) == (trust == "user")
        where = f"container_id == '{CONTAINER}' and container_trust == 'root'"
        found = json.loads(daemon.cli("ps", "-o", "pid", "--where", where, "--json").stdout)
        assert ours in [row["pid"] for row in found] and theirs not in [row["pid"] for row in found]


#: Names that are containers for `pipeline.procfs.containers`, and no UTF-8.
BAD = (b"lxc.payload.\xff\xfe", b"systemd-nspawn@\xff\\xfe.service", b"lxc/\xc3", b"docker-\xff.scope")


def test_names_that_are_not_text_do_not_stop_the_daemon(live_kernel: None, missing: Callable[[str], NoReturn]) -> None:
    """The daemon learns of the cgroups from records, or finds them and their processes at its start."""
    with delegated(missing) as manager:

        def check(table: ProcessTable) -> None:
            found = [entry for entry in table.walk() if (entry.cgroup or "").startswith(f"/{below}/")]
            sleeps = [entry for entry in found if entry.comm == "sleep"]
            assert len(sleeps) == len(BAD)
            ids = sorted(os.fsencode(entry.container_id or "") for entry in sleeps)
            assert ids == sorted([b"\xff\xfe", b"\xff\xfe", b"\xc3", b""])
            assert {entry.container_trust for entry in sleeps if entry.container_id} == {"user"}

        below = f"{manager.parent.name}/{manager.name}"
        with Daemon(name="cgroup-names") as daemon, unharmed(daemon), daemon.attach() as table:
            with made_by_nobody(manager, *BAD):
                eventually(partial(check, table))
                with Daemon(name="cgroup-names-later") as later, later.attach() as other:
                    workers = worker_pids(later)
                    eventually(partial(check, other))
                    assert worker_pids(later) == workers and "Traceback" not in later.log.read_text()
            assert "Traceback" not in daemon.log.read_text()
