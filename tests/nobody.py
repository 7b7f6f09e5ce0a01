"""Work in this test's own code as an unprivileged user, in a forked child."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

NOBODY = 65534


def become_nobody() -> None:
    """Give up all rights of root, if this process has them."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def run_by_nobody(work: Callable[[], object]) -> None:
    """Run `work` in a child process without privileges that uses the modules imported already; it must not fail."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            become_nobody()
            work()
            code = 0
        except BaseException as error:  # pytest's capture shows it
            os.write(2, f"{error!r}\n".encode())
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@contextmanager
def held_by_nobody(act: Callable[[], object]) -> Iterator[None]:
    """Run `act` in a process of another user, and keep its result, which must be true, alive while the body runs."""
    if os.geteuid() != 0:
        pytest.skip("needs root to act as another user")
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become_nobody()
            held = act()
            os.write(go, b"x" if held else b"-")
            time.sleep(20)
        finally:
            os._exit(0)
    try:
        assert os.read(ready, 1) == b"x"
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(go)
