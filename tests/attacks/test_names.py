"""Names of users, groups and terminals that a process chooses for itself are never shown."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from pipeline import ProcessTable
from tests.attacks.harness import as_nobody, unharmed
from tests.attacks.programs import FORGE
from tests.live.harness import Daemon, Recorder
from tests.nobody import NOBODY
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


def test_a_user_does_not_choose_its_name(daemon: Daemon) -> None:
    """The kernel's user id is 65534 in all of them, so "nobody" is the only name that may be shown."""
    pids: list[int] = []

    def check(table: ProcessTable, pid: int) -> None:
        entry = table.resolve(pid)
        assert entry is not None and (entry.comm, entry.uid) == ("sleep", NOBODY)
        assert [entry.user, entry.euser, entry.fsuser] == ["nobody"] * 3
        assert {entry.group, entry.egroup, entry.fsgroup} <= {"nogroup", "nobody"}

    with (
        unharmed(daemon),
        daemon.attach() as table,
        Recorder(daemon, "proc.fork", "proc.exec", "proc.exit").started() as recorder,
        as_nobody(FORGE, NOBODY) as attacker,
    ):
        assert attacker.stdout is not None
        for line in iter(attacker.stdout.readline, "done\n"):
            pids.append(int(line))
        assert len(pids) == 5
        for pid in pids:
            eventually(partial(check, table, pid))
        # Events can come later than the tables show their processes.
        recorder.wait_for(lambda events: set(pids) <= {each["pid"] for each in events if each["event"] == "exec"})
        events = [event for event in recorder.stop() if event["uid"] == NOBODY]
    assert set(pids) <= {event["pid"] for event in events if event["event"] == "exec"}
    # A name that is not known yet is None.
    assert {event["user"] for event in events} <= {"nobody", None}
    assert {event["group"] for event in events} <= {"nogroup", "nobody", None}
    assert {event["file"]["user"] for event in events if event.get("file")} <= {"root", "nobody", None}


#: Descriptor 0 is first the user's own terminal, then a file at another terminal's path, then an O_PATH descriptor.
TERMINALS = """
import os, subprocess, time
leader, follower = os.openpty()
name = os.ttyname(follower)
print(name, flush=True)
plain = "mount -t tmpfs none /dev/pts && : >/dev/pts/77 && exec sleep 300 </dev/pts/77"
for command, stdin in (
    (["sleep", "300"], follower),
    (["unshare", "-Urm", "sh", "-c", plain], subprocess.DEVNULL),
    (["sleep", "300"], os.open(name, os.O_PATH)),
):
    print(subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL).pid, flush=True)
time.sleep(300)
"""


def test_a_user_does_not_choose_its_terminal(live_kernel: None) -> None:
    """With `contexts.tty_fallback`, the path of the standard input or an O_PATH descriptor makes no terminal."""

    def check(table: ProcessTable, pid: int, wanted: str) -> None:
        entry = table.resolve(pid)
        assert entry is not None and (entry.comm, entry.uid, entry.tty or "") == ("sleep", NOBODY, wanted)

    with (
        Daemon("[contexts]\ntty_fallback = true\n", name="attacked-ttys") as daemon,
        unharmed(daemon),
        daemon.attach() as table,
        Recorder(daemon, "proc.context", "proc.exec").started() as recorder,
        as_nobody(TERMINALS) as attacker,
    ):
        assert attacker.stdout is not None
        name = Path(attacker.stdout.readline().strip()).name
        own, plain, unopened = (int(attacker.stdout.readline()) for _ in range(3))
        eventually(partial(check, table, own, f"pts{name}"))
        for pid in (plain, unopened):
            eventually(partial(check, table, pid, ""))
        assert Path(f"/proc/{plain}/fd/0").readlink() == Path("/dev/pts/77")
        assert Path(f"/proc/{unopened}/fd/0").readlink().name == name
        recorder.wait_for(lambda events: any((e["pid"], e["tty"]) == (own, f"pts{name}") for e in events))
        time.sleep(0.5)  # longer than the resolver needs to check an executed program
        for pid in (plain, unopened):
            check(table, pid, "")
        assert not [event for event in recorder.stop() if event["pid"] in (plain, unopened) and event["tty"]]
