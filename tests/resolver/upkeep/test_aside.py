"""Answers of a thread wait until they are taken, and the thread ends with its owner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pipeline.resolver.upkeep.aside import Aside


def soon(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def threads() -> list[str]:
    """Return the names of this process's threads."""
    return sorted(thread.name for thread in threading.enumerate())


def test_an_answer_waits_until_it_is_taken() -> None:
    before = threads()
    made = Aside[int]("one-of-a-test", jobs_max=4)
    assert not made.has_answers
    assert made.ask(lambda: 7)
    soon(lambda: made.has_answers)
    assert list(made.take(1)) == [7] and not made.has_answers
    made.close(60)
    assert threads() == before
