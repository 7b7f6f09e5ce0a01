"""Acts of the compiled workload `actions`, run to their end or until a test has seen enough."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def act(program: Path, *arguments: str | Path, expect: int = 0) -> tuple[int, list[int]]:
    """Run an act to its end; return its pid and the numbers that it printed."""
    pid, numbers, code = ended(program, *arguments)
    assert code == expect
    return pid, numbers


def ended(program: Path, *arguments: str | Path) -> tuple[int, list[int], int]:
    """Run an act to its end; return its pid, the numbers that it printed, and the exit code that wait() reports."""
    child = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    output, _ = child.communicate(timeout=60)
    return child.pid, [int(line) for line in output.split()], child.returncode


@contextmanager
def waiting(*command: str | bytes | Path, env: dict[str, str] | None = None) -> Iterator[int]:
    """Run a command that waits until its stdin ends; yield its pid."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    try:
        # Popen returns in the middle of the exec: /proc has no arguments yet.
        while not Path(f"/proc/{child.pid}/cmdline").read_bytes() and child.poll() is None:
            time.sleep(0.001)
        yield child.pid
    finally:
        child.communicate(timeout=60)
