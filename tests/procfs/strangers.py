"""Processes that stand for an untrusted user's in tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def stranger(
    command: Sequence[str | Path], env: dict[str, str] | None = None, user: int | None = None
) -> Iterator[int]:
    """Run a command that prints its pid and runs until its input is closed; yield the pid."""
    with subprocess.Popen(command, env=env, user=user, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        try:
            yield int(child.stdout.readline())
        finally:
            child.stdin.close()
