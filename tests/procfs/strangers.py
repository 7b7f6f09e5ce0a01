"""Processes of tests that stand for somebody else's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def stranger(
    command: Sequence[str | Path], env: dict[str, str] | None = None, user: int | None = None
) -> Iterator[int]:
    """Run a command that prints its pid and lives until its input ends; gives the pid."""
    with subprocess.Popen(command, env=env, user=user, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        try:
            yield int(child.stdout.readline())
        finally:
            child.stdin.close()
