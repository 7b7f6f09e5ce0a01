"""`ps`, `tree` and `grep` agree with /proc, and a reader without rights gets a message about what it lacks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.harness import Daemon
from tests.nobody import NOBODY
from tests.proc import live_pids
from tests.waiting import eventually

pytestmark = pytest.mark.live

#: A number that no other command line on this host has.
MARK = f"86{os.getpid():08d}"


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Four sleeping processes, the last of them of another user."""
    with ExitStack() as stack:
        made = [subprocess.Popen(["sleep", MARK]) for _ in range(3)]
        made.append(subprocess.Popen(["sleep", MARK], user=NOBODY, group=NOBODY, extra_groups=[]))
        for process in made:
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield made


def test_ps_and_tree_have_the_processes_of_proc(daemon: Daemon, sleepers: list[subprocess.Popen[bytes]]) -> None:
    def check() -> None:
        before = live_pids()
        listed = {
            each["pid"]: each for each in json.loads(daemon.cli("ps", "--json", "-o", "pid,ppid,uid,argv").stdout)
        }
        drawn: set[int] = set()
        waiting = json.loads(daemon.cli("tree", "--json").stdout)
        while waiting:
            node = waiting.pop()
            drawn.add(node["pid"])
            waiting += node["children"]
        lines = daemon.cli("tree", "-v").stdout.splitlines()
        stable = before & live_pids()
        assert stable >= {os.getpid(), *daemon.pids(""), *(process.pid for process in sleepers)}
        assert stable <= set(listed), stable - set(listed)
        assert stable <= drawn
        assert stable <= {int(found[1]) for line in lines if (found := re.match(r"[│├└─ ]*(\d+) ", line))}
        for process in sleepers:
            status = Path(f"/proc/{process.pid}/status").read_text()
            row = listed[process.pid]
            assert row["argv"] == ["sleep", MARK]
            assert f"\nPPid:\t{row['ppid']}\n" in status and f"\nUid:\t{row['uid']}\t" in status

    eventually(check)


def test_filters_find_what_proc_has(daemon: Daemon, sleepers: list[subprocess.Popen[bytes]]) -> None:
    own = {process.pid for process in sleepers}

    def pids(*arguments: str) -> set[int]:
        return {each["pid"] for each in json.loads(daemon.cli(*arguments, "--json").stdout)}

    eventually(lambda: own == pids("ps", "--where", f"'{MARK}' in argv"))
    assert pids("grep", f"^sleep {MARK}$", "--live") == own
    assert pids("ps", "--user", str(NOBODY), "--path", "sleep") >= {sleepers[3].pid}
    assert not own & pids("ps", "--user", str(NOBODY), "--path", "bash")
    assert own <= pids("ps", "--under", str(os.getpid()))
    text = daemon.cli("tree", str(os.getpid()), "--path", "sleep").stdout
    assert f"3 × sleep {MARK}" in text and f"{sleepers[3].pid} sleep {MARK}  user nobody" in text
    threads = json.loads(daemon.cli("stat", "--json").stdout)["processes"][0]["pid"]
    count = len(list(Path(f"/proc/{threads}/task").iterdir()))
    if count > 1:
        assert f"{count} threads" in daemon.cli("tree", str(threads), "-v").stdout.splitlines()[0]


def test_grep_finds_what_has_ended(daemon: Daemon) -> None:
    done = subprocess.Popen(["sh", "-c", f": {MARK}x; exit 3"])
    done.wait()

    def check() -> None:
        found = daemon.cli("grep", f"{MARK}x", "--failed").stdout.splitlines()
        assert len(found) == 1 and f"{done.pid}  exited" in found[0] and "code 3" in found[0], found

    eventually(check)
    # Until it is known that they have ended, the commands above are found too.
    eventually(lambda: daemon.cli("grep", f"{MARK}x", "--live").returncode == 1)
    # The command does not find itself, although its arguments have the pattern.
    assert str(done.pid) in daemon.cli("grep", f"{MARK}x").stdout


def test_a_reader_without_rights_gets_a_message_about_them(
    daemon: Daemon, sleepers: list[subprocess.Popen[bytes]]
) -> None:
    """A user sees the arguments of its own processes, and a message why others have none."""
    eventually(lambda: daemon.cli("grep", f"^sleep {MARK}", "--live").stdout.count(MARK) == 4)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "tree", "--name", daemon.name, "-v", "--path", "sleep"],
        env=daemon.environment, capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL,
        user=NOBODY, group=NOBODY, extra_groups=[], cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("arguments hidden: ") == 1 and len(done.stderr.splitlines()) == 1
    lines = {
        process.pid: line for line in done.stdout.splitlines() for process in sleepers if f" {process.pid} " in line
    }
    assert MARK in lines[sleepers[3].pid]
    for process in sleepers[:3]:
        assert MARK not in lines[process.pid]
