"""The commands that people use, with a running instance: names, points in time, filters, and how they end."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import paths
from tests.live.harness import Daemon
from tests.waiting import eventually

pytestmark = pytest.mark.live

#: Deeper than the lineage in an event.
DEPTH = 12
MAIN = [sys.executable, "-m", "pipeline.cli.main"]
NESTED = """
import os, sys
depth = int(sys.argv[1])
if depth:
    child = os.posix_spawn(sys.executable, [sys.executable, "-S", __file__, str(depth - 1)], os.environ)
    os.waitpid(child, 0)
else:
    os.execv("/bin/true", ["true", "the deepest"])
"""


def started(daemon: Daemon, *arguments: str, **options: object) -> subprocess.Popen[str]:
    command, *rest = arguments
    return subprocess.Popen(
        [*MAIN, command, "--name", daemon.name, *rest], env=daemon.environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, **options,  # type: ignore[call-overload]
    )  # fmt: skip


def test_a_process_is_found_by_name_and_shown_on_a_dozen_lines(daemon: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "peculiar-name"
    script.write_text("#!/bin/sh\nsleep 60\n")
    script.chmod(0o755)
    with subprocess.Popen([script]) as process:
        try:
            eventually(lambda: daemon.cli("resolve", "peculiar-name", "--json").returncode == 0)
            assert [entry["pid"] for entry in json.loads(daemon.cli("resolve", "peculiar-name", "--json").stdout)] == [
                process.pid
            ]
            lines = daemon.cli("resolve", "peculiar-name").stdout.splitlines()
            assert lines[0].startswith(f"{process.pid}  ") and len(lines) <= 12
            assert any(line.split()[:2] == ["user", "root"] for line in lines)
            above = daemon.cli("ancestors", "peculiar-name").stdout.splitlines()
            assert [int(line.split()[0]) for line in above[1:] if not line.startswith(" " * 12)][:2] == [
                process.pid, os.getpid(),
            ]  # fmt: skip
            now = json.loads(daemon.cli("resolve", str(process.pid), "--at", "now", "--json").stdout)
            assert now["pid"] == process.pid
        finally:
            subprocess.run(["pkill", "-P", str(process.pid)], check=False)
            process.kill()
    assert daemon.cli("resolve", "peculiar-name-of-nobody").returncode == 1


def test_a_deep_descendant_is_not_missed(daemon: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "nested.py"
    script.write_text(NESTED)
    # The top runs a program for each line until another one comes, so that it lives when the command reads its pid.
    loop = "while read line && [ $line = mark ]; do /bin/true mark; done"
    top = subprocess.Popen(
        ["sh", "-c", f"{loop}; exec {sys.executable} -S {script} {DEPTH}"], stdin=subprocess.PIPE, text=True
    )
    other = subprocess.Popen(["sh", "-c", "while :; do /bin/true other; sleep 0.05; done"])
    try:
        eventually(lambda: daemon.cli("resolve", str(top.pid), "--json").returncode == 0)
        command = started(daemon, "subscribe", "exec", "--under", str(top.pid), "--timeout", "120", "--json")
        assert top.stdin is not None and command.stdout is not None
        while not select.select([command.stdout], [], [], 0.2)[0]:  # it has to open the stream first
            top.stdin.write("mark\n")
            top.stdin.flush()
        top.stdin.write("go\n")
        top.stdin.close()
        out = ""
        while "the deepest" not in out:
            out += command.stdout.readline()
        time.sleep(0.5)  # nothing that is not selected follows
        command.send_signal(signal.SIGINT)
        rest, err = command.communicate(timeout=60)
        out += rest
        top.wait(60)
    finally:
        other.kill()
        other.wait()
    assert command.returncode == 0 and err == ""
    events = [json.loads(line) for line in out.splitlines()]
    assert {event["event"] for event in events} == {"exec"}
    deepest = [event for event in events if event["argv"] == ["true", "the deepest"]]
    assert len(deepest) == 1
    assert top.pid not in [image["pid"] for image in deepest[0]["lineage"]], "the lineage would have been enough"
    assert not [event for event in events if event["argv"] and "other" in event["argv"]]


def test_failures_are_lines_that_fit_a_narrow_terminal(daemon: Daemon) -> None:
    above, below = pty.openpty()
    environment = daemon.environment | {"TERM": "xterm", "COLUMNS": "48"}
    environment.pop("NO_COLOR", None)
    # Programs of other tests fail, too.
    under = ["--under", str(os.getpid()), "--user", "root"]
    arguments = ["subscribe", "--name", daemon.name, "--failed", *under, "--count", "3", "--timeout", "60"]
    process = subprocess.Popen([*MAIN, *arguments], env=environment, stdout=below, stdin=below, stderr=below)
    os.close(below)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        subprocess.run(["/bin/sh", "-c", "exit 7"], check=False)
        time.sleep(0.2)
    assert process.wait(60) == 0
    text = os.read(above, 65536).decode()
    os.close(above)
    assert "\x1b[31m" in text  # an end with an error is red
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert len(lines) == 3 and all(len(line) <= 48 and " - " in line for line in lines), lines
    assert all("[code 7 " in line for line in lines)


def test_a_reader_that_has_enough_is_no_failure(daemon: Daemon) -> None:
    for command in ("dump", "subscribe --snapshot --json", "tree", "stat -v"):
        name, _, rest = command.partition(" ")
        done = subprocess.run(
            ["bash", "-c", f'{" ".join(MAIN)} {name} --name {daemon.name} {rest} | head -1; echo "${{PIPESTATUS[0]}}"'],
            env=daemon.environment, capture_output=True, text=True, timeout=90,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == "0" and done.stderr == "", (command, done)


def test_the_running_instance_is_listed(daemon: Daemon) -> None:
    done = subprocess.run([*MAIN, "list", "--json"], env=daemon.environment, capture_output=True, text=True, timeout=60)
    (found,) = json.loads(done.stdout)
    assert (found["name"], found["state"]) == (daemon.name, "ready")
    assert found["pid"] == daemon.pids("supervisor")[0]
    assert 0 < time.time() - found["since_ns"] / 1e9 < 86_400


def test_look_ups_are_measured(daemon: Daemon) -> None:
    costs = json.loads(daemon.cli("bench-read", "--seconds", "0.5", "--json").stdout)["costs"]
    assert {cost["case"] for cost in costs} >= {"procline"}
    assert all(0 <= cost["best_ns"] <= cost["ns"] <= cost["worst_ns"] for cost in costs)


def test_waiting_ends_when_a_start_fails(live_kernel: None) -> None:
    daemon = Daemon()
    try:
        daemon.start(wait=False)
        assert daemon.process is not None
        lock = daemon.directory / paths.SUPERVISOR_LOCK
        while not lock.exists() or not lock.read_text():  # before that, nothing says which process is starting
            assert daemon.process.poll() is None
        daemon.process.send_signal(signal.SIGSTOP)  # so that the start is not over before the command looks
        waiting = started(daemon, "wait", "--timeout", "120")
        # It looks, sleeps, and looks again. Not wchan, which is 0 in Linux 5.10.
        eventually(lambda: "nanosleep" in Path(f"/proc/{waiting.pid}/stack").read_text())
        time.sleep(1)
        assert waiting.poll() is None
        begin = time.monotonic()
        daemon.process.kill()
        assert waiting.wait(60) == 3 and time.monotonic() - begin < 30
        assert waiting.stderr is not None and "has ended during its start" in waiting.stderr.read()
    finally:
        daemon.close()
