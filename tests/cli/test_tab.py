"""TAB is pressed in bash, zsh and fish, each in a terminal of its own.

What a shell then does with the command line is read from the arguments that `procline` gets, and from the screen.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.cli import completion
from tests.docs.blocks import run_by
from tests.sampling import chosen, is_quick

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
#: Each press starts Python; on a busy machine that takes seconds.
PATIENCE_S = 120
ESCAPES = re.compile(rb"\x1b\[[0-9;?<=>]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][A-Z0-9]|\x1b[=>78M]|\r")
#: The command of each shell, without the settings of this user, and how it reads the completions.
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "bind 'set bell-style none'; . {script}"),
    "zsh": (["zsh", "-f", "-i"], "unsetopt beep; autoload -Uz compinit && compinit -u -D && . {script}"),
    "fish": (["fish", "--no-config", "-i"], "source {script}"),
}
#: In a quick run, one that is here.
TESTED = chosen(shell for shell in SHELLS if not is_quick() or shutil.which(shell))
#: The lines of docs/screens.md for the file of a shell, and what shows that the shell then completes.
READ = {
    "bash": ["bash", "--norc", "--noprofile", "-c", "{line}\ncomplete -p procline"],
    "zsh": ["zsh", "-f", "-c", "autoload -Uz compinit && compinit -u -D\n{line}\necho $_comps[procline]"],
    "fish": ["fish", "-c", "{line}\nfish -c 'complete --do-complete \"procline resol\"'"],
}
#: What is typed before a press, and the arguments that `procline` then gets.
COMPLETED = {
    "resol": "resolve", "stat --js": "stat --json", "subscribe proc.rep": "subscribe proc.reparent",
    "completion f": "completion fish",
}  # fmt: skip
#: A `procline` that completes as usual. It records the arguments of any other call.
WRAPPER = """#!/bin/sh
[ -n "${{_PROCLINE_COMPLETE:-}}" ] && exec {python} -m pipeline.cli.main "$@"
echo "$@" >> {calls}
"""


class Terminal:
    """An interactive shell in a pseudo-terminal."""

    def __init__(self, shell: str, directory: Path) -> None:
        command, read = SHELLS[shell]
        self._calls = directory / "calls"
        self._calls.touch()
        programs = directory / "bin"
        programs.mkdir()
        (programs / "procline").write_text(WRAPPER.format(python=sys.executable, calls=self._calls))
        (programs / "procline").chmod(0o755)
        (directory / "script").write_text(completion.script(shell))
        environment = {
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin", "HOME": str(directory), "TERM": "xterm",
            "LANG": "C.UTF-8", "PYTHONPATH": str(CHECKOUT), "PROCLINE_RUNTIME_DIR": str(directory),
            "XDG_RUNTIME_DIR": str(directory),
        }  # fmt: skip
        pid, self._fd = pty.fork()
        if pid == 0:
            os.chdir(directory)
            os.execvpe(command[0], command, environment)
        self._pid = pid
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._screen = b""
        # What is typed before the prompt may be lost.
        self.until(lambda: self.text().rstrip().endswith((b"#", b"$", b"%", b">")))
        self.type(f'{read.format(script=shlex.quote(str(directory / "script")))}; echo is-""ready\r')
        self.until(lambda: b"is-ready" in self.text())

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def text(self) -> bytes:
        """The output of the shell, without colours and movements of the cursor."""
        return ESCAPES.sub(b"", self._screen)

    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self._screen[-2000:]
            if select.select([self._fd], [], [], 0.05)[0]:
                got = os.read(self._fd, 65536)
                self._screen += got
                # fish asks what kind of terminal this is, and waits for the answer.
                if re.search(rb"\x1b\[0?c", got):
                    os.write(self._fd, b"\x1b[?62;22c")

    def called(self, keys: str) -> str:
        """Type keys and a return; return the arguments with which `procline` was then called."""
        before = len(self.calls())
        self.type(f"{keys}\r")
        self.until(lambda: len(self.calls()) > before)
        return self.calls()[before]

    def shown(self, keys: str, *texts: str) -> None:
        """Type keys, and wait until all texts are on the screen; then leave the line."""
        self._screen = b""
        self.type(keys)
        self.until(lambda: all(text.encode() in self.text() for text in texts))
        self.type("\x03")

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._fd)


@pytest.mark.expensive
@pytest.mark.parametrize("shell", TESTED)
def test_the_documented_line_of_a_shell(shell: str, tmp_path: Path, missing: Callable[[str], NoReturn]) -> None:
    if shutil.which(shell) is None:
        missing(f"no {shell} (Debian package {shell})")
    (block,) = run_by("tests/cli/test_tab.py")
    (line,) = (each for each in block.script.splitlines() if f"completion {shell}" in each)
    assert len(block.script.splitlines()) == len(SHELLS)
    (tmp_path / ".config" / "fish" / "completions").mkdir(parents=True)
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        [each.format(line=line) for each in READ[shell]], env={"PATH": path, "HOME": str(tmp_path), "TERM": "xterm"},
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search("procline|resolve", done.stdout), done.stdout


@pytest.fixture(params=TESTED)
def terminal(request: pytest.FixtureRequest, tmp_path: Path, missing: Callable[[str], NoReturn]) -> Iterator[Terminal]:
    if shutil.which(request.param) is None:
        missing(f"no {request.param} (Debian package {request.param})")
    made = Terminal(request.param, tmp_path)
    yield made
    made.close()


@pytest.mark.expensive
def test_a_press_completes_commands_options_and_topics(terminal: Terminal) -> None:
    for keys, arguments in chosen(COMPLETED.items(), 2):
        assert terminal.called(f"procline {keys}\t") == arguments
    terminal.shown("procline subscribe proc.ex\t\t", "proc.exec", "proc.exit")
