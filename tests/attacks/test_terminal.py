"""A process with terminal escapes in each of its texts: no command of Procline passes one on to the terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pipeline.cli.commands import ASK
from tests.attacks.harness import as_nobody
from tests.live.harness import Daemon
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: Sets the title, clears the screen, answers in the reader's name, ends a line, reverses the text, and is not UTF-8.
ESCAPES = b"\x1b]0;owned\x07\x1b[2J\x1b[6n\rroot\n\xe2\x80\xae\xc2\x9b31m\xff"

#: Makes a directory and a program with hostile names, and runs it with hostile arguments and a hostile comm. The child
#: fails, so that commands about failures show it too.
HOSTILE = """
import ctypes, os, shutil, sys, time
escapes = bytes.fromhex(sys.argv[1])
directory = os.path.join(os.fsencode(sys.argv[2]), b"d" + escapes)
os.mkdir(directory)
os.chdir(directory)
program = os.path.join(directory, b"p" + escapes)
shutil.copy("/usr/bin/sleep", program)
first, second = os.fork(), 0
if first == 0:
    os.execve(program, [b"a" + escapes, b"300"], {b"X" + escapes: escapes})
second = os.fork()
if second == 0:
    ctypes.CDLL(None).prctl(15, b"c" + escapes[:14])
    os.fork()
    time.sleep(0.5)
    os._exit(3)
print(first, second, flush=True)
time.sleep(300)
"""

#: Commands of `ASK` that are not run here, and why.
OMITTED = {
    "top": "it needs a terminal; tests/top/test_app.py shows hostile names in it",
    "subscribe": "it is run below, while the processes start",
    "timeline": "it writes a page for browsers; tests/timeline/test_page.py has hostile names",
}


@pytest.fixture(scope="module")
def raw_daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon('[args]\nshow = "raw"\n[capture]\nenvs_bytes = 4096\n', name="escapes") as running:
        yield running


def _check(output: str) -> None:
    """Check that a terminal shows the text and does nothing else. The commands colour nothing in a pipe."""
    for line in output.split("\n"):
        assert line.isprintable() or line.replace("\t", "").isprintable(), repr(line)


def _read_all(terminal: int, received: list[bytes]) -> None:
    with suppress(OSError):  # EIO: the command has ended
        while data := os.read(terminal, 65536):
            received.append(data)


def _run(daemon: Daemon, *arguments: str) -> str:
    done = daemon.cli(*arguments)
    assert done.returncode == 0, (arguments, done.stderr)
    _check(done.stdout)
    _check(done.stderr)
    return done.stdout


def test_no_command_passes_escapes_on(raw_daemon: Daemon, base: str) -> None:
    # `subscribe` writes lines for people to a terminal only.
    terminal, shown_in = os.openpty()
    termios.tcsetwinsize(terminal, (50, 1000))
    following = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli.main", "subscribe", "--name", raw_daemon.name, "proc"],
        env=raw_daemon.environment | {"NO_COLOR": "1", "COLUMNS": "1000"}, stdin=subprocess.DEVNULL, stdout=shown_in,
    )  # fmt: skip
    os.close(shown_in)
    received: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(terminal, received), daemon=True)
    reader.start()
    try:
        # From here on it sees every event.
        assert eventually(lambda: subprocess.run(["/bin/true"], check=True) and received)
        with as_nobody(HOSTILE, ESCAPES.hex(), base) as attacker:
            assert attacker.stdout is not None
            pid, failed = attacker.stdout.readline().split()
            assert eventually(lambda: "owned" in raw_daemon.cli("resolve", pid).stdout)
            assert eventually(lambda: failed in raw_daemon.cli("ps", "--exited", "--failed").stdout)
            runs = {
                "resolve": [("resolve", pid), ("resolve", pid, "-v"), ("resolve", failed, "-v")],
                "why": [("why", pid), ("why", failed)],
                "ancestors": [("ancestors", pid)],
                "children": [("children", str(attacker.pid))],
                "tree": [("tree", str(attacker.pid), "-v"), ("tree", "--exited", "--all", "-v")],
                "ps": [("ps", "--user", "nobody"), ("ps", "--exited", "--failed"), ("ps", "--format", "csv")],
                "grep": [("grep", "owned")],
                "cost": [("cost", "--by", "path"), ("cost", "--by", "user")],
                "dump": [("dump", "--json")],
            }
            assert runs.keys() | OMITTED.keys() == ASK.keys(), "a new command: run it here, or say why not"
            for name, commands in runs.items():
                shown = [_run(raw_daemon, *command) for command in commands]
                if name not in {"why", "cost"}:
                    assert any("owned" in text for text in shown), f"{name} did not show the process"
            _run(raw_daemon, "stat", "-v")
            # JSON keeps the bytes, escaped as JSON requires.
            entry = json.loads(raw_daemon.cli("resolve", pid, "--json").stdout)
            assert entry["argv"][0].encode("utf-8", "surrogateescape") == b"a" + ESCAPES
            assert entry["cwd"].encode("utf-8", "surrogateescape").endswith(b"d" + ESCAPES)
    finally:
        following.terminate()
        following.wait(60)
        reader.join(60)
        os.close(terminal)
    output = b"".join(received).decode().replace("\r\n", "\n")
    lines = [line for line in output.split("\n") if f" {pid} " in line]
    assert any("exec" in line and "owned" in line for line in lines), lines
    _check(output)
