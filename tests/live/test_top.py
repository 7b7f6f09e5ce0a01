"""`procline top` in a pseudo-terminal, with a real daemon."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.harness import Daemon
from tests.live.ssh_server import Server

pytest.importorskip("textual")
pytestmark = pytest.mark.live
#: On a busy machine the screen may need seconds for its first frame.
PATIENCE_S = 60


class Terminal:
    """A pseudo-terminal with a program, and what it has drawn since it was last read."""

    def __init__(
        self, daemon: Daemon, *arguments: str, ssh: Server | None = None, size: tuple[int, int] = (24, 100),
        **environment: str,
    ) -> None:  # fmt: skip
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            # In here, so that the program does not see another size first.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
            command = [sys.executable, "-m", "pipeline.cli.main", "top", *arguments]
            if ssh is not None:
                variables = {name: daemon.environment[name] for name in ("PROCLINE_RUNTIME_DIR", "PYTHONPATH")}
                given = [f"{name}={value}" for name, value in variables.items()]
                command = ["/usr/bin/ssh", "-tt", *ssh.options, "root@127.0.0.1", "env", *given, *command]
            os.execve(command[0], command, {**daemon.environment, "TERM": "xterm-256color", **environment})
        self.drawn = b""
        self.drawn_before = b""

    def until(self, part: bytes, *, ever: bool = False) -> bytes:
        """Return what was drawn until a text appears; with `ever`, earlier text counts as well.

        The screen draws differences, so a text that stays where it is is not drawn a second time.
        """
        deadline = time.monotonic() + PATIENCE_S
        while part not in self.drawn and not (ever and part in self.drawn_before):
            assert time.monotonic() < deadline, f"{part!r} does not appear in {self.drawn[-3000:]!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.drawn += os.read(self.fd, 65536)
                except OSError:
                    raise AssertionError(f"the screen ended: {self.drawn[-3000:]!r}") from None
        drawn, self.drawn = self.drawn, b""
        self.drawn_before += drawn
        return drawn

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def end(self) -> int:
        """Press q, and return the exit code."""
        self.press(b"q")
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.drawn += os.read(self.fd, 65536)
                except OSError:
                    break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture(scope="module")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program with a name of its own, so that a filter shows nothing else of the host."""
    return Path(shutil.copy(shutil.which("sleep") or "", tmp_path / "rarely-used"))


FILTER = ("--path", "rarely-used")


@contextmanager
def running(program: Path | str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program during the block; the command does not name its long path."""
    process = subprocess.Popen(command, executable=program)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_processes_appear_and_the_instance_may_be_replaced(daemon: Daemon, program: Path) -> None:
    screen = Terminal(daemon, "--name", daemon.name, *FILTER)
    screen.until(b"COMMAND")
    with running(program, "sleep", "424242"):
        assert b"\x1b[1;32m" in screen.until(b"424242")
    screen.until(b"KILL")
    daemon.stop()
    screen.until(b"stale")
    daemon.start()
    with running(program, "sleep", "434343"):
        screen.until(b"434343")
    assert screen.end() == 0


def test_without_colour_nothing_is_coloured_and_hostile_names_do_nothing(daemon: Daemon, program: Path) -> None:
    screen = Terminal(daemon, "--name", daemon.name, *FILTER, NO_COLOR="1")
    screen.until(b"COMMAND")
    with running("/bin/bash", "bash", "-c", f"exec -a $'\\e[2J\\e]0;title\\a\\e[35m' {program} 454545"):
        drawn = screen.until(rb"\x1b]0;title\x07")
    for sequence in (b"\x1b[2J", b"\x1b]0;", b"\x1b[35m", b";32m", b"\x1b[31m"):
        assert sequence not in drawn
    assert screen.end() == 0


def test_a_recording_is_shown(daemon: Daemon, program: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.rec"
    record(daemon, file, program, "0.616161")
    screen = Terminal(daemon, "--replay", str(file), "--keep", "60", *FILTER)
    screen.until(b"RECORDING")
    screen.until(b"0.616161")
    screen.press(b"}}}}}}}}}}}")
    # On a busy machine the recording may have come to its end, and paused there, before the key is pressed.
    screen.until(b"PAUSED", ever=True)
    assert left_behind(screen)
    assert screen.end() == 0
    assert not left_behind(screen)


def record(daemon: Daemon, file: Path, program: Path, argument: str) -> None:
    """Record until the program has run with this argument."""
    recording = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli.main", "record", str(file)],
        env=daemon.environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert recording.stderr is not None and "recording from" in recording.stderr.readline()
    subprocess.run(["sleep", argument], executable=program, check=True)
    recording.send_signal(signal.SIGINT)
    recording.stderr.read()
    assert recording.wait(60) == 0


def left_behind(screen: Terminal) -> list[Path]:
    return list(Path("/dev/shm").glob(f"procline-replay-{screen.pid}-*"))


@pytest.mark.parametrize("how", ["SIGTERM", "closed terminal"])
def test_a_screen_that_is_ended_leaves_nothing_behind(daemon: Daemon, program: Path, tmp_path: Path, how: str) -> None:
    file = tmp_path / "a.rec"
    record(daemon, file, program, "0.1")
    # As below nohup, which ignores the signal of a closed terminal.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        screen = Terminal(daemon, "--replay", str(file))
    finally:
        signal.signal(signal.SIGHUP, before)
    screen.until(b"RECORDING")
    assert left_behind(screen)
    if how == "SIGTERM":
        os.kill(screen.pid, signal.SIGTERM)
        screen.until(b"\x1b[?1049l")
    else:
        os.close(screen.fd)
    code = os.waitstatus_to_exitcode(os.waitpid(screen.pid, 0)[1])
    assert code == 128 + (signal.SIGTERM if how == "SIGTERM" else signal.SIGHUP)
    assert not left_behind(screen)


def test_it_works_over_ssh_in_the_smallest_usual_terminal(daemon: Daemon, server: Server, program: Path) -> None:
    screen = Terminal(daemon, "--name", daemon.name, *FILTER, ssh=server, size=(24, 80))
    screen.until(b"COMMAND")
    with running(program, "sleep", "464646"):
        drawn = screen.until(b"464646") + screen.drawn_before
    # Nothing is drawn outside of 80 columns and 24 lines.
    assert all(int(at[1]) <= 24 and int(at[2]) <= 80 for at in re.finditer(rb"\x1b\[(\d+);(\d+)H", drawn))
    assert screen.end() == 0
    # The alternative screen and the cursor are as before.
    assert b"\x1b[?1049l" in screen.drawn and b"\x1b[?25h" in screen.drawn
