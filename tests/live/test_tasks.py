"""Five tasks of somebody who is new to Procline, each solved by one command that `procline --help` shows."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.hierarchy import cgroup_v2_root, remove_cgroups
from tests.live.harness import Daemon
from tests.live.ssh_server import Server
from tests.waiting import eventually

pytestmark = pytest.mark.live

#: The commands, as the help shows them.
WHO_STARTED = "procline why 4711"
UNDER_SSHD = "procline ps --under sshd --since 1m"
SPAWNS_MOST = "procline cost --by unit --sort processes"
BUILD = "procline cost --path make"
OWN_COST = "procline stat"
TASKS = (WHO_STARTED, UNDER_SSHD, SPAWNS_MOST, BUILD, OWN_COST)
UNIT = "procline-test-tasks.service"
MAKEFILE = "all: one two\none two:\n\ttrue $@; i=0; while [ $$i -lt 20000 ]; do i=$$((i + 1)); done\n"


@pytest.fixture(scope="module")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


def answer(daemon: Daemon, command: str) -> str:
    """Return what a command prints, typed as it is into a shell."""
    environment = dict(daemon.environment, PROCLINE_INSTANCE=daemon.name, COLUMNS="160")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=90)
    return done.stdout if done.returncode == 0 else ""


@contextmanager
def spawning_unit(missing: Callable[[str], NoReturn]) -> Iterator[int]:
    """Let a unit start many processes; yield how many."""
    root = cgroup_v2_root()
    if root is None:
        missing("cgroup version 2 is not mounted")
    group = root / "procline-test-tasks.slice" / UNIT
    group.mkdir(parents=True)
    try:
        script = f"echo $$ > {group}/cgroup.procs; i=0; while [ $i -lt 300 ]; do i=$((i + 1)); /bin/true; done"
        subprocess.run(["sh", "-c", script], check=True)
        yield 301
    finally:
        remove_cgroups(group.parent, root)


def test_the_help_leads_to_each(daemon: Daemon) -> None:
    shown = answer(daemon, "procline --help")
    for task in TASKS:
        assert re.search(rf"^ +{re.escape(task)} {{2,}}\S", shown, re.MULTILINE), task
        # What follows explains the command and its options.
        assert "Examples:" in answer(daemon, f"procline help {task.split()[1]}")


def test_who_started_this(daemon: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "nightly-backup"
    script.write_text("#!/bin/sh\nsleep 7395\ntrue\n")
    script.chmod(0o755)
    with subprocess.Popen([script], start_new_session=True) as process:
        try:

            def sleep() -> int:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                # Before its exec, it is another nightly-backup.
                is_sleep = children and Path(f"/proc/{children[0]}/comm").read_text() == "sleep\n"
                return int(children[0]) if is_sleep else 0

            pid = eventually(sleep)
            story = eventually(lambda: answer(daemon, WHO_STARTED.replace("4711", str(pid))), 30)
        finally:
            os.killpg(process.pid, 9)
    first = story.split("\n\n")[0]
    assert first.startswith(f"sleep (pid {pid})") and "nightly-backup" in " ".join(story.split())


def test_what_ran_in_the_last_minute_under_sshd(daemon: Daemon, server: Server) -> None:
    with server.ssh("root", "expr 7396 + 1") as client:
        assert client.wait(60) == 0
    shown = eventually(lambda: (text := answer(daemon, UNDER_SSHD)) and "expr 7396" in text and text, 30)
    assert "sshd" in shown


def test_which_unit_spawns_most(daemon: Daemon, missing: Callable[[str], NoReturn]) -> None:
    with spawning_unit(missing) as made:

        def first() -> list[str]:
            """The row of the first unit; processes in no unit are not one."""
            lines = answer(daemon, SPAWNS_MOST).splitlines()
            return next((line.split() for line in lines if ".service" in line or ".scope" in line), [])

        row = eventually(lambda: (found := first()) and UNIT in found and found, 30)
    assert str(made) in [cell.replace(",", "") for cell in row], row


def test_what_a_build_executed_and_cost(daemon: Daemon, tmp_path: Path) -> None:
    # Other tests run make too, so this build's has a name of its own.
    make = tmp_path / f"make-{secrets.token_hex(4)}"
    shutil.copy("/usr/bin/make", make)
    (tmp_path / "Makefile").write_text(MAKEFILE)
    subprocess.run([make, "-s", "-j2"], cwd=tmp_path, check=True)
    executed = {str(make), str(Path("/bin/sh").resolve())}
    command = BUILD.replace("make", make.name)
    shown = eventually(lambda: (text := answer(daemon, command)) and executed <= set(text.split()) and text, 30)
    heading, *rows = shown.splitlines()
    assert heading.split()[:3] == ["CPU", "USER", "SYSTEM"]
    # make and one shell for each target.
    (total,) = (row.split() for row in rows if row.endswith(" total"))
    assert int(total[-4]) == 3, shown


def test_what_procline_costs_here(daemon: Daemon) -> None:
    shown = answer(daemon, OWN_COST)
    assert re.search(r"CPU", shown) and re.search(r"[MK]i?B", shown) and "lost" in shown.lower(), shown


def test_the_first_answer_comes_within_a_minute_of_the_start(live_kernel: None) -> None:
    """tests/fresh/run measures the same in a fresh Debian, after the set-up."""
    began = time.monotonic()
    with Daemon() as fresh:
        assert answer(fresh, shlex.join(["procline", "why", str(os.getpid())]))
    assert time.monotonic() - began < 60
